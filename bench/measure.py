"""What a process costs, read from the kernel's own accounting."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue  # it ended while we looked
            children.setdefault(parent, []).append(int(folder.name))
    found, left = [], [pid]
    while left:
        found.append(left.pop())
        left += children.get(found[-1], [])
    return found


def cpu_ns(pids: Sequence[int]) -> int:
    """Nanoseconds on a processor so far, all threads together."""
    total = 0
    for pid in pids:
        try:
            total += time.clock_gettime_ns(
                (~pid << 3) | 2
            )  # a process's clock: clock_getcpuclockid(3)
        except OSError:
            continue
    return total


def pss_mb(pids: Sequence[int], kind: str = "Pss") -> float:
    """Proportional set size in MB (10^6 bytes): shared pages are divided among those who share them.

    `kind` "Pss_Anon" is what the processes made themselves, without pages of files, which the kernel may take back.
    """
    kib = 0
    for pid in pids:
        try:
            lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        kib += sum(int(line.split()[1]) for line in lines if line.startswith(kind + ":"))
    return kib * 1024 / 1e6


def load() -> str:
    return " ".join(f"{n:.1f}" for n in os.getloadavg())


@dataclass(frozen=True)
class Figure:
    """One figure: a value of each run, and the bar that the median must keep."""

    name: str
    unit: str
    values: Sequence[float]
    bar: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def verdict(self) -> str:
        if self.bar is None:
            return "for the record"
        return "kept" if self.median <= self.bar else "MISSED"

    def row(self, bars: bool = True) -> str:
        """A line of a table; without `bars`, for the record."""
        low, high = min(self.values), max(self.values)
        bar = "" if self.bar is None or not bars else f"{self.bar:g}"
        verdict = self.verdict if bars else ""
        cells = [self.name, self.unit, f"{low:.1f}", f"{self.median:.1f}", f"{high:.1f}"]
        return "| " + " | ".join([*cells, str(len(self.values)), bar, verdict]) + " |"

"""What a QEMU guest has done so far: processor time, disk requests, packets."""

from __future__ import annotations

import os
from pathlib import Path

from pileus.host.qemu import Emulator
from pileus.services.compute.driver import (
    CpuNumbers,
    Diagnostics,
    DiskNumbers,
    GuestSpec,
    NicNumbers,
)

_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_UTIME, _STIME, _START = 11, 12, 19  # fields of /proc/PID/stat, counted after the name

Traffic = dict[str, list[int]]


def traffic() -> Traffic:
    """By network device, the sixteen numbers of the calling thread's namespace."""
    lines = Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
    parts = (line.split(":", 1) for line in lines)
    return {name.strip(): [int(n) for n in numbers.split()] for name, numbers in parts}


async def read(
    emulator: Emulator, spec: GuestSpec, seen: Traffic, accelerator: str, now: float
) -> Diagnostics:
    """`seen` is what `traffic` said in the namespace of the guest's taps; `now` in epoch seconds."""
    threads = await emulator.execute("query-cpus-fast")
    balloon = await emulator.execute("query-balloon")
    disks = await emulator.execute("query-blockstats")
    return Diagnostics(
        uptime_s=max(0, int(now - started(emulator.pid))),
        cpus=tuple(
            CpuNumbers(id=t["cpu-index"], time_ns=_ran(emulator.pid, t["thread-id"]))
            for t in threads
        ),
        disks=tuple(_disk(d["stats"]) for d in disks),
        nics=tuple(
            nic_numbers(nic.mac, seen[nic.device]) for nic in spec.nics if nic.device in seen
        ),
        ram_used_mib=int(balloon["actual"]) >> 20,
        hypervisor=accelerator,
    )


def _stat(path: str) -> list[str]:
    return Path(path).read_text().rpartition(")")[2].split()


def _ran(pid: int, thread: int) -> int:
    """Nanoseconds; 0 for a thread that has just ended."""
    try:
        fields = _stat(f"/proc/{pid}/task/{thread}/stat")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return (int(fields[_UTIME]) + int(fields[_STIME])) * _TICK_NS


def started(pid: int) -> float:
    """Epoch seconds."""
    boot = next(
        int(line.split()[1])
        for line in Path("/proc/stat").read_text().splitlines()
        if line.startswith("btime")
    )
    return boot + int(_stat(f"/proc/{pid}/stat")[_START]) / os.sysconf("SC_CLK_TCK")


def _disk(stats: dict[str, int]) -> DiskNumbers:
    return DiskNumbers(
        read_bytes=stats["rd_bytes"],
        read_requests=stats["rd_operations"],
        write_bytes=stats["wr_bytes"],
        write_requests=stats["wr_operations"],
        errors=stats.get("failed_rd_operations", 0) + stats.get("failed_wr_operations", 0),
    )


def nic_numbers(mac: str, n: list[int]) -> NicNumbers:
    """What the tap sent is what the guest received."""
    return NicNumbers(
        mac=mac,
        tx_octets=n[0],
        tx_packets=n[1],
        tx_errors=n[2],
        tx_drop=n[3],
        rx_octets=n[8],
        rx_packets=n[9],
        rx_errors=n[10],
        rx_drop=n[11],
    )

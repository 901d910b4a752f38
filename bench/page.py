"""docs/performance.md, in parts that each bench writes anew: a part stands between two comments that name it."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import platform
import re
import subprocess
from pathlib import Path

from bench import measure

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "performance.md"
_TITLE = """# Performance

Written by the benches; do not edit. CPU is that of the services' own processes, from the kernel's accounting.
"""


def write(name: str, text: str, page: Path = PAGE) -> None:
    """Puts `text` in the place of the part `name`, or behind the others."""
    before = page.read_text() if page.exists() else _TITLE
    part = f"<!-- {name} -->\n{text.strip()}\n<!-- end of {name} -->\n"
    found = re.compile(rf"<!-- {name} -->\n.*?<!-- end of {name} -->\n", re.DOTALL)
    if found.search(before):
        after = found.sub(lambda _: part, before)
    else:
        after = before.rstrip("\n") + "\n\n" + part
    page.parent.mkdir(exist_ok=True)
    page.write_text(after)


def circumstances(command: str, what: str, began: str) -> list[str]:
    """What a figure is worth nothing without."""
    commit = _out("git", "rev-parse", "--short", "HEAD")
    changed = " with uncommitted changes" if _out("git", "status", "--porcelain", "src") else ""
    return [
        f"- `{command}`",
        f"- commit {commit}{changed}, {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC",
        f"- {what}",
        f"- Python {platform.python_version()}, {platform.system()} {platform.release()}, {_cpu()}, "
        f"{multiprocessing.cpu_count()} cores",
        f"- load average {began} before, {measure.load()} after (1, 5 and 15 minutes)",
    ]


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def _out(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()

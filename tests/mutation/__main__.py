"""`make mutate`: break the kernel on purpose, one lie at a time; its tests must notice nine in ten.

    python -m tests.mutation [--count 100] [--seed 1] [--module sagas] [--servers] [--jobs 2]

Each lie is told in a copy of the sources. The tests of the module are asked first, all other tests of the kernel only
about lies that survive them. Without `--servers` only SQLite and the bus in memory are asked, and the modules that
speak to PostgreSQL and NATS are left alone.
"""

from __future__ import annotations

import argparse
import ast
import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutation.mutants import Lie, lies, told

ROOT = Path(__file__).parents[2]
KERNEL = Path("src/pileus/kernel")
BAR = 0.9
PATIENCE_S = 60.0  # or six times what the honest suite takes on a machine that is busy
SERVERS = frozenset({"postgres.py", "nats_bus.py"})
SAGAS = ("saga_fences", "saga_interrupts", "sagas", "saga_deaths")
# Which tests know a module best. What is not named has a test of its own name.
TESTS: dict[str, tuple[str, ...]] = {
    "agents": ("contracts", "agents"),
    "auth": ("auth", "http"),
    "contracts": ("contracts",),
    "events": ("outbox", "events"),
    "faults": ("faults", "http"),
    "http": ("http", "http_versions", "http_access_rules"),
    "nats_bus": ("nats_bus", "bus", "contracts"),
    "postgres": ("postgres", "store", "quota", "outbox"),
    "quota": ("quota", "sagas"),
    "resources": ("resources", "http", "http_versions"),
    "routes": ("http", "http_versions"),
    "runtime": ("contracts", "http"),
    "sagas": SAGAS,
    "schema": ("schema", "http"),
    "sql": ("store",),
    "sqlite": ("sqlite", "store"),
    "store": ("store", *SAGAS),
    "watch": ("events",),
}


@dataclass(frozen=True)
class Told:
    """A lie, and the module it is told in as it was before."""

    path: Path
    source: str
    lie: Lie

    @property
    def where(self) -> str:
        line = self.source.splitlines()[self.lie.line - 1].strip()
        return f"{self.path.name}:{self.lie.line}: {self.lie.what}: {line}"

    @property
    def suites(self) -> Iterator[list[str]]:
        """Arguments for pytest: the module's own tests, then the others."""
        tests = KERNEL / "tests"
        own = [f"{tests}/test_{t}.py" for t in TESTS.get(self.path.stem, (self.path.stem,))]
        yield own
        yield [str(tests), *(f"--ignore={path}" for path in own)]


def candidates(module: str, servers: bool) -> Iterator[Told]:
    for path in sorted((ROOT / KERNEL).glob(f"{module or '*'}.py")):
        if servers or module or path.name not in SERVERS:
            source = path.read_text()
            for lie in lies(ast.parse(source)):
                yield Told(KERNEL / path.name, source, lie)


async def fails(copy: Path, arguments: Sequence[str], servers: bool, patience_s: float) -> bool:
    """Whether any test of the copy fails; one that hangs has noticed too."""
    env = {**os.environ, "PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
    command += ["-m", "not e2e and not slow"] + (
        [] if servers else ["-k", "not (postgres or nats)"]
    )
    process = await asyncio.create_subprocess_exec(
        *command,
        *arguments,
        cwd=copy,
        env=env,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(patience_s):
            return await process.wait() != 0
    except TimeoutError:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        return True


def laid_out(folder: Path, name: str) -> Path:
    copy = folder / name
    copy.mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", copy / "src", ignore=ignore)
    shutil.copytree(ROOT / "tests", copy / "tests", ignore=ignore)
    for name in ("pyproject.toml", "conftest.py"):
        shutil.copy(ROOT / name, copy / name)
    return copy


@dataclass
class Trial:
    """Lies, told one after the other in each of a few copies."""

    chosen: Sequence[Told]
    servers: bool
    done: int = 0
    patience_s: float = PATIENCE_S

    async def survivors(self, jobs: int) -> list[Told]:
        found: list[Told] = []
        queue = iter(self.chosen)
        with tempfile.TemporaryDirectory(prefix="pileus-mutants-") as folder:
            copies = [laid_out(Path(folder), f"copy{n}") for n in range(jobs)]
            began = asyncio.get_running_loop().time()
            if await fails(copies[0], [str(KERNEL)], self.servers, 1800):
                raise SystemExit("the suite fails without any lie: run `make check` first")
            took = asyncio.get_running_loop().time() - began
            self.patience_s = max(PATIENCE_S, 6 * took)

            async def work(copy: Path) -> None:
                for one in queue:
                    if not await self._noticed(copy, one):
                        found.append(one)

            await asyncio.gather(*(work(copy) for copy in copies))
        return found

    async def _noticed(self, copy: Path, one: Told) -> bool:
        (copy / one.path).write_text(told(one.source, one.lie))
        seen = False
        for suite in one.suites:
            seen = seen or await fails(copy, suite, self.servers, self.patience_s)
        (copy / one.path).write_text(one.source)
        self.done += 1
        verdict = "noticed " if seen else "SURVIVED"
        print(f"{self.done}/{len(self.chosen)} {verdict} {one.where}", flush=True)
        return seen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--module", default="", help="one module of the kernel, such as sagas")
    parser.add_argument("--servers", action="store_true", help="PostgreSQL and NATS, too")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    every = list(candidates(args.module, args.servers))
    chosen = random.Random(args.seed).sample(every, min(args.count, len(every)))
    left = asyncio.run(Trial(chosen, args.servers).survivors(args.jobs))
    share = 1 - len(left) / len(chosen)
    print(f"\n{share:.0%} of {len(chosen)} lies noticed (of {len(every)} that could be told)")
    for one in left:
        print(f"  survived: {one.where}")
    return 0 if share >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())

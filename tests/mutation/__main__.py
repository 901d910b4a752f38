"""`make mutate`: break the kernel on purpose, one lie at a time; the suite must notice nine in ten.

    python -m tests.mutation [--count 60] [--seed 1] [--module sagas]

Each mutant lives in a copy of the sources. The kernel's own tests are asked first, all other unit tests only about those
that survive them.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.mutation.mutants import Lie, lies, told

ROOT = Path(__file__).parents[2]
KERNEL = Path("src/pileus/kernel")
BAR = 0.9
PATIENCE_S = 180
SUITES = (("src/pileus/kernel",), ("src", "--ignore=src/pileus/kernel"))


def candidates(module: str) -> Iterator[tuple[Path, Lie]]:
    for path in sorted((ROOT / KERNEL).glob(f"{module or '*'}.py")):
        for lie in lies(ast.parse(path.read_text())):
            yield KERNEL / path.name, lie


def noticed(copy: Path) -> bool:
    """Whether any test of the copy fails; one that hangs has noticed too."""
    env = {**os.environ, "PYTHONPATH": str(copy / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    for suite in SUITES:
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        command += ["-m", "not e2e and not slow", *suite]
        try:
            done = subprocess.run(
                command,
                cwd=copy,
                env=env,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PATIENCE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return True
        if done.returncode:
            return True
    return False


def laid_out(folder: Path) -> Path:
    copy = folder / "copy"
    copy.mkdir()
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", copy / "src", ignore=ignore)
    shutil.copytree(ROOT / "tests", copy / "tests", ignore=ignore)
    for name in ("pyproject.toml", "conftest.py"):
        shutil.copy(ROOT / name, copy / name)
    return copy


def survivors(chosen: Sequence[tuple[Path, Lie]]) -> list[str]:
    found = []
    with tempfile.TemporaryDirectory(prefix="pileus-mutants-") as folder:
        copy = laid_out(Path(folder))
        if noticed(copy):
            raise SystemExit("the suite fails without any mutation: run `make check` first")
        for number, (path, lie) in enumerate(chosen, 1):
            source = (ROOT / path).read_text()
            (copy / path).write_text(told(source, lie))
            seen = noticed(copy)
            (copy / path).write_text(source)
            where = f"{path.name}:{lie.line}: {lie.what}"
            print(f"{number}/{len(chosen)} {'noticed' if seen else 'SURVIVED'} {where}", flush=True)
            if not seen:
                line = source.splitlines()[lie.line - 1].strip()
                found.append(f"{where}: {line}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--module", default="", help="one module of the kernel, such as sagas")
    args = parser.parse_args()
    every = list(candidates(args.module))
    chosen = random.Random(args.seed).sample(every, min(args.count, len(every)))
    left = survivors(chosen)
    share = 1 - len(left) / len(chosen)
    print(f"\n{share:.0%} of {len(chosen)} lies noticed (of {len(every)} that could be told)")
    for line in left:
        print(f"  survived: {line}")
    return 0 if share >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())

"""The Debian packages that a machine needs, one a line, gathered from where they are used.

    python -m pileus.cli.needs [--tests | --ceph]

A module that starts a program of Debian's names its package in a constant `DEBIAN_PACKAGES`. The constants are read
without importing the modules, which may not import on a machine that lacks the packages. Those of the test kit are
needed with `--tests` only. What only a host with volumes in Ceph needs is in `CEPH_PACKAGES`.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONSTANT, OF_CEPH = "DEBIAN_PACKAGES", "CEPH_PACKAGES"
TESTS = "testing"  # the folder of the test kit
ALWAYS = ("openssh-client", "iproute2")  # what `make up` itself runs


def declared(source: str, constant: str = CONSTANT) -> tuple[str, ...]:
    """The value of the constant in one module's source; empty if it has none."""
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        if any(isinstance(target, ast.Name) and target.id == constant for target in targets):
            assert isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None
            return tuple(ast.literal_eval(node.value))
    return ()


def needs(root: Path = ROOT, *, tests: bool = False, constant: str = CONSTANT) -> list[str]:
    """All packages, sorted, each once."""
    return sorted({*ALWAYS, *_found(root, tests, constant)})


def _found(root: Path, tests: bool, constant: str) -> Iterator[str]:
    for path in root.rglob("*.py"):
        if path.relative_to(root).parts[0] == TESTS and not tests:
            continue
        source = path.read_text()
        if constant in source:
            yield from declared(source, constant)


if __name__ == "__main__":
    if "--ceph" in sys.argv:
        print("\n".join(needs(tests=True, constant=OF_CEPH)))
    else:
        print("\n".join(needs(tests="--tests" in sys.argv)))

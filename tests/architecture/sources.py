"""What the house rules are asked of: the project's sources, parsed once."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "pileus"
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """A module of the package; `name` is its path below it, such as `kernel/store.py`."""

    name: str
    text: str
    tree: ast.Module

    @property
    def parts(self) -> tuple[str, ...]:
        return Path(self.name).parts

    @property
    def is_test(self) -> bool:
        return "tests" in self.parts

    @cached_property
    def nodes(self) -> tuple[ast.AST, ...]:
        return tuple(ast.walk(self.tree))

    def functions(self) -> Iterator[tuple[str, Function]]:
        """Every function with its qualified name."""
        yield from _functions(self.tree, "")


def dotted(node: ast.expr) -> str:
    """`a.b.c`, as it is written; "" for what is no chain of names."""
    names = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(names)]) if isinstance(node, ast.Name) else ""


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, Function]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + child.name, child
            yield from _functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        else:
            yield from _functions(child, prefix)


@cache
def sources() -> tuple[Source, ...]:
    return tuple(
        Source(str(path.relative_to(PACKAGE)), text := path.read_text(), ast.parse(text))
        for path in sorted(PACKAGE.rglob("*.py"))
    )


@cache
def ledgers() -> dict[str, dict[str, Any]]:
    """tests/ledgers.toml: numbers that move one way only."""
    return tomllib.loads((ROOT / "tests" / "ledgers.toml").read_text())


def surprises(found: dict[str, int], known: dict[str, int]) -> list[str]:
    """How what is found departs from what is recorded: worse, or better and the record is stale."""
    lines = []
    for name in sorted(found.keys() | known.keys()):
        now, then = found.get(name, 0), known.get(name, 0)
        if now > then:
            lines.append(f"{name}: {now}, recorded {then}: mend it, the record does not grow")
        elif now < then:
            lines.append(f"{name}: {now}, recorded {then}: lower the record in tests/ledgers.toml")
    return lines

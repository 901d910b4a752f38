"""Small lies told in code: where one can be told, and the source that tells it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

FLIPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}


@dataclass(frozen=True)
class Lie:
    """What is done to the `index`-th node of a walk over the module."""

    index: int
    line: int
    what: str


def lies(tree: ast.Module) -> Iterator[Lie]:
    """Every lie that can be told in a module; docstrings, logging and annotations are left alone."""
    silent = set(_silent(tree))
    for index, node in enumerate(ast.walk(tree)):
        for what in () if node in silent else _kinds(node):
            yield Lie(index, getattr(node, "lineno", 0), what)


def _silent(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from ast.walk(node)
        if isinstance(node, ast.Expr) and _says_nothing(node.value):
            yield from ast.walk(node)


def _says_nothing(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) or ast.unparse(value).startswith(("log.", "super().__"))


def _kinds(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Compare(ops=[op]) if type(op) in FLIPPED:
            yield "flip a comparison"
            if _number(node.comparators[0]):
                yield "be off by one"
        case ast.BinOp(op=ast.Add() | ast.Sub()) if _number(node.right):
            yield "count the other way"
        case _:
            yield from (what for kind, what in _KINDS if _is(node, kind))


_KINDS: tuple[tuple[str, str], ...] = (
    ("BoolOp", "swap and with or"),
    ("Not", "drop a not"),
    ("If", "turn a condition round"),
    ("IfExp", "take the other branch"),
    ("Truth", "return the other truth"),
    ("Raise", "raise nothing"),
    ("Call", "leave a call out"),
    ("Count", "count the other way"),
)


def _is(node: ast.AST, kind: str) -> bool:
    match node:
        case ast.UnaryOp(op=ast.Not()):
            return kind == "Not"
        case ast.Return(value=ast.Constant(value=bool())):
            return kind == "Truth"
        case ast.Raise(exc=ast.expr()):
            return kind == "Raise"
        case ast.Expr(value=ast.Await() | ast.Call()):
            return kind == "Call"
        case ast.AugAssign(op=ast.Add() | ast.Sub()):
            return kind == "Count"
    return kind in ("BoolOp", "If", "IfExp") and type(node).__name__ == kind


def _number(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and type(node.value) is int


def told(source: str, lie: Lie) -> str:
    """The module's source with the lie in it."""
    tree = ast.parse(source)
    victim = next(node for index, node in enumerate(ast.walk(tree)) if index == lie.index)
    return ast.unparse(ast.fix_missing_locations(_Teller(victim, lie.what).visit(tree)))


class _Teller(ast.NodeTransformer):
    def __init__(self, victim: ast.AST, what: str) -> None:
        self.victim, self.what = victim, what

    def visit(self, node: ast.AST) -> ast.AST:
        if node is not self.victim:
            return super().generic_visit(node)
        return _mutated(node, self.what)


def _mutated(node: ast.AST, what: str) -> ast.AST:
    match node:
        case ast.Compare(comparators=[ast.Constant(value=int() as n)]) if what == "be off by one":
            return ast.Compare(node.left, node.ops, [ast.Constant(n + 1)])
        case ast.Compare():
            return ast.Compare(node.left, [FLIPPED[type(node.ops[0])]()], node.comparators)
        case ast.BoolOp():
            other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
            return ast.BoolOp(other, node.values)
        case ast.UnaryOp():
            return node.operand
        case ast.If():
            return ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
        case ast.Return(value=ast.Constant(value=truth)):
            return ast.Return(ast.Constant(not truth))
        case ast.IfExp():
            return ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
        case ast.BinOp():
            turned = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
            return ast.BinOp(node.left, turned, node.right)
        case ast.AugAssign():
            other_way = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
            return ast.AugAssign(node.target, other_way, node.value)
        case _:
            return ast.Pass()

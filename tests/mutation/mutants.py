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
        what = "" if node in silent else _kind(node)
        if what:
            yield Lie(index, getattr(node, "lineno", 0), what)


def _silent(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from ast.walk(node)
        if isinstance(node, ast.Expr) and _says_nothing(node.value):
            yield from ast.walk(node)


def _says_nothing(value: ast.expr) -> bool:
    return isinstance(value, ast.Constant) or ast.unparse(value).startswith(("log.", "super().__"))


def _kind(node: ast.AST) -> str:
    match node:
        case ast.Compare(ops=[op]) if type(op) in FLIPPED:
            return "flip a comparison"
        case ast.BoolOp():
            return "swap and with or"
        case ast.UnaryOp(op=ast.Not()):
            return "drop a not"
        case ast.If():
            return "turn a condition round"
        case ast.Return(value=ast.Constant(value=bool())):
            return "return the other truth"
        case ast.Raise(exc=ast.expr()):
            return "raise nothing"
        case ast.Expr(value=ast.Await() | ast.Call()):
            return "leave a call out"
        case ast.AugAssign(op=ast.Add() | ast.Sub()):
            return "count the other way"
    return ""


def told(source: str, lie: Lie) -> str:
    """The module's source with the lie in it."""
    tree = ast.parse(source)
    victim = next(node for index, node in enumerate(ast.walk(tree)) if index == lie.index)
    return ast.unparse(ast.fix_missing_locations(_Teller(victim).visit(tree)))


class _Teller(ast.NodeTransformer):
    def __init__(self, victim: ast.AST) -> None:
        self.victim = victim

    def visit(self, node: ast.AST) -> ast.AST:
        if node is not self.victim:
            return super().generic_visit(node)
        return _mutated(node)


def _mutated(node: ast.AST) -> ast.AST:
    match node:
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
        case ast.AugAssign():
            other_way = ast.Sub() if isinstance(node.op, ast.Add) else ast.Add()
            return ast.AugAssign(node.target, other_way, node.value)
        case _:
            return ast.Pass()

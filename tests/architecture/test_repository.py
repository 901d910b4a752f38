"""A clone is complete: nothing in it leans on the machine where it was written."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

from tests.architecture.sources import PACKAGE, ROOT, dotted, sources

# Spelled in halves, or this file would be the first to fail.
FOREIGN = [
    "/wo" + "rk/",
    "/fa" + "rm/",
    ".lib" + "rary/",
    "../sha" + "red",
    str(Path.home()) + "/.",
]


def tracked() -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in done.stdout.split("\0") if name]


def test_no_tracked_file_names_a_path_of_one_machine() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {mark}"
        for path in tracked()
        if path.is_file() and path.suffix not in {".lock", ".png", ".qcow2", ".gz"}
        for mark in [*FOREIGN, f"{ROOT}/"]
        if mark in path.read_text(errors="replace")
    ]
    assert found == []


def test_nothing_of_ours_sleeps_on_the_loop_or_catches_everything() -> None:
    found = []
    for source in sources():
        for node in source.nodes:
            if isinstance(node, ast.Call) and dotted(node.func) == "time.sleep":
                found.append(f"{source.name}:{node.lineno}: time.sleep")
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                found.append(f"{source.name}:{node.lineno}: bare except")
    assert found == []


def test_a_broad_except_stands_in_three_places_only() -> None:
    """Where a request, a saga's step, or a reconciler (a watch of events is one) ends."""
    allowed = {"kernel/http.py", "kernel/sagas.py", "kernel/reconcile.py", "kernel/events.py"}
    found = [
        f"{source.name}:{node.lineno}"
        for source in sources()
        if not source.is_test and source.name not in allowed
        for node in source.nodes
        if isinstance(node, ast.ExceptHandler) and node.type is not None
        if {"Exception", "BaseException"} & {ast.unparse(t) for t in _types(node.type)}
        and not any(isinstance(inner, ast.Raise) and inner.exc is None for inner in node.body)
    ]
    assert found == []


def _types(node: ast.expr) -> list[ast.expr]:
    return list(node.elts) if isinstance(node, ast.Tuple) else [node]


def test_tests_are_sentences() -> None:
    short = [
        f"{source.name}: {name}"
        for source in sources()
        if source.is_test
        for name, _ in source.functions()
        if name.rpartition(".")[2].startswith("test_") and name.count("_") < 2
    ]
    assert short == []


def test_the_package_holds_no_file_that_git_does_not_know() -> None:
    known = {path for path in tracked() if path.is_relative_to(PACKAGE)}
    done = subprocess.run(
        ["git", "status", "--porcelain", "--ignored", "-z", "src"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    ignored = [line[3:] for line in done.stdout.split("\0") if line.startswith("!!")]
    assert known and not [name for name in ignored if name.endswith(".py")]

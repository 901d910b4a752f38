"""Functions and modules stay small enough to read; exceptions are recorded and only shrink."""

from __future__ import annotations

from tests.architecture.sources import PACKAGE, ledgers, sources, surprises

FUNCTION_LINES = 70
MODULE_LINES = 600
KERNEL_LINES = 6_000
VAGUE = {"manager", "managers", "helper", "helpers", "util", "utils", "base", "common", "misc"}


def test_no_function_is_longer_than_seventy_lines() -> None:
    found = {
        f"{source.name}:{name}": lines
        for source in sources()
        for name, node in source.functions()
        if (lines := (node.end_lineno or node.lineno) - node.lineno + 1) > FUNCTION_LINES
    }
    assert surprises(found, ledgers()["functions"]) == []


def test_no_module_is_longer_than_six_hundred_lines() -> None:
    found = {
        source.name: lines
        for source in sources()
        if (lines := len(source.text.splitlines())) > MODULE_LINES
    }
    assert surprises(found, ledgers()["modules"]) == []


def test_the_kernel_and_the_cloud_stay_within_their_budget() -> None:
    """What runs in a cloud: tests and the kit they are made with (`testing/`) do not."""
    cloud = [s for s in sources() if not s.is_test and s.parts[0] != "testing"]
    lines = {s.name: len(s.text.splitlines()) for s in cloud}
    assert sum(n for name, n in lines.items() if name.startswith("kernel/")) <= KERNEL_LINES
    assert sum(lines.values()) <= ledgers()["budget"]["cloud"]


def test_no_module_has_a_name_that_says_nothing() -> None:
    names = [path for path in PACKAGE.rglob("*") if path.stem in VAGUE]
    assert names == []

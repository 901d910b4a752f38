"""What real clients rely on, line by line, and the tests that hold it: `docs/client_rules.md`.

`client_rules.tsv`: number, services it is about, the rule, names of tests, and what of it waits for another service.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_suffix(".tsv")
_TEST = re.compile(r"^\s*(?:async )?def (test_\w+)", re.MULTILINE)


@dataclass(frozen=True)
class Rule:
    number: int
    services: str
    text: str
    tests: tuple[str, ...]
    later: str  # what of it, or all where there are no tests, is not here yet


def rules() -> list[Rule]:
    """All of them, in order."""
    with TABLE.open(newline="") as lines:
        return [
            Rule(int(r["number"]), r["services"], r["rule"], tuple(r["tests"].split()), r["later"])
            for r in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        ]


def tests(folders: Iterable[Path]) -> dict[str, list[str]]:
    """Where each test stands, from the sources."""
    found: dict[str, list[str]] = {}
    for path in sorted(path for folder in folders for path in folder.rglob("test_*.py")):
        for name in _TEST.findall(path.read_text()):
            found.setdefault(name, []).append(str(path))
    return found


def page(note: str) -> str:
    """The whole of `docs/client_rules.md`."""
    every = rules()
    held = [rule for rule in every if rule.tests]
    lines = ["# What clients rely on, and the tests that hold it", "", note, ""]
    lines += [
        f"{len(every)} rules were read out of clients, their suites and the services themselves; {len(held)} have tests. "
        "A rule holds for every service unless it names some.",
        "",
        "| | rule | services | tests | not here yet |",
        "|--:|---|---|---|---|",
    ]
    for rule in every:
        names = ", ".join(f"`{name}`" for name in rule.tests)
        lines.append(f"| {rule.number} | {rule.text} | {rule.services} | {names} | {rule.later} |")
    return "\n".join([*lines, ""])

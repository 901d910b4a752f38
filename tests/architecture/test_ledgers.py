"""What is known not to work is written down, with its cause, and only gets less."""

from __future__ import annotations

import re

from tests.architecture.sources import ROOT, ledgers

LEDGER = ROOT / "tests" / "conformance" / "ledger.tsv"


def rows() -> list[list[str]]:
    lines = LEDGER.read_text().splitlines()
    return [line.split("\t") for line in lines if line and not line.startswith("#")]


def test_the_conformance_ledger_is_as_long_as_recorded() -> None:
    recorded = ledgers()["conformance"]["known_failures"]
    assert len(rows()) <= recorded, "a ledger only shrinks: mend the test instead"
    assert len(rows()) >= recorded, "well done: lower known_failures in tests/ledgers.toml"


def test_every_line_of_the_ledger_names_a_test_a_cause_and_an_issue() -> None:
    for row in rows():
        assert len(row) == 3, row
        test, cause, issue = row
        # Tempest's own tests bear an id, those of keystone's plugin for every persona don't.
        assert re.fullmatch(r"[\w.]+(\[[\w,-]*\bid-[0-9a-f-]{36}[\w,-]*\])?", test), test
        assert cause.strip() and issue.strip(), test
    assert len({row[0] for row in rows()}) == len(rows())

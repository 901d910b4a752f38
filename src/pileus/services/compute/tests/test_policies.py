"""Rules bear upstream's names and say by default what upstream's say."""

from __future__ import annotations

import csv
from importlib import resources

from pileus.services.compute import SERVICE
from pileus.services.compute.flavors import READ


def _upstream() -> dict[str, str]:
    folder = resources.files("pileus.testing") / "upstream_policies"
    lines = (folder / "compute.tsv").read_text().splitlines()
    rows = csv.DictReader((x for x in lines if not x.startswith("#")), delimiter="\t")
    return {row["name"]: row["check_str"] for row in rows}


def test_every_rule_is_upstreams_word_for_word() -> None:
    upstream, ours = _upstream(), SERVICE.all_rules()
    assert {n: r for n, r in ours.items() if upstream.get(n) != r and n != READ} == {}


def test_every_operation_names_a_rule_that_is_declared() -> None:
    ours = SERVICE.all_rules()
    assert [op.path for _, op in SERVICE.operations() if op.rule and op.rule not in ours] == []

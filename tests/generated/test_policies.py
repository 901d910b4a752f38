"""Default policies, generated: operation x persona x scope, held against upstream's tables."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from pileus.kernel.resources import PUBLIC
from pileus.node.control import find_services
from pileus.testing.generated.policies import Defaults, RuleCase, ledger, operations, rule_cases
from pileus.testing.personas import PERSONAS

SERVICES = find_services()
DEFAULTS = Defaults(SERVICES)
CASES = rule_cases(SERVICES)
LEDGER = Path(__file__).parent / "policies.tsv"
KNOWN = ledger(LEDGER)
LENGTHS = tomllib.loads((Path(__file__).parents[1] / "ledgers.toml").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.id)
def test_a_default_rule_answers_as_upstreams_for_every_persona_and_target(case: RuleCase) -> None:
    found = DEFAULTS.differences(case)
    if (case.service.type, case.rule) in KNOWN:
        assert found, "it agrees with upstream now: take it out of policies.tsv"
    else:
        assert found == []


def test_every_operation_is_public_or_names_a_rule_that_is_declared() -> None:
    declared = set(DEFAULTS.rules.names())
    lost = [
        f"{op.method} {op.path}: {op.rule}"
        for _, _, op in operations(SERVICES)
        if op.rule != PUBLIC and op.rule not in declared
    ]
    assert lost == []


def test_the_ledger_names_only_rules_that_operations_ask_for() -> None:
    asked = {(case.service.type, case.rule) for case in CASES}
    assert set(KNOWN) - asked == set()


def test_the_ledger_is_as_long_as_recorded() -> None:
    recorded = LENGTHS["generated"]["policies"]
    assert len(KNOWN) <= recorded, "a ledger only shrinks: mend the rule instead"
    assert len(KNOWN) >= recorded, "well done: lower generated.policies in tests/ledgers.toml"


PROJECT_ONLY = [c for c in CASES if c.service.all_scopes().get(c.rule) == ("project",)]


@pytest.mark.parametrize("case", PROJECT_ONLY, ids=lambda c: c.id)
def test_system_and_domain_tokens_are_never_enough_where_a_project_is_needed(
    case: RuleCase,
) -> None:
    for home in ("own", "other"):
        allowed = DEFAULTS.allowed(case.rule, home)
        assert [n for n in allowed if PERSONAS[n].system_scope or PERSONAS[n].domain_id] == []

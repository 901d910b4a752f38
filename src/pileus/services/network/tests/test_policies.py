"""Our rules are upstream's."""

from __future__ import annotations

import pytest

from pileus.kernel.policy import Rules
from pileus.services.network import SERVICE
from pileus.testing.personas import OTHER, OWN, PERSONAS, expected, policies

_RULES = SERVICE.all_rules()
_NAMED = sorted({op.rule for _, op in SERVICE.operations() if op.rule})


def test_every_rule_is_upstreams_to_the_letter() -> None:
    table = policies("network")
    assert {n: table[n].check_str for n in _RULES} == _RULES


def test_every_operation_names_a_rule_that_is_there() -> None:
    assert set(_NAMED) <= set(_RULES)


@pytest.mark.parametrize("target", [OWN, OTHER], ids=["own", "other"])
def test_every_persona_may_what_upstream_lets_it(target: dict[str, object]) -> None:
    rules = Rules(_RULES, scopes=SERVICE.all_scopes())
    for name in _NAMED:
        got = {p: rules.allows(name, persona, target) for p, persona in PERSONAS.items()}
        assert got == expected("network", name, target), name

"""Every operation's default rule against upstream's table: persona by persona, at home and abroad."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pileus.kernel.policy import Rules
from pileus.kernel.resources import Operation, Resource, Service
from pileus.testing import personas
from pileus.testing.personas import OTHER, OWN, PERSONAS

TARGETS = {"own": OWN, "other": OTHER}
MISSING = "no such rule upstream"


@dataclass(frozen=True)
class RuleCase:
    """One rule that operations of a service name."""

    service: Service
    rule: str

    @property
    def id(self) -> str:
        return f"{self.service.type}-{self.rule}"


def operations(
    services: Sequence[Service],
) -> Iterator[tuple[Service, Resource[Any], Operation]]:
    for service in services:
        for resource, op in service.operations():
            yield service, resource, op


def rule_cases(services: Sequence[Service]) -> list[RuleCase]:
    """Each rule once, by service and name."""
    named = {
        (s.type, op.rule): RuleCase(s, op.rule) for s, _, op in operations(services) if op.rule
    }
    return [named[key] for key in sorted(named)]


@dataclass(frozen=True)
class Defaults:
    """The rules of all services, compiled together as a control does."""

    services: Sequence[Service]

    @cached_property
    def rules(self) -> Rules:
        texts = {k: v for s in self.services for k, v in s.all_rules().items()}
        scopes = {k: v for s in self.services for k, v in s.all_scopes().items()}
        return Rules(texts, scopes=scopes)

    def allowed(self, rule: str, home: str) -> set[str]:
        """The personas that may, on a target in `home`."""
        check, target = self.rules.check(rule), TARGETS[home]
        return {name for name, persona in PERSONAS.items() if check(persona, target)}

    def differences(self, case: RuleCase) -> list[str]:
        """Where the rule answers otherwise than upstream's, as text for the ledger; [] if nowhere."""
        if case.service.type not in personas.SERVICES:
            return [MISSING]
        if case.rule not in personas.policies(case.service.type):
            return [MISSING]
        found = []
        for home, target in TARGETS.items():
            wanted = personas.allowed(case.service.type, case.rule, target)
            got = self.allowed(case.rule, home)
            found += [f"{name} is denied on {home}" for name in sorted(wanted - got)]
            found += [f"{name} is allowed on {home}" for name in sorted(got - wanted)]
        return found


@dataclass(frozen=True)
class Known:
    """A line of the ledger: a rule that is not upstream's, and why that is right."""

    service: str
    rule: str
    reason: str


def ledger(path: Path) -> dict[tuple[str, str], Known]:
    """The known differences by service and rule. Raises ValueError for a line without a reason."""
    found: dict[tuple[str, str], Known] = {}
    with path.open(newline="") as lines:
        for row in csv.reader((x for x in lines if not x.startswith("#")), delimiter="\t"):
            if len(row) != 3 or not all(cell.strip() for cell in row):
                raise ValueError(f"{path.name}: a line has a service, a rule and a reason: {row}")
            known = Known(*row)
            if (known.service, known.rule) in found:
                raise ValueError(f"{path.name}: {known.rule} stands there twice")
            found[known.service, known.rule] = known
    return found

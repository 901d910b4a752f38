"""Who calls in generated tests, and what upstream's default policies allow them.

`upstream_policies/*.tsv` hold the defaults of the released services, not edited.
`expected("compute", "os_compute_api:servers:show")` says for each persona whether upstream would
let it; a test of operation x role x scope compares that with what Pileus does. Policy alone is
judged: what a caller may not even see, and answers of 404, are the services' own rules.

Two projects: the personas' `project-own` in `domain-own`, and `project-other` in `domain-other`,
where the foreign persona is at home. Targets `OWN` and `OTHER` are things in either, of some other
user's: change keys with `{**OWN, "target.user.id": ...}`.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from pileus.kernel.policy import Rules, Target

SERVICES = ("identity", "compute", "network", "image", "placement", "block-storage")

_IMPLIED = ("admin", "manager", "member", "reader")


def closure(role: str) -> frozenset[str]:
    """The role and those it implies: admin > manager > member > reader."""
    if role not in _IMPLIED:
        return frozenset({role})
    return frozenset(_IMPLIED[_IMPLIED.index(role) :])


@dataclass(frozen=True, slots=True)
class Persona:
    """A caller with a token of one scope. Fulfils `pileus.kernel.policy.Credentials`."""

    name: str
    user_id: str
    user_domain_id: str = "domain-own"
    project_id: str | None = None
    project_domain_id: str | None = None
    domain_id: str | None = None
    system_scope: str | None = None
    roles: frozenset[str] = frozenset()
    is_admin_project: bool = True
    service_roles: frozenset[str] = frozenset()

    @property
    def token(self) -> Mapping[str, object]:
        """Keystone's rules ask about the token's parts, too."""
        if self.project_id:
            return {"project": {"id": self.project_id, "domain": {"id": self.project_domain_id}}}
        return {"domain": {"id": self.domain_id}} if self.domain_id else {}


def _system(role: str) -> Persona:
    name = f"system_{role}"
    return Persona(name, f"user-{name}", system_scope="all", roles=closure(role))


def _domain(role: str) -> Persona:
    name = f"domain_{role}"
    return Persona(name, f"user-{name}", domain_id="domain-own", roles=closure(role))


def _project(role: str, name: str = "", home: str = "own") -> Persona:
    name = name or f"project_{role}"
    return Persona(
        name,
        f"user-{name}",
        user_domain_id=f"domain-{home}",
        project_id=f"project-{home}",
        project_domain_id=f"domain-{home}",
        roles=closure(role),
    )


PERSONAS: Mapping[str, Persona] = {
    persona.name: persona
    for persona in (
        *(_system(role) for role in ("admin", "member", "reader")),
        *(_domain(role) for role in _IMPLIED),
        *(_project(role) for role in _IMPLIED),
        _project("service", "service"),
        _project("member", "foreign_member", "other"),
        Persona("nobody", "user-nobody"),
    )
}


def target_in(home: str) -> dict[str, object]:
    """Every key that upstream's rules ask for, of a private thing in `home` (`own`, `other`).

    It belongs to `user-owner`, who is nobody's persona; roles concerned are the global `member`.
    """
    project, domain, owner = f"project-{home}", f"domain-{home}", "user-owner"
    return {
        "project_id": project,
        "owner": project,
        "member_id": "project-none",
        "visibility": "private",
        "shared": False,
        "user_id": owner,
        "domain_id": domain,
        "network:project_id": project,
        "ext_parent:project_id": project,
        "security_group:project_id": project,
        "target.domain.id": domain,
        "target.domain_id": domain,
        "target.project.id": project,
        "target.project.domain_id": domain,
        "target.user.id": owner,
        "target.user.domain_id": domain,
        "target.group.domain_id": domain,
        "target.credential.user_id": owner,
        "target.token.user_id": owner,
        "target.trust.trustor_user_id": owner,
        "target.trust.trustee_user_id": "user-trustee",
        "target.role.name": "member",
        "target.role.domain_id": None,
        "target.limit.project_id": project,
        "target.limit.project.domain_id": domain,
        "target.limit.domain.id": None,
    }


OWN: Mapping[str, object] = target_in("own")
OTHER: Mapping[str, object] = target_in("other")


@dataclass(frozen=True, slots=True)
class UpstreamPolicy:
    """One row. `operations` are pairs of method and path; none for a rule that others refer to."""

    name: str
    check_str: str
    operations: tuple[tuple[str, str], ...]
    scope_types: frozenset[str]


@functools.cache
def policies(service: str) -> Mapping[str, UpstreamPolicy]:
    """The table of a service, by rule name."""
    path = resources.files("pileus.testing") / "upstream_policies" / f"{service}.tsv"
    lines = path.read_text("utf-8").splitlines()
    rows = csv.DictReader(lines[1:], delimiter="\t", quoting=csv.QUOTE_NONE)
    return {row["name"]: _policy(row) for row in rows}


def _policy(row: Mapping[str, str]) -> UpstreamPolicy:
    pairs = [one.partition(" ") for one in row["operations"].split(";") if one]
    operations = tuple((method, path) for method, _, path in pairs)
    scopes = frozenset(filter(None, row["scope_types"].split(",")))
    return UpstreamPolicy(row["name"], row["check_str"], operations, scopes)


@functools.cache
def upstream(service: str) -> Rules:
    """The table as rules, its scope types enforced as upstream does by default."""
    table = policies(service)
    return Rules(
        {name: policy.check_str for name, policy in table.items()},
        scopes={name: policy.scope_types for name, policy in table.items()},
    )


def expected(service: str, rule: str, target: Target = OWN) -> dict[str, bool]:
    """Persona's name -> whether upstream's defaults allow it `rule` on `target`."""
    check = upstream(service).check(rule)
    return {name: check(persona, target) for name, persona in PERSONAS.items()}


def allowed(service: str, rule: str, target: Target = OWN) -> set[str]:
    """The names of the personas that `expected` allows."""
    return {name for name, allows in expected(service, rule, target).items() if allows}

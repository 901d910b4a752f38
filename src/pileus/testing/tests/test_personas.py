"""The tables of upstream's policies are whole, and the personas answer as upstream documents."""

from __future__ import annotations

import re

import pytest

from pileus.kernel.policy import Credentials
from pileus.testing import personas
from pileus.testing.personas import OTHER, OWN, PERSONAS, SERVICES, allowed, expected, policies

PROJECT_READERS = {"project_admin", "project_manager", "project_member", "project_reader"}
PROJECT_MEMBERS = PROJECT_READERS - {"project_reader"}


def test_personas_are_credentials() -> None:
    callers: list[Credentials] = list(PERSONAS.values())
    assert len(callers) == 14
    assert PERSONAS["project_manager"].roles == {"manager", "member", "reader"}
    assert PERSONAS["service"].roles == {"service"}


@pytest.mark.parametrize(
    ("service", "rules", "operations"),
    [
        ("identity", 204, 306),
        ("compute", 214, 225),
        ("network", 373, 425),
        ("image", 67, 65),
        ("placement", 38, 35),
        ("block-storage", 167, 209),
    ],
)
def test_the_tables_are_whole_and_compile(service: str, rules: int, operations: int) -> None:
    table = policies(service)
    assert len(table) == rules
    assert sum(len(policy.operations) for policy in table.values()) == operations
    for policy in table.values():
        assert policy.scope_types <= {"system", "domain", "project"}, policy
        for method, path in policy.operations:
            assert method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"}, policy
            assert path.startswith("/"), policy
    assert personas.upstream(service).names() == list(table)


def test_targets_hold_every_key_that_upstream_asks_for() -> None:
    asked = {
        key
        for service in SERVICES
        for policy in policies(service).values()
        for key in re.findall(r"%\(([^)]+)\)s", policy.check_str)
    }
    assert len(asked) > 20
    assert asked <= OWN.keys()
    assert OWN.keys() == OTHER.keys()


@pytest.mark.parametrize(
    ("service", "rule", "own", "other"),
    [
        ("compute", "os_compute_api:servers:show", PROJECT_READERS, {"foreign_member"}),
        ("compute", "os_compute_api:servers:start", PROJECT_MEMBERS, {"foreign_member"}),
        ("compute", "os_compute_api:os-services:list", set(), set()),
        ("network", "create_network", PROJECT_MEMBERS, {"foreign_member"}),
        ("network", "create_network:provider:network_type", set(), set()),
        ("image", "get_image", PROJECT_READERS, {"foreign_member"}),
        ("placement", "placement:resource_providers:list", {"service"}, {"service"}),
    ],
)
def test_project_rules_allow_whom_upstream_documents(
    service: str, rule: str, own: set[str], other: set[str]
) -> None:
    assert allowed(service, rule, OWN) == own | {"project_admin"}
    assert allowed(service, rule, OTHER) == other | {"project_admin"}


def test_system_tokens_are_refused_where_only_project_scope_is_meant() -> None:
    answers = expected("compute", "os_compute_api:servers:show")
    assert not answers["system_admin"]
    assert not answers["domain_admin"]


def test_keystone_lets_system_readers_and_the_domains_own_readers_show_users() -> None:
    readers = {"system_admin", "system_member", "system_reader"}
    domain = {f"domain_{role}" for role in ("admin", "manager", "member", "reader")}
    assert allowed("identity", "identity:get_user", OWN) >= readers | domain
    assert not allowed("identity", "identity:get_user", OTHER) & (domain - {"domain_admin"})
    mine = {**OWN, "target.user.id": "user-project_reader"}
    assert expected("identity", "identity:get_user", mine)["project_reader"]
    assert not expected("identity", "identity:get_user", OWN)["project_reader"]


def test_nobody_is_allowed_nothing_that_asks_for_a_role() -> None:
    open_rules = {
        name: policy.check_str
        for service in SERVICES
        for name, policy in policies(service).items()
        if policy.operations and expected(service, name)["nobody"]
    }
    assert open_rules["os_compute_api:limits"] == "@"
    assert "identity:get_auth_catalog" in open_rules
    for name, text in open_rules.items():  # "not": they forbid one value of an attribute only
        assert "role:" not in text or text.startswith("not "), name

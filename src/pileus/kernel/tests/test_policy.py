"""Rules of policy: the syntax, default deny, the file, and equality with oslo.policy's answers."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oslo_config import cfg
from oslo_policy import policy as oslo

from pileus.kernel.faults import Bug, Invalid
from pileus.kernel.policy import PolicyFile, Rules, scope_of
from pileus.kernel.world import Clock, World


@dataclass(frozen=True)
class Caller:
    user_id: str | None = "u1"
    user_domain_id: str | None = "d1"
    project_id: str | None = "p1"
    project_domain_id: str | None = "d1"
    domain_id: str | None = None
    system_scope: str | None = None
    roles: frozenset[str] = frozenset({"member", "reader"})
    is_admin_project: bool = True
    service_roles: frozenset[str] = frozenset()
    token: dict[str, object] = field(default_factory=dict)


ALICE = Caller()


def says(text: str, creds: Caller = ALICE, target: dict[str, object] | None = None) -> bool:
    return Rules({"rule": text}).allows("rule", creds, target or {})


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("", True),
        ("@", True),
        ("!", False),
        ("role:member", True),
        ("role:Member", True),
        ("role:admin", False),
        ("not role:admin", True),
        ("not not role:admin", False),
        ("NOT role:admin AND role:member", True),
        ("role:admin or role:member", True),
        ("role:admin and role:member or @", True),
        ("@ or role:member and !", True),
        ("(@ or role:member) and !", False),
        ("((role:member)and (@))", None),
        ("( ( role:member ) and (@))", True),
        ("not (role:admin or role:member)", False),
        ("not role:admin and !", False),
        ("is_admin_project:True", True),
        ("user_id:u1", True),
        ("system_scope:all", False),
        ("domain_id:None", True),
        ("no_such_attribute:None", False),
        ("token.is_admin:True", False),
        ("'a':a", True),
        ("1:2", False),
    ],
)
def test_rules_without_a_target_answer_as_written(text: str, allowed: bool | None) -> None:
    if allowed is None:
        with pytest.raises(Invalid):
            says(text)
    else:
        assert says(text) is allowed


@pytest.mark.parametrize(
    ("text", "target", "allowed"),
    [
        ("project_id:%(project_id)s", {"project_id": "p1"}, True),
        ("(project_id:%(project_id)s)", {"project_id": "p1"}, True),
        ("(role:member and project_id:%(project_id)s)", {"project_id": "p2"}, False),
        ("project_id:%(project_id)s", {}, False),
        ("tenant_id:%(tenant_id)s", {"project_id": "p1"}, True),
        ("tenant:%(parent:tenant_id)s", {"parent:project_id": "p1"}, True),
        ("user_id:%(target.user.id)s", {"target.user.id": "u1"}, True),
        ("user_domain_id:%(target.user.domain_id)s", {"target.user.domain_id": "d2"}, False),
        ("project_id:p%(number)s", {"number": 1}, True),
        ("project_id:p%(number)s", {}, False),
        ("role:%(wanted)s", {"wanted": "MEMBER"}, True),
        ("role:%(wanted)s", {}, False),
        ("True:%(is_public)s", {"is_public": True}, True),
        ("True:%(is_public)s", {"is_public": False}, False),
        ("True:%(is_public)s", {}, False),
        ("None:%(owner)s", {"owner": None}, True),
        ("None:%(owner)s", {}, False),
        ("'public':%(visibility)s", {"visibility": "public"}, True),
        ('"public":%(visibility)s', {"visibility": "private"}, False),
        ("12:%(size)s", {"size": 12}, True),
        ("field:things:shared=True", {"shared": True}, True),
        ("field:things:shared=True", {}, False),
        ("field:things:owner=None", {}, False),
        ("field:things:owner_kind=~net:", {"owner_kind": "net:dhcp"}, True),
        ("field:things:owner_kind=~net:", {"owner_kind": "a net:dhcp"}, False),
    ],
)
def test_rules_compare_credentials_with_the_target(
    text: str, target: dict[str, object], allowed: bool
) -> None:
    assert says(text, target=target) is allowed


@pytest.mark.parametrize("nothing", [None, ""])
def test_credentials_without_a_project_never_match_a_target_without_one(nothing: Any) -> None:
    unscoped = Caller(project_id=nothing)
    assert not says("project_id:%(project_id)s", unscoped, {"project_id": nothing})
    for project_id in (None, ""):
        target: dict[str, object] = {"project_id": project_id, "nil": ""}
        assert not says("project_id:%(project_id)s%(nil)s", unscoped, target)


def test_a_project_that_is_called_none_is_not_the_missing_one() -> None:
    assert not says("project_id:%(project_id)s", Caller(project_id="None"), {"project_id": None})


def test_an_attribute_with_dots_digs_into_the_credentials() -> None:
    caller = Caller(token={"is_admin": True, "project": {"domain": "d1"}})
    assert says("token.is_admin:True", caller)
    assert says("token.project.domain:%(domain)s", caller, {"domain": "d1"})
    assert not says("token.project.nothing:%(domain)s", caller, {"domain": "d1"})


def test_a_collection_in_the_credentials_matches_by_any_member() -> None:
    service = Caller(service_roles=frozenset({"service", "other"}))
    assert says("service_roles:service", service)
    assert says("service_roles:%(wanted)s", service, {"wanted": "service"})
    assert not says("service_roles:service", ALICE)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("role", "'role' is not a check"),
        ("role:a role:b", "'role:b' unexpectedly"),
        ("role:a and", "ends where"),
        ("(role:a", "ends where"),
        ("role:a)", "')' unexpectedly"),
        ("or role:a", "'or' unexpectedly"),
        ("   ", "ends where"),
        ("not", "ends where"),
        ("()", "')' unexpectedly"),
        ("rule:nowhere", "rule 'nowhere', which is not defined"),
        ("project_id:%(project_id)", "'%'"),
        ("project_id:%s", "'%'"),
        ("__class__:x", "neither a literal nor"),
        ("user..id:x", "neither a literal nor"),
        ("field:shared=True", "should be like"),
        ("field:things:x=~(", "regular expression"),
        ("http://example.org/check", "remote machine"),
    ],
)
def test_a_rule_that_cannot_be_understood_raises_with_its_name(text: str, complaint: str) -> None:
    with pytest.raises(Invalid) as caught:
        Rules({"fine": "@", "things:show": text})
    assert "'things:show'" in caught.value.message
    assert complaint in caught.value.message


def test_a_bad_rule_is_named_once_even_when_found_through_another() -> None:
    with pytest.raises(Invalid, match=r"^Policy rule 'inner': 'oops' is not a check"):
        Rules({"outer": "rule:inner", "inner": "oops"})


def test_an_unknown_name_is_a_bug_and_never_an_allowance() -> None:
    rules = Rules({"known": "@"})
    with pytest.raises(Bug) as caught:
        rules.allows("unknown", ALICE, {})
    assert "unknown" in caught.value.internal
    assert "unknown" not in caught.value.message


def test_cycles_deny_whole_rules_also_under_not() -> None:
    rules = Rules(
        {
            "a": "rule:b or role:member",
            "b": "not rule:a",
            "self": "role:member or not rule:self",
            "outside": "not rule:a or role:member",
            "apart": "role:member",
        }
    )
    answers = {name: rules.allows(name, ALICE, {}) for name in rules.names()}
    assert answers == {"a": False, "b": False, "self": False, "outside": False, "apart": True}


def test_cycles_are_told_to_the_log_and_rules_without_any_tell_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Rules({"a": "rule:b", "b": "role:member"})
    assert caplog.records == []
    Rules({"a": "rule:b", "b": "rule:a", "c": "@"})
    (record,) = caplog.records
    assert record.levelno == logging.ERROR and "['a', 'b']" in record.getMessage()


@pytest.mark.parametrize(
    ("text", "user", "allowed"),
    [
        ("user_id:a%%b", "a%b", True),
        ("user_id:a%%b", "a%%b", False),
        ("user_id:%(name)s%%", "ann%", True),
        ("user_id:%(name)s%%", "ann", False),
        ("'100%':%(share)s", "u1", True),
        ("role:50%%", "u1", False),
    ],
)
def test_a_doubled_percent_sign_stands_for_one(text: str, user: str, allowed: bool) -> None:
    target: dict[str, object] = {"name": "ann", "share": "100%"}
    assert says(text, Caller(user_id=user), target) is allowed


def test_overrides_replace_defaults_also_where_other_rules_refer_to_them() -> None:
    defaults = {"member": "role:member", "show": "rule:member"}
    rules = Rules(defaults, {"member": "rule:nobody", "nobody": "!"})
    assert not rules.allows("show", ALICE, {})
    assert Rules(defaults).allows("show", ALICE, {})


def test_scope_types_bind_the_rule_asked_for_and_not_those_it_refers_to() -> None:
    rules = Rules({"show": "@", "list": "rule:show"}, scopes={"show": ["system"], "list": []})
    system = Caller(project_id=None, system_scope="all")
    domain = Caller(project_id=None, domain_id="d1")
    assert [scope_of(c) for c in (system, domain, ALICE)] == ["system", "domain", "project"]
    assert rules.allows("show", system, {})
    assert not rules.allows("show", ALICE, {})
    assert not rules.allows("show", domain, {})
    assert rules.allows("list", ALICE, {})


class StillClock(Clock):
    """Moves when told to."""

    at = 100.0

    def monotonic(self) -> float:
        return self.at


def write(path: Path, text: str, mtime: int) -> None:
    path.write_text(text)
    os.utime(path, (mtime, mtime))


def test_policy_file_is_read_again_after_a_second_when_it_changes(tmp_path: Path) -> None:
    clock, path = StillClock(), tmp_path / "policy.yaml"
    policy = PolicyFile(World(clock=clock), {"show": "role:member"}, path)
    assert policy.rules.allows("show", ALICE, {})
    write(path, '"show": "role:admin"', 1000)
    assert policy.rules.allows("show", ALICE, {}), "looked again before a second had passed"
    clock.at += 1
    assert not policy.rules.allows("show", ALICE, {})
    write(path, '"show": "role:member"', 2000)
    clock.at += 0.5
    assert not policy.rules.allows("show", ALICE, {}), "looked twice in a second"
    clock.at += 0.5
    assert policy.rules.allows("show", ALICE, {})
    write(path, '"show": "!"', 3000)
    clock.at += 1
    assert not policy.rules.allows("show", ALICE, {})
    path.unlink()
    clock.at += 1
    assert policy.rules.allows("show", ALICE, {})


@pytest.mark.parametrize(
    "text",
    [
        "{show: ",
        '"show": "role:"role"',
        "show: [role:admin]",
        "1: role:admin",
        "- show",
        "show: rule:nowhere",
    ],
)
def test_an_invalid_policy_file_keeps_the_rules_of_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    clock, path = StillClock(), tmp_path / "policy.yaml"
    write(path, "show: '!'", 1000)
    policy = PolicyFile(World(clock=clock), {"show": "role:member"}, path)
    write(path, text, 2000)
    clock.at += 1
    assert not policy.rules.allows("show", ALICE, {})
    assert [r.levelno for r in caplog.records] == [logging.ERROR]
    assert "stays in force" in caplog.text
    write(path, "show: '@'", 3000)
    clock.at += 1
    assert policy.rules.allows("show", ALICE, {})


@pytest.mark.parametrize("text", ["", "# nothing here\n", "{}"])
def test_an_empty_policy_file_overrides_nothing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(text)
    policy = PolicyFile(World(), {"show": "role:member", "hide": "!"}, path)
    assert policy.rules.allows("show", ALICE, {}) and not policy.rules.allows("hide", ALICE, {})


def test_a_file_that_did_not_change_is_not_read_again(tmp_path: Path) -> None:
    clock, path = StillClock(), tmp_path / "policy.yaml"
    write(path, "show: '!'", 1000)
    policy = PolicyFile(World(clock=clock), {"show": "role:member"}, path)
    before = policy.rules
    clock.at += 5
    assert policy.rules is before
    write(path, "show: '@'", 2000)
    clock.at += 5
    assert policy.rules is not before


def test_an_invalid_policy_file_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("show: role")
    with pytest.raises(Invalid, match="'show'"):
        PolicyFile(World(), {"show": "@"}, path)


def test_a_policy_file_with_a_name_nobody_asks_for_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("shwo: '!'\nmine: role:auditor\nshow: rule:mine\n")
    PolicyFile(World(), {"show": "@"}, path)
    assert ["'shwo'" in r.getMessage() for r in caplog.records] == [True]


# oslo.policy as the oracle. Credentials have values throughout: without one Pileus denies on
# purpose where oslo.policy compares the texts "None" (tested above).

VALUES = ["a", "b", "True", "1", "service"]
KEYS = ["project_id", "target.user.domain_id", "flag"]
LEAVES = st.sampled_from(
    [
        "@",
        "!",
        "role:member",
        "role:ADMIN",
        "role:%(flag)s",
        "is_admin_project:True",
        "True:%(flag)s",
        "None:%(flag)s",
        "'a':%(project_id)s",
        "1:%(flag)s",
        "a:b",
        "project_id:%(project_id)s",
        "user_id:a",
        "token.admin:%(flag)s",
        "user_domain_id:%(target.user.domain_id)s",
        "user_id:%(flag)s%(project_id)s",
        "service_roles:service",
    ]
)


def grouped(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    many = st.lists(inner, min_size=2, max_size=3)
    return st.one_of(
        many.map(" or ".join),
        many.map(" and ".join),
        inner.map("({})".format),
        inner.map("not ({})".format),
        inner.map("( {} )".format),
        LEAVES.map("not {}".format),
    )


TEXTS = st.recursive(LEAVES, grouped, max_leaves=8)
TARGETS = st.dictionaries(
    st.sampled_from(KEYS), st.one_of(st.sampled_from([*VALUES, "member"]), st.none(), st.booleans())
)
CREDENTIALS = st.fixed_dictionaries(
    {
        "user_id": st.sampled_from(VALUES),
        "user_domain_id": st.sampled_from(VALUES),
        "project_id": st.sampled_from(VALUES),
        "is_admin_project": st.booleans(),
        "roles": st.frozensets(st.sampled_from(["admin", "member", "reader"])),
        "service_roles": st.frozensets(st.sampled_from(VALUES)),
        "token": st.fixed_dictionaries({"admin": st.sampled_from([True, False, "a"])}),
    }
)
CONF = cfg.ConfigOpts()
CONF([], project="pileus-tests", default_config_files=[])


@settings(max_examples=400, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4), target=TARGETS, creds=CREDENTIALS)
def test_compiled_rules_answer_as_oslo_policy_does(
    texts: list[str], target: dict[str, object], creds: dict[str, Any]
) -> None:
    rules = {"rule0": texts[0]}
    for number, text in enumerate(texts[1:], 1):  # each refers to the one before
        rules[f"rule{number}"] = f"({text}) and not rule:rule{number - 1}"
    enforcer = oslo.Enforcer(CONF, use_conf=False)
    enforcer.set_rules(oslo.Rules.from_dict(rules), use_conf=False)
    plain = {k: sorted(v) if isinstance(v, frozenset) else v for k, v in creds.items()}
    compiled = Rules(rules)
    for name in rules:
        expected = bool(enforcer.enforce(name, target, dict(plain)))
        assert compiled.allows(name, Caller(**creds), target) is expected, rules

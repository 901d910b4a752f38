"""The rules of a mapping, as upstream's documentation gives them, and what no claim can do to them."""

from __future__ import annotations

from typing import Any

import pytest

from pileus.kernel.faults import Invalid
from pileus.services.identity.federation.mapping_rules import (
    Mapped,
    Unmapped,
    check_rules,
    evaluate,
)

BOB = {
    "UserName": ["bob"],
    "Email": ["bob@example.com"],
    "Groups": ["dev", "ops", "secret"],
    "Type": ["Employee"],
}
NAMED = {"user": {"name": "{0}"}}


def mapped(
    local: list[dict[str, Any]], remote: list[dict[str, Any]], version: str = "1.0"
) -> Mapped:
    rules = [{"local": local, "remote": remote}]
    check_rules(version, rules)
    return evaluate(version, rules, BOB)


def test_place_holders_stand_for_the_claims_in_their_order() -> None:
    local = [{"user": {"name": "{0} <{1}>", "id": "{0}", "email": "{1}"}}]
    user = mapped(local, [{"type": "UserName"}, {"type": "Email"}]).user
    assert (user.name, user.id, user.email) == ("bob <bob@example.com>", "bob", "bob@example.com")


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({"any_one_of": ["ops", "other"]}, True),
        ({"any_one_of": ["other"]}, False),
        ({"any_one_of": ["^o"], "regex": True}, True),
        ({"any_one_of": ["^x"], "regex": True}, False),
        ({"any_one_of": ["^o"], "regex": False}, False),
        ({"not_any_of": ["other"]}, True),
        ({"not_any_of": ["ops"]}, False),
        ({"not_any_of": ["^sec"], "regex": True}, False),
    ],
)
def test_a_condition_decides_whether_the_rule_holds(condition: dict[str, Any], holds: bool) -> None:
    remote = [{"type": "UserName"}, {"type": "Groups", **condition}]
    if holds:
        assert mapped([NAMED], remote).user.name == "bob"
    else:
        with pytest.raises(Unmapped):
            mapped([NAMED], remote)


@pytest.mark.parametrize(
    ("condition", "left"),
    [
        ({}, ["dev", "ops", "secret"]),
        ({"whitelist": ["dev", "none"]}, ["dev"]),
        ({"blacklist": ["secret"]}, ["dev", "ops"]),
        ({"whitelist": ["^.{3}$"], "regex": True}, ["dev", "ops"]),
        ({"blacklist": ["^.{3}$"], "regex": True}, ["secret"]),
        ({"whitelist": []}, []),
    ],
)
def test_lists_let_some_values_through(condition: dict[str, Any], left: list[str]) -> None:
    local: list[dict[str, Any]] = [NAMED, {"groups": "{1}", "domain": {"id": "d"}}]
    found = mapped(local, [{"type": "UserName"}, {"type": "Groups", **condition}])
    assert [g.name for g in found.groups] == left
    assert all(g.domain is not None and g.domain.id == "d" for g in found.groups)


def test_groups_come_by_id_by_name_and_by_lists_and_add_up() -> None:
    local: list[dict[str, Any]] = [
        NAMED,
        {"group": {"id": "one"}},
        {"group": {"name": "named", "domain": {"name": "D"}}},
        {"group_ids": "{1}"},
        {"group_ids": "two"},
        {"groups": "['a', 'b']", "domain": {"id": "d"}},
    ]
    found = mapped(local, [{"type": "UserName"}, {"type": "Groups"}])
    assert found.group_ids == ["one", "dev", "ops", "secret", "two"]
    assert [g.name for g in found.groups] == ["named", "a", "b"]


def test_the_first_user_counts_and_rules_that_do_not_hold_say_nothing() -> None:
    rules = [
        {"local": [{"user": {"name": "none"}}], "remote": [{"type": "Missing"}]},
        {"local": [NAMED], "remote": [{"type": "UserName"}]},
        {"local": [{"user": {"name": "late"}, "group": {"id": "g"}}], "remote": [{"type": "Type"}]},
    ]
    found = evaluate("1.0", rules, BOB)
    assert found.user.name == "bob" and found.group_ids == ["g"]
    with pytest.raises(Unmapped):
        evaluate("1.0", rules, {"Else": ["x"]})
    with pytest.raises(Unmapped):
        evaluate("1.0", rules, {"UserName": []})


def test_projects_have_roles_and_from_the_second_version_on_a_domain() -> None:
    projects = [{"name": "{0}'s", "roles": [{"name": "member"}]}]
    local = [{**NAMED, "projects": projects, "domain": {"name": "D"}}]
    first = mapped(local, [{"type": "UserName"}])
    assert [(p.name, p.roles[0].name, p.domain) for p in first.projects] == [
        ("bob's", "member", None)
    ]
    second = mapped(local, [{"type": "UserName"}], "2.0")
    assert second.projects[0].domain is not None and second.projects[0].domain.name == "D"
    assert second.user.domain is not None and second.user.domain.name == "D"


def test_the_third_version_reads_projects_out_of_a_claim() -> None:
    rules = [
        {
            "local": [{"user": {"name": "{0}"}, "projects_json": "{1}"}],
            "remote": [{"type": "UserName"}, {"type": "Projects"}],
        }
    ]
    check_rules("3.0", rules)
    claim = '[{"name": "p", "roles": [{"name": "reader"}], "domain": {"id": "d"}}]'
    found = evaluate("3.0", rules, {"UserName": ["bob"], "Projects": [claim]})
    assert [(p.name, [r.name for r in p.roles]) for p in found.projects] == [("p", ["reader"])]
    for bad in ("no json", '[{"name": "p"}]', '[{"name": "p", "roles": [], "admin": true}]'):
        with pytest.raises(Unmapped):
            evaluate("3.0", rules, {"UserName": ["bob"], "Projects": [bad]})


@pytest.mark.parametrize(
    "name", ["{1}", "['admin', 'x']", "admin;ops", "{0.__class__}", "JSON:{}", "\\1"]
)
def test_a_value_is_a_value_whatever_it_looks_like(name: str) -> None:
    rules = [
        {
            "local": [
                {"user": {"name": "{0}", "email": "{1}"}},
                {"groups": "{0}", "domain": {"id": "d"}},
                {"group_ids": "{0}"},
            ],
            "remote": [{"type": "UserName"}, {"type": "Email"}],
        }
    ]
    found = evaluate("1.0", rules, {"UserName": [name], "Email": ["e"]})
    assert found.user.name == name and found.user.email == "e"
    assert [g.name for g in found.groups] == [name] and found.group_ids == [name]


@pytest.mark.parametrize(
    "rule",
    [
        {"local": []},
        {"local": [NAMED], "remote": []},
        {"local": [NAMED], "remote": [{"any_one_of": ["x"]}]},
        {"local": [NAMED], "remote": [{"type": "U", "whitelist": [], "blacklist": []}]},
        {"local": [NAMED], "remote": [{"type": "U", "any_one_of": ["("], "regex": True}]},
        {"local": [NAMED], "remote": [{"type": "U", "regex": True}]},
        {"local": [NAMED], "remote": [{"type": "U", "any_one_of": "x"}]},
        {"local": [{"user": {"name": "{1}"}}], "remote": [{"type": "U"}]},
        {"local": [{"user": {"type": "root"}}], "remote": [{"type": "U"}]},
        {"local": [{"user": {"admin": True}}], "remote": [{"type": "U"}]},
        {"local": [{"group": {"name": "n"}}], "remote": [{"type": "U"}]},
        {"local": [{"group": {"id": "i", "name": "n", "domain": {}}}], "remote": [{"type": "U"}]},
        {"local": [{"projects": [{"name": "p"}]}], "remote": [{"type": "U"}]},
        {"local": [{"projects_json": "{0}"}], "remote": [{"type": "U"}]},
        {"local": [{"unknown": 1}], "remote": [{"type": "U"}]},
        "no rule",
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(rule: Any) -> None:
    with pytest.raises(Invalid):
        check_rules("1.0", [rule])


def test_there_are_three_versions() -> None:
    rule = {"local": [NAMED], "remote": [{"type": "U"}]}
    assert [len(check_rules(v, [rule])) for v in ("1.0", "2.0", "3.0")] == [1, 1, 1]
    with pytest.raises(Invalid, match=r"there are 1.0, 2.0, 3.0"):
        check_rules("4.0", [rule])


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)*$", "a*a*a*a*a*$", r"(a*)\1"])
def test_an_expression_that_could_take_for_ever_is_refused(pattern: str) -> None:
    remote = {"type": "U", "not_any_of": [pattern], "regex": True}
    with pytest.raises(Invalid, match="too costly"):
        check_rules("1.0", [{"local": [NAMED], "remote": [{"type": "N"}, remote]}])


@pytest.mark.parametrize("condition", ["any_one_of", "not_any_of", "blacklist", "whitelist"])
def test_a_value_too_long_for_an_expression_lets_nobody_pass_by_it(condition: str) -> None:
    for pattern, longest in (
        ("evil", 1024),
        (".*evil", 1024),
        (".*e.*vil", 256),
        ("e.*v.*i.*l", 96),
    ):
        remote = [{"type": "UserName"}, {"type": "Long", condition: [pattern], "regex": True}]
        rules = [{"local": [NAMED], "remote": remote}]
        value = "x" * longest + "evil"
        with pytest.raises(Unmapped, match=str(len(value))):
            evaluate("1.0", rules, {"UserName": ["bob"], "Long": [value]})
        fits = {"UserName": ["bob"], "Long": [value[-longest:]]}
        if condition == "not_any_of":
            with pytest.raises(Unmapped, match="no rule"):
                evaluate("1.0", rules, fits)
        else:
            assert evaluate("1.0", rules, fits).user.name == "bob"

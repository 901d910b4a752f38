"""Security groups and rules through the API."""

from __future__ import annotations

import asyncio
from typing import Any

from .bench import Api, Bench, Row, run, said


def test_a_readers_first_look_makes_the_default_group_once() -> None:
    async def body(b: Bench) -> None:
        readers = [b.as_("one", "reader") for _ in range(5)]
        seen = await asyncio.gather(*(r.rows("/security-groups") for r in readers))
        assert {len(rows) for rows in seen} == {1}
        assert len({rows[0]["id"] for rows in seen}) == 1
        group = seen[0][0]
        assert (group["name"], group["description"]) == ("default", "Default security group")
        rules = {
            (r["direction"], r["ethertype"], r["remote_group_id"])
            for r in group["security_group_rules"]
        }
        assert rules == {
            ("egress", "IPv4", None),
            ("egress", "IPv6", None),
            ("ingress", "IPv4", group["id"]),
            ("ingress", "IPv6", group["id"]),
        }

    run(body, hosts=0)


def test_an_administrators_look_at_a_project_makes_its_default_group_too() -> None:
    async def body(b: Bench) -> None:
        for who, found in ((b.as_("one"), 0), (b.admin, 1)):
            assert len(await who.rows("/security-groups?project_id=two&name=default")) == found
        everybodys = await b.admin.rows("/security-groups?name=default")
        assert {g["project_id"] for g in everybodys} == {"one", "two", "admin"}

    run(body, hosts=0)


def test_the_default_group_keeps_its_name_and_only_administrators_delete_it() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        group = (await api.rows("/security-groups"))[0]
        path = f"/security-groups/{group['id']}"
        rename = await api.put(path, {"security_group": {"name": "other"}})
        assert said(rename) == (409, "SecurityGroupCannotUpdateDefault")
        second = await api.post("/security-groups", {"security_group": {"name": "Default"}})
        assert said(second) == (409, "SecurityGroupDefaultAlreadyExists")
        assert said(await api.delete(path)) == (409, "SecurityGroupCannotRemoveDefault")
        assert (await b.admin.delete(path)).status == 204
        listed = await b.admin.rows("/security-groups?name=default")
        assert "one" not in {g["project_id"] for g in listed}

    run(body, hosts=0)


def test_a_group_lives_its_life_and_revises_with_its_rules() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        group = await api.make("security_group", name="web", description="d")
        path = f"/security-groups/{group['id']}"
        assert {r["direction"] for r in group["security_group_rules"]} == {"egress"}
        rule = await api.make(
            "security_group_rule", security_group_id=group["id"], direction="ingress",
            protocol="TCP", port_range_min=80, port_range_max=80, remote_ip_prefix="10.0.0.7/24",
        )  # fmt: skip
        assert (rule["protocol"], rule["remote_ip_prefix"]) == ("tcp", "10.0.0.7/24")
        assert rule["normalized_cidr"] == "10.0.0.0/24"
        found = await b.admin.rows("/security-group-rules?normalized_cidr=10.0.0.0/24")
        assert [r["id"] for r in found] == [rule["id"]]
        found = await b.admin.rows("/security-group-rules?belongs_to_default_sg=False")
        assert found and not any(r["belongs_to_default_sg"] for r in found)
        shown = await api.get(f"/security-group-rules/{rule['id']}")
        assert shown.json["security_group_rule"] == rule
        seen = (await api.get(path)).json["security_group"]
        assert (len(seen["security_group_rules"]), seen["revision_number"]) == (3, 2)
        assert (await api.delete(f"/security-group-rules/{rule['id']}")).status == 204
        changed = await api.put(path, {"security_group": {"name": "new"}})
        assert changed.json["security_group"]["name"] == "new"
        assert (await api.delete(path)).status == 204
        assert said(await api.get(path)) == (404, "SecurityGroupNotFound")
        left = await api.rows("/security-group-rules")
        assert all(r["security_group_id"] != group["id"] for r in left)

    run(body, hosts=0)


def test_a_group_in_use_stays_and_one_named_by_rules_takes_them_along() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network = await api.make("network")
        worn = await api.make("security_group", name="worn")
        named = await api.make("security_group", name="named")
        await api.make("port", network_id=network["id"], security_groups=[worn["id"]])
        assert said(await api.delete(f"/security-groups/{worn['id']}")) == (
            409,
            "SecurityGroupInUse",
        )
        await api.make(
            "security_group_rule", security_group_id=worn["id"], direction="ingress",
            remote_group_id=named["id"],
        )  # fmt: skip
        assert (await api.delete(f"/security-groups/{named['id']}")).status == 204
        seen = (await api.get(f"/security-groups/{worn['id']}")).json["security_group"]
        assert len(seen["security_group_rules"]) == 2

    run(body, hosts=0)


_REFUSED: list[tuple[Row, str]] = [
    ({"direction": "sideways"}, "HTTPBadRequest"),
    ({"ethertype": "IPv5"}, "SecurityGroupRuleInvalidEtherType"),
    ({"protocol": "nonsense"}, "SecurityGroupRuleInvalidProtocol"),
    ({"protocol": 256}, "SecurityGroupRuleInvalidProtocol"),
    ({"protocol": "ipv6-icmp"}, "SecurityGroupEthertypeConflictWithProtocol"),
    ({"port_range_min": 1, "port_range_max": 2}, "SecurityGroupProtocolRequiredWithPorts"),
    (
        {"protocol": "tcp", "port_range_min": 0, "port_range_max": 2},
        "SecurityGroupInvalidPortValue",
    ),
    (
        {"protocol": "tcp", "port_range_min": 3, "port_range_max": 2},
        "SecurityGroupInvalidPortRange",
    ),
    ({"protocol": "tcp", "port_range_min": 3}, "SecurityGroupInvalidPortRange"),
    ({"protocol": "tcp", "port_range_max": 65536}, "SecurityGroupInvalidPortValue"),
    ({"protocol": "icmp", "port_range_min": 256}, "SecurityGroupInvalidIcmpValue"),
    ({"protocol": "icmp", "port_range_max": 1}, "SecurityGroupMissingIcmpType"),
    ({"remote_ip_prefix": "10.0.0.0/99"}, "InvalidCIDR"),
    ({"remote_ip_prefix": "::/0"}, "SecurityGroupRuleParameterConflict"),
]


def test_rules_that_no_host_could_apply_are_refused() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        group = (await api.rows("/security-groups"))[0]
        for asked, code in _REFUSED:
            rule = {"security_group_id": group["id"], "direction": "ingress", **asked}
            reply = await api.post("/security-group-rules", {"security_group_rule": rule})
            assert said(reply) == (400, code), asked

    run(body, hosts=0)


def test_the_same_rule_twice_conflicts_and_canonical_forms_are_the_same() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        group = (await api.rows("/security-groups"))[0]
        on = {"security_group_id": group["id"], "direction": "ingress"}
        whole = await api.make(
            "security_group_rule", **on, protocol="udp", port_range_min=1, port_range_max=65535
        )
        assert (whole["port_range_min"], whole["port_range_max"]) == (None, None)
        twin = {"security_group_rule": on | {"protocol": "udp"}}
        assert said(await api.post("/security-group-rules", twin)) == (
            409,
            "SecurityGroupRuleExists",
        )
        icmp = await api.make("security_group_rule", **on, protocol="icmp", ethertype="IPv6")
        assert icmp["protocol"] == "ipv6-icmp"
        any_ = await api.make("security_group_rule", **on, protocol="any")
        assert any_["protocol"] is None

    run(body, hosts=0)


def test_anothers_group_and_rules_are_not_there() -> None:
    async def body(b: Bench) -> None:
        group = (await b.as_("one").rows("/security-groups"))[0]
        rule = group["security_group_rules"][0]
        two = b.as_("two")
        assert (await two.get(f"/security-groups/{group['id']}")).status == 404
        assert (await two.get(f"/security-group-rules/{rule['id']}")).status == 404
        assert (await two.delete(f"/security-group-rules/{rule['id']}")).status == 404
        for asked in (
            {"security_group_id": group["id"], "direction": "ingress"},
            {
                "security_group_id": (await two.rows("/security-groups"))[0]["id"],
                "direction": "ingress",
                "remote_group_id": group["id"],
            },
        ):
            reply = await two.post("/security-group-rules", {"security_group_rule": asked})
            assert said(reply) == (404, "SecurityGroupNotFound")
        assert (
            await b.as_("one", "reader").delete(f"/security-group-rules/{rule['id']}")
        ).status == 403

    run(body, hosts=0)


def test_new_groups_are_as_stateful_as_the_project_or_the_cloud_has_it() -> None:
    async def body(b: Bench) -> None:
        noun = "security_groups_default_statefulness"
        path = "/" + noun.replace("_", "-")
        one, two = b.as_("one", "manager"), b.as_("two", "manager")

        async def made(api: Api, **more: Any) -> object:
            return (await api.make("security_group", **more))["stateful"]

        everybodys = {noun: {"project_id": None, "stateful": False}}
        assert (await one.post(path, everybodys)).status == 403
        assert (await b.as_("one").post(path, {noun: {"stateful": False}})).status == 403
        assert (await b.admin.post(path, everybodys)).json[noun]["project_id"] is None
        own = await one.make(noun, path, stateful=True)
        assert said(await one.post(path, {noun: {}})) == (
            409, "SecurityGroupDefaultStatefulnessAlreadyExists",
        )  # fmt: skip
        assert [await made(one), await made(two), await made(two, stateful=True)] == [
            True, False, True,
        ]  # fmt: skip
        assert [g["stateful"] for g in await two.rows("/security-groups?name=default")] == [False]
        assert await one.rows(path) == [own] and await two.rows(path) == []
        assert (await two.get(f"{path}/{own['id']}")).status == 404
        assert (await one.put(f"{path}/{own['id']}", {noun: {"stateful": False}})).status == 200
        assert await made(one) is False
        assert (await one.delete(f"{path}/{own['id']}")).status == 204

    run(body, hosts=0)

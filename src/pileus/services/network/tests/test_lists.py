"""Lists whose JSON is kept: everybody sees what is his to see, and what is so now."""

from __future__ import annotations

from typing import Any

from .bench import Api, Bench, run

TWO = "2" * 32
_SECRET = {
    *("binding:host_id", "binding:profile", "binding:vif_details", "binding:vif_type"),
    "resource_request",
}


async def _of(api: Api, path: str, id: str) -> dict[str, Any]:
    return next(row for row in await api.rows(path) if row["id"] == id)


def test_what_was_shown_to_one_caller_is_not_shown_to_another() -> None:
    async def body(b: Bench) -> None:
        one = b.as_("one")
        network, _ = await one.network()
        port = await one.make("port", network_id=network["id"])
        for _ in range(2):
            whole = await _of(b.admin, "/ports", port["id"])
            mine = await _of(one, "/ports", port["id"])
            assert whole.keys() - mine.keys() >= _SECRET
            assert mine == {name: whole[name] for name in mine}
            assert mine == (await one.get(f"/ports/{port['id']}")).json["port"]
            secret = await one.rows("/ports?fields=id&fields=binding:host_id&fields=pvlan_type")
            assert secret == [{"id": port["id"], "pvlan_type": None}]
            for name in ("provider:network_type", "provider:segmentation_id"):
                assert name in await _of(b.admin, "/networks", network["id"])
                assert name not in await _of(one, "/networks", network["id"])
        assert await b.as_("three").rows("/ports") == []

    run(body, hosts=0)


def test_whether_it_is_shared_depends_on_who_asks() -> None:
    async def body(b: Bench) -> None:
        one, two, path = b.as_("one"), b.as_(TWO), "/address-scopes"
        scope = await one.make("address_scope", name="scope", ip_version=4)
        asked = {"object_type": "address_scope", "object_id": scope["id"]}
        asked |= {"action": "access_as_shared", "target_tenant": TWO}
        policy = await one.make("rbac_policy", "/rbac-policies", **asked)
        for _ in range(2):
            assert (await _of(one, path, scope["id"]))["shared"] is False
            assert (await _of(two, path, scope["id"]))["shared"] is True
        assert (await one.delete(f"/rbac-policies/{policy['id']}")).status == 204
        assert await two.rows(path) == []

    run(body, hosts=0)


def test_a_list_shows_what_changed_in_a_port_its_network_and_its_trunk() -> None:
    async def body(b: Bench) -> None:
        one = b.as_("one")
        network, _ = await one.network()
        first, parent, carried = [
            await one.make("port", network_id=network["id"], name=name) for name in "abc"
        ]

        async def shown(name: str, id: str = "", api: Api = one) -> Any:
            return (await _of(api, f"/ports?network_id={network['id']}", id or first["id"]))[name]

        path = f"/ports/{first['id']}"
        assert await shown("name") == "a"
        assert (await one.put(path, {"port": {"name": "new"}})).status == 200
        assert (await shown("name"), await shown("revision_number")) == ("new", 2)
        assert await shown("qos_network_policy_id") is None
        policy = await b.admin.make("policy", "/qos/policies", name="gold", shared=True)
        rule = {"minimum_bandwidth_rule": {"min_kbps": 100, "direction": "egress"}}
        made = await b.admin.post(f"/qos/policies/{policy['id']}/minimum_bandwidth_rules", rule)
        assert made.status == 201, made
        changed = {"network": {"qos_policy_id": policy["id"]}}
        assert (await b.admin.put(f"/networks/{network['id']}", changed)).status == 200
        assert await shown("qos_network_policy_id") == policy["id"]
        assert await shown("resource_request", api=b.admin) is not None
        sub = {"port_id": carried["id"], "segmentation_type": "vlan", "segmentation_id": 7}
        trunk = await one.make("trunk", port_id=parent["id"], sub_ports=[sub])
        details = await shown("trunk_details", parent["id"])
        assert details["sub_ports"] == [{**sub, "mac_address": carried["mac_address"]}]
        named = await one.rows(f"/ports?id={parent['id']}&fields=trunk_details")
        assert named == [{"trunk_details": details}]
        assert (await one.delete(f"/trunks/{trunk['id']}")).status == 204
        assert "trunk_details" not in await _of(one, "/ports", parent["id"])
        assert (await one.delete(path)).status == 204
        assert {p["id"] for p in await one.rows("/ports")} == {parent["id"], carried["id"]}

    run(body, hosts=0)

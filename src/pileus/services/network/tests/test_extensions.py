"""The smaller nouns of this API, each by what a user sees of it."""

from __future__ import annotations

from .bench import Bench, Row, run, said


def test_new_groups_begin_with_the_default_rules() -> None:
    async def body(b: Bench) -> None:
        found = await b.admin.rows("/default-security-group-rules")
        kinds = {(r["direction"], r["ethertype"], r["remote_group_id"]) for r in found}
        assert kinds == {
            ("egress", "IPv4", None),
            ("egress", "IPv6", None),
            ("ingress", "IPv4", "PARENT"),
            ("ingress", "IPv6", "PARENT"),
        }
        asked: Row = {"direction": "ingress", "protocol": "tcp", "port_range_min": 22}
        noun = "default_security_group_rule"
        made = await b.admin.make(noun, **asked, port_range_max=22)
        twin = {noun: {**asked, "port_range_max": 22, "used_in_default_sg": True}}
        path = "/default-security-group-rules"
        assert said(await b.admin.post(path, twin)) == (409, "DefaultSecurityGroupRuleExists")
        assert (await b.as_("one").post(path, twin)).status == 403
        group = await b.as_("one").make("security_group", name="web")
        ports = {r["port_range_min"] for r in group["security_group_rules"]}
        assert ports == {None, 22}
        assert (await b.admin.delete(f"{path}/{made['id']}")).status == 204
        group = await b.as_("one").make("security_group", name="next")
        assert len(group["security_group_rules"]) == 2

    run(body, hosts=0)


def test_ip_availability_counts_what_is_taken_of_the_pools() -> None:
    async def body(b: Bench) -> None:
        network, subnet = await b.as_("one").network("10.0.0.0/28")
        await b.as_("one").make("port", network_id=network["id"])
        path = f"/network-ip-availabilities/{network['id']}"
        found = (await b.admin.get(path)).json["network_ip_availability"]
        assert (found["total_ips"], found["used_ips"]) == (13, 1)
        (part,) = found["subnet_ip_availability"]
        assert (part["subnet_id"], part["total_ips"], part["used_ips"]) == (subnet["id"], 13, 1)
        assert (await b.as_("one").get(path)).status == 403
        reply = await b.admin.get("/network-ip-availabilities?ip_version=6")
        assert reply.json["network_ip_availabilities"] == []
        for path in ("/floatingip-pools", "/floatingip_pools"):
            pools = (await b.as_("one").get(path)).json["floatingip_pools"]
            assert [p["network_id"] for p in pools] == [await b.as_("one").public()]

    run(body, hosts=0)


def test_names_in_paths_are_spelled_with_either_dash() -> None:
    async def body(b: Bench) -> None:
        for there in ("/security_groups", "/security-group-rules", "/qos/rule_types"):
            assert (await b.admin.get(there)).status == 200
        assert (await b.admin.get("/security_group-rules")).status == 404
        policy = await b.admin.make("policy", "/qos/policies", name="p")
        below = f"/qos/policies/{policy['id']}/dscp-marking-rules"
        rule = await b.admin.make("dscp_marking_rule", below, dscp_mark=10)
        for dash in "-_":
            alias = f"/qos/alias-dscp-marking-rules/{rule['id']}".replace("-", dash, 3)
            shown = await b.admin.get(alias)
            assert shown.json["alias_dscp_marking_rule"]["dscp_mark"] == 10

    run(body, hosts=0)


def test_a_router_may_be_of_a_flavor_which_then_stays() -> None:
    async def body(b: Bench) -> None:
        profile = await b.admin.make("service_profile", "/service_profiles", metainfo="{}")
        flavor = await b.admin.make("flavor", name="f", service_type="L3_ROUTER_NAT")
        path = f"/flavors/{flavor['id']}/service_profiles"
        reference = {"service_profile": {"id": profile["id"]}}
        assert (await b.admin.post(path, reference)).status == 201
        again = (409, "FlavorServiceProfileBindingExists")
        assert said(await b.admin.post(path, reference)) == again
        in_use = await b.admin.delete(f"/service_profiles/{profile['id']}")
        assert said(in_use) == (409, "ServiceProfileInUse")
        router = await b.as_("one").make("router", flavor_id=flavor["id"])
        assert router["flavor_id"] == flavor["id"]
        assert said(await b.admin.delete(f"/flavors/{flavor['id']}")) == (409, "FlavorInUse")
        assert (await b.admin.delete(f"{path}/{profile['id']}")).status == 204
        empty: Row = {"service_profile": {}}
        assert said(await b.admin.post("/service_profiles", empty)) == (400, "ServiceProfileEmpty")

    run(body, hosts=0)


def test_routes_are_added_and_taken_away_without_touching_the_others() -> None:
    async def body(b: Bench) -> None:
        one = b.as_("one")
        _, _, router = await one.routed()
        path = f"/routers/{router['id']}"

        def routes(*destinations: str) -> dict[str, object]:
            listed = [{"destination": d, "nexthop": "10.0.0.9"} for d in destinations]
            return {"router": {"routes": listed}}

        await one.put(f"{path}/add_extraroutes", routes("10.7.0.0/24"))
        reply = await one.put(f"{path}/add_extraroutes", routes("10.8.0.0/24", "10.7.0.0/24"))
        found = {r["destination"] for r in reply.json["router"]["routes"]}
        assert found == {"10.7.0.0/24", "10.8.0.0/24"}
        reply = await one.put(f"{path}/remove_extraroutes", routes("10.7.0.0/24", "10.9.0.0/24"))
        assert [r["destination"] for r in reply.json["router"]["routes"]] == ["10.8.0.0/24"]
        far = {"router": {"routes": [{"destination": "10.9.0.0/24", "nexthop": "192.0.2.1"}]}}
        assert said(await one.put(f"{path}/add_extraroutes", far)) == (400, "InvalidRoutes")

    run(body, hosts=0)


def test_ports_are_found_by_a_part_of_their_address_and_get_new_macs() -> None:
    async def body(b: Bench) -> None:
        one = b.as_("one")
        network, _ = await one.network()
        fixed = [{"ip_address": "10.0.0.77"}]
        port = await one.make("port", network_id=network["id"], fixed_ips=fixed, tags=["a"])
        await one.make("port", network_id=network["id"], fixed_ips=[{"ip_address": "10.0.0.8"}])
        found = await one.rows("/ports?fixed_ips=ip_address_substr=.77")
        assert [p["id"] for p in found] == [port["id"]]
        assert await one.rows("/ports?fixed_ips=ip_address_substr=.99") == []
        assert port["tags"] == ["a"]
        path = f"/ports/{port['id']}"
        assert (await one.put(path, {"port": {"mac_address": None}})).status == 403
        reply = await b.as_("one", "manager").put(path, {"port": {"mac_address": None}})
        assert reply.json["port"]["mac_address"] not in ("", None, port["mac_address"])
        assert (await one.client.post(f"/network/v2.0{path}/tags", {"tags": ["b"]})).status in (
            200,
            204,
        )
        assert (await one.get(f"{path}/tags")).json == {"tags": ["a", "b"]}

    run(body, hosts=0)

"""Ports through the API: addresses, bindings, security, and who may say what."""

from __future__ import annotations

import asyncio
from typing import Any

from pileus.services.network.subnet import ALLOCATIONS

from .bench import Bench, Row, run, said


async def _held(b: Bench) -> set[str]:
    return {a.ip for a in await ALLOCATIONS.all(b.control.runtime.store)}


def test_a_port_looks_the_same_to_a_reader_and_gives_its_address_back() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, subnet = await api.network()
        port = await api.make("port", network_id=network["id"], name="p")
        assert port["fixed_ips"][0]["subnet_id"] == subnet["id"]
        assert (port["status"], port["device_id"], port["admin_state_up"]) == ("DOWN", "", True)
        assert port["mac_address"].startswith("fa:16:3e:")
        assert "binding:host_id" not in port
        shown = (await b.as_("one", "reader").get(f"/ports/{port['id']}")).json["port"]
        assert shown == port
        assert await _held(b) == {port["fixed_ips"][0]["ip_address"]}
        assert (await api.delete(f"/ports/{port['id']}")).status == 204
        assert await _held(b) == set()

    run(body, hosts=0)


def test_fifty_ports_at_once_have_fifty_addresses() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _ = await api.network("10.0.0.0/26")
        ports = await asyncio.gather(
            *(api.make("port", network_id=network["id"]) for _ in range(50))
        )
        ips = {p["fixed_ips"][0]["ip_address"] for p in ports}
        assert len(ips) == 50
        assert await _held(b) == ips

    run(body, hosts=0)


def test_a_full_subnet_refuses_and_leaves_nothing_behind() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _ = await api.network("10.0.0.0/29")
        replies = await asyncio.gather(
            *(api.post("/ports", {"port": {"network_id": network["id"]}}) for _ in range(8))
        )
        assert sorted(r.status for r in replies) == [201] * 5 + [409] * 3
        refused = next(r for r in replies if r.status == 409)
        assert said(refused) == (409, "IpAddressGenerationFailure")
        assert len(await api.rows("/ports")) == 5
        used = (await b.as_("one", "manager").get("/quotas/one/details")).json["quota"]["port"]
        assert used["used"] == 5

    run(body, hosts=0)


def test_bulk_ports_are_all_or_nothing() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _ = await api.network("10.0.0.0/29")
        six = {"ports": [{"network_id": network["id"]}] * 6}
        assert (await api.post("/ports", six)).status == 409
        assert await api.rows("/ports") == []
        assert await _held(b) == set()
        two = {"ports": [{"network_id": network["id"], "name": n} for n in "ab"]}
        made = (await api.post("/ports", two)).json["ports"]
        assert [p["name"] for p in made] == ["a", "b"]

    run(body, hosts=0)


_NOT_TO_BE_HAD: list[tuple[list[Row], int, str]] = [
    ([{"ip_address": "10.9.9.9"}], 400, "InvalidIpForNetwork"),
    ([{"ip_address": "10.0.0.255"}], 400, "InvalidIpForSubnet"),
    ([{"subnet_id": "nowhere"}], 400, "InvalidInput"),
    ([{}], 400, "InvalidInput"),
    ([{"ip_address": "10.0.0.5"}] * 2, 409, "IpAddressAlreadyAllocated"),
    ([{"ip_address": f"10.0.0.{n}"} for n in range(10, 16)], 400, "InvalidInput"),
    ([{"ip_address": "x"}], 400, "HTTPBadRequest"),
]


def test_addresses_that_cannot_be_had_are_refused() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _ = await api.network()
        for fixed, status, code in _NOT_TO_BE_HAD:
            asked = {"network_id": network["id"], "fixed_ips": fixed}
            assert said(await api.post("/ports", {"port": asked})) == (status, code), fixed
            assert await _held(b) == set()

    run(body, hosts=0)


def test_a_port_asks_for_its_address_and_changes_it() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, subnet = await api.network()
        fixed: list[Row] = [{"ip_address": "10.0.0.5"}]
        port = await api.make("port", network_id=network["id"], fixed_ips=fixed)
        path = f"/ports/{port['id']}"
        wanted = [{"ip_address": "10.0.0.5"}, {"subnet_id": subnet["id"], "ip_address": "10.0.0.6"}]
        changed = (await api.put(path, {"port": {"fixed_ips": wanted}})).json["port"]
        assert {f["ip_address"] for f in changed["fixed_ips"]} == {"10.0.0.5", "10.0.0.6"}
        changed = (await api.put(path, {"port": {"fixed_ips": wanted[1:]}})).json["port"]
        assert await _held(b) == {"10.0.0.6"}
        found = await api.rows("/ports?fixed_ips=ip_address%3D10.0.0.6")
        assert [p["id"] for p in found] == [port["id"]]
        assert await api.rows("/ports?fixed_ips=ip_address%3D10.0.0.5") == []
        by_subnet = await api.rows(f"/ports?fixed_ips=subnet_id%3D{subnet['id']}")
        assert len(by_subnet) == 1

    run(body, hosts=0)


def test_a_mac_is_checked_and_unique_on_its_network() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network = await api.make("network")
        asked = {"network_id": network["id"], "mac_address": "FA-16-3E-00-00-01"}
        assert (await api.make("port", **asked))["mac_address"] == "fa:16:3e:00:00:01"
        assert said(await api.post("/ports", {"port": asked})) == (409, "MacAddressInUse")
        for bad in ("x", "01:00:00:00:00:01", "00:00:00:00:00:00"):
            reply = await api.post("/ports", {"port": asked | {"mac_address": bad}})
            assert reply.status == 400

    run(body, hosts=0)


def test_security_groups_default_can_be_none_and_need_port_security() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _ = await api.network()
        on = {"network_id": network["id"]}
        default = (await api.rows("/security-groups"))[0]
        assert (await api.make("port", **on))["security_groups"] == [default["id"]]
        bare = await api.make("port", **on, security_groups=[])
        assert bare["security_groups"] == []
        open_ = await api.make("port", **on, port_security_enabled=False)
        assert (open_["security_groups"], open_["port_security_enabled"]) == ([], False)
        both = on | {"port_security_enabled": False, "security_groups": [default["id"]]}
        assert (await api.post("/ports", {"port": both})).status == 400
        worn = await api.make("port", **on)
        reply = await api.put(f"/ports/{worn['id']}", {"port": {"port_security_enabled": False}})
        assert said(reply) == (409, "PortSecurityPortHasSecurityGroup")
        strange = on | {"security_groups": ["nowhere"]}
        assert said(await api.post("/ports", {"port": strange})) == (404, "SecurityGroupNotFound")
        foreign = (await b.as_("two").rows("/security-groups"))[0]["id"]
        reply = await api.post("/ports", {"port": on | {"security_groups": [foreign]}})
        assert reply.status == 404

    run(body, hosts=0)


_FOREIGN: list[tuple[Row, int]] = [
    ({}, 201),
    ({"name": "x", "security_groups": [], "device_id": "", "device_owner": ""}, 201),
    ({"mac_address": "fa:16:3e:00:00:09"}, 403),
    ({"fixed_ips": [{"ip_address": "10.0.0.9"}]}, 403),
    ({"port_security_enabled": False}, 403),
    ({"allowed_address_pairs": [{"ip_address": "10.0.0.9"}]}, 403),
    ({"device_owner": "network:dhcp"}, 403),
    ({"binding:host_id": "fake-1"}, 403),
    ({"binding:profile": {"a": 1}}, 403),
]


def test_on_anothers_shared_network_a_member_may_only_what_harms_nobody() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.admin.network()
        await b.admin.put(f"/networks/{network['id']}", {"network": {"shared": True}})
        for asked, status in _FOREIGN:
            port = {"network_id": network["id"], **asked}
            reply = await b.as_("one").post("/ports", {"port": port})
            assert reply.status == status, (asked, reply)

    run(body, hosts=0)


def test_bindings_are_for_administrators_and_follow_the_host() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        port = await b.admin.make(
            "port", network_id=network["id"], project_id="one", binding__host_id="fake-9"
        )
        assert (port["binding:host_id"], port["binding:vif_type"]) == ("fake-9", "bridge")
        found = await b.admin.rows("/ports?binding:host_id=fake-9")
        assert [p["id"] for p in found] == [port["id"]]
        loosened = await b.admin.put(f"/ports/{port['id']}", {"port": {"binding:host_id": ""}})
        assert loosened.json["port"]["binding:vif_type"] == "unbound"
        seen = (await b.as_("one").get(f"/ports/{port['id']}")).json["port"]
        assert {k for k in seen if k.startswith("binding:")} == {"binding:vnic_type"}

    run(body, hosts=0)


def test_extra_dhcp_options_are_merged_and_taken_away_by_null() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network = await api.make("network")
        option: Row = {"opt_name": "mtu", "opt_value": "1400"}
        port = await api.make("port", network_id=network["id"], extra_dhcp_opts=[option])
        path = f"/ports/{port['id']}"
        more = {"opt_name": "bootfile-name", "opt_value": "pxe.0"}
        changed = (await api.put(path, {"port": {"extra_dhcp_opts": [more]}})).json["port"]
        assert [o["opt_name"] for o in changed["extra_dhcp_opts"]] == ["mtu", "bootfile-name"]
        gone = {"opt_name": "mtu", "opt_value": None}
        changed = (await api.put(path, {"port": {"extra_dhcp_opts": [gone]}})).json["port"]
        assert [o["opt_name"] for o in changed["extra_dhcp_opts"]] == ["bootfile-name"]

    run(body, hosts=0)


def test_a_ports_dns_name_gives_its_assignment() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _ = await api.network()
        fixed: list[Row] = [{"ip_address": "10.0.0.5"}]
        port = await api.make("port", network_id=network["id"], fixed_ips=fixed, dns_name="web")
        assert port["dns_assignment"] == [
            {"ip_address": "10.0.0.5", "hostname": "web", "fqdn": "web.openstacklocal."}
        ]
        bad = {"network_id": network["id"], "dns_name": "not a name"}
        assert (await api.post("/ports", {"port": bad})).status == 400

    run(body, hosts=0)


def test_the_networks_owner_sees_and_deletes_what_others_plug_into_it() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        await b.admin.put(f"/networks/{network['id']}", {"network": {"shared": True}})
        port = await b.as_("two").make("port", network_id=network["id"])
        assert [p["id"] for p in await b.as_("one").rows("/ports")] == [port["id"]]
        assert (await b.as_("three").get(f"/ports/{port['id']}")).status == 404
        assert (await b.as_("one").delete(f"/ports/{port['id']}")).status == 204

    run(body, hosts=0)


def test_the_port_of_a_server_is_deleted_with_the_server_not_by_its_user() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        nic = (await b.boot("one", "guest", network["id"]))[0]
        assert (await b.as_("one").delete(f"/ports/{nic.port_id}")).status == 403
        assert (await b.admin.delete(f"/ports/{nic.port_id}")).status == 204

    run(body)


def test_quota_details_count_what_is_there() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        await b.as_("one").make("port", network_id=network["id"])
        manager = b.as_("one", "manager")
        details: dict[str, Any] = (await manager.get("/quotas/one/details.json")).json["quota"]
        used = {name: q["used"] for name, q in details.items() if q["used"]}
        assert used == {
            "network": 1, "subnet": 1, "port": 1, "security_group": 1, "security_group_rule": 4,
        }  # fmt: skip
        assert (await manager.get("/quotas/one")).json["quota"]["port"] == 500
        assert (await b.as_("two", "manager").get("/quotas/one")).status == 403
        changed = await b.admin.put("/quotas/one", {"quota": {"port": 1}})
        assert changed.json["quota"]["port"] == 1
        reply = await b.as_("one").post("/ports", {"port": {"network_id": network["id"]}})
        assert said(reply) == (409, "OverQuota")
        assert (await b.admin.delete("/quotas/one")).status == 204
        assert said(await b.admin.delete("/quotas/one")) == (404, "TenantQuotaNotFound")
        assert (await b.admin.get("/quotas/one/default")).json["quota"]["port"] == 500
        assert (await b.admin.put("/quotas/one", {"quota": {"port": -2}})).status == 400

    run(body, hosts=0)


def test_a_port_says_how_it_got_its_addresses_and_claims_no_multicast_ones() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _ = await api.network()
        usual = await api.make("port", network_id=network["id"])
        bare = await api.make("port", network_id=network["id"], fixed_ips=[])
        assert (usual["ip_allocation"], bare["ip_allocation"]) == ("immediate", "none")
        found = await api.rows("/ports?ip_allocation=none")
        assert [p["id"] for p in found] == [bare["id"]]
        for ip, status in (
            ("224.0.0.5", 400),
            ("192.0.0.0/1", 400),
            ("ff02::1", 400),
            ("0.0.0.0/0", 200),
        ):
            pairs = {"port": {"allowed_address_pairs": [{"ip_address": ip}]}}
            assert (await api.put(f"/ports/{usual['id']}", pairs)).status == status, ip

    run(body, hosts=0)

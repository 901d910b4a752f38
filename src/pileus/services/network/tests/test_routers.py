"""Routers and floating IPs: through the API, and on the hosts."""

from __future__ import annotations

from pileus.kernel.hosts import HOSTS, LEASE_S
from pileus.services.network.routers.placement import place_routers

from .bench import Api, Bench, Row, run, said


async def _interface(api: Api, router: Row, **what: str) -> Row:
    reply = await api.put(f"/routers/{router['id']}/add_router_interface", what)
    assert reply.status == 200, reply
    found: Row = reply.json
    return found


def test_a_router_with_a_gateway_takes_and_gives_back_one_outer_address() -> None:
    async def body(b: Bench) -> None:
        api, public = b.as_("one"), await b.as_("one").public()
        router = await api.make("router", external_gateway_info={"network_id": public})
        info = router["external_gateway_info"]
        assert (info["network_id"], info["enable_snat"]) == (public, True)
        assert len(info["external_fixed_ips"]) == 1
        assert await api.rows("/ports") == [], "the gateway's port is the cloud's"
        gateways = await b.admin.rows("/ports?device_owner=network:router_gateway")
        assert gateways[0]["device_id"] == router["id"]
        path = f"/routers/{router['id']}"
        renamed = await api.put(path, {"router": {"name": "x"}})
        assert renamed.json["router"]["external_gateway_info"] == info
        nothing: list[Row | None] = [None, {}]
        for none in nothing:
            reply = await api.put(path, {"router": {"external_gateway_info": none}})
            assert reply.json["router"]["external_gateway_info"] is None
        assert await b.admin.rows("/ports") == []
        assert (await api.delete(path)).status == 204

    run(body, hosts=0)


def test_only_administrators_choose_snat_and_outer_addresses() -> None:
    async def body(b: Bench) -> None:
        public = await b.admin.public()
        for more in (
            {"enable_snat": False},
            {"external_fixed_ips": [{"ip_address": "172.24.4.252"}]},
        ):
            asked = {"router": {"external_gateway_info": {"network_id": public, **more}}}
            assert (await b.as_("one").post("/routers", asked)).status == 403
            made = (await b.admin.post("/routers", asked)).json["router"]
            info = made["external_gateway_info"]
            assert info["enable_snat"] == made["enable_snat"] == more.get("enable_snat", True)
        assert info["external_fixed_ips"][0]["ip_address"] == "172.24.4.252"
        assert len(await b.admin.rows("/routers?enable_snat=False")) == 1
        inner = await b.as_("one").make("network")
        wrong = {"router": {"external_gateway_info": {"network_id": inner["id"]}}}
        assert said(await b.as_("one").post("/routers", wrong)) == (400, "BadRequest")

    run(body, hosts=0)


def test_an_interface_comes_by_subnet_or_by_port_and_goes_with_its_port() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, subnet = await api.network()
        router = await api.make("router", external_gateway_info={}, admin_state_up=False)
        path = f"/routers/{router['id']}"
        added = await _interface(api, router, subnet_id=subnet["id"])
        assert (added["id"], added["subnet_ids"]) == (router["id"], [subnet["id"]])
        await b.settle()
        port = (await api.get(f"/ports/{added['port_id']}")).json["port"]
        assert (port["device_id"], port["status"]) == (router["id"], "ACTIVE")
        assert port["fixed_ips"][0]["ip_address"] == "10.0.0.1"
        twice = await api.put(f"{path}/add_router_interface", {"subnet_id": subnet["id"]})
        assert twice.status == 400
        assert said(await api.delete(path)) == (409, "RouterInUse")
        assert said(await api.delete(f"/ports/{port['id']}")) == (409, "ServicePortInUse")
        removed = await api.put(f"{path}/remove_router_interface", {"subnet_id": subnet["id"]})
        assert (removed.status, removed.json["port_id"]) == (200, port["id"])
        again = await api.put(f"{path}/remove_router_interface", {"subnet_id": subnet["id"]})
        assert said(again) == (404, "RouterInterfaceNotFoundForSubnet")
        own = await api.make("port", network_id=network["id"])
        by_port = await _interface(api, router, port_id=own["id"])
        assert by_port["subnet_id"] == subnet["id"]
        gone = await api.put(f"{path}/remove_router_interface", {"port_id": own["id"]})
        assert gone.status == 200
        assert (await api.get(f"/ports/{own['id']}")).status == 404
        once = await api.put(f"{path}/remove_router_interface", {"port_id": own["id"]})
        assert said(once) == (404, "RouterInterfaceNotFound")
        assert (await api.delete(path)).status == 204
        assert (await api.delete(f"/networks/{network['id']}")).status == 204

    run(body)


def test_interfaces_may_not_overlap_nor_be_others_ports() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        _, subnet = await api.network("10.0.0.0/24")
        _, twin = await api.network("10.0.0.0/25")
        router = await api.make("router")
        await _interface(api, router, subnet_id=subnet["id"])
        add = f"/routers/{router['id']}/add_router_interface"
        assert (await api.put(add, {"subnet_id": twin["id"]})).status == 400
        assert (await api.put(add, {})).status == 400
        assert (await api.put(add, {"subnet_id": "x", "port_id": "y"})).status == 400
        foreign, _ = await b.as_("two").network("10.7.0.0/24")
        port = await b.as_("two").make("port", network_id=foreign["id"])
        assert (await api.put(add, {"port_id": port["id"]})).status == 404
        network, _ = await api.network("10.8.0.0/24")
        used = await api.make("port", network_id=network["id"], device_id="something")
        assert said(await api.put(add, {"port_id": used["id"]})) == (409, "PortInUse")
        public = (await api.rows(f"/subnets?network_id={await api.public()}"))[0]
        assert (await api.put(add, {"subnet_id": public["id"]})).status == 403

    run(body, hosts=0)


def test_routes_lead_to_neighbours_and_hold_their_interface() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        _, subnet, router = await api.routed()
        path = f"/routers/{router['id']}"
        good = [{"destination": "10.50.0.0/16", "nexthop": "10.0.0.9"}]
        changed = await api.put(path, {"router": {"routes": good}})
        assert changed.json["router"]["routes"] == good
        for nexthop in ("10.77.0.1", "10.0.0.1"):
            bad = [{"destination": "10.50.0.0/16", "nexthop": nexthop}]
            assert said(await api.put(path, {"router": {"routes": bad}})) == (400, "InvalidRoutes")
        held = await api.put(f"{path}/remove_router_interface", {"subnet_id": subnet["id"]})
        assert said(held) == (409, "RouterInterfaceInUseByRoute")

    run(body, hosts=0)


def test_a_floating_ip_finds_its_router_moves_and_lets_go() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, subnet, router = await api.routed()
        public = await api.public()
        one = await api.make("port", network_id=network["id"])
        two = await api.make("port", network_id=network["id"])
        fip = await api.make("floatingip", floating_network_id=public, port_id=one["id"])
        assert fip["router_id"] == router["id"]
        assert fip["fixed_ip_address"] == one["fixed_ips"][0]["ip_address"]
        assert fip["port_details"]["mac_address"] == one["mac_address"]
        assert "name" not in fip
        path = f"/floatingips/{fip['id']}"
        await b.settle()
        assert (await api.get(path)).json["floatingip"]["status"] == "ACTIVE"
        other = {"floatingip": {"floating_network_id": public, "port_id": one["id"]}}
        assert said(await api.post("/floatingips", other)) == (
            409,
            "FloatingIPPortAlreadyAssociated",
        )
        moved = (await api.put(path, {"floatingip": {"port_id": two["id"]}})).json["floatingip"]
        assert moved["fixed_ip_address"] == two["fixed_ips"][0]["ip_address"]
        held = await api.put(
            f"/routers/{router['id']}/remove_router_interface", {"subnet_id": subnet["id"]}
        )
        assert said(held) == (409, "RouterInterfaceInUseByFloatingIP")
        cut = await api.put(f"/routers/{router['id']}", {"router": {"external_gateway_info": {}}})
        assert said(cut) == (409, "RouterExternalGatewayInUseByFloatingIp")
        loose = (await api.put(path, {"floatingip": {"port_id": None}})).json["floatingip"]
        assert (loose["port_id"], loose["fixed_ip_address"], loose["router_id"]) == (None,) * 3
        assert loose["status"] == "DOWN"
        assert (await api.delete(path)).status == 204
        assert said(await api.delete(path)) == (404, "FloatingIPNotFound")
        assert await b.admin.rows("/ports?device_owner=network:floatingip") == []

    run(body)


def test_a_floating_ip_may_be_at_a_router_behind_which_the_ports_is() -> None:
    async def body(b: Bench) -> None:
        api, public = b.as_("one"), await b.as_("one").public()
        network, _, near = await api.routed()
        _, _, far = await api.routed("10.9.0.0/24")
        port = await api.make("port", network_id=network["id"])
        wanted = {"floating_network_id": public, "port_id": port["id"]}
        fip = await api.make("floatingip", **wanted, router_id=far["id"])
        assert fip["router_id"] == far["id"]
        await b.settle()
        path = f"/floatingips/{fip['id']}"
        assert (await api.get(path)).json["floatingip"]["status"] == "ACTIVE"
        for chosen, found in ((near["id"], near), (far["id"], far), (None, near)):
            moved = await api.put(path, {"floatingip": {"router_id": chosen}})
            assert moved.json["floatingip"]["router_id"] == found["id"]
        bare = await api.make("router")
        refused = await api.put(path, {"floatingip": {"router_id": bare["id"]}})
        assert refused.status == 409
        hidden = await b.as_("two").make("router")
        refused = await api.put(path, {"floatingip": {"router_id": hidden["id"]}})
        assert said(refused) == (404, "RouterNotFound")

    run(body)


def test_a_floating_ip_of_a_deleted_port_lets_go_of_it() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _, _ = await api.routed()
        port = await api.make("port", network_id=network["id"])
        public = await api.public()
        fip = await api.make("floatingip", floating_network_id=public, port_id=port["id"])
        await b.settle()
        assert (
            b.driver().applied.routers[0].floating_ips[0].floating_ip == fip["floating_ip_address"]
        )
        assert (await api.delete(f"/ports/{port['id']}")).status == 204
        seen = (await api.get(f"/floatingips/{fip['id']}")).json["floatingip"]
        assert (seen["port_id"], seen["status"]) == (None, "DOWN")
        await b.settle()
        assert b.driver().applied.routers[0].floating_ips == ()

    run(body)


def test_floating_ips_are_refused_where_no_packet_could_go() -> None:
    async def body(b: Bench) -> None:
        api, public = b.as_("one"), await b.as_("one").public()
        network, _ = await api.network()
        port = await api.make("port", network_id=network["id"])
        unrouted = {"floatingip": {"floating_network_id": public, "port_id": port["id"]}}
        assert said(await api.post("/floatingips", unrouted)) == (
            404,
            "ExternalGatewayForFloatingIPNotFound",
        )
        assert await b.admin.rows("/ports?device_owner=network:floatingip") == []
        inner = {"floatingip": {"floating_network_id": network["id"]}}
        assert said(await api.post("/floatingips", inner)) == (400, "BadRequest")
        strange = {"floatingip": {"floating_network_id": public, "port_id": "nowhere"}}
        assert said(await api.post("/floatingips", strange)) == (404, "PortNotFound")
        routed, _, _ = await api.routed("10.5.0.0/24")
        there = await api.make("port", network_id=routed["id"])
        wrong = {
            "floating_network_id": public,
            "port_id": there["id"],
            "fixed_ip_address": "10.5.0.99",
        }
        if there["fixed_ips"][0]["ip_address"] == "10.5.0.99":
            wrong["fixed_ip_address"] = "10.5.0.98"
        assert said(await api.post("/floatingips", {"floatingip": wrong})) == (400, "BadRequest")
        chosen = {"floating_network_id": public, "floating_ip_address": "172.24.4.251"}
        assert (await api.post("/floatingips", {"floatingip": chosen})).status == 403
        made = await b.as_("one", "manager").make("floatingip", **chosen)
        assert made["floating_ip_address"] == "172.24.4.251"
        again = await b.as_("one", "manager").post("/floatingips", {"floatingip": chosen})
        assert said(again) == (409, "IpAddressAlreadyAllocated")

    run(body, hosts=0)


def test_an_exhausted_outer_network_says_so() -> None:
    async def body(b: Bench) -> None:
        network = await b.admin.make("network", router__external=True)
        pools: list[Row] = [{"start": "203.0.113.2", "end": "203.0.113.2"}]
        await b.admin.make(
            "subnet", network_id=network["id"], cidr="203.0.113.0/29", ip_version=4,
            allocation_pools=pools, enable_dhcp=False,
        )  # fmt: skip
        asked = {"floatingip": {"floating_network_id": network["id"]}}
        assert (await b.as_("one").post("/floatingips", asked)).status == 201
        assert said(await b.as_("one").post("/floatingips", asked)) == (
            400,
            "ExternalIpAddressExhausted",
        )

    run(body, hosts=0)


def test_routers_spread_over_the_hosts_and_leave_one_that_is_gone() -> None:
    async def body(b: Bench) -> None:
        api, runtime = b.as_("one"), b.control.runtime
        for n in range(4):
            await api.routed(f"10.{n}.0.0/24")
        await b.settle()
        assert [len(b.driver(h).applied.routers) for h in ("fake-1", "fake-2")] == [2, 2]
        async with runtime.store.tx() as tx:
            gone = await HOSTS.get(tx, "fake-2")
            await HOSTS.change(tx, gone, seen_at=gone.seen_at - 2 * LEASE_S, speaker="")
        await place_routers(runtime, "")
        await b.settle()
        assert len(b.driver("fake-1").applied.routers) == 4
        assert len(b.driver("fake-2").applied.routers) == 0
        ports = await b.admin.rows("/ports?device_owner=network:router_interface")
        assert {(p["binding:host_id"], p["status"]) for p in ports} == {("fake-1", "ACTIVE")}

    run(body, hosts=2)


def test_an_outer_network_goes_with_the_floating_ips_that_stand_for_nobody() -> None:
    async def body(b: Bench) -> None:
        api, public = b.as_("one"), await b.as_("one").public()
        network, _, _ = await api.routed()
        port = await api.make("port", network_id=network["id"])
        used = await api.make("floatingip", floating_network_id=public, port_id=port["id"])
        idle = await api.make("floatingip", floating_network_id=public)
        assert said(await b.admin.delete(f"/networks/{public}")) == (409, "NetworkInUse")
        assert (await api.get(f"/floatingips/{idle['id']}")).status == 200, "nothing was done"
        other = await b.admin.make("network", router__external=True)
        await b.admin.make("subnet", network_id=other["id"], cidr="203.0.113.0/24", ip_version=4)
        fip = await api.make("floatingip", floating_network_id=other["id"])
        assert (await b.admin.delete(f"/networks/{other['id']}")).status == 204
        assert (await api.get(f"/floatingips/{fip['id']}")).status == 404
        assert (await api.get(f"/floatingips/{used['id']}")).status == 200

    run(body, hosts=0)


def test_a_router_has_several_gateways_and_each_goes_by_itself() -> None:
    async def body(b: Bench) -> None:
        api, public = b.admin, await b.admin.public()
        back = await api.make("network", router__external=True)
        await api.make("subnet", network_id=back["id"], cidr="172.25.0.0/24", ip_version=4)
        network, _, router = await api.routed()
        path = f"/routers/{router['id']}"

        async def change(verb: str, *gateways: Row, status: int = 200) -> list[Row]:
            document = {"router": {"external_gateways": list(gateways)}}
            reply = await api.put(f"{path}/{verb}_external_gateways", document)
            assert reply.status == status, reply
            return list(reply.json["router"]["external_gateways"]) if status == 200 else []

        over = await api.make("network", router__external=True)
        await api.make("subnet", network_id=over["id"], cidr="172.25.0.0/16", ip_version=4)
        first, second, third = await change(
            "add", {"network_id": back["id"]}, {"network_id": public}
        )
        assert (first["network_id"], second["network_id"]) == (public, back["id"])
        await change("add", {"network_id": over["id"]}, status=400)  # the same addresses twice
        await b.settle()
        spec = b.driver().applied.routers[0]
        assert [g.network_id for g in spec.gateways] == [public, back["id"], public]
        port = await api.make("port", network_id=network["id"])
        await api.make("floatingip", floating_network_id=back["id"], port_id=port["id"])
        await change("remove", second, status=409)
        await change("remove", {"network_id": public}, status=400)  # which of the two?
        assert await change("remove", first) == [second, third]
        assert await change("update", second, third) == [second, third]
        info = (await api.get(path)).json["router"]["external_gateway_info"]
        assert info["network_id"] == back["id"]
        cleared: Row = {"router": {"external_gateway_info": {}}}
        assert said(await api.put(path, cleared)) == (409, "RouterExternalGatewayInUseByFloatingIp")
        asked = {"router": {"external_gateways": [{"network_id": public, "enable_snat": False}]}}
        mine = await b.as_("one").make("router")
        refused = await b.as_("one").put(f"/routers/{mine['id']}/add_external_gateways", asked)
        assert refused.status == 403
        assert len(await api.rows("/ports?device_owner=network:router_gateway")) == 2

    run(body)

"""What stops a packet, out of the rows."""

from __future__ import annotations

from typing import Any

from pileus.services.network.tests.bench import Api, Bench, Row, run


async def traced(api: Api, port_id: str, address: str, **more: Any) -> Row:
    words = "".join(f"&{name}={value}" for name, value in ({"port": 80} | more).items())
    reply = await api.get(f"/pileus/trace?port_id={port_id}&ip_address={address}{words}")
    assert reply.status == 200, reply
    found: Row = reply.json["trace"]
    steps = found["steps"]
    assert all(step["passes"] for step in steps[:-1])
    assert steps[-1]["passes"] == found["allowed"] == (not found["stopped_by"])
    return found


async def stop(api: Api, port_id: str, address: str, **more: Any) -> str:
    return str((await traced(api, port_id, address, **more))["stopped_by"])


async def group(api: Api, **rule: Any) -> str:
    """A security group without a rule to send, and with one of the caller's."""
    made = await api.make("security_group", name="sg")
    for old in made["security_group_rules"]:
        await api.delete(f"/security-group-rules/{old['id']}")
    if rule:
        await api.make("security_group_rule", security_group_id=made["id"], **rule)
    return str(made["id"])


def test_a_packet_that_its_groups_allow_is_followed_to_the_port_that_receives_it() -> None:
    async def test(b: Bench) -> None:
        api = b.as_("p")
        network, _ = await api.network()
        (one,), (two,) = [await b.boot("p", g, network["id"]) for g in ("one", "two")]
        found = await traced(b.admin, one.port_id, two.fixed_ips[0].ip_address)
        assert found["allowed"]
        assert found["steps"][-2]["says"].startswith("receives tcp/80 from ")
        assert found["steps"][-1]["at"] == "host fake-1"

    run(test)


def test_the_group_that_has_no_rule_for_a_packet_is_named() -> None:
    async def test(b: Bench) -> None:
        api = b.as_("p")
        network, _ = await api.network()
        mute, deaf = await group(api), await group(api, direction="egress")
        (one,) = await b.boot("p", "one", network["id"], groups=[deaf])
        (two,) = await b.boot("p", "two", network["id"], groups=[mute])
        ip, other = one.fixed_ips[0].ip_address, two.fixed_ips[0].ip_address
        assert await stop(b.admin, one.port_id, other) == (
            f"port {two.port_id}: none of its security groups ({mute}) has an ingress rule for "
            f"tcp/80 from {ip}"
        )
        said = await stop(b.admin, two.port_id, ip, protocol="icmp")
        assert said.endswith(f"({mute}) has an egress rule for icmp/80 to {ip}")

    run(test)


def test_a_private_network_stops_what_an_isolated_port_may_not_hear() -> None:
    async def test(b: Bench) -> None:
        api = b.as_("p")
        network, _ = await api.network()
        (one,), (two,) = [await b.boot("p", g, network["id"]) for g in ("one", "two")]
        ip = two.fixed_ips[0].ip_address
        await api.put(f"/networks/{network['id']}", {"network": {"pvlan": True}})
        assert (await traced(b.admin, one.port_id, ip))["allowed"], "both are promiscuous"
        for nic in (one, two):
            await api.put(f"/ports/{nic.port_id}", {"port": {"pvlan_type": "isolated"}})
        assert await stop(b.admin, one.port_id, ip) == (
            f"port {two.port_id}: a private network: being isolated, it hears none that is isolated"
        )

    run(test)


def test_a_packet_under_a_strange_address_or_from_a_port_that_is_down_does_not_leave() -> None:
    async def test(b: Bench) -> None:
        api = b.as_("p")
        network, _ = await api.network()
        (one,) = await b.boot("p", "one", network["id"])
        ip = one.fixed_ips[0].ip_address
        said = await stop(b.admin, one.port_id, "10.0.0.77", source_ip="10.9.0.9")
        assert said == (f"port {one.port_id}: anti-spoofing: it may send from {ip}, not 10.9.0.9")
        await api.put(f"/ports/{one.port_id}", {"port": {"admin_state_up": False}})
        await b.settle()
        assert "administratively down" in await stop(b.admin, one.port_id, "10.0.0.77")

    run(test)


def test_whatever_has_no_way_is_said_to_have_none() -> None:
    async def test(b: Bench) -> None:
        api = b.as_("p")
        network, subnet = await api.network()
        (one,) = await b.boot("p", "one", network["id"])
        assert "no port has the address 10.0.0.200" in await stop(
            b.admin, one.port_id, "10.0.0.200"
        )
        said = await stop(b.admin, one.port_id, "10.9.0.5")
        assert said.endswith("the next hop 10.0.0.1 is nobody's: no router has an interface")

        router = await api.make("router", name="r")
        path = f"/routers/{router['id']}/add_router_interface"
        assert (await api.put(path, {"subnet_id": subnet["id"]})).status == 200
        said = await stop(b.admin, one.port_id, "10.9.0.5")
        assert said.startswith(f"router {router['id']}: has no route to 10.9.0.5")
        await api.put(f"/routers/{router['id']}", {"router": {"admin_state_up": False}})
        assert "administratively down" in await stop(b.admin, one.port_id, "10.9.0.5")
        bare = await api.make("port", network_id=network["id"])
        assert "is bound to no host" in await stop(b.admin, bare["id"], "10.0.0.5")

    run(test)


def test_a_floating_ip_leads_to_its_port_and_nowhere_without_one() -> None:
    async def test(b: Bench) -> None:
        api = b.as_("p")
        network, _, router = await api.routed()
        (one,), (two,) = [await b.boot("p", g, network["id"]) for g in ("one", "two")]
        public = await b.as_("p").public()
        floating = await api.make("floatingip", floating_network_id=public)
        address = floating["floating_ip_address"]
        said = await stop(b.admin, one.port_id, address)
        assert said == f"floating IP {address}: is associated with no port"

        change = {"floatingip": {"port_id": two.port_id}}
        assert (await api.put(f"/floatingips/{floating['id']}", change)).status == 200
        said = await stop(b.admin, one.port_id, address)
        outer = router["external_gateway_info"]["external_fixed_ips"][0]["ip_address"]
        assert said.endswith(f"an ingress rule for tcp/80 from {outer}")

        rule = {"direction": "ingress", "protocol": "tcp", "remote_ip_prefix": f"{outer}/32"}
        (default,) = await api.rows("/security-groups?name=default")
        await api.make("security_group_rule", security_group_id=default["id"], **rule)
        await b.settle()
        found = await traced(b.admin, one.port_id, address)
        assert found["allowed"], found
        out = await traced(b.admin, two.port_id, "192.0.2.80")
        assert out["allowed"] and f"as {address}" in str(out["steps"])

    run(test)


def test_a_host_that_has_lost_a_piece_is_named() -> None:
    async def test(b: Bench) -> None:
        api = b.as_("p")
        network, _ = await api.network()
        (one,), (two,) = [await b.boot("p", g, network["id"]) for g in ("one", "two")]
        del b.driver()._objects[two.port_id]
        said = await stop(b.admin, one.port_id, two.fixed_ips[0].ip_address)
        assert said == f"host fake-1: {two.port_id}: is not in what this host was last told"

    run(test)


def test_only_administrators_ask_and_a_packet_that_cannot_be_is_refused() -> None:
    async def test(b: Bench) -> None:
        api = b.as_("p")
        network, _ = await api.network()
        (one,) = await b.boot("p", "one", network["id"])
        path = f"/pileus/trace?port_id={one.port_id}&ip_address="
        assert (await api.get(path + "10.0.0.5&port=80")).status in (403, 404)
        for wrong in ("nowhere&port=80", "10.0.0.5", "10.0.0.5&port=70000", "10.0.0.5&port=x"):
            assert (await b.admin.get(path + wrong)).status == 400, wrong
        assert (await b.admin.get("/pileus/trace?port_id=x&ip_address=10.0.0.5")).status == 404

    run(test)


def test_a_routers_own_port_asks_its_host_alone() -> None:
    async def test(b: Bench) -> None:
        _, _, router = await b.as_("p").routed()
        await b.settle()
        ports = await b.admin.rows(f"/ports?device_id={router['id']}")
        for port in ports:
            found = await traced(b.admin, port["id"], port["fixed_ips"][0]["ip_address"])
            (step,) = found["steps"]
            assert found["allowed"] and port["network_id"] in step["says"]

    run(test)

"""Subnets and subnet pools through the API."""

from __future__ import annotations

from .bench import Bench, Row, run, said


def test_a_subnet_has_upstreams_defaults_and_revises_its_network() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, subnet = await api.network("10.1.2.3/24")
        assert (subnet["cidr"], subnet["gateway_ip"]) == ("10.1.2.0/24", "10.1.2.1")
        assert subnet["allocation_pools"] == [{"start": "10.1.2.2", "end": "10.1.2.254"}]
        seen = (await api.get(f"/networks/{network['id']}")).json["network"]
        assert (seen["subnets"], seen["revision_number"]) == ([subnet["id"]], 2)
        assert (await api.delete(f"/subnets/{subnet['id']}")).status == 204
        seen = (await api.get(f"/networks/{network['id']}")).json["network"]
        assert (seen["subnets"], seen["revision_number"]) == ([], 3)

    run(body)


_REFUSED: list[tuple[Row, str]] = [
    ({"cidr": "10.0.0.0/0"}, "InvalidInput"),
    ({"cidr": "nonsense"}, "HTTPBadRequest"),
    ({"cidr": "10.0.0.0/31"}, "InvalidInput"),
    ({"cidr": "224.0.0.0/24"}, "InvalidInput"),
    ({"cidr": "2001:db8::/64"}, "InvalidInput"),
    ({"gateway_ip": "10.0.0.255"}, "InvalidInput"),
    ({"gateway_ip": "2001:db8::1"}, "InvalidInput"),
    (
        {"allocation_pools": [{"start": "10.9.0.1", "end": "10.9.0.2"}]},
        "OutOfBoundsAllocationPool",
    ),
    ({"dns_nameservers": ["1.1.1.1"] * 6}, "DNSNameServersExhausted"),
    ({"host_routes": [{"destination": "x", "nexthop": "10.0.0.2"}]}, "HTTPBadRequest"),
    ({"ipv6_ra_mode": "slaac"}, "InvalidInput"),
    ({"cidr": None}, "BadRequest"),
    ({"ip_version": 5}, "HTTPBadRequest"),
]


def test_subnets_that_no_host_could_serve_are_refused() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network = await api.make("network")
        for asked, code in _REFUSED:
            subnet = {"network_id": network["id"], "cidr": "10.0.0.0/24", "ip_version": 4, **asked}
            assert said(await api.post("/subnets", {"subnet": subnet})) == (400, code), asked
        assert await api.rows("/subnets?network_id=" + network["id"]) == []

    run(body, hosts=0)


def test_subnets_of_a_network_may_not_overlap_those_of_two_may() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _ = await api.network("10.0.0.0/24")
        asked = {"network_id": network["id"], "cidr": "10.0.0.128/25", "ip_version": 4}
        reply = await api.post("/subnets", {"subnet": asked})
        assert reply.status == 400
        assert "overlaps with another subnet" in reply.json["NeutronError"]["message"]
        await api.network("10.0.0.0/24")

    run(body, hosts=0)


def test_ipv6_modes_go_together_and_make_addresses_of_macs() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        modes = {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "slaac"}
        network, subnet = await api.network("2001:db8::/64", **modes)
        assert subnet["ipv6_address_mode"] == "slaac"
        port = await api.make("port", network_id=network["id"], mac_address="fa:16:3e:00:00:01")
        assert port["fixed_ips"][0]["ip_address"] == "2001:db8::f816:3eff:fe00:1"
        mixed = {"ipv6_ra_mode": "slaac", "ipv6_address_mode": "dhcpv6-stateful"}
        other = await api.make("network")
        asked = {"network_id": other["id"], "cidr": "2001:db8::/64", "ip_version": 6}
        assert (await api.post("/subnets", {"subnet": asked | mixed})).status == 400
        long = asked | modes | {"cidr": "2001:db8::/72"}
        assert (await api.post("/subnets", {"subnet": long})).status == 400
        assert (await api.delete(f"/subnets/{subnet['id']}")).status == 204
        assert (await api.get(f"/ports/{port['id']}")).json["port"]["fixed_ips"] == []

    run(body, hosts=0)


def test_a_subnet_with_addresses_in_use_stays() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, subnet = await api.network()
        await api.make("port", network_id=network["id"])
        assert said(await api.delete(f"/subnets/{subnet['id']}")) == (409, "SubnetInUse")

    run(body, hosts=0)


def test_the_gateway_of_a_subnet_may_change_unless_a_router_has_it() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        pools = [{"start": "10.0.0.10", "end": "10.0.0.20"}]
        _, subnet = await api.network("10.0.0.0/24", allocation_pools=pools)
        path = f"/subnets/{subnet['id']}"
        assert (await api.put(path, {"subnet": {"gateway_ip": "10.0.0.2"}})).status == 200
        within = await api.put(path, {"subnet": {"gateway_ip": "10.0.0.12"}})
        assert said(within) == (409, "GatewayConflictWithAllocationPools")
        router = await api.make("router")
        added = await api.put(
            f"/routers/{router['id']}/add_router_interface", {"subnet_id": subnet["id"]}
        )
        assert added.status == 200
        reply = await api.put(path, {"subnet": {"gateway_ip": None}})
        assert said(reply) == (409, "GatewayIpInUse")

    run(body, hosts=0)


def test_only_the_networks_owner_makes_subnets_on_it() -> None:
    async def body(b: Bench) -> None:
        shared = await b.admin.make("network", shared=True)
        private = await b.admin.make("network")
        for network, status in ((shared, 403), (private, 404)):
            asked = {"network_id": network["id"], "cidr": "10.0.0.0/24", "ip_version": 4}
            assert (await b.as_("one").post("/subnets", {"subnet": asked})).status == status

    run(body, hosts=0)


def test_a_subnet_pool_gives_prefixes_that_do_not_overlap_until_it_is_empty() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        pool = await api.make(
            "subnetpool", name="pool", prefixes=["10.8.0.0/24", "10.9.0.0/24"], default_prefixlen=25
        )
        assert pool["min_prefixlen"] == "8"
        cidrs = []
        for _ in range(4):
            network = await api.make("network")
            asked = {"network_id": network["id"], "ip_version": 4, "subnetpool_id": pool["id"]}
            cidrs.append((await api.make("subnet", **asked))["cidr"])
        assert cidrs == ["10.8.0.0/25", "10.8.0.128/25", "10.9.0.0/25", "10.9.0.128/25"]
        network = await api.make("network")
        asked = {"network_id": network["id"], "ip_version": 4, "subnetpool_id": pool["id"]}
        assert said(await api.post("/subnets", {"subnet": asked})) == (409, "SubnetAllocationError")
        assert said(await api.delete(f"/subnetpools/{pool['id']}")) == (
            400,
            "SubnetPoolDeleteError",
        )

    run(body, hosts=0)


def test_a_subnet_pool_grows_only_and_may_limit_each_project() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        pool = await api.make(
            "subnetpool",
            name="p",
            prefixes=["10.8.0.0/24"],
            default_prefixlen=26,
            default_quota=100,
        )
        path = f"/subnetpools/{pool['id']}"
        less = await api.put(path, {"subnetpool": {"prefixes": ["10.8.0.0/25"]}})
        assert said(less) == (400, "IllegalSubnetPoolPrefixUpdate")
        more = await api.put(path, {"subnetpool": {"prefixes": ["10.8.0.0/24", "10.8.1.0/24"]}})
        assert more.json["subnetpool"]["prefixes"] == ["10.8.0.0/23"]
        for status in (201, 409):
            network = await api.make("network")
            asked = {"network_id": network["id"], "ip_version": 4, "subnetpool_id": pool["id"]}
            assert (await api.post("/subnets", {"subnet": asked})).status == status

    run(body, hosts=0)


def test_null_is_refused_where_an_attribute_has_no_value_of_its_own() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        pool = await api.make("subnetpool", name="p", prefixes=["10.8.0.0/24"])
        path = f"/subnetpools/{pool['id']}"
        for name in ("min_prefixlen", "max_prefixlen", "default_prefixlen", "prefixes"):
            refused = await api.put(path, {"subnetpool": {name: None}})
            assert said(refused) == (400, "HTTPBadRequest"), name
        emptied = await api.put(path, {"subnetpool": {"default_quota": None}})
        assert emptied.json["subnetpool"]["default_quota"] is None

    run(body, hosts=0)


def test_a_member_says_whose_ports_get_addresses_of_a_subnet() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network = await api.make("network")
        for third, kind in ((1, "test:one"), (2, "test:two")):
            await api.make(
                "subnet",
                network_id=network["id"],
                ip_version=4,
                cidr=f"192.168.{third}.0/24",
                service_types=[kind],
            )
        for third, kind in ((2, "test:two"), (1, "test:one")):
            port = await api.make("port", network_id=network["id"], device_owner=kind)
            (fixed,) = port["fixed_ips"]
            assert fixed["ip_address"].startswith(f"192.168.{third}.")

    run(body)

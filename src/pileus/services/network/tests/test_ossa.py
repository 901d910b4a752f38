"""OpenStack's published advisories about Neutron, as far as they can be asked of the API."""

from __future__ import annotations

import time
from functools import partial

import pytest

from pileus.host.ruleset import Fragment
from pileus.kernel.events import START, after
from pileus.kernel.faults import Bug
from pileus.services.network.driver import GroupSpec, RuleSpec
from pileus.services.network.drivers.linux.filters import bridge_table
from pileus.services.network.drivers.linux.names import Names
from pileus.services.network.drivers.linux.plan import bridge_fragments, plan_for
from pileus.services.network.security_group import GROUPS
from pileus.services.network.wiring import NETWORK_HOST
from pileus.testing.drivers.network import OPEN, document, guest, uuid

from .bench import Bench, Row, run


def test_ossa_2013_008_ports_and_their_addresses_are_counted() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        await b.admin.put("/quotas/one", {"quota": {"port": 5}})
        asked = {"port": {"network_id": network["id"]}}
        statuses = [(await b.as_("one").post("/ports", asked)).status for _ in range(7)]
        assert statuses == [201] * 5 + [409] * 2
        many = [{"ip_address": f"10.0.0.{n}"} for n in range(100, 110)]
        port = (await b.as_("one").rows(f"/ports?network_id={network['id']}"))[0]
        change = {"port": {"fixed_ips": many}}
        assert (await b.as_("one").put(f"/ports/{port['id']}", change)).status == 400
        held = [ip for p in await b.admin.rows("/ports") for ip in p["fixed_ips"]]
        assert len(held) == 5

    run(body, hosts=0)


def test_ossa_2014_008_no_port_becomes_an_interface_of_anothers_router() -> None:
    async def body(b: Bench) -> None:
        router = await b.as_("one").make("router")
        network, _ = await b.as_("two").network()
        asked = {
            "network_id": network["id"],
            "device_id": router["id"],
            "device_owner": "network:router_interface",
        }
        assert (await b.as_("two").post("/ports", {"port": asked})).status == 409
        port = await b.as_("two").make("port", network_id=network["id"])
        del asked["network_id"]
        assert (await b.as_("two").put(f"/ports/{port['id']}", {"port": asked})).status == 409
        add = f"/routers/{router['id']}/add_router_interface"
        assert (await b.as_("two").put(add, {"port_id": port["id"]})).status == 404
        seen = await b.admin.rows(f"/ports?device_id={router['id']}")
        assert seen == []

    run(body, hosts=0)


def test_ossa_2014_014_cidrs_that_break_a_host_are_refused() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        group = (await api.rows("/security-groups"))[0]["id"]
        for prefix in ("10.0.0.0/99", "::/0", "10.0.0.0/-1", "1.2.3/24/4", "10.0.0.0%eth0/8"):
            rule = {"security_group_id": group, "direction": "ingress", "remote_ip_prefix": prefix}
            reply = await api.post("/security-group-rules", {"security_group_rule": rule})
            assert reply.status == 400, prefix

    run(body, hosts=0)


def test_ossa_2014_021_no_token_is_in_any_event() -> None:
    async def body(b: Bench) -> None:
        network, _, _ = await b.as_("one").routed()
        await b.boot("one", "guest", network["id"])
        events = await after(b.control.runtime.store, START, 1000)
        assert len(events) > 5
        assert not any("one/member" in str(e) for e in events)

    run(body)


def test_ossa_2014_025_address_pairs_are_few() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _ = await api.network()
        port = await api.make("port", network_id=network["id"])
        pairs = [{"ip_address": f"10.1.{n // 256}.{n % 256}"} for n in range(1000)]
        for many, status in ((1000, 400), (11, 400), (10, 200)):
            asked = {"port": {"allowed_address_pairs": pairs[:many]}}
            assert (await api.put(f"/ports/{port['id']}", asked)).status == status

    run(body, hosts=0)


_DEFAULTS: list[tuple[str, object]] = [
    ("shared", False),
    ("router:external", False),
    ("is_default", False),
    ("provider:network_type", "vxlan"),
    ("provider:physical_network", ""),
    ("provider:segmentation_id", 0),
]


def test_ossa_2014_031_an_administrators_attribute_is_refused_even_at_its_default() -> None:
    async def body(b: Bench) -> None:
        network = await b.as_("one").make("network")
        for name, value in _DEFAULTS:
            asked = {"network": {name: value}}
            reply = await b.as_("one").put(f"/networks/{network['id']}", asked)
            assert reply.status == 403, name

    run(body, hosts=0)


def test_ossa_2014_039_crafted_name_servers_are_refused_at_once() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network = await api.make("network")
        for server in ("1" * 100_000, "a." * 10_000, "1." * 30_000):
            asked = {"network_id": network["id"], "cidr": "10.0.0.0/24", "ip_version": 4}
            began = time.perf_counter()
            reply = await api.post("/subnets", {"subnet": asked | {"dns_nameservers": [server]}})
            assert reply.status == 400
            assert time.perf_counter() - began < 0.5

    run(body, hosts=0)


def test_ossa_2015_012_odd_address_pairs_harm_nobody() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _ = await api.network()
        odd = (await b.boot("one", "odd", network["id"]))[0]
        for pair in ("0.0.0.0/0", "::/0", "::ffff:10.0.0.1"):
            asked = {"port": {"allowed_address_pairs": [{"ip_address": pair}]}}
            assert (await api.put(f"/ports/{odd.port_id}", asked)).status in (200, 400)
            await b.settle()
            await b.boot("one", f"after-{pair}", network["id"])
        assert b.driver().observed.errors == {}

    run(body)


def test_ossa_2015_018_a_trusted_owner_opens_no_filter() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.admin.network()
        await b.admin.put(f"/networks/{network['id']}", {"network": {"shared": True}})
        nic = (await b.boot("one", "guest", network["id"]))[0]
        for owner in ("network:dhcp", "network:router_interface", "network:x"):
            asked = {"port": {"device_owner": owner}}
            assert (await b.as_("one").put(f"/ports/{nic.port_id}", asked)).status == 403
        own, _ = await b.as_("one").network("10.9.0.0/24")
        mine = (await b.boot("one", "guest-2", own["id"]))[0]
        asked = {"port": {"device_owner": "network:dhcp"}}
        assert (await b.as_("one").put(f"/ports/{mine.port_id}", asked)).status == 200
        await b.settle()
        assert b.driver().port(mine.port_id) is None, "it is no DHCP server, and no guest either"

    run(body)


def test_ossa_2019_001_no_ports_for_protocols_without_ports() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        group = (await api.rows("/security-groups"))[0]["id"]
        for protocol in ("vrrp", "112", "gre", "esp"):
            rule = {
                "security_group_id": group,
                "direction": "ingress",
                "protocol": protocol,
                "port_range_min": 80,
            }
            reply = await api.post("/security-group-rules", {"security_group_rule": rule})
            assert reply.status == 400

    run(body, hosts=0)


def test_ossa_2021_005_options_carry_no_line_breaks() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network = await api.make("network")
        for name, value in (("mtu", "x\ndhcp-script=/bin/sh"), ("a\rb", "1"), ("mtu", "\x00")):
            asked = {
                "network_id": network["id"],
                "extra_dhcp_opts": [{"opt_name": name, "opt_value": value}],
            }
            assert (await api.post("/ports", {"port": asked})).status == 400

    run(body, hosts=0)


@pytest.mark.parametrize("shared", [False, True])
def test_ossa_2024_005_tags_of_others_stay_theirs(shared: bool) -> None:
    async def body(b: Bench) -> None:
        network = await b.admin.make("network", shared=shared)
        path = f"/networks/{network['id']}/tags"
        two = b.as_("two")
        expected = 403 if shared else 404
        assert (await two.put(f"{path}/x")).status == expected
        assert (await two.put(path, {"tags": ["x"]})).status == expected
        assert (await two.delete(path)).status == expected
        assert (await b.admin.get(path)).json == {"tags": []}

    run(body, hosts=0)


def test_ossa_2026_016_readers_write_no_tags_and_unknown_rules_deny() -> None:
    async def body(b: Bench) -> None:
        network, subnet, router = await b.as_("one").routed()
        reader = b.as_("one", "reader")
        for kind, row in (("networks", network), ("subnets", subnet), ("routers", router)):
            assert (await reader.put(f"/{kind}/{row['id']}/tags/x")).status == 403
            assert (await reader.get(f"/{kind}/{row['id']}/tags")).status == 200
        with pytest.raises(Bug):
            b.control.runtime.rules("network").check("update_networks:tag")

    run(body, hosts=0)


def test_ossa_2026_021_no_trusted_owner_on_anothers_network() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.admin.network()
        await b.admin.put(f"/networks/{network['id']}", {"network": {"shared": True}})
        for role in ("member", "manager"):
            api = b.as_("one", role)
            port: Row = await api.make("port", network_id=network["id"])
            for owner in ("network:dhcp", "network:router_interface", "network:x"):
                asked = {"network_id": network["id"], "device_owner": owner}
                assert (await api.post("/ports", {"port": asked})).status == 403
                changed = {"port": {"device_owner": owner}}
                assert (await api.put(f"/ports/{port['id']}", changed)).status == 403

    run(body, hosts=0)


def test_ossa_2026_032_a_network_one_may_only_see_gives_no_subnet_to_ones_own_pool() -> None:
    async def body(b: Bench) -> None:
        network, subnet = await b.admin.network("10.1.0.0/24")
        await b.admin.put(f"/networks/{network['id']}", {"network": {"shared": True}})
        two = b.as_("two")
        pool = await two.make("subnetpool", name="mine", prefixes=["10.2.0.0/16"])
        mine, theirs = f"/subnetpools/{pool['id']}", f"/subnets/{subnet['id']}"
        before = [(await two.get(mine)).json, (await b.admin.get(theirs)).json]
        onboard = f"{mine}/onboard_network_subnets"
        assert (await two.put(onboard, {"network_id": network["id"]})).status == 403
        hidden, _ = await b.as_("one").network("10.3.0.0/24")
        assert (await two.put(onboard, {"network_id": hidden["id"]})).status == 404
        assert [(await two.get(mine)).json, (await b.admin.get(theirs)).json] == before

    run(body, hosts=0)


def test_ossa_2026_035_a_policy_of_another_project_is_not_held_by_naming_it() -> None:
    async def body(b: Bench) -> None:
        network, _, router = await b.as_("two").routed()
        port = await b.as_("two").make("port", network_id=network["id"])
        policy = await b.admin.make("policy", "/qos/policies", project_id="one")
        named = {"qos_policy_id": policy["id"]}
        for kind, row in (("network", network), ("port", port)):
            reply = await b.as_("two").put(f"/{kind}s/{row['id']}", {kind: named})
            assert reply.status == 404, reply
        outside = router["external_gateway_info"]["network_id"]
        asked = {"floating_network_id": outside, **named}
        assert (await b.as_("two").post("/floatingips", {"floatingip": asked})).status == 404
        gateway = {"external_gateway_info": {"network_id": outside, **named}}
        path = f"/routers/{router['id']}"
        assert (await b.as_("two").put(path, {"router": gateway})).status in (403, 404)
        assert (await b.admin.delete(f"/qos/policies/{policy['id']}")).status == 204

    run(body, hosts=0)


def test_cve_2022_3277_lists_make_no_groups_for_projects_that_do_not_exist() -> None:
    async def body(b: Bench) -> None:
        for n in range(100):
            assert await b.as_("one").rows(f"/security-groups?project_id=made-up-{n}") == []
        owners = {g.project_id for g in await GROUPS.all(b.control.runtime.store)}
        assert owners == {"one"}

    run(body, hosts=0)


def test_ossa_2013_020_a_new_member_of_a_group_wakes_each_host_once() -> None:
    """However many members there are already, and whatever rules name the group."""

    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _ = await api.network()
        woken: list[str] = []
        for host in ("fake-1", "fake-2"):
            agents = b.control.runtime.agents
            await agents.on_hint(NETWORK_HOST, host, partial(woken.append, host))
        counts = []
        for n in range(12):
            woken.clear()
            await b.boot("one", f"guest-{n}", network["id"], host=f"fake-{n % 2 + 1}")
            await b.control.runtime.reconcilers.settled()
            await b.settle()
            counts.append(len(woken))
        assert set(counts[2:]) == {2}, counts

    run(body, hosts=2)


@pytest.mark.parametrize("members", [10, 100, 1000])
def test_ossa_2013_020_a_new_member_costs_a_host_as_many_rules_as_the_tenth_did(
    members: int,
) -> None:
    def rules(count: int) -> dict[str, Fragment]:
        addresses = tuple(f"10.0.{n // 250}.{n % 250 + 1}" for n in range(count))
        inward = RuleSpec(direction="ingress", remote_group=OPEN)
        group = GroupSpec(id=OPEN, rules=(inward,), members=addresses)
        ports = [guest(uuid(0x100 + n, n), ip) for n, ip in enumerate(addresses)]
        return bridge_fragments(plan_for(document(*ports, groups=(group,)), {}), Names("pl"))

    before, after = rules(members), rules(members + 1)
    commands = bridge_table("t").difference(before, after).splitlines()
    assert commands
    assert len(commands) < 50
    assert max(map(len, commands)) < 500
    (new,) = after.keys() - before.keys()
    assert not after[new].chains, "nft reads every chain before it changes anything"

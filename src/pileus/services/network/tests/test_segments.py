"""Segments: VLANs and flat networks of physical networks, several segments of a network, and addresses by host."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pileus.kernel.faults import Conflict, Unavailable
from pileus.services.network.bootstrap import bootstrap
from pileus.services.network.contract import NicRequest
from pileus.services.network.segment import SEGMENTS
from pileus.services.network.settings import NetworkSettings

from .bench import Api, Bench, Row, bench, run, said

RACKS = NetworkSettings(
    vlan_ranges="public:1000:1001,rack1:10:19,rack2",
    physical_networks="fake-1/rack1:eth1,fake-2/rack2:eth1",
)
TYPE, PHYSICAL, NUMBER = (
    "provider:network_type",
    "provider:physical_network",
    "provider:segmentation_id",
)


def racks(test: Any, hosts: int = 2) -> None:
    """On two hosts, each with a rack of its own."""

    async def whole() -> None:
        async with bench(hosts, settings=RACKS) as found:
            await test(found)

    asyncio.run(whole())


async def routed(b: Bench) -> tuple[Row, list[Row], list[Row]]:
    """A network with a VLAN and a subnet in each rack."""
    places = [{TYPE: "vlan", PHYSICAL: f"rack{n}", NUMBER: 100 + n} for n in (1, 2)]
    network = await b.admin.make("network", shared=True, segments=places)
    segments = await b.admin.rows(f"/segments?network_id={network['id']}&sort_key=physical_network")
    subnets = [
        await b.admin.make(
            "subnet",
            network_id=network["id"],
            cidr=f"10.0.{n}.0/24",
            ip_version=4,
            segment_id=segment["id"],
        )
        for n, segment in enumerate(segments, 1)
    ]
    return network, segments, subnets


async def refused(api: Api, path: str, root: str, **attributes: Any) -> tuple[int, str]:
    body = {root: {k.replace("__", ":"): v for k, v in attributes.items()}}
    return said(await api.post(path, body))


def test_a_vlan_is_drawn_from_the_physical_networks_range_until_none_is_left() -> None:
    async def body(b: Bench) -> None:
        asked: dict[str, Any] = {"provider__network_type": "vlan"}
        found = [await b.admin.make("network", **asked, provider__physical_network="public")]
        found.append(await b.admin.make("network", **asked, provider__physical_network="public"))
        assert [(n[TYPE], n[PHYSICAL], n[NUMBER], n["mtu"]) for n in found] == [
            ("vlan", "public", 1000, 1500),
            ("vlan", "public", 1001, 1500),
        ]
        no_more = {**asked, "provider__physical_network": "public"}
        assert await refused(b.admin, "/networks", "network", **no_more) == (
            409,
            "NoNetworkAvailable",
        )
        assert (await b.admin.make("network", **asked))[NUMBER] == 10, "of any that has one"
        assert (await b.admin.delete(f"/networks/{found[0]['id']}")).status == 204
        assert (await b.admin.make("network", **no_more))[NUMBER] == 1000

    racks(body)


@pytest.mark.parametrize(
    ("physical", "number", "expected"),
    [
        ("nowhere", None, (400, "InvalidInput")),
        ("rack2", None, (409, "NoNetworkAvailable")),
        ("rack1", 4095, (400, "InvalidInput")),
        ("rack1", 0, (400, "InvalidInput")),
        (None, 7, (400, "InvalidInput")),
        ("rack1", 7, (409, "VlanIdInUse")),
    ],
)
def test_a_vlan_that_cannot_be_had_is_refused(
    physical: str | None, number: int | None, expected: tuple[int, str]
) -> None:
    async def body(b: Bench) -> None:
        asked: dict[str, Any] = {
            "provider__network_type": "vlan",
            "provider__physical_network": "rack1",
            "provider__segmentation_id": 7,
        }
        await b.admin.make("network", **asked)
        asked |= {"provider__physical_network": physical, "provider__segmentation_id": number}
        assert await refused(b.admin, "/networks", "network", **asked) == expected

    racks(body)


def test_a_vlan_network_moves_to_another_number_and_nothing_else_of_a_place_changes() -> None:
    async def body(b: Bench) -> None:
        asked = {"provider__network_type": "vlan", "provider__physical_network": "rack1"}
        network = await b.admin.make("network", **asked)
        taken = await b.admin.make("network", **asked)
        path = f"/networks/{network['id']}"
        moved = await b.admin.put(path, {"network": {NUMBER: 77}})
        assert moved.json["network"][NUMBER] == 77
        (segment,) = await b.admin.rows(f"/segments?network_id={network['id']}")
        assert segment["segmentation_id"] == 77
        refusal = await b.admin.put(path, {"network": {NUMBER: taken[NUMBER]}})
        assert said(refusal) == (409, "VlanIdInUse")
        refusal = await b.admin.put(path, {"network": {PHYSICAL: "rack2"}})
        assert said(refusal) == (400, "InvalidInput")
        assert (await b.admin.make("network", **asked))[NUMBER] == 10, "which is free again"

    racks(body)


def test_a_network_of_several_segments_shows_them_to_administrators_in_a_list() -> None:
    async def body(b: Bench) -> None:
        places = [{TYPE: "vlan", PHYSICAL: "rack1", NUMBER: 50}, {TYPE: "vxlan", NUMBER: 500}]
        made = await b.admin.make("network", shared=True, segments=places)
        shown = [{TYPE: "vlan", PHYSICAL: "rack1", NUMBER: 50}]
        shown.append({TYPE: "vxlan", PHYSICAL: None, NUMBER: 500})
        assert made["segments"] == shown
        assert not {TYPE, PHYSICAL, NUMBER} & made.keys()
        assert made["mtu"] == 1450, "what all of them can carry"
        found = await b.as_("one").get(f"/networks/{made['id']}")
        assert not {TYPE, "segments"} & found.json["network"].keys()
        assert await refused(b.as_("one"), "/networks", "network", segments=places) == (
            403,
            "PolicyNotAuthorized",
        )
        assert await refused(
            b.admin, "/networks", "network", segments=places, provider__network_type="vlan"
        ) == (400, "SegmentsSetInConjunctionWithProviders")
        assert await refused(b.admin, "/networks", "network", segments=places[:1] * 2) == (
            400,
            "SegmentsContainDuplicateEntry",
        )

    racks(body)


def test_segments_come_and_go_one_by_one_and_their_network_follows() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        (first,) = await b.admin.rows(f"/segments?network_id={network['id']}")
        assert (first["network_type"], first["name"], first["revision_number"]) == (
            "vxlan",
            None,
            1,
        )
        asked = {"network_id": network["id"], "network_type": "vlan", "physical_network": "rack1"}
        second = await b.admin.make("segment", **asked, name="second")
        assert second["segmentation_id"] == 10
        path = f"/networks/{network['id']}"
        assert len((await b.admin.get(path)).json["network"]["segments"]) == 2
        assert await refused(b.as_("one"), "/segments", "segment", **asked) == (
            403,
            "PolicyNotAuthorized",
        )
        assert await refused(b.admin, "/segments", "segment", **asked, segmentation_id=10) == (
            409,
            "VlanIdInUse",
        )
        changed = await b.admin.put(f"/segments/{second['id']}", {"segment": {"name": "2nd"}})
        assert changed.json["segment"]["name"] == "2nd"
        assert (await b.admin.delete(f"/segments/{first['id']}")).status == 204
        shown = (await b.admin.get(path)).json["network"]
        assert (shown[TYPE], shown[NUMBER]) == ("vlan", 10)
        await b.boot("one", "guest", network["id"])
        refusal = await b.admin.delete(f"/segments/{second['id']}")
        assert said(refusal) == (409, "SegmentInUse"), "a port is bound there"

    racks(body)


def test_a_port_of_a_routed_network_waits_for_its_host_and_gets_an_address_there() -> None:
    async def body(b: Bench) -> None:
        network, _, subnets = await routed(b)
        port = await b.admin.make("port", network_id=network["id"])
        assert (port["fixed_ips"], port["ip_allocation"]) == ([], "deferred")
        path = f"/ports/{port['id']}"
        bound = await b.admin.put(path, {"port": {"binding:host_id": "fake-2"}})
        (fixed,) = bound.json["port"]["fixed_ips"]
        assert fixed["subnet_id"] == subnets[1]["id"]
        refusal = await b.admin.put(path, {"port": {"binding:host_id": "fake-1"}})
        assert said(refusal) == (409, "HostNotCompatibleWithFixedIps")
        named = await b.admin.make("port", network_id=network["id"], binding__host_id="fake-1")
        assert named["fixed_ips"][0]["subnet_id"] == subnets[0]["id"]
        assert named["ip_allocation"] == "immediate"
        assert await refused(
            b.admin, "/ports", "port", network_id=network["id"], binding__host_id="fake-9"
        ) == (409, "HostNotConnectedToAnySegment")
        both = [{"subnet_id": s["id"]} for s in subnets]
        assert await refused(
            b.admin, "/ports", "port", network_id=network["id"], fixed_ips=both
        ) == (400, "FixedIpsSubnetsNotOnSameSegment")
        early = await b.admin.make("port", network_id=network["id"], fixed_ips=both[1:])
        assert early["fixed_ips"][0]["subnet_id"] == subnets[1]["id"]

    racks(body)


def test_a_guest_is_on_the_segment_of_its_host() -> None:
    async def body(b: Bench) -> None:
        network, segments, _ = await routed(b)
        port = await b.as_("one").make("port", network_id=network["id"])
        ref = NicRequest(port_id=port["id"])
        (far,) = await b.boot("one", "far", host="fake-2", requests=[ref])
        (near,) = await b.boot("one", "near", network["id"], host="fake-1")
        assert far.fixed_ips[0].ip_address.startswith("10.0.2.")
        assert near.fixed_ips[0].ip_address.startswith("10.0.1.")
        for host, rack, number in (("fake-1", "rack1", 101), ("fake-2", "rack2", 102)):
            (spec,) = b.driver(host).applied.networks
            assert (spec.physical, spec.vlan, spec.segment) == (rack, number, 0)
        with pytest.raises(Conflict, match="not connected to a segment"):
            await b.contract.expect("near", "fake-2")
        refusal = await b.admin.delete(f"/segments/{segments[0]['id']}")
        assert said(refusal) == (409, "SegmentInUse")

    racks(body)


def test_a_guests_interfaces_need_a_host_on_a_segment_where_their_addresses_work() -> None:
    async def body(b: Bench) -> None:
        network, _, _ = await routed(b)
        asked = {"provider__network_type": "vlan", "provider__physical_network": "rack1"}
        one_rack = (await b.admin.make("network", shared=True, **asked))["id"]
        anywhere, _ = await b.as_("one").network()
        port = await b.admin.make("port", network_id=network["id"], binding__host_id="fake-2")
        somewhere = NicRequest(network_id=network["id"])
        for requests, hosts in (
            ([NicRequest(network_id=anywhere["id"])], None),
            ([somewhere], ["fake-1", "fake-2"]),
            ([NicRequest(network_id=network["id"], fixed_ip="10.0.2.9")], ["fake-2"]),
            ([somewhere, NicRequest(network_id=one_rack)], ["fake-1"]),
            ([NicRequest(port_id=port["id"])], ["fake-2"]),
            ([NicRequest(port_id=port["id"]), NicRequest(network_id=one_rack)], []),
        ):
            assert (await b.contract.needs(requests)).hosts == hosts

    racks(body)


def test_a_host_without_the_physical_network_says_which_device_it_lacks() -> None:
    async def body(b: Bench) -> None:
        asked = {"provider__network_type": "vlan", "provider__physical_network": "rack1"}
        network = await b.admin.make("network", shared=True, **asked)
        subnet = {"network_id": network["id"], "cidr": "10.0.0.0/24", "ip_version": 4}
        await b.admin.make("subnet", **subnet)
        with pytest.raises(Unavailable, match=r"no physical network rack1.*physical_networks"):
            await b.boot("one", "guest", network["id"], host="fake-2")
        await b.boot("one", "other", network["id"], host="fake-1")

    racks(body)


def test_subnets_are_all_on_segments_or_none_is_and_know_the_ways_between() -> None:
    async def body(b: Bench) -> None:
        network, segments, subnets = await routed(b)
        assert (await b.admin.get(f"/networks/{network['id']}")).json["network"][
            "l2_adjacency"
        ] is False
        shown = [(await b.admin.get(f"/subnets/{s['id']}")).json["subnet"] for s in subnets]
        ways = [s["host_routes"] for s in shown]
        assert ways[0] == [{"destination": "10.0.2.0/24", "nexthop": "10.0.1.1"}]
        assert ways[1] == [{"destination": "10.0.1.0/24", "nexthop": "10.0.2.1"}]
        body = {"subnet": {"gateway_ip": "10.0.1.9", "allocation_pools": []}}
        moved = await b.admin.put(f"/subnets/{subnets[0]['id']}", body)
        assert moved.json["subnet"]["host_routes"][0]["nexthop"] == "10.0.1.9"
        asked = {"network_id": network["id"], "cidr": "10.0.3.0/24", "ip_version": 4}
        assert await refused(b.admin, "/subnets", "subnet", **asked) == (
            400,
            "SubnetsNotAllAssociatedWithSegments",
        )
        other, only = await b.admin.network("10.9.0.0/24")
        assert await refused(
            b.admin, "/subnets", "subnet", **{**asked, "network_id": other["id"]},
            segment_id=segments[0]["id"],
        ) == (400, "NetworkIdsDontMatch")  # fmt: skip
        assert (await b.admin.delete(f"/subnets/{subnets[1]['id']}")).status == 204
        left = (await b.admin.get(f"/subnets/{subnets[0]['id']}")).json["subnet"]
        assert left["host_routes"] == []
        refusal = await b.admin.delete(f"/segments/{segments[0]['id']}")
        assert said(refusal) == (409, "SegmentInUse"), "a subnet is on it"
        assert (await b.admin.delete(f"/segments/{segments[1]['id']}")).status == 204
        (own,) = await b.admin.rows(f"/segments?network_id={other['id']}")
        path = f"/subnets/{only['id']}"
        late = await b.admin.put(path, {"subnet": {"segment_id": own["id"]}})
        assert late.json["subnet"]["segment_id"] == own["id"]
        refusal = await b.admin.put(path, {"subnet": {"segment_id": None}})
        assert said(refusal) == (400, "SubnetSegmentAssociationChangeNotAllowed")

    racks(body)


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"vlan_transparent": True}, None),
        ({"qinq": True, "provider__network_type": "vlan"}, None),
        ({"vlan_transparent": True, "qinq": True}, (400, "BadRequest")),
        ({"qinq": True}, (400, "VlanQinqDriverError")),
        (
            {
                "vlan_transparent": True,
                "provider__network_type": "flat",
                "provider__physical_network": "rack1",
            },
            (400, "VlanTransparencyDriverError"),
        ),
    ],
)
def test_guests_own_tags_are_for_networks_that_can_carry_them(
    attributes: dict[str, Any], expected: tuple[int, str] | None
) -> None:
    async def body(b: Bench) -> None:
        if expected is not None:
            assert await refused(b.admin, "/networks", "network", **attributes) == expected
            return
        made = await b.admin.make("network", **attributes)
        assert {n: made[n] for n in ("vlan_transparent", "qinq")} == {
            "vlan_transparent": "vlan_transparent" in attributes,
            "qinq": "qinq" in attributes,
        }
        found = await b.admin.rows(f"/networks?{next(iter(attributes))}=true")
        assert [n["id"] for n in found] == [made["id"]]

    racks(body)


def test_a_trunks_subport_inherits_the_vlan_of_its_network() -> None:
    async def body(b: Bench) -> None:
        vlan = {"provider__network_type": "vlan", "provider__physical_network": "rack1"}
        parent, carried = [
            await b.admin.make("port", network_id=(await b.admin.make("network", **vlan))["id"])
            for _ in range(2)
        ]
        asked = {"port_id": carried["id"], "segmentation_type": "inherit"}
        trunk = await b.admin.make("trunk", port_id=parent["id"], sub_ports=[asked])
        assert trunk["sub_ports"] == [
            {"port_id": carried["id"], "segmentation_type": "vlan", "segmentation_id": 11}
        ]
        tunnelled = await b.admin.make("network")
        port = await b.admin.make("port", network_id=tunnelled["id"])
        body = {"sub_ports": [{"port_id": port["id"], "segmentation_type": "inherit"}]}
        reply = await b.admin.put(f"/trunks/{trunk['id']}/add_subports", body)
        assert said(reply) == (400, "InvalidInput")

    racks(body)


def test_networks_from_before_segments_were_rows_have_them_after_the_next_start() -> None:
    async def body(b: Bench) -> None:
        network = await b.admin.make("network")
        runtime = b.control.runtime
        before = await SEGMENTS.all(runtime.store)
        async with runtime.store.tx() as tx:
            for segment in before:
                await SEGMENTS.delete(tx, segment)
        await bootstrap(runtime)
        after = await SEGMENTS.all(runtime.store)
        assert sorted(s.place.key for s in after) == sorted(s.place.key for s in before)
        (own,) = await b.admin.rows(f"/segments?network_id={network['id']}")
        assert own["segmentation_id"] == network[NUMBER]

    run(body)


@pytest.mark.parametrize(
    "given",
    [
        {"vlan_ranges": "public:1"},
        {"vlan_ranges": "public:9:8"},
        {"vlan_ranges": "public:1:4095"},
        {"vlan_ranges": ":1:2"},
        {"physical_networks": "rack1"},
        {"physical_networks": "/rack1:eth1"},
        {"physical_networks": "rack1:a-name-that-is-too-long"},
    ],
)
def test_a_misspelt_setting_of_physical_networks_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is not PHYSICAL"):
        NetworkSettings(**given)

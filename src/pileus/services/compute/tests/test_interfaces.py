"""Interfaces that a server gets and loses while it lives; what its host has says whether it is true."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pileus.services.compute.server import SERVERS as RECORDS
from pileus.services.compute.servers.interface_sagas import DETACH
from pileus.services.compute.tests.scene import SERVERS, Scene, Stage
from pileus.services.network.contract import GUEST_METADATA
from pileus.testing.generated.sagas import FAILS, Sabotage, sabotaged


async def attach(s: Scene, id: str, version: str = "2.1", **asked: Any) -> Any:
    reply = await s.member.post(
        f"{SERVERS}/{id}/os-interface",
        {"interfaceAttachment": asked},
        openstack_api_version=f"compute {version}",
    )
    return reply


async def cards(s: Scene, id: str) -> list[str]:
    """The ports of the guest, as its host has them."""
    found = [g for d in s.drivers() for g in await d.guests() if g.id == id]
    return list(found[0].ports)


async def second_network(s: Scene) -> str:
    made = await s.member.post("/network/v2.0/networks", {"network": {"name": "second"}})
    id = str(made.json["network"]["id"])
    subnet = {"network_id": id, "cidr": "10.8.0.0/24", "ip_version": 4}
    await s.member.post("/network/v2.0/subnets", {"subnet": subnet})
    return id


def test_a_server_gets_an_interface_on_a_network_and_loses_it_with_its_port(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id, network = await s.boot(), await second_network(s)
        (first,) = await cards(s, id)
        reply = await attach(
            s, id, "2.70", net_id=network, fixed_ips=[{"ip_address": "10.8.0.9"}], tag="data"
        )
        assert reply.status == 200, reply
        made = reply.json["interfaceAttachment"]
        assert made["net_id"] == network and made["port_state"] == "ACTIVE"
        assert [ip["ip_address"] for ip in made["fixed_ips"]] == ["10.8.0.9"]
        assert await cards(s, id) == [first, made["port_id"]]
        shown = await s.server(id)
        assert sorted(shown["addresses"]) == ["private", "second"]
        assert shown["OS-EXT-STS:task_state"] is None and shown["status"] == "ACTIVE"

        path = f"{SERVERS}/{id}/os-interface/{made['port_id']}"
        assert (await s.member.delete(path)).status == 202
        assert await cards(s, id) == [first]
        assert [p["id"] for p in await s.ports(id)] == [first]
        assert sorted((await s.server(id))["addresses"]) == ["private"]
        assert (await s.member.delete(path)).status == 404

    stage.play(story)


def test_a_users_port_is_attached_and_outlives_its_detaching(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        made = await s.member.post("/network/v2.0/ports", {"port": {"network_id": s.network}})
        port = made.json["port"]["id"]
        assert (await attach(s, id, port_id=port)).json["interfaceAttachment"]["port_id"] == port
        assert port in await cards(s, id)
        assert (await attach(s, id, port_id=port)).status == 409
        assert (await s.member.delete(f"{SERVERS}/{id}/os-interface/{port}")).status == 202
        left = (await s.member.get(f"/network/v2.0/ports/{port}")).json["port"]
        assert (left["device_id"], left["device_owner"]) == ("", "")

    stage.play(story)


async def port_of(s: Scene, **more: object) -> str:
    asked = {"port": {"network_id": s.network, **more}}
    project = (await s.member.get(f"/network/v2.0/networks/{s.network}")).json["network"][
        "project_id"
    ]
    asked["port"]["project_id"] = project
    made = await s.admin.post("/network/v2.0/ports", asked)
    assert made.status == 201, made
    return str(made.json["port"]["id"])


def test_no_host_has_a_card_or_an_accelerator_for_a_port(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        fpga = {"binding:vnic_type": "accelerator-direct", "device_profile": "fpga"}
        for kind, why in (
            ({"binding:vnic_type": "direct"}, "Failed to claim PCI device"),
            (fpga, "Device profile name fpga: Could not communicate"),
        ):
            refused = await attach(s, id, port_id=await port_of(s, **kind))
            assert refused.status == 400 and why in refused.json["badRequest"]["message"]
        refused = await s.create(networks=[{"port": await port_of(s, **fpga)}])
        assert refused.status == 400 and "Cyborg" in refused.json["badRequest"]["message"]
        direct = await port_of(
            s, **{"binding:vnic_type": "direct", "numa_affinity_policy": "socket"}
        )
        lost = await s.server(await s.boot(networks=[{"port": direct}]))
        assert lost["status"] == "ERROR" and "No valid host" in lost["fault"]["message"]
        assert len(await cards(s, id)) == 1

    stage.play(story)


def test_a_tagged_card_tells_its_guest_whether_it_is_trusted(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        for trusted in (True, False):
            port = await port_of(s, trusted=trusted)
            id = await s.boot("2.42", networks=[{"port": port, "tag": "t"}])
            metadata = s.cloud.runtime.contracts.get(GUEST_METADATA)
            told = await metadata.answer(port, "GET", "/openstack/latest/meta_data.json")
            (device,) = msgspec.json.decode(told.body)["devices"]
            assert (device["tags"], device["vf_trusted"]) == (["t"], trusted), id

    stage.play(story)


def test_a_server_without_a_word_gets_the_projects_only_network(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        assert (await attach(s, id)).json["interfaceAttachment"]["net_id"] == s.network
        assert len(await cards(s, id)) == 2

    stage.play(story)


def test_what_cannot_be_attached_is_refused_and_leaves_nothing(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id, unknown = await s.boot(), "11111111-2222-4333-8444-555555555555"
        (port,) = await cards(s, id)
        assert (await attach(s, id, net_id=s.network, port_id=port)).status == 400
        assert (await attach(s, id, fixed_ips=[{"ip_address": "10.7.0.9"}])).status == 400
        assert (
            await attach(s, id, net_id=s.network, fixed_ips=[{"ip_address": "x"}])
        ).status == 400
        assert (await attach(s, id, net_id=unknown)).status == 404
        assert (await attach(s, id, port_id=unknown)).status == 404
        assert (await attach(s, id, net_id=s.network, more=1)).status == 400
        assert (await attach(s, id, net_id=s.network, tag="x")).status == 400
        assert await cards(s, id) == [port]
        assert len(await s.ports(id)) == 1

    stage.play(story)


def test_a_guest_that_is_gone_gets_no_interface_and_the_port_made_for_it_goes(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        for driver in s.drivers():
            await driver.destroy(id)
        reply = await attach(s, id, net_id=s.network)
        assert reply.status == 500 and "Failed to attach" in str(reply.json)
        assert len(await s.ports(id)) == 1
        actions = (await s.get(f"/servers/{id}/os-instance-actions")).json["instanceActions"]
        assert (actions[0]["action"], actions[0]["message"]) == ("attach_interface", "Error")

    stage.play(story)


@pytest.mark.parametrize("is_freed", [False, True])
def test_after_a_detach_that_failed_record_guest_and_network_agree(
    stage: Stage, is_freed: bool
) -> None:
    async def story(s: Scene) -> None:
        id, network = await s.boot(), await second_network(s)
        (first,) = await cards(s, id)
        second = (await attach(s, id, net_id=network)).json["interfaceAttachment"]["port_id"]
        outbox = s.cloud.control._outbox
        await outbox.stop()  # the record does not wait to hear of the port's end
        with sabotaged(Sabotage(DETACH, FAILS, at=len(DETACH.steps) - 1, after=is_freed)):
            assert (await s.member.delete(f"{SERVERS}/{id}/os-interface/{second}")).status == 202
        record = await RECORDS.get(s.cloud.runtime.store, id)
        await outbox.start()
        left = {first} if is_freed else {first, second}
        assert {nic.port_id for nic in record.nics} == left
        await s.cloud.settle()
        assert {port["id"] for port in await s.ports(id)} == left
        assert set(await cards(s, id)) == left
        actions = (await s.get(f"/servers/{id}/os-instance-actions")).json["instanceActions"]
        said = None if is_freed else "Error"  # it was gone, whatever failed then
        assert (actions[0]["action"], actions[0]["message"]) == ("detach_interface", said)

    stage.play(story)

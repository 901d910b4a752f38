"""What QoS policies promise to guests at least, in a whole cloud: placement keeps it, servers go where it is."""

from __future__ import annotations

import asyncio
from typing import Any

from pileus.services.network.reservations import tell_placement
from pileus.services.network.settings import NetworkSettings
from pileus.testing.client import Client
from pileus.testing.cloud import Cloud, cloud

NET, NOVA = "/network/v2.0", "/compute/v2.1"
CLASS = "NET_BW_EGR_KILOBIT_PER_SEC"


async def _make(client: Client, path: str, noun: str, **what: object) -> str:
    reply = await client.post(path, {noun: what})
    assert reply.status in (201, 202), reply
    return str(reply.json[noun]["id"])


async def _boot(c: Cloud, image: str, **nic: str) -> dict[str, Any]:
    nics = [nic]
    asked = {"name": "s", "imageRef": image, "flavorRef": "42", "networks": nics}
    id = await _make(c.admin, f"{NOVA}/servers", "server", **asked)
    await c.settle()
    found = (await c.admin.get(f"{NOVA}/servers/{id}")).json["server"]
    said = found.get("fault", {}).get("message", "")
    host = found["OS-EXT-SRV-ATTR:host"]
    return {"id": id, "status": found["status"], "host": host, "said": said}


async def _image(c: Cloud) -> str:
    body = {"name": "i", "disk_format": "raw", "container_format": "bare"}
    image = str((await c.admin.post("/image/v2/images", body)).json["id"])
    stream = {"content-type": "application/octet-stream"}
    where = f"/image/v2/images/{image}/file"
    assert (await c.admin.request("PUT", where, raw=b"x", headers=stream)).status == 204
    return image


async def _used(c: Cloud) -> dict[str, int]:
    providers = (await c.admin.get("/placement/resource_providers")).json["resource_providers"]
    found = {}
    for one in providers:
        if one["name"].endswith(":network"):
            reply = await c.admin.get(f"/placement/resource_providers/{one['uuid']}/usages")
            found[one["name"].partition(":")[0]] = reply.json["usages"][CLASS]
    return found


def test_servers_go_where_their_ports_minimum_bandwidth_is_free_and_give_it_back() -> None:
    async def body() -> None:
        settings = {"network": NetworkSettings(host_bandwidth_kbps=1000)}
        async with cloud(hosts=2, settings=settings) as c:
            await tell_placement(c.runtime, "")
            kinds = {"Pileus%20network%20agent": True, "L3%20agent": None}
            for kind, synced in kinds.items():
                agents = (await c.admin.get(f"{NET}/agents?agent_type={kind}")).json["agents"]
                assert {a["resources_synced"] for a in agents} == {synced}
            image = await _image(c)
            network = await _make(c.admin, f"{NET}/networks", "network", name="n")
            block = {"network_id": network, "cidr": "10.9.0.0/24", "ip_version": 4}
            await _make(c.admin, f"{NET}/subnets", "subnet", **block)
            policy = await _make(c.admin, f"{NET}/qos/policies", "policy", name="p")
            rules = f"{NET}/qos/policies/{policy}/minimum_bandwidth_rules"
            await _make(c.admin, rules, "minimum_bandwidth_rule", min_kbps=600)
            under = {"network_id": network, "qos_policy_id": policy}
            ports = [await _make(c.admin, f"{NET}/ports", "port", **under) for _ in range(3)]

            first, second, third = [await _boot(c, image, port=port) for port in ports]
            assert {first["host"], second["host"]} == {"fake-1", "fake-2"}
            assert third["status"] == "ERROR", "neither host has another 600 kbit/s"
            assert await _used(c) == {"fake-1": 600, "fake-2": 600}

            for server in (first, third):
                assert (await c.admin.delete(f"{NOVA}/servers/{server['id']}")).status == 204
            await c.settle()
            assert await _used(c) == {str(first["host"]): 0, str(second["host"]): 600}
            again = await _boot(c, image, port=ports[2])
            assert (again["status"], again["host"]) == ("ACTIVE", first["host"])

    asyncio.run(body())


def test_servers_go_to_hosts_that_are_on_their_networks_and_nowhere_else() -> None:
    async def body() -> None:
        ranges, wires = "rack1:10:19,rack2:10:19", "fake-2/rack1:eth1"
        chosen = NetworkSettings(vlan_ranges=ranges, physical_networks=wires)
        async with cloud(hosts=3, settings={"network": chosen}) as c:
            image, networks = await _image(c), []
            for rack in ("rack1", "rack2"):
                where = {"provider:network_type": "vlan", "provider:physical_network": rack}
                networks.append(await _make(c.admin, f"{NET}/networks", "network", **where))
                block = {"network_id": networks[-1], "cidr": "10.9.0.0/24", "ip_version": 4}
                await _make(c.admin, f"{NET}/subnets", "subnet", **block)
            for _ in range(2):
                assert (await _boot(c, image, uuid=networks[0]))["host"] == "fake-2"
            lost = await _boot(c, image, uuid=networks[1])
            assert lost["status"] == "ERROR" and "3 hosts: not on a segment" in lost["said"]

    asyncio.run(body())

"""Ports with a promised bandwidth that come and go while a server lives; what placement holds says whether it is true."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from pileus.services.compute.servers.interface_sagas import ATTACH, DETACH
from pileus.services.compute.servers.shelving import SHELVE
from pileus.services.compute.tests.scene import SERVERS, make_image
from pileus.services.network.reservations import tell_placement
from pileus.services.network.settings import NetworkSettings
from pileus.testing.client import Client, Reply
from pileus.testing.cloud import Cloud, cloud
from pileus.testing.generated.sagas import FAILS, Sabotage, sabotaged

NET = "/network/v2.0"
CLASS = "NET_BW_EGR_KILOBIT_PER_SEC"


async def make(client: Client, path: str, noun: str, **what: object) -> str:
    reply = await client.post(path, {noun: what})
    assert reply.status in (201, 202), reply
    return str(reply.json[noun]["id"])


class Wire:
    """One host with 1000 kbit/s, and a network whose ports may be promised some of it."""

    def __init__(self, cloud: Cloud, kbps: int) -> None:
        self.cloud, self.admin, self.kbps = cloud, cloud.admin, kbps

    async def lay(self) -> None:
        await tell_placement(self.cloud.runtime, "")
        self.image = await make_image(self.admin)
        self.network = await self.lay_network()
        self.policy = await make(self.admin, f"{NET}/qos/policies", "policy", name="p")
        rules = f"{NET}/qos/policies/{self.policy}/minimum_bandwidth_rules"
        await make(self.admin, rules, "minimum_bandwidth_rule", min_kbps=self.kbps)

    async def lay_network(self, **more: str) -> str:
        id = await make(self.admin, f"{NET}/networks", "network", name="n", **more)
        block = {"network_id": id, "cidr": "10.9.0.0/24", "ip_version": 4}
        await make(self.admin, f"{NET}/subnets", "subnet", **block)
        return id

    async def port(self) -> str:
        under = {"network_id": self.network, "qos_policy_id": self.policy}
        return await make(self.admin, f"{NET}/ports", "port", **under)

    async def boot(self, port: str = "") -> str:
        nics = [{"port": port} if port else {"uuid": self.network}]
        body = {"name": "s", "imageRef": self.image, "flavorRef": "42", "networks": nics}
        id = await make(self.admin, SERVERS, "server", **body)
        await self.cloud.settle()
        return id

    async def attach(self, server: str, **what: str) -> Reply:
        body = {"interfaceAttachment": what}
        reply = await self.admin.post(f"{SERVERS}/{server}/os-interface", body)
        await self.cloud.settle()
        return reply

    async def detach(self, server: str, port: str) -> None:
        reply = await self.admin.delete(f"{SERVERS}/{server}/os-interface/{port}")
        assert reply.status == 202, reply
        await self.cloud.settle()

    async def act(self, server: str, verb: str, **what: object) -> str:
        """The server's status afterwards."""
        reply = await self.admin.post(f"{SERVERS}/{server}/action", {verb: what or None})
        assert reply.status < 300, reply
        await self.cloud.settle()
        return str((await self.admin.get(f"{SERVERS}/{server}")).json["server"]["status"])

    async def held(self, server: str) -> int:
        """How much of the host's network the server holds; nobody else holds any."""
        reply = await self.admin.get(f"/placement/allocations/{server}")
        allocations = reply.json["allocations"].values()
        mine = sum(one["resources"].get(CLASS, 0) for one in allocations)
        providers = (await self.admin.get("/placement/resource_providers")).json
        (net,) = [p for p in providers["resource_providers"] if p["name"].endswith(":network")]
        used = await self.admin.get(f"/placement/resource_providers/{net['uuid']}/usages")
        assert used.json["usages"][CLASS] == mine
        return int(mine)


def play(story: Callable[[Wire], Awaitable[None]], *, kbps: int = 600) -> None:
    async def body() -> None:
        settings = {"network": NetworkSettings(host_bandwidth_kbps=1000)}
        async with cloud(hosts=1, settings=settings) as c:
            wire = Wire(c, kbps)
            await wire.lay()
            async with asyncio.timeout(60):
                await story(wire)

    asyncio.run(body())


def test_a_port_attached_later_claims_its_bandwidth_and_gives_it_back() -> None:
    async def story(w: Wire) -> None:
        server, port, more = await w.boot(), await w.port(), await w.port()
        assert (await w.attach(server, port_id=port)).status == 200
        assert await w.held(server) == 600
        refused = await w.attach(server, port_id=more)
        assert refused.status == 400, refused
        assert "Failed to allocate additional resources" in str(refused) and CLASS in str(refused)
        shown = (await w.admin.get(f"{NET}/ports/{more}")).json["port"]
        assert (shown["device_id"], shown["binding:host_id"]) == ("", "")
        assert await w.held(server) == 600
        await w.detach(server, port)
        assert await w.held(server) == 0
        assert (await w.attach(server, port_id=more)).status == 200
        assert await w.held(server) == 600

    play(story)


def test_a_port_that_is_made_for_the_server_is_promised_what_its_network_promises() -> None:
    async def story(w: Wire) -> None:
        server, network = await w.boot(), await w.lay_network(qos_policy_id=w.policy)
        made = await w.attach(server, net_id=network)
        assert made.status == 200 and await w.held(server) == 600
        assert (await w.attach(server, net_id=network)).status == 400
        ports = (await w.admin.get(f"{NET}/ports?network_id={network}")).json["ports"]
        mine = made.json["interfaceAttachment"]["port_id"]
        assert [p["id"] for p in ports if p["device_id"]] == [mine]
        await w.detach(server, mine)
        assert await w.held(server) == 0

    play(story)


def test_a_network_that_a_server_is_made_on_promises_its_ports_what_they_claim() -> None:
    async def story(w: Wire) -> None:
        await w.admin.put(f"{NET}/qos/policies/{w.policy}", {"policy": {"is_default": True}})
        w.network = await w.lay_network()  # under its project's policy
        server = await w.boot()
        assert await w.held(server) == 600
        more = (await w.admin.get(f"{SERVERS}/{await w.boot()}")).json["server"]
        assert more["status"] == "ERROR" and "1 host" in more["fault"]["message"]
        (nic,) = (await w.admin.get(f"{SERVERS}/{server}/os-interface")).json[
            "interfaceAttachments"
        ]
        await w.detach(server, nic["port_id"])
        assert await w.held(server) == 0
        assert await w.act(server, "shelve") == "SHELVED_OFFLOADED"
        assert await w.act(server, "unshelve") == "ACTIVE"
        assert await w.held(server) == 0, "what it was made with is not what it has"

    play(story)


def test_an_attach_or_a_detach_that_fails_leaves_what_was_held() -> None:
    async def story(w: Wire) -> None:
        server, port = await w.boot(), await w.port()
        for at in (0, 1):
            with sabotaged(Sabotage(ATTACH, FAILS, at=at, after=True)):
                assert (await w.attach(server, port_id=port)).status == 500
            assert await w.held(server) == 0
        assert (await w.attach(server, port_id=port)).status == 200
        with sabotaged(Sabotage(DETACH, FAILS, at=0, after=True)):
            await w.detach(server, port)
        assert await w.held(server) == 600
        with sabotaged(Sabotage(DETACH, FAILS, at=1, after=True)):
            await w.detach(server, port)
        assert await w.held(server) == 0

    play(story)


def test_a_server_keeps_its_bandwidth_where_it_is_resized_in_place_or_does_not_leave_after_all() -> (
    None
):
    async def story(w: Wire) -> None:
        server = await w.boot(await w.port())
        assert await w.act(server, "resize", flavorRef="84") == "VERIFY_RESIZE"
        assert await w.act(server, "confirmResize") == "ACTIVE"
        assert await w.held(server) == 300
        with sabotaged(Sabotage(SHELVE, FAILS, at=4, after=True)):
            assert await w.act(server, "shelve") == "ACTIVE"
        assert await w.held(server) == 300
        assert await w.act(server, "shelve") == "SHELVED_OFFLOADED"
        assert await w.held(server) == 0
        assert await w.act(server, "unshelve") == "ACTIVE"
        assert await w.held(server) == 300

    play(story, kbps=300)


def test_a_resize_in_place_wants_the_bandwidth_once_more_until_it_is_decided() -> None:
    async def story(w: Wire) -> None:
        server = await w.boot(await w.port())
        assert await w.act(server, "resize", flavorRef="84") == "ACTIVE"
        assert await w.held(server) == 600
        shown = (await w.admin.get(f"{SERVERS}/{server}")).json["server"]
        assert shown["flavor"]["id"] == "42"

    play(story)

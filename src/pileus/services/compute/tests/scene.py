"""A cloud that all tests of compute share; each plays in a project of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from pileus.services.compute.agent import ComputeAgent
from pileus.services.compute.drivers.fake import FakeComputeDriver
from pileus.testing.client import Client, Reply
from pileus.testing.cloud import Cloud, cloud

SERVERS = "/compute/v2.1/servers"
_numbers = count(1)


@dataclass
class Scene:
    """A project with a member, a network and, shared by all, an image of one KiB."""

    cloud: Cloud
    member: Client
    image: str
    network: str
    others: dict[str, Client] = field(default_factory=dict)

    @property
    def admin(self) -> Client:
        return self.cloud.admin

    async def create(
        self, version: str = "2.1", client: Client | None = None, **more: Any
    ) -> Reply:
        """POST /servers with what a server needs, changed by `more`."""
        body = {
            "name": "web",
            "imageRef": self.image,
            "flavorRef": "42",
            "networks": [{"uuid": self.network}],
        } | more
        body = {k: v for k, v in body.items() if v is not None}
        return await (client or self.member).post(
            SERVERS, {"server": body}, openstack_api_version=f"compute {version}"
        )

    async def boot(self, version: str = "2.1", **more: Any) -> str:
        """The id of a server that has settled."""
        reply = await self.create(version, **more)
        assert reply.status == 202, reply
        await self.cloud.settle()
        return str(reply.json["server"]["id"])

    async def server(self, id: str, version: str = "2.1", client: Client | None = None) -> Any:
        reply = await self.get(f"/servers/{id}", version, client)
        assert reply.status == 200, reply
        return reply.json["server"]

    async def get(self, path: str, version: str = "2.1", client: Client | None = None) -> Reply:
        return await (client or self.member).get(
            "/compute/v2.1" + path, openstack_api_version=f"compute {version}"
        )

    async def act(self, id: str, action: Any, client: Client | None = None) -> Reply:
        """An action; the answer comes when what it started has ended."""
        body = {action: None} if isinstance(action, str) else action
        reply = await (client or self.member).post(f"{SERVERS}/{id}/action", body)
        await self.cloud.settle()
        return reply

    async def until(self, id: str, status: str) -> None:
        """Returns when the server has that status, which nobody's request gives it."""
        for _ in range(100):
            if (await self.server(id))["status"] == status:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"{await self.server(id)}")

    async def delete(self, id: str) -> Reply:
        reply = await self.member.delete(f"{SERVERS}/{id}")
        await self.cloud.settle()
        return reply

    async def other(self) -> Client:
        """A member of another project."""
        if not self.others:
            self.others["other"] = await self.cloud.project(f"other-{next(_numbers)}")
        return self.others["other"]

    def agents(self) -> dict[str, ComputeAgent]:
        """The compute agent of each host."""
        assert self.cloud.hosts is not None
        found = self.cloud.hosts._agents
        return {host.name: agent for host, agent in found if isinstance(agent, ComputeAgent)}

    def drivers(self) -> list[FakeComputeDriver]:
        found = [agent.driver for agent in self.agents().values()]
        return [d for d in found if isinstance(d, FakeComputeDriver)]

    async def guests(self) -> set[str]:
        """The ids of all guests on all hosts."""
        return {g.id for d in self.drivers() for g in await d.guests()}

    async def held(self, id: str) -> dict[str, Any]:
        """What placement says that the consumer holds."""
        reply = await self.admin.get(f"/placement/allocations/{id}")
        return dict(reply.json["allocations"])

    async def ports(self, id: str) -> list[Any]:
        return list((await self.member.get(f"/network/v2.0/ports?device_id={id}")).json["ports"])

    async def used(self) -> dict[str, int]:
        absolute = (await self.get("/limits")).json["limits"]["absolute"]
        return {k: absolute[f"total{k}Used"] for k in ("Instances", "Cores", "RAM")}


Story = Callable[[Scene], Awaitable[None]]


class Stage:
    """One event loop and one cloud for the whole session."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self.runner = runner
        self._manager: AbstractAsyncContextManager[Cloud] = cloud()
        self.cloud = runner.run(self._manager.__aenter__())
        self.image = runner.run(make_image(self.cloud.admin))

    def play(self, story: Story) -> None:
        """Runs the story in a new project, and asks afterwards what must always hold."""
        self.runner.run(self._play(story))

    async def _play(self, story: Story) -> None:
        member = await self.cloud.project(f"compute-{next(_numbers)}")
        made = await member.post("/network/v2.0/networks", {"network": {"name": "private"}})
        network = made.json["network"]["id"]
        subnet = {"network_id": network, "cidr": "10.7.0.0/24", "ip_version": 4}
        await member.post("/network/v2.0/subnets", {"subnet": subnet})
        scene = Scene(self.cloud, member, self.image, network)
        async with asyncio.timeout(60):
            await story(scene)
            await self.cloud.settle()
        shown = await scene.get("/servers/detail?all_tenants=1", client=scene.admin)
        busy = [s["id"] for s in shown.json["servers"] if s["OS-EXT-STS:task_state"]]
        assert busy == [], "no record stays busy without a saga"

    def close(self) -> None:
        self.runner.run(self._manager.__aexit__(None, None, None))


async def make_image(client: Client, content: bytes = b"x" * 1024, **more: Any) -> str:
    """The id of a public image with these bytes."""
    body = {
        "name": "test",
        "disk_format": "raw",
        "container_format": "bare",
        "visibility": "public",
    } | more
    made = await client.post("/image/v2/images", body)
    assert made.status == 201, made
    id = str(made.json["id"])
    done = await client.request(
        "PUT",
        f"/image/v2/images/{id}/file",
        raw=content,
        headers={"content-type": "application/octet-stream"},
    )
    assert done.status == 204, done
    return id

"""What the tests of volumes start from."""

from __future__ import annotations

from typing import Any

from pileus.testing.client import Client, Reply
from pileus.testing.cloud import Cloud

BASE = "/volume/v3"
AT = {"openstack_api_version": "volume 3.71"}


async def made(cloud: Cloud, client: Client, **body: Any) -> str:
    """The id of a volume that has been created, whatever became of it."""
    reply = await client.post(f"{BASE}/volumes", {"volume": {"size": 1, **body}}, **AT)
    assert reply.status == 202, reply
    await cloud.settle()
    return str(reply.json["volume"]["id"])


async def shown(client: Client, id: str) -> Any:
    reply = await client.get(f"{BASE}/volumes/{id}", **AT)
    assert reply.status == 200, reply
    return reply.json["volume"]


async def act(client: Client, id: str, action: str, body: Any = None) -> Reply:
    return await client.post(f"{BASE}/volumes/{id}/action", {action: body}, **AT)


async def snapshot(cloud: Cloud, client: Client, volume: str) -> str:
    body = {"snapshot": {"volume_id": volume}}
    reply = await client.post(f"{BASE}/snapshots", body, **AT)
    assert reply.status == 202, reply
    await cloud.settle()
    return str(reply.json["snapshot"]["id"])


async def backup(cloud: Cloud, client: Client, volume: str, **body: Any) -> str:
    reply = await client.post(f"{BASE}/backups", {"backup": {"volume_id": volume, **body}}, **AT)
    assert reply.status == 202, reply
    await cloud.settle()
    return str(reply.json["backup"]["id"])

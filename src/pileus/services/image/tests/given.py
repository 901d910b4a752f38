"""What tests of image start from."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from pileus.kernel.runtime import Runtime
from pileus.kernel.world import Clock, World
from pileus.services.image.keeping import Keeping, kept
from pileus.testing.alone import Alone
from pileus.testing.client import Client, Reply

URL = "/image/v2/images"
OCTETS = {"content-type": "application/octet-stream"}
V20 = "application/openstack-images-v2.0-json-patch"
V21 = "application/openstack-images-v2.1-json-patch"


class Later(Clock):
    """A clock that a test can move."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def time(self) -> float:
        return time.time() + self.ahead

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead


def movable() -> tuple[World, Later]:
    clock = Later()
    return World(clock=clock), clock


async def made(client: Client, **attributes: Any) -> dict[str, Any]:
    """A new image, ready for its bytes."""
    body = {"name": "one", "disk_format": "raw", "container_format": "bare", **attributes}
    reply = await client.post(URL, body)
    assert reply.status == 201, reply
    found: dict[str, Any] = reply.json
    return found


async def uploaded(client: Client, data: bytes = b"bytes", **attributes: Any) -> dict[str, Any]:
    """A new image with bytes."""
    image = await made(client, **attributes)
    assert (await put(client, image["id"], data)).status == 204
    return await shown(client, image["id"])


async def put(client: Client, id: str, data: bytes, to: str = "file") -> Reply:
    return await client.request("PUT", f"{URL}/{id}/{to}", raw=data, headers=OCTETS)


async def shown(client: Client, id: str) -> dict[str, Any]:
    reply = await client.get(f"{URL}/{id}")
    assert reply.status == 200, reply
    found: dict[str, Any] = reply.json
    return found


async def patched(client: Client, id: str, *changes: Any, kind: str = V21) -> Reply:
    headers = {"content-type": kind}
    return await client.request("PATCH", f"{URL}/{id}", list(changes), headers=headers)


async def names(client: Client, query: str = "") -> set[str]:
    """The names of the images that a list finds."""
    reply = await client.get(f"{URL}?{query}")
    assert reply.status == 200, reply
    return {i["name"] for i in reply.json["images"]}


def files(runtime: Runtime) -> set[str]:
    """Everything that lies in the store, complete or not."""
    folder = runtime.data / "images"
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.exists()}


def keeping(cloud: Alone) -> Keeping:
    return kept(cloud.runtime)


async def streamed(
    client: Client,
    url: str,
    chunks: AsyncIterator[bytes],
    *,
    broken: bool = False,
    headers: Mapping[str, str] = OCTETS,
) -> Reply:
    """A chunked PUT whose pieces come as `chunks` gives them; `broken`: then the connection is cut."""
    sent = {"host": client.host, **client.headers, **headers, "transfer-encoding": "chunked"}
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "PUT",
        "scheme": "http",
        "path": url,
        "raw_path": url.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(k.encode(), v.encode()) for k, v in sent.items()],
        "server": ("cloud.test", 5000),
        "client": ("127.0.0.1", 1),
    }
    started: dict[str, Any] = {}
    parts: list[bytes] = []

    async def receive() -> dict[str, Any]:
        async for chunk in chunks:
            return {"type": "http.request", "body": chunk, "more_body": True}
        if broken:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Mapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            started.update(message)
        else:
            parts.append(message.get("body", b""))

    await client.app(scope, receive, send)
    answered = {k.decode(): v.decode() for k, v in started["headers"]}
    return Reply(started["status"], answered, b"".join(parts))


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for one in given:
        yield one


def qcow2(virtual_size: int = 1 << 30, backing: bytes = b"", data_file: bool = False) -> bytes:
    """The head of a qcow2 image."""
    incompatible = 4 if data_file else 0
    head = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb",
        3,
        104 if backing else 0,
        len(backing),
        16,
        virtual_size,
        0,
        1,
        196_608,
        65_536,
        1,
        0,
        0,
        incompatible,
        0,
        0,
        4,
        104,
    )
    return (head + backing).ljust(262_144, b"\0")


def vmdk_of_host_file() -> bytes:
    """A VMDK that is only a description, of an extent on the host."""
    return (
        b"# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n"
        b'createType="monolithicFlat"\nRW 4 FLAT "/etc/passwd" 0\n'
    )


def random_bytes(size: int) -> bytes:
    return os.urandom(size)


async def imported(client: Client, id: str, method: Any, **more: Any) -> Reply:
    """Asks for an import; a task does it."""
    chosen = {"name": method} if isinstance(method, str) else method
    return await client.post(f"{URL}/{id}/import", {"method": chosen, **more})


async def settled(cloud: Alone) -> None:
    """All tasks have ended, and everybody sees it."""
    await cloud.runtime.sagas.settled()
    await cloud.runtime.store.sync()


async def last_task(cloud: Alone, client: Client, id: str) -> dict[str, Any]:
    """What became of the last task of an image."""
    await settled(cloud)
    found: dict[str, Any] = (await client.get(f"{URL}/{id}/tasks")).json["tasks"][0]
    return found

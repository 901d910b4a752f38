"""Consoles as a browser opens them: a token's websocket on a cloud that runs, up to the guest's own bytes."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus

from pileus.cli.client import Client
from pileus.testing.running import RunningCloud, running

BINARY = "binary"


@dataclass
class Place:
    """A cloud with one server that runs."""

    cloud: RunningCloud
    client: Client
    image: str
    network: str
    server: str = ""

    def boot(self) -> str:
        body = {"name": "web", "imageRef": self.image, "flavorRef": "42"}
        body |= {"networks": [{"uuid": self.network}]}  # type: ignore[dict-item]
        made = self.client.call("POST", "compute", "/servers", {"server": body})
        id = str(made["server"]["id"])
        for _ in range(200):
            if self.client.call("GET", "compute", f"/servers/{id}")["server"]["status"] == "ACTIVE":
                return id
            asyncio.run(asyncio.sleep(0.05))
        raise AssertionError(id)

    def url(self, protocol: str, kind: str, server: str = "") -> str:
        """The websocket's own, also where a page is given that opens it."""
        path = f"/servers/{server or self.server}/action"
        action = {f"os-get{protocol}Console": {"type": kind}}
        found = self.client.call("POST", "compute", path, action)["console"]
        assert found["type"] == kind
        parts = urlsplit(found["url"])
        if parts.scheme == "ws":
            return str(found["url"])
        return f"ws://{parts.netloc}/{parse_qs(parts.query)['path'][0]}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with running(tmp_path_factory.mktemp("consoles") / "state") as cloud:
        cloud.wait_for_image()
        client = cloud.client()
        image = client.call("GET", "image", "/v2/images")["images"][0]["id"]
        made = client.call("POST", "network", "/v2.0/networks", {"network": {"name": "n"}})
        network = made["network"]["id"]
        subnet = {"network_id": network, "cidr": "10.1.0.0/24", "ip_version": 4}
        client.call("POST", "network", "/v2.0/subnets", {"subnet": subnet})
        found = Place(cloud, client, image, network)
        found.server = found.boot()
        yield found


def opened(url: str, story: Callable[[ClientConnection], Awaitable[Any]], **how: Any) -> Any:
    async def play() -> Any:
        async with asyncio.timeout(20), connect(url, proxy=None, **how) as connection:
            return await story(connection)

    return asyncio.run(play())


def status(url: str, **how: Any) -> int:
    """What the handshake is answered."""

    async def nothing(connection: ClientConnection) -> int:
        return 101

    try:
        return int(opened(url, nothing, **how))
    except InvalidStatus as refused:
        return refused.response.status_code


async def heard(connection: ClientConnection, size: int) -> bytes:
    found = b""
    while len(found) < size:
        part = await connection.recv()
        found += part if isinstance(part, bytes) else part.encode()
    return found


def test_a_serial_console_says_what_the_guest_says_and_types_what_is_typed(place: Place) -> None:
    async def story(connection: ClientConnection) -> None:
        said = b""
        while b"login:" not in said:
            said += await heard(connection, 1)
        await connection.send("zebra")  # as text, too
        assert await heard(connection, 5) == b"zebra"
        await connection.send(b"\x00\xff")
        assert await heard(connection, 2) == b"\x00\xff"

    opened(place.url("Serial", "serial"), story, subprotocols=[BINARY])


def test_a_screen_is_negotiated_through_the_websocket(place: Place) -> None:
    async def story(connection: ClientConnection) -> None:
        assert connection.subprotocol == BINARY
        assert await heard(connection, 12) == b"RFB 003.008\n"
        await connection.send(b"RFB 003.008\n")
        assert await heard(connection, 2) == b"\x01\x01"
        await connection.send(b"\x01")
        assert await heard(connection, 4) == bytes(4)
        await connection.send(b"\x01")
        width, height = struct.unpack(">HH", (await heard(connection, 24 + len("web")))[:4])
        await connection.send(struct.pack(">BBHHHH", 3, 0, 0, 0, width, height))
        pixels = await heard(connection, 16 + 4 * width * height)
        assert pixels[0] == 0, "a look at the screen was answered"

    opened(place.url("VNC", "novnc"), story, subprotocols=[BINARY])


def test_a_token_opens_one_console_once(place: Place) -> None:
    url = place.url("Serial", "serial")
    assert status(url) == 101
    assert status(url) == 403
    assert status(url.replace("token=", "token=0")) == status(url.split("?")[0]) == 403
    assert status(f"{url.split('?')[0].removesuffix('websocket')}hosts/guess") == 403


def test_ossa_2013_006_a_token_opens_nothing_when_its_server_has_gone(place: Place) -> None:
    gone = place.boot()
    url = place.url("Serial", "serial", gone)
    place.client.call("DELETE", "compute", f"/servers/{gone}")
    for _ in range(200):
        left = place.client.call("GET", "compute", "/servers")["servers"]
        if gone not in {s["id"] for s in left}:
            break
        asyncio.run(asyncio.sleep(0.05))
    place.boot()  # it may have whatever the other had
    assert status(url) == 403


def test_ossa_2014_035_each_of_many_tokens_opens_its_own_server(place: Place) -> None:
    servers = [place.server, place.boot(), place.boot()]
    urls = {id: place.url("Serial", "serial", id) for id in servers}
    marks = {}
    for id, url in urls.items():

        async def story(connection: ClientConnection, id: str = id) -> bytes:
            return (await heard(connection, 1))[-1:]

        marks[id] = opened(url, story)
    shown = {
        id: place.client.call(
            "POST", "compute", f"/servers/{id}/action", {"os-getConsoleOutput": {}}
        )["output"]
        for id in servers
    }
    assert all(shown[id].encode()[-1:] == mark for id, mark in marks.items())


@pytest.mark.parametrize(
    ("origin", "answer"),
    [
        ("https://evil.example", 403),
        ("https://{host}", 403),  # another scheme
        ("http://evil.example", 403),
        ("null", 403),
        ("http://{host}.evil.example", 403),
        ("http://{host}", 101),
        (None, 101),  # no browser
    ],
)
def test_ossa_2015_005_a_page_of_elsewhere_opens_no_console(
    place: Place, origin: str | None, answer: int
) -> None:
    host = urlsplit(place.cloud.url).netloc
    url = place.url("Serial", "serial")
    assert status(url, origin=origin.format(host=host) if origin else None) == answer


def test_ossa_2020_001_no_token_is_logged(place: Place) -> None:
    used, unknown = place.url("VNC", "novnc"), "ws://{}/console/websocket?token=secret5"
    assert status(used) == 101
    assert status(used) == 403
    assert status(unknown.format(urlsplit(place.cloud.url).netloc)) == 403
    logged = (place.cloud.state / "pileus.log").read_text()
    assert "token=" not in logged and "secret5" not in logged
    assert used.rpartition("=")[2] not in logged


@pytest.mark.parametrize(
    "path",
    [
        "//evil.example/%2e%2e",
        "/console//evil.example/%2e%2e",
        "/console/%2e%2e/%2e%2e/etc/passwd",
        "/console/../../etc/passwd",
        "/console//etc/passwd",
    ],
)
def test_ossa_2021_002_no_path_leads_elsewhere(place: Place, path: str) -> None:
    async def answer() -> bytes:
        host, _, port = urlsplit(place.cloud.url).netloc.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(10):
            return await reader.read()

    head, _, body = asyncio.run(answer()).partition(b"\r\n\r\n")
    assert head.split()[1] == b"404" and b"location:" not in head.lower()
    assert b"root:" not in body

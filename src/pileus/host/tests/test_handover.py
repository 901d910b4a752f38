"""Files and streams from one host process to another, by ticket."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from pileus.host import handover
from pileus.host.handover import Handover
from pileus.kernel.faults import Invalid, Unavailable

HOLE = bytes(1 << 20)


def run(story: Callable[[], Awaitable[None]]) -> None:
    async def within() -> None:
        async with asyncio.timeout(30):
            await story()

    asyncio.run(within())


@asynccontextmanager
async def lending() -> AsyncIterator[Handover]:
    found = Handover("http://127.0.0.1:5000/")
    try:
        yield found
    finally:
        found.close()


def test_a_file_arrives_whole_and_its_holes_stay_holes(tmp_path: Path) -> None:
    disk, part = tmp_path / "disk", tmp_path / "part"
    content = b"head" + HOLE + os.urandom(100_000) + HOLE + b"tail" + HOLE
    disk.write_bytes(content)
    part.touch()

    async def story() -> None:
        async with lending() as here:
            url = await here.lend("guest", {"disk": disk})
            await handover.fetch(f"{url}/disk", part)

    run(story)
    assert part.read_bytes() == content
    assert part.stat().st_blocks * 512 < len(content) // 2


def test_only_what_is_lent_is_given_and_only_as_long(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"x")
    part = tmp_path / "part"
    part.touch()

    async def story() -> None:
        async with lending() as here:
            url = await here.lend("guest", {"disk": tmp_path / "disk"})
            forged = f"{url.rsplit('/', 1)[0]}/{'A' * 43}/disk"
            for wrong in (f"{url}/other", f"{url}/../disk", forged, url):
                with pytest.raises(Unavailable):
                    await handover.fetch(wrong, part)
            assert await here.lend("guest", {"disk": tmp_path / "disk"}) != url
            with pytest.raises(Unavailable):
                await handover.fetch(f"{url}/disk", part)
            url = await here.lend("guest", {"disk": tmp_path / "disk"})
            here.withdraw("guest")
            with pytest.raises(Unavailable):
                await handover.fetch(f"{url}/disk", part)
            with pytest.raises(Invalid, match="ftp"):
                await handover.fetch("ftp://127.0.0.1:1/disk", part)

    run(story)
    assert part.read_bytes() == b""


def test_a_link_in_place_of_a_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "disk").symlink_to(tmp_path / "secret")
    part = tmp_path / "part"
    part.touch()

    async def story() -> None:
        async with lending() as here:
            url = await here.lend("guest", {"disk": tmp_path / "disk"})
            with pytest.raises(Unavailable):
                await handover.fetch(f"{url}/disk", part)

    run(story)
    assert part.read_bytes() == b""


def test_a_stream_is_relayed_both_ways_until_one_side_hangs_up(tmp_path: Path) -> None:
    inner = socket.socket(socket.AF_UNIX)
    inner.bind(str(tmp_path / "inner.sock"))
    inner.listen(1)

    def dialogue(plug: socket.socket) -> bytes:
        other, _ = inner.accept()
        plug.sendall(b"ping")
        assert other.recv(4) == b"ping"
        other.sendall(b"pong" * 100_000)
        heard = b""
        while len(heard) < 400_000:
            heard += plug.recv(1 << 16)
        plug.close()
        assert other.recv(1) == b"", "it hears of the end"
        other.close()
        return heard

    async def story() -> None:
        async with lending() as here:
            streams = {"nbd": lambda plug: handover.relay(plug, tmp_path / "inner.sock")}
            url = await here.take("guest", streams)
            plug = await handover.open_stream(f"{url}/nbd")
            assert await asyncio.to_thread(dialogue, plug) == b"pong" * 100_000
            with pytest.raises(Unavailable, match="expect"):
                await handover.open_stream(f"{url}/other")
            here.withdraw("guest")
            with pytest.raises(Unavailable):
                await handover.open_stream(f"{url}/nbd")

    run(story)
    inner.close()

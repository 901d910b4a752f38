"""Image inspection and the cache, against files made by hand."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import struct
import uuid
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pileus.host.image_cache import ImageCache, look
from pileus.host.images import HEAD, inspect_bytes, require
from pileus.kernel.faults import Invalid, TooLarge, Unavailable
from pileus.kernel.world import Clock
from pileus.testing.shelf import shelf

GIB = 1 << 30


def qcow2(
    *,
    virtual: int = GIB,
    backing: int = 0,
    crypt: int = 0,
    incompatible: int = 0,
    extension: int = 0,
    cluster_bits: int = 16,
) -> bytes:
    head = b"QFI\xfb" + struct.pack(
        ">IQIIQIIQ", 3, backing, 0, cluster_bits, virtual, crypt, 1, 512
    )
    head += struct.pack(">QIIQ", 1024, 1, 0, 0) + struct.pack(">QQQII", incompatible, 0, 0, 4, 104)
    return (head + struct.pack(">II", extension, 0) + b"\0" * 8).ljust(4096, b"\0")


def vmdk(kind: str, extents: int = 1, parent: str = "ffffffff") -> bytes:
    text = f'# Disk DescriptorFile\nparentCID={parent}\ncreateType="{kind}"\n'
    text += 'RW 2048 SPARSE "a.vmdk"\n' * extents
    head = b"KDMV" + struct.pack("<IIQQQQ", 1, 3, 2048, 128, 1, 20)
    return head.ljust(512, b"\0") + text.encode().ljust(20 * 512, b"\0")


def vhdx(
    *,
    virtual: int = GIB,
    parent: bool = False,
    metadata: bytes = b"metadata",
    size_id: bytes = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le,
) -> bytes:
    image = bytearray(3 << 20)
    image[:8] = b"vhdxfile"
    region = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
    struct.pack_into("<4sIII16sQII", image, 192 << 10, b"regi", 0, 1, 0, region, 2 << 20, 0, 1)
    at, parameters = 2 << 20, uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le
    struct.pack_into("<8sHH20x", image, at, metadata, 0, 2)
    struct.pack_into("<16sIII4x", image, at + 32, parameters, 65_536, 8, 0)
    struct.pack_into("<16sIII4x", image, at + 64, size_id, 65_544, 8, 0)
    struct.pack_into("<IIQ", image, at + 65_536, 1 << 25, 2 if parent else 0, virtual)
    return bytes(image)


def test_a_vhdx_without_a_parent_is_safe_and_tells_its_size() -> None:
    facts = inspect_bytes(vhdx(), 3 << 20)
    assert (facts.format, facts.virtual_size, facts.unsafe) == ("vhdx", GIB, None)


def test_a_plain_qcow2_is_safe_and_tells_its_size() -> None:
    facts = inspect_bytes(qcow2(), 4096)
    assert (facts.format, facts.virtual_size, facts.unsafe) == ("qcow2", GIB, None)


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (qcow2(backing=200), "backing file"),
        (qcow2(crypt=2), "encrypted"),
        (qcow2(incompatible=1 << 2), "external data file"),
        (qcow2(incompatible=1 << 7), "unknown"),
        (qcow2(extension=0x44415441), "external data file"),
        (qcow2(virtual=1 << 60), "virtual size"),
        (qcow2(virtual=0), "virtual size"),
        (qcow2(cluster_bits=40), "clusters"),
        (qcow2()[:60], "cut short"),
        (vmdk("monolithicFlat"), "monolithicFlat"),
        (vmdk("monolithicSparse", extents=2), "2 extents"),
        (vmdk("monolithicSparse", parent="1234abcd"), "parent"),
        (b"# Disk DescriptorFile\nRW 1 FLAT /etc/shadow", "one file"),
        (b"QED\0", "cannot be inspected"),
        (b"LUKS\xba\xbe", "cannot be inspected"),
        (b"vhdxfile", "cut short"),
        (vhdx(parent=True), "parent"),
        (vhdx(virtual=1 << 60), "virtual size"),
        (vhdx(metadata=b"metadatA"), "metadata"),
        (vhdx(size_id=b"?" * 16), "how large"),
        (qcow2().ljust(32769, b"\0") + b"CD001", "qcow2 and iso at once"),
    ],
)
def test_what_could_read_the_hosts_files_is_unsafe(head: bytes, why: str) -> None:
    facts = inspect_bytes(head, max(len(head), 4096))
    assert facts.unsafe and why in facts.unsafe
    with pytest.raises(Invalid):
        require(facts, facts.format)


def test_a_single_sparse_vmdk_is_safe() -> None:
    facts = inspect_bytes(vmdk("streamOptimized"), 1 << 20)
    assert (facts.format, facts.virtual_size, facts.unsafe) == ("vmdk", 1 << 20, None)


def test_ossa_2024_002_a_raw_image_that_is_a_qcow2_in_truth_is_refused() -> None:
    with pytest.raises(Invalid, match="said to be raw and is qcow2"):
        require(inspect_bytes(qcow2(), 4096), "raw")


def test_partition_tables_are_raw_and_named() -> None:
    mbr = b"\0" * 510 + b"\x55\xaa"
    assert inspect_bytes(mbr, 1 << 20).partitions == "mbr"
    gpt = inspect_bytes(mbr + b"EFI PART", 1 << 20)
    assert (gpt.format, gpt.partitions, gpt.virtual_size) == ("raw", "gpt", 1 << 20)


@contextlib.asynccontextmanager
async def serving(
    body: bytes, told: int | None = None, work: Callable[[], object] | None = None
) -> AsyncIterator[tuple[str, list[str]]]:
    """A server of one file on the loopback; the URL, and the requests it saw.

    It answers when one of the loop's common threads has done its `work`.
    """
    seen: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        seen.append(request)
        if work:
            await asyncio.to_thread(work)
        if "/missing" in request:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        else:
            length = len(body) if told is None else told
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode() + body)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/image", seen


def cache_in(folder: Path) -> ImageCache:
    cache = ImageCache(folder)
    cache.start_up()
    return cache


def test_an_image_is_fetched_once_for_all_who_want_it(tmp_path: Path) -> None:
    async def story() -> None:
        body = qcow2()
        digest = hashlib.sha512(body).hexdigest()
        async with serving(body) as (url, seen):
            cache = cache_in(tmp_path)
            wants = [cache.get("one", url, "qcow2", digest, len(body)) for _ in range(5)]
            images = await asyncio.gather(*wants)
            assert len(seen) == 1
            assert cache.path(images[0]).read_bytes() == body
            assert images[0].virtual_size == GIB
        again = cache_in(tmp_path)
        assert await again.get("one", "http://127.0.0.1:1/", "qcow2", digest) == images[0]
        await cache.close()

    asyncio.run(story())


def test_ossa_2024_004_bad_images_leave_nothing_in_the_cache(tmp_path: Path) -> None:
    async def story() -> None:
        cache = cache_in(tmp_path)
        body = qcow2(backing=100)
        async with serving(body) as (url, _):
            with pytest.raises(Invalid, match="sha512"):
                await cache.get("one", url, "qcow2", "ab" * 64)
            with pytest.raises(Invalid, match="backing file"):
                await cache.get("one", url, "qcow2")
            with pytest.raises(TooLarge):
                await cache.get("one", url, "qcow2", size=100)
            with pytest.raises(Unavailable, match="404"):
                await cache.get("one", url.replace("image", "missing"), "qcow2")
        async with serving(body[:1000], told=len(body)) as (url, _):
            with pytest.raises(Unavailable):
                await cache.get("one", url, "qcow2", size=len(body))
        with pytest.raises(Invalid, match="http"):
            await cache.get("one", "file:///etc/passwd", "raw")
        with pytest.raises(Invalid, match="cannot name a file"):
            await cache.get("../one", "http://127.0.0.1:1/", "raw")
        await cache.close()

    asyncio.run(story())
    assert list(tmp_path.iterdir()) == []


def test_look_reads_the_head_only() -> None:
    async def story() -> None:
        async with serving(qcow2().ljust(4 * HEAD, b"\0")) as (url, seen):
            facts = await look(url)
        assert (facts.format, facts.virtual_size) == ("qcow2", GIB)
        assert f"Range: bytes=0-{HEAD - 1}" in seen[0]

    asyncio.run(story())


def test_a_ticket_that_is_refused_is_told_to_nobody() -> None:
    with shelf() as shop:
        url = shop.offer(b"") + "/hush"
        with pytest.raises(Unavailable, match="404") as refused:
            asyncio.run(look(url))
    assert urlsplit(url).netloc in refused.value.internal
    assert "hush" not in f"{refused.value.internal} {refused.value}"


@pytest.mark.parametrize("is_whole", [False, True], ids=["look", "fetch"])
def test_a_hundred_ask_at_once_for_an_image_that_this_very_process_serves(
    tmp_path: Path, is_whole: bool
) -> None:
    """The service reads its files in the loop's common threads: whoever waits for it may hold none."""

    async def story() -> None:
        with ThreadPoolExecutor(2) as common:
            asyncio.get_running_loop().set_default_executor(common)
            cache = cache_in(tmp_path)
            async with serving(qcow2(), work=lambda: None) as (url, seen), asyncio.timeout(20):
                if is_whole:
                    wants = [cache.get(f"image-{n}", url, "qcow2") for n in range(100)]
                    assert len(await asyncio.gather(*wants)) == 100
                else:
                    facts = await asyncio.gather(*[look(url) for _ in range(100)])
                    assert {f.virtual_size for f in facts} == {GIB}
                assert len(seen) == 100
            await cache.close()

    asyncio.run(story())


GREEDY = """#!/bin/sh
for last; do :; done
head -c 200000000 /dev/zero > "$last"
"""
TELLING = """#!/bin/sh
for last; do :; done
{ ulimit -v; ulimit -t; ulimit -f; } > "$(dirname "$0")/limits"
: > "$last"
"""


def stand_in(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `qemu-img` of our own, found before the real one."""
    folder.mkdir()
    program = folder / "qemu-img"
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_ossa_2013_029_what_unpacks_to_more_than_it_said_is_cut_off_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path / "bin", GREEDY, monkeypatch)

    async def story() -> None:
        cache = cache_in(tmp_path)
        async with serving(vmdk("streamOptimized")) as (url, _):  # of 1 MiB, it says
            with pytest.raises(Invalid, match="cannot be read"):
                await cache.get("bomb", url, "vmdk")
        await cache.close()

    asyncio.run(story())
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_ossa_2016_012_the_image_tool_has_little_memory_time_and_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path / "bin", TELLING, monkeypatch)

    async def story() -> None:
        cache = cache_in(tmp_path)
        async with serving(vmdk("streamOptimized")) as (url, _):
            await cache.get("one", url, "vmdk")
        await cache.close()

    asyncio.run(story())
    memory_kib, cpu_s, file_blocks = map(int, (tmp_path / "bin/limits").read_text().split())
    assert memory_kib <= 1 << 20
    assert cpu_s <= 600
    assert file_blocks * 512 <= 65 << 20


class Later(Clock):
    """A clock that a test can move."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


def test_ossa_2013_037_images_that_no_disk_stands_on_do_not_pile_up(tmp_path: Path) -> None:
    async def story() -> None:
        clock = Later()
        cache = ImageCache(tmp_path, clock)
        cache.start_up()
        async with serving(qcow2()) as (url, _):
            for name in ("stood-on", "asked-for", *(f"odd-{n}" for n in range(20))):
                await cache.get(name, url, "qcow2")
            assert await cache.forget(3600, {"stood-on"}) == []
            clock.ahead = 4000
            await cache.get("asked-for", url, "qcow2")
            assert len(await cache.forget(3600, {"stood-on"})) == 20
            kept = {Path(name).stem for name in os.listdir(tmp_path)}
            assert kept == {"stood-on", "asked-for"}
            await cache.get("odd-7", url, "qcow2")
            assert (tmp_path / "odd-7").read_bytes() == qcow2()
        await cache.close()

    asyncio.run(story())

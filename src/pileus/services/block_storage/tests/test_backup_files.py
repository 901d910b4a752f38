"""Backups that stand on each other: what their files keep, and that all of it comes back."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest

from pileus.host import sparse
from pileus.host.sparse import BLOCK
from pileus.services.block_storage import tickets
from pileus.services.block_storage.backup import BACKUPS, Backup
from pileus.services.block_storage.tests.given import AT, BASE
from pileus.testing.client import Client
from pileus.testing.cloud import Cloud

from .conftest import Stage


async def kept(cloud: Cloud, member: Client, data: bytes, parent: str = "", kind: str = "") -> str:
    """A backup of those bytes, as its host would send them."""
    runtime = cloud.runtime
    id = runtime.world.new_id()
    async with runtime.store.tx() as tx:
        backup = Backup(
            id=id,
            project_id=member.project_id,
            user_id="u",
            volume_id=id,
            size=1,
            file=id,
            status="available",
            parent_id=parent or None,
            is_whole=not parent,
            stored=len(data),
        )
        await BACKUPS.insert(tx, backup)
    url = await tickets.issue(runtime, id, tickets.WRITE)
    raw = packed(data) if kind else data
    sent = await cloud.client.request("PUT", url, raw=raw, headers={"content-type": kind})
    assert sent.status == 204, sent
    return id


def packed(data: bytes) -> bytes:
    """Without the blocks that are zeros."""
    zeros = bytes(BLOCK)
    blocks = [(at, data[at : at + BLOCK]) for at in range(0, len(data), BLOCK)]
    runs = [(at, at + len(block)) for at, block in blocks if block != zeros]
    return b"".join(sparse.packed(runs, len(data), lambda at, count: data[at : at + count]))


async def read(cloud: Cloud, id: str) -> bytes:
    """The same with and without holes."""
    url = await tickets.issue(cloud.runtime, id, tickets.READ)
    answer = await cloud.client.get(url, accept=sparse.KIND)
    assert answer.headers["content-type"] == sparse.KIND
    cut = sparse.pieces(sparse.KIND)
    pieces = [*cut.feed(answer.body), *cut.finish()]
    found = bytearray(cut.size)
    for at, piece in pieces:
        found[at : at + len(piece)] = piece
    assert (await cloud.client.get(url)).body == found
    return bytes(found)


def room(cloud: Cloud, id: str) -> int:
    return tickets.path_of(cloud.runtime, id).stat().st_blocks * 512


def versions(count: int) -> list[bytes]:
    """Each has a few blocks of the last one changed, one made zeros, and half a block more at its end."""
    chance = random.Random(7)
    found = [chance.randbytes(40 * BLOCK)]
    for _ in range(count - 1):
        data = bytearray(found[-1])
        for block in chance.sample(range(40), 3):
            data[block * BLOCK + 5 : block * BLOCK + 9] = chance.randbytes(4)
        zeros = chance.randrange(40) * BLOCK
        data[zeros : zeros + BLOCK] = bytes(BLOCK)
        found.append(bytes(data) + chance.randbytes(BLOCK // 2))
    return found


@pytest.mark.parametrize("kind", ["", sparse.KIND])
def test_each_backup_of_a_chain_reads_as_its_volume_was_and_keeps_what_changed(
    stage: Stage, kind: str
) -> None:
    async def play() -> None:
        member, cloud, ids = await stage.member(), stage.cloud, [""]
        of = versions(5)
        for data in of:
            ids.append(await kept(cloud, member, data, ids[-1], kind))
        for id, data in zip(ids[1:], of, strict=True):
            assert await read(cloud, id) == data
        whole, *others = [room(cloud, id) for id in ids[1:]]
        assert whole >= 40 * BLOCK and all(one <= 8 * BLOCK for one in others)

    stage.run(play())


@pytest.mark.parametrize("kind", ["", sparse.KIND])
def test_a_volume_that_shrank_or_did_not_change_reads_as_it_was(stage: Stage, kind: str) -> None:
    async def play() -> None:
        member, cloud, data = await stage.member(), stage.cloud, random.Random(1).randbytes(99_999)
        first = await kept(cloud, member, data)
        same = await kept(cloud, member, data, first, kind)
        less = await kept(cloud, member, data[:70_000], same, kind)
        more = await kept(cloud, member, data[:70_000] + bytes(BLOCK * 20), less, kind)
        assert await read(cloud, same) == data and room(cloud, same) <= 4096
        assert await read(cloud, less) == data[:70_000]
        assert await read(cloud, more) == data[:70_000] + bytes(BLOCK * 20)

    stage.run(play())


def test_zeros_of_a_whole_volume_take_no_room_whoever_sends_them(stage: Stage) -> None:
    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        data = bytes(90 * BLOCK) + b"x" + bytes(90 * BLOCK)
        for kind in ("", sparse.KIND):
            whole = await kept(cloud, member, data, "", kind)
            other = await kept(cloud, member, bytes(len(data)), whole, kind)
            assert await read(cloud, whole) == data and room(cloud, whole) <= BLOCK
            assert await read(cloud, other) == bytes(len(data)) and room(cloud, other) <= 4096

    stage.run(play())


def test_a_stream_that_breaks_off_leaves_no_file(stage: Stage) -> None:
    async def play() -> None:
        cloud, name = stage.cloud, stage.cloud.runtime.world.new_id()
        url = await tickets.issue(cloud.runtime, name, tickets.WRITE)
        half, headers = packed(b"x" * 3 * BLOCK)[:-16], {"content-type": sparse.KIND}
        assert (await cloud.client.request("PUT", url, raw=half, headers=headers)).status == 400
        folder = tickets.path_of(cloud.runtime, "")
        assert not list(folder.glob(f"{name}*"))

    stage.run(play())


def test_a_backup_on_which_others_stand_stays_whoever_asks(stage: Stage) -> None:
    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        first = await kept(cloud, member, b"one" * 1000)
        second = await kept(cloud, member, b"two" * 1000, first)
        url = f"{BASE}/backups/{first}"
        assert (await member.delete(url)).status == 400
        force: dict[str, Any] = {"os-force_delete": {}}
        assert (await cloud.admin.post(f"{url}/action", force)).status == 400
        shown = (await member.get(url)).json["backup"]
        assert shown["has_dependent_backups"] is True and shown["status"] == "available"
        for id in (second, first):
            assert (await member.delete(f"{BASE}/backups/{id}")).status == 202
            await cloud.settle()
            assert not tickets.path_of(cloud.runtime, id).exists()

    stage.run(play())


def test_the_record_of_an_increment_is_imported_where_its_parent_is(stage: Stage) -> None:
    async def play() -> None:
        member, cloud, admin = await stage.member(), stage.cloud, stage.cloud.admin
        first = await kept(cloud, member, b"one" * 1000)
        second = await kept(cloud, member, b"two" * 1000, first)
        url = f"{BASE}/backups/{second}"
        record = (await admin.get(f"{url}/export_record", **AT)).json
        for id in (second, first):
            async with cloud.runtime.store.tx() as tx:
                await BACKUPS.delete(tx, found := await BACKUPS.get(tx, id))
            refused = await admin.post(f"{BASE}/backups/import_record", record, **AT)
            assert refused.status == (201 if id == second else 400)
            if id == second:
                assert await read(cloud, second) == b"two" * 1000
                async with cloud.runtime.store.tx() as tx:
                    await BACKUPS.delete(tx, await BACKUPS.get(tx, second))
        assert found.is_whole

    stage.run(play())


def test_what_nobody_waits_for_any_more_is_dropped(stage: Stage) -> None:
    """Half files of controls that died at once, whole ones when no ticket for them is good any more."""

    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        runtime, needed = cloud.runtime, await kept(cloud, member, b"x")
        me = runtime.sagas.me
        old = runtime.world.clock.time() - tickets.GOOD_S - 1
        wanted = {needed: True, f"a.{me}.r.part": True, "b.dead.r.part": False, "late": False}
        wanted["new"] = True
        for name in wanted:
            path = tickets.path_of(runtime, name)
            path.touch()
            if name != "new":
                os.utime(path, (old, old))
        await tickets.sweep(runtime)
        assert {n: tickets.path_of(runtime, n).exists() for n in wanted} == wanted

    stage.run(play())

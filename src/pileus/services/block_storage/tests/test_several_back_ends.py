"""Hosts with several back ends: which of them volumes go to, and that they go from one to another."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pileus.services.block_storage.agent_contract import VOLUME_HOST
from pileus.services.block_storage.volume import VOLUMES, backend_of
from pileus.testing.client import Client
from pileus.testing.cloud import Cloud, cloud

from .conftest import Stage
from .given import AT, BASE, act, made, shown

TOLD = "file,fast=file,slow=file"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One host with three back ends, and one with two."""
    folder: Path = tmp_path_factory.mktemp("several")
    for host, told in (("fake-1", TOLD), ("fake-2", "fast=file,slow=file")):
        (folder / host).mkdir()
        (folder / host / "volume_back_end").write_text(told)
    with asyncio.Runner() as runner:
        manager = cloud(data=folder)
        found = Stage(runner, runner.run(manager.__aenter__()))
        try:
            yield found
        finally:
            runner.run(manager.__aexit__(None, None, None))


async def kind(c: Cloud, name: str, **specs: str) -> str:
    body = {"volume_type": {"name": name, "extra_specs": specs}}
    assert (await c.admin.post(f"{BASE}/types", body)).status == 200
    return name


async def place_of(c: Cloud, id: str) -> str:
    return str((await shown(c.admin, id))["os-vol-host-attr:host"])


async def has(c: Cloud, id: str) -> tuple[str, tuple[str, ...]]:
    """The folder of the back end that has its bytes, and for whom it serves them; fails where several have it."""
    record = await VOLUMES.get(c.runtime.store, id)
    there = await c.runtime.agents.proxy(VOLUME_HOST, record.host).volumes()
    (found,) = [v for v in there if v.id == backend_of(record)]
    assert c.control.data is not None
    (path,) = c.control.data.glob(f"fake-*/volumes*/{found.id}")
    return path.parent.name, found.exports


async def in_use(c: Cloud, member: Client, id: str) -> str:
    """Attached by somebody who is no server of ours."""
    body = {"attachment": {"volume_uuid": id, "connector": {"host": "fake-2"}}}
    reply = await member.post(f"{BASE}/attachments", body, **AT)
    one = str(reply.json["attachment"]["id"])
    done = await c.admin.post(f"{BASE}/attachments/{one}/action", {"os-complete": None}, **AT)
    assert done.status == 204, done
    return one


def test_types_choose_a_back_end_by_its_name_and_each_has_a_service_and_a_pool(
    stage: Stage,
) -> None:
    async def play() -> None:
        member, c = await stage.member(), stage.cloud
        for name in ("fast", "slow"):
            id = await made(
                c, member, volume_type=await kind(c, f"of-{name}", volume_backend_name=name)
            )
            assert (await place_of(c, id)).partition("@")[2] == f"{name}#{name}"
            assert (await has(c, id))[0] == f"volumes-{name}"
        id = await made(
            c, member, volume_type=await kind(c, "unnamed", volume_backend_name="fake-1")
        )
        assert await place_of(c, id) == "fake-1@fake#fake"
        services = (await c.admin.get(f"{BASE}/os-services?binary=cinder-volume")).json["services"]
        places = [f"fake-1@{n}" for n in ("fake", "fast", "slow")] + ["fake-2@fast", "fake-2@slow"]
        assert sorted(s["host"] for s in services) == places
        url = f"{BASE}/scheduler-stats/get_pools?detail=true"
        pools = {p["name"]: p["capabilities"] for p in (await c.admin.get(url)).json["pools"]}
        assert sorted(pools) == [f"{p}#{p.partition('@')[2]}" for p in places]
        assert pools["fake-1@fake#fake"]["allocated_capacity_gb"] == 1
        assert pools["fake-2@slow#slow"]["volume_backend_name"] == "slow"
        assert sum(p["allocated_capacity_gb"] for p in pools.values()) == 3

    stage.run(play())


def test_what_is_said_of_one_back_end_is_not_said_of_its_host(stage: Stage) -> None:
    async def play() -> None:
        member, c = await stage.member(), stage.cloud
        name = await kind(c, "only-slow", volume_backend_name="slow")

        async def say(verb: str, host: str) -> None:
            body = {"binary": "cinder-volume", "host": host}
            assert (await c.admin.put(f"{BASE}/os-services/{verb}", body)).status == 200

        await say("disable", "fake-1@slow")
        await say("disable", "fake-2")
        id = await made(c, member, volume_type=name)
        assert (await shown(member, id))["status"] == "error"
        found = await member.get(f"{BASE}/messages?resource_uuid={id}", **AT)
        assert len(found.json["messages"]) == 1
        await say("enable", "fake-1@slow")
        assert await place_of(c, await made(c, member, volume_type=name)) == "fake-1@slow#slow"
        await say("enable", "fake-2")

    stage.run(play())


@pytest.mark.parametrize("used", [False, True])
def test_a_volume_goes_to_the_back_end_of_its_new_type(stage: Stage, used: bool) -> None:
    async def play() -> None:
        member, c = await stage.member(), stage.cloud
        one, other = [await kind(c, f"{n}-{used}", volume_backend_name=n) for n in ("fast", "slow")]
        id = await made(c, member, volume_type=one)
        served = (await in_use(c, member, id),) if used else ()
        refused = await act(member, id, "os-retype", {"new_type": other})
        assert refused.status == 400 and "migration_policy" in str(refused.json)
        wish = {"new_type": other, "migration_policy": "on-demand"}
        assert (await act(member, id, "os-retype", wish)).status == 202
        moving = await shown(c.admin, id)
        assert (moving["status"], moving["migration_status"]) == ("retyping", "migrating")
        await c.settle()
        assert await has(c, id) == ("volumes-slow", served)
        now = await shown(c.admin, id)
        assert (now["volume_type"], now["migration_status"]) == (other, "success")
        assert now["status"] == ("in-use" if used else "available")
        for attachment in served:
            got = await member.delete(f"{BASE}/attachments/{attachment}", **AT)
            assert got.status == 200, got
        assert (await has(c, id))[1] == ()
        assert (await member.delete(f"{BASE}/volumes/{id}")).status == 202

    stage.run(play())


def test_an_administrator_moves_a_volume_from_pool_to_pool(stage: Stage) -> None:
    async def play() -> None:
        member, c = await stage.member(), stage.cloud
        id = await made(c, member)
        for host, back_end in (("fake-1", "slow"), ("fake-1", "fast"), ("fake-2", "fast")):
            place: dict[str, Any] = {"host": f"{host}@{back_end}#{back_end}"}
            wish = {**place, "lock_volume": host == "fake-2"}
            assert (await act(c.admin, id, "os-migrate_volume", wish)).status == 202
            moving = await shown(c.admin, id)
            status = "maintenance" if host == "fake-2" else "available"
            assert (moving["status"], moving["migration_status"]) == (status, "migrating")
            taken = await act(c.admin, id, "os-reserve")
            assert taken.status == 400, "nobody has it meanwhile"
            await c.settle()
            assert await place_of(c, id) == place["host"]
            assert (await has(c, id))[0] == f"volumes-{back_end}"
            again = await act(c.admin, id, "os-migrate_volume", place)
            assert again.status == 400 and "must be different" in str(again.json)
        nowhere = await act(c.admin, id, "os-migrate_volume", {"host": "fake-1@gone#gone"})
        assert nowhere.status == 404

    stage.run(play())


def test_a_volume_that_several_have_does_not_go_elsewhere(stage: Stage) -> None:
    async def play() -> None:
        member, c = await stage.member(), stage.cloud
        id = await made(c, member, volume_type=await kind(c, "many", multiattach="<is> True"))
        for _ in range(2):
            await in_use(c, member, id)
        refused = await act(c.admin, id, "os-migrate_volume", {"host": None})
        assert refused.status == 400 and "attached 2 times" in str(refused.json)

    stage.run(play())

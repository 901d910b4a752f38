"""Servers that go to another host, off or running: the guest, its room, its ports, and the way back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pileus.kernel.faults import Conflict, Unavailable
from pileus.kernel.hosts import HOSTS
from pileus.services.compute.driver import PAUSED, RUNNING, SHUTDOWN
from pileus.services.compute.drivers.fake import FakeComputeDriver
from pileus.services.compute.servers.due import end_what_is_due
from pileus.services.compute.settings import Settings
from pileus.services.compute.tests.scene import Scene, Stage, Story
from pileus.testing.client import Reply

MIGRATE = {"migrate": None}
SMALL = "42"  # 128 MiB


def live(host: str | None = None, **more: Any) -> dict[str, Any]:
    return {"os-migrateLive": {"host": host, "block_migration": "auto", **more}}


def play(stage: Stage, story: Story) -> None:
    """The hosts are left as they were found: whoever comes next may ask for much of one."""

    async def cleared(s: Scene) -> None:
        await story(s)
        for row in (await s.get("/servers")).json["servers"]:
            await s.delete(row["id"])

    stage.play(cleared)


async def move(s: Scene, id: str, action: Any, version: str = "2.96") -> Reply:
    path = f"/compute/v2.1/servers/{id}/action"
    reply = await s.admin.post(path, action, openstack_api_version=f"compute {version}")
    await s.cloud.settle()
    return reply


async def host_of(s: Scene, id: str) -> str:
    return str((await s.server(id, client=s.admin))["OS-EXT-SRV-ATTR:host"])


async def powers(s: Scene, id: str) -> dict[str, int]:
    """The server's guests, by host."""
    found = {}
    for host, agent in s.agents().items():
        for guest in await agent.driver.guests():
            if guest.id == id:
                found[host] = guest.power_state
    return found


async def bound(s: Scene, id: str) -> set[str]:
    ports = (await s.admin.get(f"/network/v2.0/ports?device_id={id}")).json["ports"]
    return {p["binding:host_id"] for p in ports}


async def room(s: Scene, id: str) -> list[str]:
    """The names of the hosts that the consumer holds room on."""
    found = []
    for provider in await s.held(id):
        reply = await s.admin.get(f"/placement/resource_providers/{provider}")
        found.append(reply.json["name"])
    return found


async def migration(s: Scene, id: str) -> Any:
    path = f"/os-migrations?instance_uuid={id}"
    return (await s.get(path, "2.80", s.admin)).json["migrations"][0]


def other(s: Scene, host: str) -> str:
    (found,) = s.agents().keys() - {host}
    return found


async def lives_on(s: Scene, id: str, host: str, power: int = RUNNING) -> None:
    """There and nowhere else, with its ports and its room."""
    assert await host_of(s, id) == host
    assert await powers(s, id) == {host: power}
    assert await bound(s, id) == {host}
    assert await room(s, id) == [host]
    assert not await s.held((await migration(s, id))["uuid"])


@pytest.mark.parametrize("is_off", [False, True])
@pytest.mark.parametrize("verb", ["confirmResize", "revertResize"])
def test_a_migrated_server_is_on_another_host_until_it_is_confirmed_or_goes_back(
    stage: Stage, verb: str, is_off: bool
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        if is_off:
            await s.act(id, "os-stop")
        old = await host_of(s, id)
        new, power = other(s, old), SHUTDOWN if is_off else RUNNING
        assert (await move(s, id, MIGRATE)).status == 202
        assert (await s.server(id))["status"] == "VERIFY_RESIZE"
        assert await powers(s, id) == {old: SHUTDOWN, new: power}
        assert (await bound(s, id), await room(s, id)) == ({new}, [new])
        noted = await migration(s, id)
        assert (noted["source_compute"], noted["dest_compute"]) == (old, new)
        assert (noted["status"], noted["migration_type"]) == ("finished", "migration")
        assert await room(s, noted["uuid"]) == [old], "the old room is the migration's"
        assert (await s.act(id, verb)).status in (202, 204)
        assert (await s.server(id))["status"] == ("SHUTOFF" if is_off else "ACTIVE")
        await lives_on(s, id, new if verb == "confirmResize" else old, power)

    play(stage, story)


def test_a_server_is_migrated_to_the_host_that_is_asked_for_and_to_no_other(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        old = await host_of(s, id)
        for host, why in ((old, "where the server exists"), ("nowhere", "could not be found")):
            refused = await move(s, id, {"migrate": {"host": host}})
            assert refused.status == 400 and why in refused.json["badRequest"]["message"]
        assert (await move(s, id, {"migrate": {"host": other(s, old)}})).status == 202
        assert await host_of(s, id) == other(s, old)
        refused = await s.member.post(f"/compute/v2.1/servers/{id}/action", MIGRATE)
        assert refused.status == 403

    play(stage, story)


def test_a_resize_that_does_not_fit_on_its_host_goes_to_another_and_comes_back(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        big = {"name": f"half-{s.member.project_id}", "ram": 192, "vcpus": 1, "disk": 3000}
        made = await s.admin.post("/compute/v2.1/flavors", {"flavor": big})
        flavor = made.json["flavor"]["id"]
        first, second = await s.boot(flavorRef=flavor), await s.boot()
        old = await host_of(s, first)
        if await host_of(s, second) != old:
            await move(s, second, MIGRATE)
            await s.act(second, "confirmResize")
        new = other(s, old)
        assert (await s.act(second, {"resize": {"flavorRef": flavor}})).status == 202
        shown = await s.server(second)
        assert (shown["status"], shown["flavor"]["id"]) == ("VERIFY_RESIZE", flavor)
        assert await powers(s, second) == {old: SHUTDOWN, new: RUNNING}
        assert (await s.used())["RAM"] == 2 * 192
        assert (await s.act(second, "revertResize")).status == 202
        assert (await s.server(second))["flavor"]["id"] == SMALL
        await lives_on(s, second, old)
        assert (await s.used())["RAM"] == 192 + 128

    play(stage, story)


@pytest.mark.parametrize(
    ("action", "trouble"),
    [(MIGRATE, verb) for verb in ("lend", "receive", "stop", "start")]
    + [(live(), verb) for verb in ("lend", "expect", "send", "arrive")],
)
def test_a_move_that_fails_leaves_the_server_where_it_was_and_as_it_was(
    stage: Stage, action: Any, trouble: str
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        old = await host_of(s, id)
        for driver in s.drivers():
            driver.trouble.failures[trouble] = [Conflict("The disk is on fire.")]
        assert (await move(s, id, action)).status == 202
        for driver in s.drivers():
            driver.trouble.failures.clear()
        shown = await s.server(id)
        assert (shown["status"], shown["OS-EXT-STS:power_state"]) == ("ACTIVE", RUNNING)
        await lives_on(s, id, old)
        assert (await migration(s, id))["status"] == "error"
        assert (await move(s, id, action)).status == 202
        assert await host_of(s, id) != old

    play(stage, story)


def test_a_server_deleted_between_two_hosts_leaves_nothing_on_either(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        await move(s, id, MIGRATE)
        aside = (await migration(s, id))["uuid"]
        assert (await s.delete(id)).status == 204
        assert await powers(s, id) == {}
        assert not await s.held(id) and not await s.held(aside)

    play(stage, story)


def test_hosts_that_start_anew_keep_both_guests_of_a_move_that_waits(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        await move(s, id, MIGRATE)
        before = await powers(s, id)
        for agent in s.agents().values():
            await agent.start()
            await agent._destroy_orphans("")
        assert await powers(s, id) == before
        await s.act(id, "confirmResize")
        for agent in s.agents().values():
            await agent.start()
        assert await powers(s, id) == {await host_of(s, id): RUNNING}

    play(stage, story)


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_running_server_moves_to_another_host_and_goes_on(stage: Stage, is_paused: bool) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        if is_paused:
            await s.act(id, "pause")
        old = await host_of(s, id)
        assert (await move(s, id, live())).status == 202
        shown = await s.server(id)
        assert shown["status"] == ("PAUSED" if is_paused else "ACTIVE")
        await lives_on(s, id, other(s, old), PAUSED if is_paused else RUNNING)
        noted = await migration(s, id)
        assert (noted["status"], noted["migration_type"]) == ("completed", "live-migration")
        assert (await s.get(f"/servers/{id}/migrations", "2.23", s.admin)).json["migrations"] == []
        gone = await s.get(f"/servers/{id}/migrations/{noted['id']}", "2.23", s.admin)
        assert gone.status == 404 and "is not in progress" in gone.json["itemNotFound"]["message"]
        actions = (await s.get(f"/servers/{id}/os-instance-actions", "2.84", s.admin)).json
        last = actions["instanceActions"][0]
        assert last["action"] == "live-migration"
        path = f"/servers/{id}/os-instance-actions/{last['request_id']}"
        (event,) = (await s.get(path, "2.84", s.admin)).json["instanceAction"]["events"]
        assert event["details"].startswith("The guest stood still for ")

    play(stage, story)


@pytest.mark.parametrize(
    ("body", "version", "status"),
    [
        ({"host": None, "block_migration": False, "disk_over_commit": False}, "2.1", 202),
        ({"host": None, "block_migration": False}, "2.1", 400),
        ({"host": None, "block_migration": "auto", "disk_over_commit": False}, "2.24", 400),
        ({"host": None, "block_migration": "auto", "disk_over_commit": False}, "2.25", 400),
        ({"host": None, "block_migration": "auto"}, "2.25", 202),
        ({"host": None, "block_migration": "auto", "force": True}, "2.29", 400),
        ({"host": None, "block_migration": "auto", "force": True}, "2.30", 400),
        ({"host": None, "block_migration": "auto", "force": False}, "2.67", 202),
        ({"host": None, "block_migration": "auto", "force": False}, "2.68", 400),
        ({"host": "nowhere", "block_migration": "auto"}, "2.25", 400),
        ({"block_migration": "auto"}, "2.25", 400),
    ],
)
def test_what_a_live_migration_may_say_depends_on_the_version(
    stage: Stage, body: dict[str, Any], version: str, status: int
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        assert (await move(s, id, {"os-migrateLive": body}, version)).status == status

    play(stage, story)


async def begun(s: Scene, id: str) -> Any:
    """A live migration that is under way; its view."""
    for driver in s.drivers():
        driver.trouble.latency_s = 0.3
    reply = await s.admin.post(
        f"/compute/v2.1/servers/{id}/action", live(), openstack_api_version="compute 2.80"
    )
    assert reply.status == 202
    for _ in range(200):
        found = (await s.get(f"/servers/{id}/migrations", "2.80", s.admin)).json["migrations"]
        if found and found[0]["status"] == "running":
            return found[0]
        await asyncio.sleep(0.01)
    raise AssertionError("it never ran")


def hasten(s: Scene) -> None:
    for driver in s.drivers():
        driver.trouble.latency_s = 0


def test_a_live_migration_is_seen_while_it_runs_and_can_be_given_up(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        old = await host_of(s, id)
        running = await begun(s, id)
        assert (running["server_uuid"], running["source_compute"]) == (id, old)
        assert running["dest_compute"] == other(s, old) and "memory_total_bytes" in running
        assert (await s.server(id))["status"] == "MIGRATING"
        path = f"/servers/{id}/migrations/{running['id']}"
        assert (await s.get(path, "2.80", s.admin)).json["migration"] == running
        listed = await s.get("/os-migrations?status=running", "2.59", s.admin)
        assert listed.json["migrations"][0]["links"][0]["href"].endswith(path)
        hasten(s)
        url = "/compute/v2.1" + path
        assert (await s.admin.delete(url, openstack_api_version="compute 2.24")).status == 202
        await s.cloud.settle()
        await lives_on(s, id, old)
        assert (await migration(s, id))["status"] == "cancelled"
        assert (await s.server(id))["status"] == "ACTIVE"
        late = await s.admin.delete(url, openstack_api_version="compute 2.24")
        message = late.json["conflictingRequest"]["message"]
        assert late.status == 409 and "'abort live migration'" in message

    play(stage, story)


def test_a_target_that_dies_and_does_not_answer_costs_the_server_nothing(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        old = await host_of(s, id)
        there = s.agents()[other(s, old)].driver
        assert isinstance(there, FakeComputeDriver)
        silent: list[Exception] = [Unavailable("Nobody is there.") for _ in range(20)]
        there.trouble.failures |= {"expect": [Conflict("It is gone.")], "destroy": silent}
        await move(s, id, live())
        there.trouble.failures.clear()
        assert (await s.server(id))["status"] == "ACTIVE"
        assert len(silent) == 19, "it is asked once, and told when it joins again"
        await lives_on(s, id, old)

    play(stage, story)


def test_ossa_2015_015_a_server_deleted_while_it_is_sent_leaves_nothing_on_either_host(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        running = await begun(s, id)
        hasten(s)
        assert (await s.delete(id)).status == 204
        assert (await s.get(f"/servers/{id}")).status == 404
        assert await powers(s, id) == {} and not await s.ports(id)
        assert not await s.held(id) and not await s.held(running["uuid"])

    play(stage, story)


def test_a_live_migration_can_be_forced_to_its_end(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        old = await host_of(s, id)
        running = await begun(s, id)
        hasten(s)
        url = f"/compute/v2.1/servers/{id}/migrations/{running['id']}/action"
        reply = await s.admin.post(
            url, {"force_complete": None}, openstack_api_version="compute 2.22"
        )
        assert reply.status == 202, reply
        await s.cloud.settle()
        await lives_on(s, id, other(s, old))
        late = await s.admin.post(
            url, {"force_complete": None}, openstack_api_version="compute 2.22"
        )
        assert late.status == 409

    play(stage, story)


def test_migrations_are_found_by_what_is_asked_of_them(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        cold, alive = await s.boot(), await s.boot()
        await move(s, cold, MIGRATE)
        await move(s, alive, live())
        source = (await migration(s, cold))["source_compute"]

        async def ids(query: str, version: str = "2.80") -> set[str]:
            query += f"&project_id={s.member.project_id}"
            reply = await s.get(f"/os-migrations?{query}", version, s.admin)
            assert reply.status == 200, reply
            return {m["instance_uuid"] for m in reply.json["migrations"]}

        assert await ids("migration_type=live-migration") == {alive}
        assert await ids("status=finished") == {cold}
        assert cold in await ids(f"source_compute={source}")
        assert await ids(f"host={source}") == await ids(f"host={other(s, source)}") == {cold, alive}
        assert await ids("hidden=true") == set()
        assert await ids("changes-before=2001-01-01T00:00:00Z") == set()
        for query, version in (
            ("user_id=x", "2.79"),
            ("changes-before=x", "2.65"),
            ("x=1", "2.59"),
        ):
            assert (await s.get(f"/os-migrations?{query}", version, s.admin)).status == 400, query
        assert (await s.get("/os-migrations?x=1", "2.58", s.admin)).status == 200

    play(stage, story)


async def force_down(s: Scene, host: str, *, down: bool) -> None:
    url = "/compute/v2.1/os-services/force-down"
    body = {"host": host, "binary": "nova-compute", "forced_down": down}
    reply = await s.admin.put(url, body, openstack_api_version="compute 2.11")
    assert reply.status == 200, reply


@asynccontextmanager
async def unheard(s: Scene, host: str) -> AsyncIterator[None]:
    """Its last heartbeat was long ago; each host speaks for itself."""
    store, now = s.cloud.runtime.store, s.cloud.runtime.world.clock.time
    before = await HOSTS.all(store)
    async with store.tx() as tx:
        for beat in before:
            seen_at = now() - 60 if beat.id == host else now()
            await HOSTS.change(tx, beat, speaker="", seen_at=seen_at)
    yield
    async with store.tx() as tx:
        for beat in before:
            fresh = await HOSTS.get(tx, beat.id)
            await HOSTS.change(tx, fresh, speaker=beat.speaker, seen_at=now())


@pytest.mark.parametrize(
    ("version", "before", "after"),
    [
        ("2.13", "ACTIVE", "ACTIVE"),
        ("2.14", "SHUTOFF", "SHUTOFF"),
        ("2.68", "ERROR", "ACTIVE"),
        ("2.95", "ACTIVE", "SHUTOFF"),
    ],
)
def test_a_server_of_a_lost_host_is_made_anew_on_another(
    stage: Stage, version: str, before: str, after: str
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        if before == "SHUTOFF":
            await s.act(id, "os-stop")
        if before == "ERROR":
            await s.act(id, {"os-resetState": {"state": "error"}}, s.admin)
        old = await host_of(s, id)
        body = {"onSharedStorage": False, "adminPass": "secret"} if version == "2.13" else {}
        early = await move(s, id, {"evacuate": body}, version)
        assert early.status == 400
        assert f"{old} is still in use" in early.json["badRequest"]["message"]
        await force_down(s, old, down=True)
        try:
            reply = await move(s, id, {"evacuate": body}, version)
        finally:
            await force_down(s, old, down=False)
        assert reply.status == 200, reply
        assert not body or reply.json == {"adminPass": "secret"}
        assert (await s.server(id))["status"] == after
        await lives_on(s, id, other(s, old), RUNNING if after == "ACTIVE" else SHUTDOWN)
        noted = await migration(s, id)
        assert (noted["status"], noted["migration_type"]) == ("done", "evacuation")

    play(stage, story)


def test_a_host_that_comes_back_destroys_what_was_evacuated_from_it(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        old = await host_of(s, id)
        async with unheard(s, old):
            assert (await move(s, id, {"evacuate": {}}, "2.30")).status == 200
            both = {old: RUNNING, other(s, old): RUNNING}
            assert await powers(s, id) == both, "nobody could tell it"
        await s.agents()[old].start()
        await lives_on(s, id, other(s, old))

    play(stage, story)


@pytest.mark.parametrize(
    ("body", "version", "status"),
    [
        ({}, "2.13", 400),
        ({"onSharedStorage": True}, "2.13", 400),
        ({"onSharedStorage": False}, "2.14", 400),
        ({"host": "nowhere"}, "2.14", 404),
        ({"force": True}, "2.28", 400),
        ({"force": True}, "2.29", 400),
        ({"force": False}, "2.68", 400),
        ({"host": "SAME"}, "2.68", 400),
    ],
)
def test_what_an_evacuation_may_say_depends_on_the_version(
    stage: Stage, body: dict[str, Any], version: str, status: int
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        old = await host_of(s, id)
        said = body | {"host": old} if "host" in body and body["host"] == "SAME" else body
        await force_down(s, old, down=True)
        try:
            assert (await move(s, id, {"evacuate": said}, version)).status == status
        finally:
            await force_down(s, old, down=False)
        await s.delete(id)

    play(stage, story)


def test_nothing_is_moved_from_a_host_that_is_down(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        old = await host_of(s, id)
        await force_down(s, old, down=True)
        try:
            for action in (MIGRATE, live()):
                refused = await move(s, id, action)
                message = refused.json["conflictingRequest"]["message"]
                assert refused.status == 409 and old in message and "evacuate" in message
        finally:
            await force_down(s, old, down=False)

    play(stage, story)


def test_what_nobody_reverts_is_confirmed_when_its_time_has_come(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        await move(s, id, MIGRATE)
        new, runtime = await host_of(s, id), s.cloud.runtime
        known = runtime.settings.get("compute")
        try:
            for window, status in ((3600, "VERIFY_RESIZE"), (1, "ACTIVE")):
                runtime.settings["compute"] = Settings(resize_confirm_window=window)
                await asyncio.sleep(1.1 if window == 1 else 0)
                await end_what_is_due(runtime, "")
                await s.cloud.settle()
                assert (await s.server(id))["status"] == status
        finally:
            runtime.settings["compute"] = known
        await lives_on(s, id, new)

    play(stage, story)

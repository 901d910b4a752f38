"""Advisories on what the verbs of a server leave behind, asked of every pair of verbs and every moment."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from pileus.kernel.faults import Conflict
from pileus.kernel.states import SAME
from pileus.kernel.world import Clock
from pileus.services.compute.drivers.fake import Trouble
from pileus.services.compute.servers.states import ACTIVE, LIFECYCLE, OFFLOADED
from pileus.services.compute.tests.scene import SERVERS, Scene, Stage, make_image
from pileus.services.network.agent import NetworkAgent
from pileus.testing.client import Reply

SMALL, LARGE = "42", "84"  # 128 and 192 MiB
RESIZE = {"resize": {"flavorRef": LARGE}}
ACTIONS: dict[str, Any] = {
    "start": "os-start",
    "stop": "os-stop",
    "reboot": {"reboot": {"type": "SOFT"}},
    "hard reboot": {"reboot": {"type": "HARD"}},
    "rescue": {"rescue": {}},
    "resize": RESIZE,
    "migrate": {"migrate": None},
    "os-migrateLive": {
        "os-migrateLive": {"host": None, "block_migration": False, "disk_over_commit": False}
    },
    "createImage": {"createImage": {"name": "copy"}},
    "createBackup": {"createBackup": {"name": "copy", "backup_type": "daily", "rotation": 1}},
}
# A server comes into being and goes by requests of their own, and so do its interfaces and volumes; its host is up.
NO_ACTIONS = {
    "create",
    "delete",
    "soft delete",
    "evacuate",
    "extend_volume",
    "swap_volume",
    "follow_volume",
}
NO_ACTIONS |= {
    f"{verb}_{noun}" for verb in ("attach", "detach") for noun in ("interface", "volume")
}
BY_ADMINISTRATORS = ("migrate", "os-migrateLive")
OUTCOMES = {"shelve": OFFLOADED}  # of verbs that have two
VERBS = [verb for verb in LIFECYCLE.verbs if verb not in NO_ACTIONS]


def action(s: Scene, verb: str) -> Any:
    return {"rebuild": {"imageRef": s.image}} if verb == "rebuild" else ACTIONS.get(verb, verb)


async def do(s: Scene, id: str, verb: str) -> Reply:
    return await s.act(id, action(s, verb), s.admin if verb in BY_ADMINISTRATORS else None)


async def rooms(s: Scene) -> Any:
    """What all consumers of the project hold: servers, and migrations that set room aside."""
    path = f"/placement/usages?project_id={s.member.project_id}"
    reply = await s.admin.get(path, openstack_api_version="placement 1.9")
    return {k: v for k, v in reply.json["usages"].items() if v}


async def assert_nothing_left(s: Scene, id: str, after: object) -> None:
    assert (await s.get(f"/servers/{id}")).status == 404, after
    assert id not in await s.guests(), after
    assert not await s.ports(id), after
    assert await rooms(s) == {}, after
    assert await s.used() == {"Instances": 0, "Cores": 0, "RAM": 0}, after


def leads_away(verb: str) -> bool:
    """Whether a running server is in another state after it."""
    return ACTIVE in LIFECYCLE[verb].frm and LIFECYCLE[verb].to not in (SAME, ACTIVE)


@pytest.mark.parametrize("first", ["rebuild", "shelve", *filter(leads_away, VERBS)])
def test_ossa_2014_032_deleting_after_any_two_verbs_frees_everything(
    stage: Stage, first: str
) -> None:
    state = str(LIFECYCLE[first].to) if leads_away(first) else OUTCOMES.get(first, ACTIVE)
    ways_on = [verb for verb in VERBS if state in LIFECYCLE[verb].frm]
    assert ways_on

    async def story(s: Scene) -> None:
        for second in ways_on:
            id = await s.boot()
            for verb in (first, second):
                reply = await do(s, id, verb)
                assert reply.status < 300, (first, second, reply)
            assert (await s.delete(id)).status == 204
            await assert_nothing_left(s, id, (first, second))

    stage.play(story)


@pytest.mark.parametrize("first", ["rescue", "resize", "suspend", "pause", "shelve"])
@pytest.mark.parametrize("state", ["active", "error"])
def test_ossa_2014_032_deleting_what_was_reset_out_of_its_state_frees_everything(
    stage: Stage, first: str, state: str
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        await do(s, id, first)
        reset = {"os-resetState": {"state": state}}
        assert (await s.act(id, reset, s.admin)).status == 202
        assert (await s.delete(id)).status == 204
        await assert_nothing_left(s, id, (first, state))

    stage.play(story)


@dataclass
class Gate(Trouble):
    """Holds the driver in one verb until it is opened."""

    verb: str = ""
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    under_way: list[asyncio.Task[Any]] = field(default_factory=list)

    async def strike(self, verb: str, clock: Clock) -> None:
        if verb == self.verb:
            self.reached.set()
            await self.opened.wait()
        await super().strike(verb, clock)

    def far(self, act: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Awaitable[Any]]:
        """As a driver in another process is: it goes on when nobody waits for its answer any more."""

        def call(*args: Any) -> Awaitable[Any]:
            self.under_way.append(asyncio.create_task(act(*args)))
            return asyncio.shield(self.under_way[-1])

        return call


HELD = [(RESIZE, "resize"), ("confirmResize", "confirm_resize"), ("revertResize", "revert_resize")]


@pytest.mark.parametrize(("asked", "held"), HELD, ids=[held for _, held in HELD])
@pytest.mark.parametrize("breaks", [False, True])
def test_ossa_2015_015_a_host_that_resizes_on_leaves_nothing_of_a_deleted_server(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, asked: Any, held: str, breaks: bool
) -> None:
    """Whether it gets its work done in the end, or does not."""

    async def story(s: Scene) -> None:
        id = await s.boot()
        if asked != RESIZE:
            await s.act(id, RESIZE)
        gate = Gate(verb=held)
        if breaks:
            gate.failures[held] = [Conflict("The disk is full.")]
        for driver in s.drivers():
            monkeypatch.setattr(driver, "trouble", gate)
            monkeypatch.setattr(driver, held, gate.far(getattr(driver, held)))
        body = {asked: None} if isinstance(asked, str) else asked
        assert (await s.member.post(f"{SERVERS}/{id}/action", body)).status < 300
        await gate.reached.wait()
        assert (await s.member.delete(f"{SERVERS}/{id}")).status == 204
        await asyncio.sleep(0.05)  # the deletion comes as far as it may while the host is busy
        assert gate.under_way[0].done() is False
        gate.opened.set()
        await s.cloud.settle()
        await asyncio.gather(*gate.under_way, return_exceptions=True)
        await assert_nothing_left(s, id, held)

    stage.play(story)


def test_ossa_2014_037_deleting_a_resizing_server_again_and_again_costs_nothing(
    stage: Stage,
) -> None:
    """The deletion comes later each time: before, between and after the steps of the resize."""

    async def story(s: Scene) -> None:
        seen = set()
        for turns in range(0, 600, 30):
            id = await s.boot()
            assert (await s.member.post(f"{SERVERS}/{id}/action", RESIZE)).status == 202
            for _ in range(turns):
                await asyncio.sleep(0)
            seen.add((await s.server(id, client=s.admin))["OS-EXT-STS:task_state"])
            assert (await s.delete(id)).status == 204
            await assert_nothing_left(s, id, f"{turns} turns")
        assert seen & {"resize_prep", "resize_migrating"}, f"none came in time: {seen}"

    stage.play(story)


@pytest.mark.parametrize("broken", ["resize", "confirm_resize", "revert_resize"])
def test_ossa_2016_011_deleting_after_a_resize_that_broke_frees_both_rooms(
    stage: Stage, broken: str
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        for driver in s.drivers():
            driver.trouble.failures[broken] = [Conflict("The disk is on fire.")]
        await s.act(id, RESIZE)
        if broken != "resize":
            assert (await rooms(s))["MEMORY_MB"] == 128 + 192
            verb = "confirmResize" if broken == "confirm_resize" else "revertResize"
            await s.act(id, verb)
            assert (await s.server(id))["status"] == "VERIFY_RESIZE"
        for driver in s.drivers():
            driver.trouble.failures.clear()
        assert (await s.delete(id)).status == 204
        await assert_nothing_left(s, id, broken)

    stage.play(story)


# What packets meet


async def admitting(s: Scene, name: str, port: int) -> None:
    """Makes a security group that lets in one TCP port from everywhere, and no more."""
    groups, rules = "/network/v2.0/security-groups", "/network/v2.0/security-group-rules"
    made = await s.member.post(groups, {"security_group": {"name": name}})
    rule = {"security_group_id": made.json["security_group"]["id"], "direction": "ingress"}
    rule |= {"protocol": "tcp", "port_range_min": port, "port_range_max": port}
    assert (await s.member.post(rules, {"security_group_rule": rule})).status == 201


async def side_by_side(s: Scene, *groups: str) -> list[str]:
    """Servers on one host, each in a security group."""
    near = {"server_group": {"name": "near", "policies": ["affinity"]}}
    made = await s.member.post("/compute/v2.1/os-server-groups", near)
    ids = []
    for group in groups:
        server: dict[str, Any] = {"name": group, "imageRef": s.image, "flavorRef": SMALL}
        server |= {"networks": [{"uuid": s.network}], "security_groups": [{"name": group}]}
        hints = {"group": made.json["server_group"]["id"]}
        reply = await s.member.post(SERVERS, {"server": server, "os:scheduler_hints": hints})
        assert reply.status == 202, reply
        await s.cloud.settle()
        ids.append(str(reply.json["server"]["id"]))
    return ids


async def heard(s: Scene, id: str, by: str) -> list[int]:
    """The TCP ports on which one server is reached by another, as their host's packet rules are."""
    (port,), (source,) = await s.ports(id), await s.ports(by)
    address = port["fixed_ips"][0]["ip_address"]
    assert s.cloud.hosts is not None
    agents: list[Any] = [a for _, a in s.cloud.hosts._agents if isinstance(a, NetworkAgent)]
    for agent in agents:
        await agent.refresh()  # it is told of changes a moment later
    (driver,) = [a.driver for a in agents if a.driver.knows(port["id"])]
    assert port["id"] not in driver.observed.errors
    return [n for n in (22, 80, 443) if driver.reaches(source["id"], address, "tcp", n)]


WAYS = [
    ["reboot"],
    ["hard reboot"],
    ["pause", "unpause"],
    ["suspend", "resume"],
    ["rescue", "unrescue"],
    ["rebuild"],
    ["resize", "confirmResize"],
    ["resize", "revertResize"],
    ["stop", "start"],
]


@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_ossa_2013_030_no_verb_opens_a_port_that_the_security_groups_keep_shut(
    stage: Stage, way: list[str]
) -> None:
    async def story(s: Scene) -> None:
        await admitting(s, "web", 80)
        await admitting(s, "login", 22)
        web, other = await side_by_side(s, "web", "login")
        for verb in ("", *way):
            if verb:
                assert (await do(s, web, verb)).status < 300
            assert await heard(s, web, by=other) == [80], verb
            assert await heard(s, other, by=web) == [22], verb

    stage.play(story)


# Rebuilding


def test_ossa_2017_005_a_rebuild_that_a_create_would_refuse_changes_nothing(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot(metadata={"kept": "yes"})
        off = await make_image(s.admin)
        assert (await s.admin.post(f"/image/v2/images/{off}/actions/deactivate")).status == 204
        waits = {"name": "waits", "disk_format": "raw", "container_format": "bare"}
        images = {
            "without bytes": (await s.member.post("/image/v2/images", waits)).json["id"],
            "deactivated": off,
            "of another": await make_image(await s.other(), visibility="private"),
            "larger than the disk": await make_image(s.admin, min_disk=100),
            "hungrier than the flavor": await make_image(s.admin, min_ram=100_000),
        }
        server, held = await s.server(id, "2.90"), await s.held(id)
        (guest,) = [g for d in s.drivers() for g in await d.guests() if g.id == id]
        for why, image in images.items():
            created = await s.create(imageRef=image)
            body = {"rebuild": {"imageRef": image, "name": "new", "metadata": {}}}
            rebuilt = await s.act(id, body)
            rescued = await s.act(id, {"rescue": {"rescue_image_ref": image}})
            assert [r.status for r in (created, rebuilt, rescued)] == [400] * 3, why
            assert await s.server(id, "2.90") == server, why
            assert await s.held(id) == held, why
            assert guest in [g for d in s.drivers() for g in await d.guests()], why

    stage.play(story)


def test_ossa_2017_006_ten_rebuilds_hold_what_the_flavor_says(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id, image = await s.boot(), await make_image(s.admin, b"y" * 2048)
        held, room = await s.held(id), await rooms(s)
        used = await s.used()
        assert room["MEMORY_MB"] == used["RAM"] == 128
        for n in range(10):
            if n == 4:
                await s.act(id, "os-stop")
            if n == 7:
                for driver in s.drivers():
                    driver.trouble.failures["rebuild"] = [Conflict("The disk is on fire.")]
            body = {"rebuild": {"imageRef": [s.image, image][n % 2]}}
            assert (await s.act(id, body)).status == 202
            for driver in s.drivers():
                driver.trouble.failures.clear()
            assert await s.held(id) == held, n
            assert (await rooms(s), await s.used()) == (room, used), n
        assert (await s.server(id))["status"] == "ACTIVE"
        await s.delete(id)
        await assert_nothing_left(s, id, "ten rebuilds")

    stage.play(story)

"""Published advisories against Nova, asked of this service: each test bears the advisory's name."""

from __future__ import annotations

import asyncio
import logging
import struct
from typing import Any

import pytest

from pileus.kernel import events
from pileus.kernel.hosts import HostRuntime
from pileus.kernel.sagas import JOURNAL
from pileus.kernel.store import Page
from pileus.services.compute.agent import CONSOLE_LIMIT, ComputeAgent
from pileus.services.compute.drivers.fake import FakeComputeDriver
from pileus.services.compute.tests.scene import SERVERS, Scene, Stage, make_image
from pileus.services.network.contract import GUEST_METADATA

FLAVORS = "/compute/v2.1/flavors"


def test_ossa_2013_019_and_024_a_private_flavor_cannot_be_used_by_guessing_its_id(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        body = {"name": "hidden", "ram": 64, "vcpus": 1, "disk": 1, "id": "hidden"}
        body["os-flavor-access:is_public"] = False
        assert (await s.admin.post(FLAVORS, {"flavor": body})).status == 200
        assert (await s.member.get(f"{FLAVORS}/hidden")).status == 404
        assert (await s.member.get(f"{FLAVORS}/hidden/os-extra_specs")).status == 404
        assert (await s.create(flavorRef="hidden")).status == 400
        await s.admin.delete(f"{FLAVORS}/hidden")

    stage.play(story)


def test_ossa_2013_012_a_small_file_with_a_huge_virtual_size_is_refused(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        header = struct.pack(
            ">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, 10 << 40, 0, 1, 65_536, 131_072, 1, 0, 0
        )
        image = await make_image(s.admin, header.ljust(256 * 1024, b"\0"), disk_format="qcow2")
        reply = await s.create(imageRef=image)
        if reply.status == 202:
            await s.cloud.settle()
            assert (await s.server(reply.json["server"]["id"]))["status"] == "ERROR"
        else:
            assert reply.status == 400 and "disk is too small" in reply.body.decode()

    stage.play(story)


def test_ossa_2013_026_a_console_is_cut_to_what_a_message_holds(stage: Stage) -> None:
    class Chatty(FakeComputeDriver):
        async def console_log(self, guest_id: str, lines: int | None) -> str:
            return "x" * (100 << 20)

    async def story(s: Scene) -> None:
        host = next(iter(s.agents().values())).host
        quiet = HostRuntime(
            host.world, host.agents, "chatty", host.state / "chatty", "fake", host.control_url
        )
        agent = ComputeAgent(quiet, Chatty())
        text = await agent.console_log("a", None)
        assert len(text.encode()) == CONSOLE_LIMIT < 256 * 1024

    stage.play(story)


def test_ossa_2013_033_metadata_is_the_ports_owners_whatever_is_asked(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        mine, other = await s.boot(name="mine"), await s.boot(name="other")
        (port,) = await s.ports(mine)
        metadata = s.cloud.runtime.contracts.get(GUEST_METADATA)
        answer = await metadata.answer(port["id"], "GET", "/openstack/latest/meta_data.json")
        assert mine.encode() in answer.body and other.encode() not in answer.body
        assert (await metadata.answer(port["id"], "GET", f"/latest/{other}")).status == 404
        assert (await metadata.answer(other, "GET", "/latest/meta-data/")).status == 404
        assert (await metadata.answer(port["id"], "POST", "/latest/meta-data/")).status == 405

    stage.play(story)


@pytest.mark.parametrize("pattern", ["[", "(a+)+$", "((10|1).)*x", "(.*a){20}", "x" * 300])
def test_ossa_2014_038_address_patterns_are_bounded(stage: Stage, pattern: str) -> None:
    async def story(s: Scene) -> None:
        for field in ("ip", "name"):
            quoted = pattern.replace("+", "%2B").replace("[", "%5B")
            reply = await s.get(f"/servers?{field}={quoted}")
            assert reply.status == 400, reply

    stage.play(story)


def test_ossa_2014_017_deleting_in_any_state_frees_everything(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        states = {
            "SHUTOFF": "os-stop",
            "REBOOT": {"reboot": {"type": "SOFT"}},
            "ERROR": {"os-resetState": {"state": "error"}},
        }
        for action in states.values():
            id = await s.boot()
            await s.act(id, action, s.admin)
            assert (await s.delete(id)).status == 204
            assert (await s.get(f"/servers/{id}")).status == 404
            assert id not in await s.guests() and not await s.held(id) and not await s.ports(id)
        assert await s.used() == {"Instances": 0, "Cores": 0, "RAM": 0}

    stage.play(story)


def test_ossa_2014_032_deleting_what_holds_still_or_is_rescued_frees_everything(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        actions: list[Any] = ["suspend", "pause", {"rescue": {}}, {"resize": {"flavorRef": "84"}}]
        for action in actions:
            id = await s.boot()
            assert (await s.act(id, action)).status < 300
            await s.delete(id)
            assert (await s.get(f"/servers/{id}")).status == 404
            assert id not in await s.guests() and not await s.held(id) and not await s.ports(id)
        assert await s.used() == {"Instances": 0, "Cores": 0, "RAM": 0}

    stage.play(story)


@pytest.mark.parametrize("verb", ["resize", "confirmResize", "revertResize"])
@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.25])
def test_ossa_2014_037_2015_015_and_2016_011_deleting_at_any_moment_of_a_resize_frees_everything(
    stage: Stage, verb: str, delay_s: float
) -> None:
    async def story(s: Scene) -> None:
        id, resize = await s.boot(), {"resize": {"flavorRef": "84"}}
        if verb != "resize":
            await s.act(id, resize)
        for driver in s.drivers():
            driver.trouble.latency_s = 0.1
        body = resize if verb == "resize" else {verb: None}
        assert (await s.member.post(f"{SERVERS}/{id}/action", body)).status < 300
        await asyncio.sleep(delay_s)
        assert (await s.delete(id)).status == 204
        for driver in s.drivers():
            driver.trouble.latency_s = 0.0
        assert (await s.get(f"/servers/{id}")).status == 404
        assert id not in await s.guests() and not await s.ports(id)
        room = await s.admin.get(
            f"/placement/usages?project_id={s.member.project_id}",
            openstack_api_version="placement 1.9",
        )
        assert room.json == {"usages": {}}, "neither the server's nor the migration's"
        assert await s.used() == {"Instances": 0, "Cores": 0, "RAM": 0}

    stage.play(story)


def test_ossa_2013_030_a_resized_servers_ports_keep_their_security_groups(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        groups = "/network/v2.0/security-groups"
        made = await s.member.post(groups, {"security_group": {"name": "strict"}})
        group = made.json["security_group"]["id"]
        id = await s.boot(security_groups=[{"name": "strict"}])
        for action in ({"resize": {"flavorRef": "84"}}, "revertResize"):
            await s.act(id, action)
            assert [p["security_groups"] for p in await s.ports(id)] == [[group]], action
            assert (await s.server(id))["security_groups"] == [{"name": "strict"}]

    stage.play(story)


def test_ossa_2015_017_deleting_while_power_is_switched_frees_everything(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        for driver in s.drivers():
            driver.trouble.latency_s = 0.1
        await s.member.post(f"{SERVERS}/{id}/action", {"reboot": {"type": "HARD"}})
        assert (await s.delete(id)).status == 204
        for driver in s.drivers():
            driver.trouble.latency_s = 0.0
        assert (await s.get(f"/servers/{id}")).status == 404
        assert id not in await s.guests() and not await s.held(id) and not await s.ports(id)

    stage.play(story)


def test_ossa_2017_002_passwords_reach_no_log_no_event_and_no_journal(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(s: Scene) -> None:
        for driver in s.drivers():
            driver.trouble.failures["spawn"] = [RuntimeError("broken")]
        with caplog.at_level(logging.DEBUG):
            id = await s.boot(adminPass="canary-password", user_data="Y2FuYXJ5LWRhdGE=")
        for driver in s.drivers():
            driver.trouble.failures.clear()
        store = s.cloud.runtime.store
        told = [
            e for e in await events.after(store, events.START, 100_000) if e.payload.get("id") == id
        ]
        assert told
        kept = await JOURNAL.list(store, Page({"record_id": id}, deleted=None))
        for text in (caplog.text, str(told), str(kept)):
            assert "canary-password" not in text and "Y2FuYXJ5LWRhdGE=" not in text

    stage.play(story)


def test_ossa_2019_003_a_fault_keeps_the_inside_story_from_users(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        for driver in s.drivers():
            driver.trouble.failures["spawn"] = [RuntimeError("canary /etc/canary on host-7")]
        id = await s.boot()
        for driver in s.drivers():
            driver.trouble.failures.clear()
        mine = await s.get(f"/servers/{id}")
        assert mine.json["server"]["status"] == "ERROR" and b"canary" not in mine.body
        assert "canary" in (await s.server(id, client=s.admin))["fault"]["details"]
        listed = (await s.get(f"/servers/{id}/os-instance-actions", "2.84")).json
        action = listed["instanceActions"][0]["request_id"]
        one = await s.get(f"/servers/{id}/os-instance-actions/{action}", "2.84")
        assert one.status == 200 and b"canary" not in one.body

    stage.play(story)


def test_ossa_2026_022_internal_hints_are_refused_and_every_server_is_claimed(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        server = {
            "name": "x",
            "imageRef": s.image,
            "flavorRef": "42",
            "networks": [{"uuid": s.network}],
        }
        for hint in ("_nova_check_type", "force_hosts", "requested_destination"):
            for key in ("os:scheduler_hints", "OS-SCH-HNT:scheduler_hints"):
                reply = await s.member.post(SERVERS, {"server": server, key: {hint: ["x"]}})
                assert reply.status == 400, reply
        fine = await s.member.post(
            SERVERS, {"server": server, "os:scheduler_hints": {"colour": "red"}}
        )
        await s.cloud.settle()
        id = fine.json["server"]["id"]
        assert (await s.server(id, "2.100"))["scheduler_hints"] == {"colour": "red"}
        assert await s.held(id)

    stage.play(story)


ODD_PORTS: list[dict[str, Any] | None] = [
    {"binding:vnic_type": "direct"},
    {"binding:vnic_type": "macvtap", "admin_state_up": False},
    {"binding:host_id": "a-host-that-never-was"},
    {"binding:host_id": ""},
    {"admin_state_up": False},
    {"device_owner": "baremetal:none"},
    {"device_id": "11111111-2222-4333-8444-555555555555"},
    {"security_groups": [], "fixed_ips": []},
    None,  # gone
]


@pytest.mark.parametrize("odd", ODD_PORTS, ids=str)
def test_cve_2022_37394_an_odd_port_keeps_no_host_from_starting(
    stage: Stage, odd: dict[str, Any] | None
) -> None:
    async def story(s: Scene) -> None:
        struck, others = await s.boot(), [await s.boot() for _ in range(3)]
        port = f"/network/v2.0/ports/{(await s.ports(struck))[0]['id']}"
        change = s.admin.put(port, {"port": odd}) if odd else s.admin.delete(port)
        assert (await change).status in (200, 204)
        assert s.cloud.hosts is not None
        for _, agent in s.cloud.hosts._agents:
            await agent.start()
        await s.cloud.settle()
        for id in (*others, await s.boot()):
            assert (await s.server(id))["status"] == "ACTIVE"
            assert (await s.act(id, {"reboot": {"type": "HARD"}})).status == 202
            assert [p["status"] for p in await s.ports(id)] == ["ACTIVE"]
        assert (await s.delete(struck)).status == 204
        assert (await s.get(f"/servers/{struck}")).status == 404

    stage.play(story)

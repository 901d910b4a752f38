"""Servers that hold still, and looks into them: states, the guest on its host, words of refusal."""

from __future__ import annotations

from typing import Any

import pytest

from pileus.kernel.faults import Conflict, Invalid
from pileus.services.compute.driver import PAUSED, RUNNING, SHUTDOWN, SUSPENDED
from pileus.services.compute.tests.scene import SERVERS, Scene, Stage


async def power(s: Scene, id: str) -> int:
    found = {g.id: g.power_state for d in s.drivers() for g in await d.guests()}
    return found[id]


@pytest.mark.parametrize(
    ("there", "back", "status", "state"),
    [("pause", "unpause", "PAUSED", PAUSED), ("suspend", "resume", "SUSPENDED", SUSPENDED)],
)
def test_a_server_holds_still_on_its_host_and_goes_on(
    stage: Stage, there: str, back: str, status: str, state: int
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        assert (await s.act(id, there)).status == 202
        shown = await s.server(id)
        assert (shown["status"], shown["OS-EXT-STS:power_state"]) == (status, state)
        assert await power(s, id) == state
        listed = (await s.get(f"/servers?status={status}")).json["servers"]
        assert [one["id"] for one in listed] == [id]
        again = await s.act(id, there)
        message = again.json["conflictingRequest"]["message"]
        assert again.status == 409
        assert message.startswith(f"Cannot '{there}' instance {id} while it is in vm_state")
        assert (await s.act(id, back)).status == 202
        assert (await s.server(id))["status"] == "ACTIVE" and await power(s, id) == RUNNING
        actions = (await s.get(f"/servers/{id}/os-instance-actions")).json["instanceActions"]
        assert [a["action"] for a in actions[:2]] == [back, there]
        assert [a["message"] for a in actions] == [None, None, None]

    stage.play(story)


def test_a_suspend_that_fails_leaves_the_server_running_and_is_noted(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        for driver in s.drivers():
            driver.trouble.failures["suspend"] = [Invalid("The disk is full.")]
        await s.act(id, "suspend")
        for driver in s.drivers():
            driver.trouble.failures.clear()
        assert (await s.server(id))["status"] == "ACTIVE"
        actions = (await s.get(f"/servers/{id}/os-instance-actions")).json["instanceActions"]
        assert (actions[0]["action"], actions[0]["message"]) == ("suspend", "Error")

    stage.play(story)


def test_a_suspended_server_is_started_anew_by_a_hard_reboot(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        await s.act(id, "suspend")
        assert (await s.act(id, {"reboot": {"type": "HARD"}})).status == 202
        assert (await s.server(id))["status"] == "ACTIVE"

    stage.play(story)


def test_a_guest_found_running_or_gone_tells_what_its_suspended_server_is(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        changes = (
            ("suspend", RUNNING, "ACTIVE"),
            ("suspend", SHUTDOWN, "SHUTOFF"),
            ("unpause", SUSPENDED, "SUSPENDED"),  # refused: it runs, until its host lays it aside
        )
        for verb, state, status in changes:
            id = await s.boot()
            await s.act(id, verb)
            for driver in s.drivers():
                if id in {g.id for g in await driver.guests()}:
                    driver.happen(id, state)
            await s.until(id, status)

    stage.play(story)


def test_a_locked_server_does_not_hold_still_for_its_owner(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        await s.act(id, {"lock": None})
        assert (await s.act(id, "pause")).status == 409
        assert (await s.act(id, "pause", client=s.admin)).status == 202
        assert (await s.server(id))["status"] == "PAUSED"

    stage.play(story)


# A look inside


def test_diagnostics_are_for_administrators_and_of_running_guests(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        path = f"/servers/{id}/diagnostics"
        assert (await s.get(path)).status == 403
        old = (await s.get(path, client=s.admin)).json
        assert old["memory"] == 128 * 1024 and {"cpu0_time", "vda_read", "tap0_rx"} <= set(old)
        new = (await s.get(path, "2.48", s.admin)).json
        assert (new["num_cpus"], new["num_nics"], new["num_disks"]) == (1, 1, 1)
        (port,) = await s.ports(id)
        assert new["nic_details"][0]["mac_address"] == port["mac_address"]
        assert (new["driver"], new["hypervisor"], new["state"]) == ("libvirt", "fake", "running")
        assert new["memory_details"] == {"maximum": 128, "used": 0}
        await s.act(id, "os-stop")
        refused = await s.get(path, client=s.admin)
        assert refused.status == 409 and "power state shutdown" in str(refused.json)

    stage.play(story)


def test_topology_is_there_since_2_78_and_shows_no_nodes(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        assert (await s.get(f"/servers/{id}/topology", "2.77")).status == 404
        shown = await s.get(f"/servers/{id}/topology", "2.78")
        assert shown.json == {"nodes": [], "pagesize_kb": None}

    stage.play(story)


async def _poke(s: Scene, id: str, action: Any) -> Any:
    return await s.member.post(
        f"{SERVERS}/{id}/action", action, openstack_api_version="compute 2.87"
    )


def test_a_crash_dump_is_an_interrupt_that_the_guest_hears(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        assert (await _poke(s, id, {"trigger_crash_dump": None})).status == 202
        log = await s.act(id, {"os-getConsoleOutput": {}})
        assert "NMI received" in log.json["output"]
        await s.act(id, "os-stop")
        refused = await _poke(s, id, {"trigger_crash_dump": None})
        message = refused.json["conflictingRequest"]["message"]
        assert message == (
            f"Cannot 'trigger_crash_dump' instance {id} while it is in vm_state stopped"
        )

    stage.play(story)


def test_a_password_is_changed_inside_or_the_answer_says_why_not(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        change = {"changePassword": {"adminPass": "new-secret"}}
        assert (await s.act(id, change)).status == 202
        log = (await s.act(id, {"os-getConsoleOutput": {}})).json["output"]
        assert "the password of root was changed" in log and "new-secret" not in log
        for driver in s.drivers():
            driver.trouble.failures["set_password"] = [Conflict("There is no agent.")]
        refused = await s.act(id, change)
        for driver in s.drivers():
            driver.trouble.failures.clear()
        assert refused.status == 409
        assert "because There is no agent." in refused.json["conflictingRequest"]["message"]

    stage.play(story)

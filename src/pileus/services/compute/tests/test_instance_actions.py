"""What was done to a server is told with how it went, also where it failed."""

from __future__ import annotations

from typing import Any

import pytest

from pileus.kernel.faults import Invalid
from pileus.services.compute.tests.scene import Scene, Stage

WHY = "The lever broke off."
# The driver's verb that fails, what is asked, and the action and event by upstream's names.
FAILURES: tuple[tuple[str, Any, str, str], ...] = (
    ("start", "os-start", "start", "compute_start_instance"),
    ("stop", "os-stop", "stop", "compute_stop_instance"),
    ("reboot", {"reboot": {"type": "SOFT"}}, "reboot", "compute_reboot_instance"),
    ("reboot", {"reboot": {"type": "HARD"}}, "reboot", "compute_reboot_instance"),
    ("destroy", "DELETE", "delete", "compute_terminate_instance"),
    ("unplug", "DETACH", "detach_interface", "compute_detach_interface"),
)


async def ask(s: Scene, id: str, what: Any) -> None:
    if what == "DELETE":
        await s.delete(id)
    elif what == "ATTACH":
        body = {"interfaceAttachment": {"net_id": s.network}}
        await s.member.post(f"/compute/v2.1/servers/{id}/os-interface", body)
        await s.cloud.settle()
    elif what == "DETACH":
        port, *_ = await s.ports(id)
        await s.member.delete(f"/compute/v2.1/servers/{id}/os-interface/{port['id']}")
        await s.cloud.settle()
    else:
        await s.act(id, what)


async def latest(s: Scene, id: str) -> Any:
    """The newest action, with its events as an administrator sees them."""
    listed = (await s.get(f"/servers/{id}/os-instance-actions", "2.84")).json["instanceActions"]
    url = f"/servers/{id}/os-instance-actions/{listed[0]['request_id']}"
    return (await s.get(url, "2.84", s.admin)).json["instanceAction"]


@pytest.mark.parametrize("verb, what, action, event", FAILURES, ids=lambda x: str(x)[:30])
def test_an_action_that_failed_says_so_and_why(
    stage: Stage, verb: str, what: Any, action: str, event: str
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        if verb == "start":
            await s.act(id, "os-stop")
        for driver in s.drivers():
            driver.trouble.failures[verb] = [Invalid(WHY)]
        await ask(s, id, what)
        for driver in s.drivers():
            driver.trouble.failures.clear()
        told = await latest(s, id)
        assert (told["action"], told["message"]) == (action, "Error")
        (one,) = told["events"]
        assert (one["event"], one["result"], one["details"]) == (event, "Error", WHY)
        assert one["finish_time"] >= one["start_time"]

    stage.play(story)


SUCCESSES: tuple[tuple[Any, str], ...] = (
    ("os-stop", "stop"),
    ("os-start", "start"),
    ({"reboot": {"type": "SOFT"}}, "reboot"),
    ({"reboot": {"type": "HARD"}}, "reboot"),
    ("ATTACH", "attach_interface"),
    ("DETACH", "detach_interface"),
    ("DELETE", "delete"),
)


def test_an_action_that_went_well_says_so_once(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        for what, action in SUCCESSES:
            await ask(s, id, what)
            told = await latest(s, id)
            assert (told["action"], told["message"]) == (action, None)
            assert [e["result"] for e in told["events"]] == ["Success"], action

    stage.play(story)

"""Lifecycles: what may start when, and in which words it is refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pileus.kernel.faults import Conflict
from pileus.kernel.states import SAME, Lifecycle, Verb


@dataclass
class Lamp:
    status: str = "off"
    task: str = ""
    id: str = "l1"


ONE = Lifecycle(
    {
        "make": Verb(frozenset(), "making", "off", "broken"),
        "light": Verb({"off"}, "lighting", "on", "broken"),
        "dim": Verb({"on"}, "dimming", SAME, SAME),
        "drop": Verb({"off", "on", "broken"}, "dropping", None, "broken", interrupts=True),
    },
    observed={"flickering"},
    reset={"mended"},
)
TWO = Lifecycle(
    {
        "make": Verb(frozenset(), "making", "off", "broken"),
        "light": Verb({"off"}, "lighting", "on", SAME),
        "drop": Verb({"off", "on"}, "dropping", None, SAME, interrupts=True),
    },
    busy="task",
    noun="lamp",
)


def test_a_verb_starts_in_its_states_and_makes_the_record_busy() -> None:
    assert ONE.begin("light", Lamp()) == {"status": "lighting"}
    assert TWO.begin("light", Lamp()) == {"task": "lighting"}
    assert ONE.begin("make", Lamp("whatever")) == {"status": "making"}, "a new record has no state"


@pytest.mark.parametrize(
    ("cycle", "verb", "lamp", "message"),
    [
        (ONE, "light", Lamp("on"), "Cannot 'light' l1 while it is in status on; it must be off."),
        (ONE, "dim", Lamp("off"), "Cannot 'dim' l1 while it is in status off; it must be on."),
        (ONE, "light", Lamp("lighting"), "Cannot 'light' l1 while it is in status lighting"),
        (
            ONE,
            "drop",
            Lamp("flickering"),
            "Cannot 'drop' l1 while it is in status flickering; it must be broken or off or on.",
        ),
        (
            TWO,
            "light",
            Lamp("on"),
            "Cannot 'light' lamp l1 while it is in status on; it must be off.",
        ),
        (
            TWO,
            "light",
            Lamp("off", "dropping"),
            "Cannot 'light' lamp l1 while it is in task dropping",
        ),
        (
            TWO,
            "drop",
            Lamp("broken"),
            "Cannot 'drop' lamp l1 while it is in status broken; it must be off or on.",
        ),
    ],
)
def test_a_wrong_state_is_a_conflict_that_says_which_and_which_would_do(
    cycle: Lifecycle, verb: str, lamp: Lamp, message: str
) -> None:
    with pytest.raises(Conflict) as refused:
        cycle.check(verb, lamp)
    assert refused.value.message == message
    with pytest.raises(Conflict):
        cycle.begin(verb, lamp)


def test_a_verb_that_interrupts_starts_while_another_is_under_way() -> None:
    assert ONE.begin("drop", Lamp("lighting")) == {"status": "dropping"}
    assert TWO.begin("drop", Lamp("broken", "making")) == {"task": "dropping"}


def test_the_end_is_the_stable_state_or_nothing_or_the_same() -> None:
    assert ONE.end("light", failed=False) == {"status": "on"}
    assert ONE.end("light", failed=True) == {"status": "broken"}
    assert ONE.end("drop", failed=False) is None
    assert ONE.end("drop", failed=True) == {"status": "broken"}
    assert TWO.end("light", failed=False) == {"status": "on", "task": ""}
    assert TWO.end("light", failed=True) == {"task": ""}


def test_busy_is_what_a_verb_makes_of_a_record() -> None:
    assert ONE.is_busy(Lamp("lighting")) and not ONE.is_busy(Lamp("on"))
    assert TWO.is_busy(Lamp("on", "lighting")) and not TWO.is_busy(Lamp("on"))
    assert TWO.two_fields and not ONE.two_fields
    assert ONE["drop"].interrupts and not ONE["light"].interrupts


def test_the_states_are_those_that_verbs_end_in_hosts_see_or_administrators_set() -> None:
    assert ONE.stable_states == {"off", "on", "broken", "flickering", "mended"}
    assert ONE.busy_states == {"making", "lighting", "dimming", "dropping"}


def test_one_field_cannot_hold_a_state_that_is_both_busy_and_stable() -> None:
    verbs = {"light": Verb({"off"}, "on", "on", "off")}
    with pytest.raises(ValueError, match="both busy and stable: \\['on'\\]"):
        Lifecycle(verbs)
    assert Lifecycle(verbs, busy="task").two_fields


def test_the_wrong_states_of_each_verb_are_listed_for_tests() -> None:
    assert sorted(ONE.wrong_states()) == sorted(
        [
            *(("light", s) for s in ("on", "broken", "flickering", "mended")),
            *(("dim", s) for s in ("off", "broken", "flickering", "mended")),
            *(("drop", s) for s in ("flickering", "mended")),
        ]
    )


def test_the_diagram_shows_where_verbs_lead() -> None:
    rows = [r.strip() for r in ONE.mermaid().splitlines()]
    assert rows[0] == "stateDiagram-v2"
    for row in (
        "[*] --> making: make",
        "making --> off",
        "making --> broken: fails",
        "dimming --> on",
        "dropping --> [*]",
    ):
        assert row in rows
    assert len(rows) == len(set(rows))

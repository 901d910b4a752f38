"""Settings given as words, and the order in which agents start."""

from __future__ import annotations

from typing import Any

import pytest

from pileus.kernel.contracts import Contract
from pileus.kernel.faults import Invalid
from pileus.kernel.hosts import AgentSpec
from pileus.node.control import find_services
from pileus.node.host import in_order
from pileus.node.settings import chosen


def test_a_setting_is_converted_to_its_type_and_the_others_keep_their_defaults() -> None:
    settings = chosen(["compute.resume_guests=true", "compute.cpu_ratio=2"], find_services())
    found = settings["compute"]
    assert (found.resume_guests, found.cpu_ratio, found.default_zone) == (True, 2.0, "nova")
    assert list(settings) == ["compute"]


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("compute.resume_guests", "SERVICE.NAME=VALUE"),
        ("computer.resume_guests=1", "no service 'computer'; there are compute"),
        ("compute.resume=1", "no setting 'resume'; it has default_zone"),
        ("compute.cpu_ratio=much", "Setting of compute"),
    ],
)
def test_a_wrong_setting_is_refused_with_what_would_be_right(word: str, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        chosen([word], find_services())


@pytest.mark.parametrize("word", ["false", "False", "0"])
def test_ossa_2014_030_and_2015_007_a_false_that_is_spelled_is_not_true(word: str) -> None:
    assert (
        chosen([f"compute.resume_guests={word}"], find_services())["compute"].resume_guests is False
    )


def test_ossa_2014_030_and_2015_007_what_is_neither_true_nor_false_is_refused() -> None:
    with pytest.raises(Invalid, match="Setting of compute"):
        chosen(["compute.resume_guests=insecure"], find_services())


def spec(name: str, *after: str) -> AgentSpec:
    contract: Contract[Any] = Contract(name, object)
    return AgentSpec(contract, lambda host: host, after=after)


def test_agents_start_after_those_they_build_on() -> None:
    found = in_order([spec("guests", "wires", "disks"), spec("disks"), spec("wires", "disks")])
    assert [s.contract.name for s in found] == ["disks", "wires", "guests"]


def test_an_agent_that_is_not_there_is_not_waited_for() -> None:
    assert [s.contract.name for s in in_order([spec("guests", "wires")])] == ["guests"]


def test_agents_that_wait_for_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="a, b"):
        in_order([spec("a", "b"), spec("b", "a")])


def test_guests_start_after_their_network() -> None:
    order = [s.contract.name for s in in_order([a for s in find_services() for a in s.agents])]
    assert order.index("network_host") < order.index("compute_host")

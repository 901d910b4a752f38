"""Settings given as words, and the order in which agents start."""

from __future__ import annotations

import asyncio
import logging
import re
import traceback
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pileus.kernel.contracts import Contract
from pileus.kernel.faults import Invalid, Unavailable
from pileus.kernel.hosts import AgentSpec
from pileus.kernel.nats_bus import NatsSettings
from pileus.kernel.postgres import PostgresStore
from pileus.kernel.world import World
from pileus.node.control import find_services
from pileus.node.host import in_order
from pileus.node.run import Options
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
        ("computer.resume_guests=1", "no service 'computer'; there are block-storage, compute"),
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


_SECRET = re.compile("(passw(or)?d|secret|token|credential|key|ur[il])$")


def test_ossa_2015_008_what_an_operator_gave_in_confidence_is_not_shown() -> None:
    store, bus = "postgresql://me:canary@db/pileus", "nats://canary@bus:4222"
    assert "canary" not in repr(Options(state=Path("x"), store=store, bus=bus))
    nats = NatsSettings(servers=(bus,), token="canary", password="canary")
    assert "canary" not in repr(nats) and "canary" in str(nats.options())
    for service in find_services():
        for name, value in msgspec.to_builtins(service.settings()).items():
            if _SECRET.search(name) and isinstance(value, str):
                given = chosen([f"{service.type}.{name}=canary"], [service])
                assert "canary" not in repr(given), f"{service.type}.{name} is shown by repr()"


@pytest.mark.parametrize("place", ["127.0.0.1:1/x", "127.0.0.1:port/x", "[bad/x", "/x?port=no"])
def test_ossa_2015_008_a_database_that_cannot_be_reached_costs_no_password(
    place: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = "postgresql://me:canary@"

    async def reach() -> None:
        await PostgresStore(url + place, World()).start()

    with caplog.at_level(logging.DEBUG), pytest.raises((Unavailable, ValueError)) as failed:
        asyncio.run(reach())
    told = "".join(traceback.format_exception(failed.value)) + caplog.text
    assert "canary" not in told + str(getattr(failed.value, "internal", ""))


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

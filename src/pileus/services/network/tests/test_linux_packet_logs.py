"""Packet logs against real packets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os

import msgspec
import pytest

from pileus.host.nflog import LoggedPackets
from pileus.services.network.driver import LogSpec
from pileus.services.network.drivers.linux.names import Names
from pileus.services.network.tests.linux_bench import LinuxBench
from pileus.services.network.tests.test_linux_shaping import Play, play
from pileus.testing.drivers.network import DB, OPEN, WEB, WEB_ONLY, document, guest

__all__ = ["play"]  # the fixture
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


def test_what_rules_let_pass_and_what_none_does_is_written_down_once_a_connection(
    play: Play, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pileus.packets")

    def said(word: str) -> list[str]:
        told = [r.getMessage() for r in caplog.records if r.name == "pileus.packets"]
        return [line for line in told if word in line]

    async def told(word: str) -> list[str]:
        """The lines with that word, once there is one; [] if none comes within two seconds."""
        for _ in range(40):
            if found := said(word):
                return found
            await asyncio.sleep(0.05)
        return []

    async def scenario(bench: LinuxBench) -> None:
        both = LogSpec(id="log-1", project_id="one", accepted=True, dropped=True, group=WEB_ONLY)
        web = guest(WEB, "10.0.0.11", WEB_ONLY, logs=(both,))
        desired = document(web, guest(DB, "10.0.0.12"))
        assert (await bench.apply(desired)).errors == {}
        assert await bench.reaches(DB, "10.0.0.11", "tcp", 80), "a logged rule is still a rule"
        (accepted,) = await told("dst_port=80)")
        assert accepted.startswith(
            f"action=ACCEPT project_id=one log_resource_ids=[log-1] vm_port={WEB} pkt=ipv4("
        )
        assert "src=10.0.0.12, dst=10.0.0.11, proto=tcp" in accepted
        assert not await bench.reaches(DB, "10.0.0.11", "tcp", 22)
        dropped = await told("dst_port=22)")
        assert dropped and all(n.startswith("action=DROP ") for n in dropped)
        quiet = msgspec.structs.replace(web, logs=(), groups=(OPEN,))
        await bench.apply(document(quiet, guest(DB, "10.0.0.12"), revision=2))
        assert await bench.reaches(DB, "10.0.0.11", "tcp", 22)
        await asyncio.sleep(0.3)
        assert not [n for n in said("dst_port=22)") if "action=ACCEPT" in n]

    play(scenario)


def test_a_port_whose_packets_cannot_be_logged_works_and_is_told_of(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        group = Names("pl").log_group
        with contextlib.closing(
            await bench.spaces.call(bench.name("h1"), lambda: LoggedPackets(group))
        ):  # somebody else's
            both = LogSpec(id="log-1", project_id="one", accepted=True, dropped=True)
            web = guest(WEB, "10.0.0.11", WEB_ONLY, logs=(both,))
            seen = await bench.apply(document(web, guest(DB, "10.0.0.12")))
            assert "cannot be logged" in seen.errors[WEB]
            assert seen.ports[WEB]
            assert await bench.reaches(DB, "10.0.0.11", "tcp", 80)
            assert not await bench.reaches(DB, "10.0.0.11", "tcp", 22)

    play(scenario)

"""Metering labels against real packets."""

from __future__ import annotations

import os

import msgspec
import pytest

from pileus.services.network.driver import Meter, MeterRule
from pileus.services.network.tests.linux_bench import LinuxBench
from pileus.services.network.tests.test_linux_shaping import Play, play
from pileus.testing.drivers.network import (
    DB,
    FLOATING,
    OUTSIDE_IP,
    WEB,
    document,
    floating,
    guest,
    network,
    public,
    router,
    uuid,
)

__all__ = ["play"]  # the fixture
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
OUT, IN, BUT = (uuid(7, n) for n in (1, 2, 3))
ANYWHERE = "0.0.0.0/0"
_ECHO = 84  # bytes of an echo request and of its answer


def test_packets_through_the_gateway_are_counted_by_label_and_each_once(play: Play) -> None:
    async def scenario(bench: LinuxBench) -> None:
        out = MeterRule(direction="egress", destination=ANYWHERE)
        twice = MeterRule(direction="egress", source="10.0.0.0/24")
        inward = MeterRule(direction="ingress", destination="10.0.0.11/32")
        but = MeterRule(direction="egress", destination=f"{OUTSIDE_IP}/32", excluded=True)
        meters = (
            Meter(id=OUT, rules=(out, twice)),
            Meter(id=IN, rules=(inward,)),
            Meter(id=BUT, rules=(out, but)),
        )
        gate = router(floating(FLOATING, "10.0.0.11"), meters=meters)
        desired = document(
            guest(WEB, "10.0.0.11"),
            guest(DB, "10.0.0.12"),
            networks=(network(), public()),
            routers=(gate,),
        )
        assert (await bench.apply(desired)).errors == {}
        driver = bench.drivers["h1"]
        await driver.metered()
        for source in (WEB, WEB, DB):
            assert await bench.reaches(source, OUTSIDE_IP, "icmp", 8)
        assert await bench.reaches(WEB, "10.0.0.12", "icmp", 8), "not through the gateway"
        assert await driver.metered() == {OUT: (3, 3 * _ECHO), IN: (2, 2 * _ECHO)}
        assert await driver.metered() == {}, "what was told is told once"

        assert await bench.reaches(WEB, OUTSIDE_IP, "icmp", 8)
        fewer = msgspec.structs.replace(gate, meters=meters[:1])
        await bench.apply(msgspec.structs.replace(desired, routers=(fewer,), revision=2))
        assert await bench.reaches(WEB, OUTSIDE_IP, "icmp", 8)
        await bench.apply(msgspec.structs.replace(desired, routers=(), revision=3))
        assert await driver.metered() == {OUT: (2, 2 * _ECHO), IN: (1, _ECHO)}

    play(scenario)

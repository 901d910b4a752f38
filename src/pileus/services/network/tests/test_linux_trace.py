"""What a trace says, and what becomes of the packet itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pileus.services.network.contract import NicInfo
from pileus.services.network.driver import HostNetwork, tap_name
from pileus.services.network.tests.bench import Api, Bench, bench
from pileus.services.network.tests.linux_bench import LinuxBench
from pileus.services.network.tests.linux_bench import run as command
from pileus.services.network.tests.test_trace import group, stop
from pileus.testing.drivers.network import OUTSIDE_IP

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
PREFIX = "zt"


class Guests(LinuxBench):
    """Their taps are in the process's own namespace; the outer network is a bench's host."""

    def home(self, host: str) -> str:
        return ""


@dataclass
class Both:
    cloud: Bench
    guests: Guests

    async def settle(self) -> None:
        await self.cloud.settle()
        wanted = self.cloud.hosts._agents[0][1]._document.network
        networks = {n.id: n for n in wanted.networks}
        for port in wanted.ports:
            if port.id not in self.guests._guests:
                await self.guests._attach("h1", port, networks[port.network_id])

    async def agree(self, nic: NicInfo, address: str, *, stopped_by: str = "") -> None:
        """The rows, the host and a packet."""
        said = await stop(self.cloud.admin, nic.port_id, address)
        arrives = await self.guests.reaches(nic.port_id, address, "tcp", 80)
        assert (stopped_by in said, bool(said), arrives) == (
            True,
            bool(stopped_by),
            not stopped_by,
        ), said


@asynccontextmanager
async def both(scratch: Path) -> AsyncIterator[Both]:
    guests = Guests(scratch)
    try:
        await guests.open()
        place = guests.name("h1")
        async with bench(driver="qemu", underlay=place, prefix=PREFIX) as cloud:
            yield Both(cloud, guests)
            for port_id in list(guests._guests):
                await guests._detach(port_id)
            driver = cloud.driver()
            await driver.apply(HostNetwork(host="", revision=1 << 20))
            await driver.sweep()
    finally:
        await guests.close()


async def pair(b: Both, api: Api, network: str) -> tuple[NicInfo, NicInfo, str, str]:
    """Two guests: one that may send and whom nobody reaches, and one that is open and mute."""
    sends, hears = await group(api, direction="egress"), await group(api)
    await api.make("security_group_rule", security_group_id=hears, direction="ingress")
    (one,) = await b.cloud.boot("p", "one", network, groups=[sends])
    (two,) = await b.cloud.boot("p", "two", network, groups=[hears])
    await b.settle()
    return one, two, one.fixed_ips[0].ip_address, two.fixed_ips[0].ip_address


def test_a_trace_and_a_packet_come_to_the_same_end_within_a_network(tmp_path: Path) -> None:
    async def test() -> None:
        async with both(tmp_path) as b:
            api = b.cloud.as_("p")
            network, _ = await api.network()
            one, two, ip, other = await pair(b, api, network["id"])
            await b.agree(one, other)
            await b.agree(two, ip, stopped_by="has an egress rule for tcp/80")
            await b.agree(one, "10.9.0.5", stopped_by="no router has an interface")
            (three,) = await b.cloud.boot("p", "three", network["id"])
            await b.settle()
            closed = three.fixed_ips[0].ip_address
            await b.agree(one, closed, stopped_by="has an ingress rule for tcp/80")

            strange = "10.0.0.99"
            said = await stop(b.cloud.admin, one.port_id, other, source_ip=strange)
            assert "anti-spoofing" in said
            for source in (ip, strange):
                arrives = await b.guests.sends_as(one.port_id, two.port_id, mac=one.mac, ip=source)
                assert arrives == (source == ip)

            await loses_a_piece(b, one, two, other)
            change = {"port": {"admin_state_up": False}}
            await api.put(f"/ports/{two.port_id}", change)
            await b.settle()
            await b.agree(one, other, stopped_by="administratively down")

    asyncio.run(test())


async def loses_a_piece(b: Both, one: NicInfo, two: NicInfo, other: str) -> None:
    """By somebody's hand, which no row tells of."""
    tap, name = tap_name(two.port_id), f"{PREFIX}b{b.guests._guests[two.port_id].network.id[:11]}"
    await command("ip", "link", "set", tap, "nomaster")
    await b.agree(one, other, stopped_by=f"host fake-1: {two.port_id}: device {tap} is not in")
    await command("ip", "link", "set", tap, "master", name)
    await b.agree(one, other)
    (worn,) = (await b.cloud.admin.get(f"/ports/{two.port_id}")).json["port"]["security_groups"]
    chain = "gi_" + worn.replace("-", "_")
    await command("nft", "flush", "chain", "bridge", f"pileus_{PREFIX}", chain)
    await b.agree(one, other, stopped_by=f"chain {chain} of bridge pileus_{PREFIX} has 0 rules")


def test_a_trace_and_a_packet_come_to_the_same_end_beyond_a_router(tmp_path: Path) -> None:
    async def test() -> None:
        async with both(tmp_path) as b:
            api = b.cloud.as_("p")
            network, _, router = await api.routed()
            one, two, *_ = await pair(b, api, network["id"])
            floating = await api.make("floatingip", floating_network_id=await api.public())
            address = floating["floating_ip_address"]
            await b.agree(one, OUTSIDE_IP)
            await b.agree(one, address, stopped_by="is associated with no port")
            change = {"floatingip": {"port_id": two.port_id}}
            await api.put(f"/floatingips/{floating['id']}", change)
            await b.settle()
            await b.agree(one, address)

            inside = f"{PREFIX}-router-{router['id']}"
            await command("ip", "-n", inside, "route", "del", "default")
            await b.agree(one, OUTSIDE_IP, stopped_by="its route to 0.0.0.0/0")
            info = {"router": {"external_gateway_info": None}}
            assert (
                await api.put(f"/floatingips/{floating['id']}", {"floatingip": {"port_id": None}})
            ).status == 200
            assert (await api.put(f"/routers/{router['id']}", info)).status == 200
            await b.settle()
            await b.agree(one, OUTSIDE_IP, stopped_by=f"has no route to {OUTSIDE_IP}")

    asyncio.run(test())

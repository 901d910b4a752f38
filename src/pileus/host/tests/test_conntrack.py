"""The kernel's connections: which are looked at, and which go. Needs root."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import closing
from ipaddress import ip_address

import pytest

from pileus.host import conntrack
from pileus.host.conntrack import Flow
from pileus.host.netlink import Netlink
from pileus.host.netns import Namespaces
from pileus.host.nftables import Nftables

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
TRACKING = "add table inet t; add chain inet t c { type filter hook output priority 0; }; "
TRACKING += "add rule inet t c ct state new accept"


def speak(address: str) -> None:
    """One packet to whoever has it, which is this machine itself."""
    family = socket.AF_INET6 if ip_address(address).version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as plug:
        plug.sendto(b"?", (address, 9))


def test_only_connections_from_or_to_the_places_are_looked_at() -> None:
    name, namespaces, seen = f"conntracktest{os.getpid()}", Namespaces(), []

    def look(flow: Flow) -> bool:
        seen.append(flow.target)
        return True

    def work() -> list[int]:
        with closing(Netlink()) as link, closing(Nftables()) as rules:
            link.want("lo", mtu=65536)
            rules.run(TRACKING)
            for address in ("127.0.0.1", "127.0.0.2", "::1"):
                speak(address)
            places = ([(0, "127.0.0.9")], [(0, "127.0.0.2")], [(0, "::1")])
            return [conntrack.forget(look, p) for p in places] + [conntrack.forget(look)]

    async def story() -> list[int]:
        await namespaces.create(name)
        try:
            return await namespaces.call(name, work)
        finally:
            await namespaces.remove(name)

    gone = asyncio.run(story())
    namespaces.close()
    assert seen == ["127.0.0.2", "::1", "127.0.0.1"]
    assert gone == [0, 1, 1, 1]

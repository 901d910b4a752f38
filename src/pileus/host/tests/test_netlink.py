"""Devices of the kernel. Needs root."""

from __future__ import annotations

import asyncio
import os
from contextlib import closing

import pytest

from pileus.host.netlink import Netlink
from pileus.host.netns import Namespaces
from pileus.kernel.faults import Unavailable

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]


def test_a_bridge_that_is_full_says_what_it_holds_and_who_else_could() -> None:
    name, namespaces = f"netlinktest{os.getpid()}", Namespaces()

    def work() -> None:
        with closing(Netlink()) as link:
            link.add_bridge("switch", mtu=1500, alias="", filtered=False)
            for number in range(1023):
                link.add_plain(f"d{number}", mtu=1500)
                link.want(f"d{number}", mtu=1500, master="switch", up=False)
            link.add_plain("last", mtu=1500)
            with pytest.raises(Unavailable, match=r"bridge is full.*1,023 ports.*another host"):
                link.want("last", mtu=1500, master="switch", up=False)

    async def story() -> None:
        await namespaces.create(name)
        try:
            await namespaces.call(name, work)
        finally:
            await namespaces.remove(name)

    asyncio.run(story())
    namespaces.close()

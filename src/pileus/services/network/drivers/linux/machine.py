"""The machine as the driver works on it: its namespaces, and netlink and nftables in each."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from pileus.host.netlink import Netlink
from pileus.host.netns import Namespaces, sysctl
from pileus.host.nftables import Nftables
from pileus.kernel.faults import Unavailable
from pileus.services.network.drivers.linux.names import Names, is_of_pileus
from pileus.services.network.drivers.linux.rates import can_queue

T = TypeVar("T")


class Machine:
    """`home` is the namespace that holds bridges and taps, `underlay` the outer network's."""

    def __init__(self, names: Names, namespaces: Namespaces, *, home: str, underlay: str) -> None:
        self.names = names
        self.namespaces = namespaces
        self.home = home
        self.underlay = underlay
        self.same_namespace = False
        self.queues = False  # does the kernel have what rate limits wait in?
        self.changes = 0
        self._links: dict[str, Netlink] = {}
        self._rules: dict[str, Nftables] = {}

    async def start_up(self) -> None:
        """Name the underlay if nobody has: then it is the process's own namespace. Raises
        Unavailable.
        """
        if not _has_tun():
            raise Unavailable("/dev/net/tun is missing: the kernel needs the tun driver.")
        await self.namespaces.attach_own(self.underlay)
        spaces = self.namespaces
        self.same_namespace = spaces.identity(self.home) == spaces.identity(self.underlay)
        for name in {self.home, self.underlay}:
            self._links[name] = await self.namespaces.call(name, Netlink)
            self._rules[name] = await self.namespaces.call(name, Nftables)
            await self._with(name, self._links[name], _filter_chosen_bridges)
        await self.namespaces.call(self.home, _see_through_tags)
        probe = partial(can_queue, self._links[self.home], self.names.limiter("probe" + "-" * 6))
        self.queues = await self.namespaces.call(self.home, probe)

    async def close(self) -> None:
        for link in self._links.values():
            await self.namespaces.call("", link.close)
        for rules in self._rules.values():
            rules.close()
        self._links, self._rules = {}, {}
        self.namespaces.close()

    async def at_home(self, job: Callable[[Netlink], T]) -> T:
        return await self._with(self.home, self._links[self.home], job)

    async def at_underlay(self, job: Callable[[Netlink], T]) -> T:
        return await self._with(self.underlay, self._links[self.underlay], job)

    async def inside(self, namespace: str, job: Callable[[Netlink], T]) -> T:
        """The job with a netlink socket of its own, for a namespace that is seldom visited."""

        def work() -> T:
            with contextlib.closing(Netlink()) as link:
                result = job(link)
                self.changes += link.changes
                return result

        return await self.namespaces.call(namespace, work)

    def home_rules(self, commands: str) -> str:
        """nft's answer. Only from the helper thread."""
        return self._rules[self.home].run(commands)

    def underlay_rules(self, commands: str) -> None:
        """Only from the helper thread."""
        self._rules[self.underlay].run(commands)

    async def _with(self, name: str, link: Netlink, job: Callable[[Netlink], T]) -> T:
        before = link.changes
        try:
            return await self.namespaces.call(name, lambda: job(link))
        finally:
            self.changes += link.changes - before


def _filter_chosen_bridges(link: Netlink) -> None:
    """A bridge says itself whether its frames pass the inet hooks: a kernel takes all of them there, at a tenth of what
    an outer network can carry. Where others have bridges it stays as they found it. In the calling thread's namespace.
    """
    bridges = [each for each in link.links().values() if each.kind == "bridge"]
    if Path("/proc/sys/net/bridge").exists() and all(is_of_pileus(b.alias) for b in bridges):
        for kind in ("iptables", "ip6tables"):
            sysctl(f"net/bridge/bridge-nf-call-{kind}", 0)


def _see_through_tags() -> None:
    """What guests tag themselves is of a connection too. In the calling thread's namespace."""
    if Path("/proc/sys/net/bridge").exists():
        sysctl("net/bridge/bridge-nf-filter-vlan-tagged", 1)


def _has_tun() -> bool:
    return Path("/dev/net/tun").exists()


def no_ipv6(device: str) -> None:
    """The host itself must not speak IPv6 on a guests' device. In the calling thread's namespace."""
    if Path("/proc/sys/net/ipv6/conf", device).exists():
        sysctl(f"net/ipv6/conf/{device}/disable_ipv6", 1)

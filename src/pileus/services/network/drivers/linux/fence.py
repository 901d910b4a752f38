"""The fence of a host's routers: it stands between their ends and the bridges, and closes by itself (ADR 27).

An end that is not held passes nothing either way, ARP and neighbour discovery included. It is the kernel that holds it,
until a time which this process puts off while it lives: so the table is never replaced, but altered in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from math import inf

from pileus.host import nftables as nft
from pileus.kernel.world import Clock
from pileus.services.network.drivers.linux.machine import Machine

_AT_ONCE_S = 0.5  # a slower write may have been stopped on its way, and holds for too long
Ends = Mapping[str, frozenset[str]]  # a router's devices at the bridges


class Fence:
    """One per host. Its routers are held for ever unless it is told until when."""

    def __init__(self, machine: Machine, clock: Clock) -> None:
        self._machine, self._clock = machine, clock
        self._ends: Ends | None = None
        self._until, self._routers = inf, frozenset[str]()

    async def want(self, ends: Ends) -> None:
        """What ends there are, all of them to be held."""
        if ends != self._ends:
            self._ends, self._routers = ends, frozenset(ends)
            await self._write()

    async def hold(self, until: float, routers: Collection[str]) -> None:
        """Of the ends that there are only these routers', and no longer than that (monotonic, s)."""
        self._until, self._routers = until, frozenset(routers)
        if self._ends:
            await self._write()

    async def _write(self) -> None:
        machine = self._machine
        await machine.at_home(lambda _: self._bring(machine.home_rules))
        if not machine.same_namespace:
            await machine.at_underlay(lambda _: self._bring(machine.underlay_rules))

    def _bring(self, run: Callable[[str], object]) -> None:
        begun = -inf
        while self._clock.monotonic() > begun + _AT_ONCE_S:
            begun = self._clock.monotonic()
            run(self._commands(self._until - begun))

    def _commands(self, left_s: float) -> str:
        table = f"bridge {self._machine.names.fence_table}"
        if not self._ends:
            return f"add table {table}\ndelete table {table}\n"
        lines = [
            f"add table {table}",
            f"add set {table} ends {{ type ifname; }}",
            f"add set {table} held {{ type ifname; flags timeout; }}",
        ]
        for chain, hook, word in (
            ("entering", "prerouting priority -310", "iifname"),  # before any other rule of ours
            ("leaving", "postrouting priority 310", "oifname"),
        ):
            lines += [
                f"add chain {table} {chain} {{ type filter hook {hook}; policy accept; }}",
                f"flush chain {table} {chain}",
                f"add rule {table} {chain} {word} @ends {word} != @held drop",
            ]
        held = self._routers if left_s > 0 else ()
        timeout = "" if left_s == inf else f" timeout {left_s * 1000:.0f}ms"
        lines += _filled(f"{table} ends", self._ends.values(), "")
        lines += _filled(f"{table} held", (self._ends.get(id, ()) for id in held), timeout)
        return "\n".join(lines) + "\n"


def _filled(name: str, devices: Iterable[Iterable[str]], timeout: str) -> list[str]:
    """The set holds these and nothing else."""
    items = sorted(f"{nft.interface(d)}{timeout}" for some in devices for d in some)
    return [
        f"flush set {name}",
        *([f"add element {name} {{ {', '.join(items)} }}"] if items else []),
    ]

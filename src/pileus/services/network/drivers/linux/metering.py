"""What passes a router, counted by label: a table of its own in the router's namespace, so that other rules' changes
cost no count.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Container

from pileus.host import nftables as nft
from pileus.kernel.faults import Unavailable
from pileus.services.network.driver import Meter, MeterRule, RouterSpec
from pileus.services.network.drivers.linux.machine import Machine
from pileus.services.network.drivers.linux.routers import outer_devices

log = logging.getLogger(__name__)
_NAME = "pileus_meters"
_TABLE = f"table inet {_NAME}"
_COUNT = re.compile(r"counter n_(\S+) \{\s*packets (\d+) bytes (\d+)")


class Meters:
    """The counts that nobody was told yet: packets and bytes by label."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._packets, self._octets = Counter[str](), Counter[str]()
        self._written: dict[str, RouterSpec] = {}

    async def want(self, router: RouterSpec) -> None:
        """The router's meters, and none without a way to the outside. What others had counted is kept."""
        old = self._written.get(router.id)
        if not router.meters and old is None:
            return
        if old is not None and _counted(old) == _counted(router):
            return
        await self._collect(router.id)
        await self._run(router.id, _commands(router))
        self._written[router.id] = router

    async def keep(self, router_ids: Container[str]) -> None:
        """The others' namespaces go; what they counted stays."""
        for id in [id for id in self._written if id not in router_ids]:
            await self._collect(id)
            del self._written[id]

    async def taken(self) -> dict[str, tuple[int, int]]:
        """What passed since this was asked last, by label: packets and bytes."""
        for router_id in self._written:
            await self._collect(router_id)
        found = {id: (self._packets[id], self._octets[id]) for id in self._packets}
        self._packets.clear()
        self._octets.clear()
        return found

    async def _collect(self, router_id: str) -> None:
        """Reads the router's counts and sets them to nothing, in one; a namespace that is gone took its own along."""
        try:
            told = await self._run(router_id, f"add {_TABLE}\nreset counters {_TABLE}\n")
        except (Unavailable, OSError) as error:
            log.warning("the counts of router %s are lost: %s", router_id, error)
            return
        for label, packets, octets in _COUNT.findall(told):
            if packets != "0":
                self._packets[label.replace("_", "-")] += int(packets)
                self._octets[label.replace("_", "-")] += int(octets)

    async def _run(self, router_id: str, commands: str) -> str:
        def work() -> str:
            rules = nft.Nftables()
            try:
                return rules.run(commands)
            finally:
                rules.close()

        space = self._machine.names.router_namespace(router_id)
        return await self._machine.namespaces.call(space, work)


def _counted(router: RouterSpec) -> tuple[tuple[Meter, ...], list[str]]:
    return router.meters, [g.port_id for g in router.gateways]


def _commands(router: RouterSpec) -> str:
    """The whole table: a chain for each label, in which what is excluded comes first."""
    lines = [f"add {_TABLE}", f"delete {_TABLE}", f"add {_TABLE}"]
    if router.gateway is None:
        return "\n".join(lines) + "\n"
    outer = outer_devices(router)
    hook = "type filter hook forward priority 10; policy accept;"
    lines.append(f"add chain inet {_NAME} passing {{ {hook} }}")
    for meter in router.meters:
        count, chain = nft.name("n_", meter.id), nft.name("l_", meter.id)
        lines += [f"add counter inet {_NAME} {count}", f"add chain inet {_NAME} {chain}"]
        for rule in sorted(meter.rules, key=lambda r: not r.excluded):
            end = "return" if rule.excluded else f"counter name {count} return"
            lines.append(f"add rule inet {_NAME} {chain} {_matched(rule, outer)} {end}")
        lines.append(f"add rule inet {_NAME} passing jump {chain}")
    return "\n".join(lines) + "\n"


def _matched(rule: MeterRule, outer: str) -> str:
    words = [f"{'oifname' if rule.direction == 'egress' else 'iifname'} {outer}"]
    for end, block in (("saddr", rule.source), ("daddr", rule.destination)):
        if block:
            words.append(f"{'ip6' if ':' in block else 'ip'} {end} {nft.block(block)}")
    return " ".join(words)

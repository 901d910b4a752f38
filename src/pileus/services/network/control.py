"""Control's side of the hosts: gives each its document in pieces, and hears how things turned out.

A security group's rules are what somebody waits for: they go ahead of the document.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from pileus.kernel.faults import Fault
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Page, Reader, Tx

from .desired import HostDocument, host_document, rule_spec
from .driver import RuleSpec
from .floating_ip import FLOATING_IPS, tell_floating
from .memory import Memory
from .metering import tell_metered
from .port import ACTIVE, DOWN, PORTS
from .ports.lifecycle import tell
from .router import ROUTERS
from .routers.placement import tenure
from .security_group import RULES
from .settings import settings_of
from .wiring import NETWORK_HOST, Piece, Traffic, hint_host, hosts_of_groups

log = logging.getLogger(__name__)
_PIECE = 192 * 1024  # a bus message is at most 256 KiB
_OPEN = 64  # documents being fetched in pieces
encode_document = msgspec.msgpack.Encoder().encode
decode_document = msgspec.msgpack.Decoder(HostDocument).decode


def digest_of(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class KeptControl:
    """Network's side of `wiring.NetworkControl`."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime, self.memory = runtime, Memory(runtime.store)
        self._open: OrderedDict[str, tuple[str, bytes]] = OrderedDict()

    async def desired(self, host: str, known: str, digest: str, offset: int) -> Piece:
        kept = self._open.get(host)
        if offset and kept is not None and kept[0] == digest:
            return self._piece(host, *kept, offset)
        domain = settings_of(self.runtime).dns_domain
        data = encode_document(await host_document(self.memory, host, domain))
        now = digest_of(data)
        if now == known:
            return Piece(digest=now, size=len(data))
        return self._piece(host, now, data, offset if now == digest else 0)

    def _piece(self, host: str, digest: str, data: bytes, offset: int) -> Piece:
        end = offset + _PIECE
        if end < len(data):
            self._open[host] = (digest, data)
            self._open.move_to_end(host)
            if len(self._open) > _OPEN:
                self._open.popitem(last=False)
        else:
            self._open.pop(host, None)
        return Piece(digest=digest, size=len(data), data=data[offset:end])

    async def observed(self, host: str, up: list[str], down: list[str]) -> None:
        async with self.runtime.store.tx(wait=False) as tx:
            for ids, status in ((up, ACTIVE), (down, DOWN)):
                await self._ports(tx, host, ids, status)
                await self._floating(tx, host, ids, status)

    async def tenure(self, host: str, ends: bool) -> float:
        return await tenure(self.runtime, host, ends)

    async def metered(self, host: str, passed: dict[str, Traffic]) -> None:
        at = self.runtime.world.clock.time()
        async with self.runtime.store.tx(wait=False) as tx:
            await tell_metered(tx, host, at, passed)

    async def _ports(self, tx: Tx, host: str, ids: Sequence[str], status: str) -> None:
        """A port that moved on meanwhile is another host's to tell of."""
        if not ids:
            return
        for port in await PORTS.list(tx, Page({"id": ids, "host": host}, limit=1 << 30)):
            if port.status != status:
                await tell(tx, "update", await PORTS.change(tx, port, status=status))

    async def _floating(self, tx: Tx, host: str, ids: Sequence[str], status: str) -> None:
        """Nor is one whose router did."""
        if not ids:
            return
        found = await FLOATING_IPS.list(tx, Page({"id": ids}, limit=1 << 30))
        routers = Page({"id": {fip.router_id for fip in found}, "host": host}, limit=1 << 30)
        here = {id for (id,) in await ROUTERS.page(tx, routers, select=("id",))}
        for fip in found:
            if fip.status != status and fip.port_id and fip.router_id in here:
                await tell_floating(tx, "update", await FLOATING_IPS.change(tx, fip, status=status))


async def tell_group(runtime: Runtime, group_id: str) -> None:
    """Tells a group's hosts its rules, until those are what it was told: another control may tell at the
    same time, and later what is older. Hinted at when they were committed: what others write meanwhile
    is not waited for.
    """
    told: list[RuleSpec] | None = None
    while (rules := await _rules(runtime.store, group_id)) != told:
        told = rules
        hosts = await hosts_of_groups(runtime.store, [group_id])
        await asyncio.gather(*(_regroup(runtime, host, group_id, rules) for host in sorted(hosts)))


async def _rules(db: Reader, group_id: str) -> list[RuleSpec]:
    page = Page({"security_group_id": group_id}, (("id", False),), limit=1 << 30)
    return [rule_spec(r) for r in await RULES.list(db, page)]


async def _regroup(runtime: Runtime, host: str, group_id: str, rules: list[RuleSpec]) -> None:
    """Whom that does not reach hears of them with its next document."""
    try:
        await runtime.agents.proxy(NETWORK_HOST, host).regroup(group_id, rules)
    except Fault as fault:  # gone, or of an earlier version that knows no such call
        log.info("group %s is not told to host %s at once: %s", group_id, host, fault.message)
        await hint_host(runtime, host)

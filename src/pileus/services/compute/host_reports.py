"""Control's ear for compute hosts: what they have, which guests they found, and power that changed by itself."""

from __future__ import annotations

from pileus.kernel.events import emit
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Page, Tx
from pileus.services.compute.agent_contract import Orders
from pileus.services.compute.aggregates import aggregates_of
from pileus.services.compute.driver import (
    CRASHED,
    NO_STATE,
    PAUSED,
    RUNNING,
    SHUTDOWN,
    SUSPENDED,
    Guest,
    Inventory,
)
from pileus.services.compute.mirror import mirror
from pileus.services.compute.nodes import NODES, Node
from pileus.services.compute.server import SERVERS, Server
from pileus.services.compute.servers import states
from pileus.services.compute.settings import settings_of
from pileus.services.placement.contract import PLACEMENT
from pileus.services.placement.contract import Inventory as Amount

_FIRST_NUMBER = 3  # 1 and 2 are control's own services in `os-services`


class HostReports:
    """Keeps COMPUTE_CONTROL."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    async def joined(self, host: str, inventory: Inventory, powers: dict[str, int]) -> Orders:
        """Keeps what servers stand for; a server whose guest is gone is off."""
        node = await self._note(host, inventory)
        await self._report(node)
        resume = settings_of(self.runtime).resume_guests
        keep, start, changing = [], [], []
        page = Page(sorts=(), limit=1_000_000, scopes=_on(host))
        for server in await SERVERS.list(self.runtime.store, page):
            keep.append(server.id)
            if server.host != host:
                changing.append(server.id)
                continue
            if server.task_state or server.move or server.vm_state == states.RESCUED:
                changing.append(server.id)
            power = powers.get(server.id, NO_STATE)
            is_off = power in (SHUTDOWN, CRASHED)
            if resume and is_off and server.vm_state == states.ACTIVE and not server.task_state:
                start.append(server.id)
            else:
                await self._see(server, power)
        return Orders(keep=keep, start=start, changing=changing)

    async def power(self, host: str, guest: Guest) -> None:
        server = await SERVERS.find(self.runtime.store, guest.id)
        if server is not None and server.host == host:
            await self._see(server, guest.power_state)

    async def unknown(self, host: str, guest_ids: list[str]) -> list[str]:
        page = Page({"id": guest_ids}, (), 1_000_000, scopes=_on(host))
        known = {r[0] for r in await SERVERS.page(self.runtime.store, page, select=("id",))}
        return [id for id in guest_ids if id not in known]

    async def _see(self, server: Server, power: int) -> None:
        """Brings the record in line with the guest (NO_STATE: there is none), unless a saga is about to."""
        if not _observed(server, power):
            return
        async with self.runtime.store.tx() as tx:
            fresh = await SERVERS.find(tx, server.id)
            if fresh is None or fresh.task_state or fresh.vm_state == states.BUILDING:
                return
            changes = _observed(fresh, power)
            if changes:
                await SERVERS.change(tx, fresh, **changes)
                await emit(tx, "compute.instance.update", fresh.project_id, id=fresh.id)

    async def _note(self, host: str, inventory: Inventory) -> Node:
        async with self.runtime.store.tx() as tx:
            known = await NODES.one(tx, host=host)
            if known is None:
                return await _insert(tx, self.runtime, host, inventory)
            if known.inventory != inventory:
                return await NODES.change(tx, known, inventory=inventory)
            return known

    async def _report(self, node: Node) -> None:
        """The provider has the hypervisor's UUID, as users expect."""
        ratios, inventory = settings_of(self.runtime), node.inventory
        amounts = {
            "VCPU": Amount(total=inventory.vcpus, allocation_ratio=ratios.cpu_ratio),
            "MEMORY_MB": Amount(total=inventory.ram_mib, allocation_ratio=ratios.ram_ratio),
            "DISK_GB": Amount(total=inventory.disk_gib, allocation_ratio=ratios.disk_ratio),
        }
        usable = {name: amount for name, amount in amounts.items() if amount.total > 0}
        usable |= inventory.besides
        if not self.runtime.contracts.has(PLACEMENT):
            return  # switched off: hosts join all the same, and a create says what is missing
        placement = self.runtime.contracts.get(PLACEMENT)
        await placement.report(node.host, usable, frozenset(inventory.traits), id=node.id)
        own = (await aggregates_of(self.runtime.store)).get(node.host, ())
        within = {a.uuid: True for a in own}
        await mirror(self.runtime, node.host, disabled=node.disabled, aggregates=within)


def _on(host: str) -> tuple[dict[str, str], ...]:
    """The servers that are there, come from there or go there: in one query, or one that lands meanwhile is neither."""
    return {"host": host}, {"other_host": host}


# A rescued server whose guest went off stays rescued: its own disk comes back with `unrescue` only.
_ON = frozenset((states.ACTIVE, states.PAUSED, states.SUSPENDED))
_HOLDS = {PAUSED: states.PAUSED, SUSPENDED: states.SUSPENDED}


def _observed(server: Server, power: int) -> dict[str, object]:
    changes: dict[str, object] = {} if power == server.power_state else {"power_state": power}
    state = server.vm_state
    if state in _ON and power in (SHUTDOWN, CRASHED, NO_STATE):
        changes["vm_state"] = states.STOPPED
    elif state in (states.STOPPED, states.PAUSED, states.SUSPENDED) and power == RUNNING:
        changes["vm_state"] = states.ACTIVE
    elif state == states.ACTIVE and power in _HOLDS:
        changes["vm_state"] = _HOLDS[power]
    return changes


async def _insert(tx: Tx, runtime: Runtime, host: str, inventory: Inventory) -> Node:
    await tx.lock("compute.nodes")
    last = await NODES.list(tx, Page({}, (("number", True),), limit=1))
    node = Node(
        id=runtime.world.new_id(),
        host=host,
        service_id=runtime.world.new_id(),
        number=last[0].number + 1 if last else _FIRST_NUMBER,
        inventory=inventory,
    )
    return await NODES.insert(tx, node)

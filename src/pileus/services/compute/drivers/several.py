"""Virtual machines and containers on one host: one driver for each, and one room for both.

A guest stays with the driver that made it. Which one makes it, its image says.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from pileus.services.compute.driver import ComputeDriver, Guest, GuestSpec, Inventory, Watcher


class SeveralComputeDrivers:
    """`ComputeDriver` over two. The verbs of one guest are not named here: they all go the same way."""

    def __init__(self, machines: ComputeDriver, containers: ComputeDriver) -> None:
        self._machines, self._containers = machines, containers
        self._owners: dict[str, ComputeDriver] = {}

    async def start_up(self) -> None:
        for driver in self._both:
            await driver.start_up()
            self._owners |= {guest.id: driver for guest in await driver.guests()}

    async def close(self) -> None:
        for driver in self._both:
            await driver.close()
        self._owners.clear()

    async def spawn(self, spec: GuestSpec) -> Guest:
        is_container = spec.image is not None and spec.image.is_for_containers
        made_by = self._containers if is_container else self._machines
        driver = self._owners.setdefault(spec.id, made_by)
        return await driver.spawn(spec)

    async def destroy(self, guest_id: str) -> None:
        """Whoever made it: one of them may have died before it said so."""
        for driver in self._both:
            await driver.destroy(guest_id)
        self._owners.pop(guest_id, None)

    async def drop_snapshot(self, guest_id: str, name: str) -> None:
        for driver in self._both:
            await driver.drop_snapshot(guest_id, name)

    async def changed(self) -> list[str]:
        return [guest_id for driver in self._both for guest_id in await driver.changed()]

    async def guests(self) -> list[Guest]:
        found = [guest for driver in self._both for guest in await driver.guests()]
        return sorted(found, key=lambda guest: guest.id)

    async def inventory(self) -> Inventory:
        """The machine's, once; what it can do is what either can."""
        found, other = await self._machines.inventory(), await self._containers.inventory()
        traits = dict.fromkeys((*found.traits, *other.traits))
        return msgspec.structs.replace(found, traits=tuple(traits))

    async def sweep(self, keep: set[str]) -> list[str]:
        gone = [guest_id for driver in self._both for guest_id in await driver.sweep(keep)]
        self._owners = {id: owner for id, owner in self._owners.items() if id in keep}
        return sorted(gone)

    def watch(self, callback: Watcher) -> None:
        for driver in self._both:
            driver.watch(callback)

    def __getattr__(self, verb: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        """A verb whose first argument is a guest, by id or as it shall be."""

        async def call(guest: str | GuestSpec, *rest: object, **named: object) -> object:
            guest_id = guest if isinstance(guest, str) else guest.id
            owner = self._owners.get(guest_id, self._machines)  # which says that it has no such
            return await getattr(owner, verb)(guest, *rest, **named)

        if not hasattr(ComputeDriver, verb):
            raise AttributeError(verb)
        return call

    @property
    def _both(self) -> tuple[ComputeDriver, ComputeDriver]:
        return self._machines, self._containers

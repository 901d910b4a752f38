"""What other services may ask of placement. Hosts are root resource providers of the same name."""

from __future__ import annotations

from typing import Protocol

import msgspec

from pileus.kernel.contracts import Contract


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """Of one resource class at one provider."""

    total: int
    reserved: int = 0
    min_unit: int = 1
    max_unit: int = 0  # 0: the total
    step_size: int = 1
    allocation_ratio: float = 1.0


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What a consumer needs: amounts by resource class, and traits its provider must or must not have."""

    resources: dict[str, int]
    required: frozenset[str] = frozenset()
    forbidden: frozenset[str] = frozenset()


class Placement(Protocol):
    async def report(
        self, host: str, inventories: dict[str, Inventory], traits: frozenset[str]
    ) -> None:
        """Makes the host's provider say this; writes only what changed."""

    async def claim(
        self, consumer_id: str, demand: Demand, among: list[str], project_id: str, user_id: str
    ) -> str:
        """Chooses one of the hosts (the one with most room) and allocates there, in one transaction.

        A consumer that has an allocation already keeps it: the same host is given again. Raises NoCapacity, whose
        message names each host and why it was passed over.
        """

    async def set_aside(self, consumer_id: str, aside_id: str) -> None:
        """What the consumer holds is held by another from now on; nothing happens if that one holds anything."""

    async def take_back(self, consumer_id: str, aside_id: str) -> None:
        """The consumer holds again what was set aside, and nothing else; nothing happens if nothing was."""

    async def release(self, consumer_id: str) -> None:
        """Gives back what the consumer holds, if anything."""


PLACEMENT = Contract("placement", Placement)  # type: ignore[type-abstract]

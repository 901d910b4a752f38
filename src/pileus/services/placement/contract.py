"""What other services may ask of placement. Hosts are root resource providers of the same name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from pileus.kernel.contracts import Contract
from pileus.kernel.faults import NoCapacity

NO_HOST = "No valid host was found."
_NONE = "There is no host to choose from"
_NAMED = 20  # hosts of one reason that are told by name


class Inventory(msgspec.Struct, frozen=True, kw_only=True):
    """Of one resource class at one provider."""

    total: int
    reserved: int = 0
    min_unit: int = 1
    max_unit: int = 0  # 0: the total
    step_size: int = 1
    allocation_ratio: float = 1.0


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """What one provider is to give: amounts by resource class, and traits it must or must not have."""

    resources: dict[str, int]
    required: frozenset[str] = frozenset()
    forbidden: frozenset[str] = frozenset()
    member_of: tuple[frozenset[str], ...] = ()  # of each, one aggregate


class Demand(Group, frozen=True, kw_only=True):
    """What a consumer needs of one host: its own group may be spread over the host's providers.

    `groups`: by suffix, each of one provider; `isolated`: no provider serves two of them.
    """

    groups: dict[str, Group] = {}
    isolated: bool = False


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """How a host could serve a demand: provider -> class -> amount.

    `room`: the part of what the host has of each class that is free. `seen`: the providers' generations then.
    """

    host: str
    allocations: Mapping[str, Mapping[str, int]]
    room: Mapping[str, float]
    seen: Mapping[str, int]


def refusal(reasons: Mapping[str, str]) -> NoCapacity:
    """Out of each host's reason, figures in brackets: how many for which in the message, which hosts for who may know."""
    hosts: dict[str, list[str]] = defaultdict(list)
    for host, why in reasons.items():
        kind, bracket, figures = why.partition(" (")
        hosts[kind].append(host + bracket + figures)
    kinds = sorted(hosts.items(), key=lambda k: -len(k[1]))
    short = [f"{len(h)} host{'s' * (len(h) > 1)}: {kind}" for kind, h in kinds]
    whole = []
    for kind, names in kinds:
        rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        whole.append(f"{kind}: {', '.join(names[:_NAMED])}{rest}")
    return NoCapacity(
        f"{NO_HOST} {'; '.join(short) or _NONE}.",
        internal=f"{NO_HOST} {'; '.join(whole) or _NONE}.",
    )


class Placement(Protocol):
    async def report(
        self,
        host: str,
        inventories: dict[str, Inventory],
        traits: frozenset[str],
        *,
        id: str = "",
        below: str = "",
    ) -> None:
        """Makes the host's provider say this; writes only what changed. `id`: a new provider's ("": any).

        `below`: it is a part of that host, and there is nothing to say of it before the host has a provider.
        """

    async def describe(
        self, host: str, traits: Mapping[str, bool], aggregates: Mapping[str, bool]
    ) -> None:
        """Gives the host's provider those that are true, takes those that are not; all others stay as they are."""

    async def forget(self, host: str) -> None:
        """The host's providers go. Raises Conflict while something is held of them."""

    def offers(
        self, demand: Demand, *, among: Collection[str] | None = None, stack: bool = False
    ) -> AsyncIterator[list[Offer]]:
        """One offer of each host that has room, in growing slices: the emptiest hosts first, or the fullest (`stack`).

        `among` names the hosts (None: any). Whoever takes from the first slices reads no more, however many there are.
        """

    async def take(
        self, consumer_id: str, offers: Sequence[Offer], project_id: str, user_id: str
    ) -> str:
        """Allocates the first offer whose host is as it was seen, else that with most room left; "" if none holds.

        A consumer that has an allocation already keeps it, and its host is the answer.
        """

    async def why_not(self, demand: Demand, among: Collection[str]) -> dict[str, str]:
        """Of each host why it can't serve the demand: a few words, then figures in brackets."""

    async def claim(
        self,
        consumer_id: str,
        demand: Demand,
        among: Collection[str],
        project_id: str,
        user_id: str,
    ) -> str:
        """Offers and takes at once: the host. Raises NoCapacity, see `refusal`."""

    async def set_aside(
        self,
        consumer_id: str,
        aside_id: str,
        *,
        only: Collection[Group] | None = None,
        keeps: Collection[Group] = (),
    ) -> None:
        """What the consumer holds is held by another from now on; nothing happens if that one holds anything.

        `only`: as much of it as one provider each gave for these, beyond what is for those that it `keeps`.
        """

    async def take_back(self, consumer_id: str, aside_id: str, *, besides: bool = False) -> None:
        """The consumer holds again what was set aside, and nothing else; nothing happens if nothing was.

        `besides`: and what it holds now.
        """

    async def release(self, consumer_id: str) -> None:
        """Gives back what the consumer holds, if anything."""


PLACEMENT = Contract("placement", Placement)  # type: ignore[type-abstract]

"""Hosts: they join by a heartbeat, which is a lease; what has not been heard of lately is down.

A host says which contracts it serves, at which versions, and facts about itself. One message may speak for many
hosts (the fake driver pretends to be thousands).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from .agents import Agents
from .contracts import Contract
from .store import Page, Reader, Record, Table

if TYPE_CHECKING:
    from .runtime import Runtime
    from .world import World

BEAT_S = 5.0
LEASE_S = 20.0  # three beats may be lost
START_S = 60.0  # a host of many guests takes so long to start
_JOINED = "hosts.joined"


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """One host's sign of life. `contracts`: name -> version. `address`: where other hosts reach it.
    `speaker`: another host of the same process, whose later beats are this one's too."""

    host: str
    contracts: dict[str, int]
    address: str = ""
    facts: dict[str, Any] = {}
    speaker: str = ""


class Host(Record, kw_only=True, frozen=True):
    """A host as last heard of; its name is the id. `term`: how often its speaker had joined when it joined with it."""

    contracts: dict[str, int]
    address: str = ""
    seen_at: float = 0.0
    started: int = 1  # how often it joined anew
    facts: dict[str, Any] = {}
    speaker: str = ""
    term: int = 0

    def is_up(self, now: float, lease_s: float = LEASE_S) -> bool:
        return now - self.seen_at < lease_s


HOSTS = Table("hosts", Host, columns=("address",), indexes=(("address",),))


class HostRegistry(Protocol):
    """What hosts call on control."""

    async def beat(self, beats: list[Beat], joining: bool) -> None:
        """Renews the leases. `joining`: the host process has just started."""


HOST_REGISTRY = Contract("hosts", HostRegistry)  # type: ignore[type-abstract]


class Registry:
    """Control's side: keeps the table, and tells every control when a host joins."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    async def start(self) -> None:
        """Calls that a host was given before it started anew end, so that their sagas ask again."""

        async def joined(subject: str, payload: bytes) -> None:
            for host in msgspec.json.decode(payload, type=list[str]):
                self.runtime.agents.restarted(host)

        await self.runtime.bus.subscribe(_JOINED, joined)

    async def beat(self, beats: list[Beat], joining: bool) -> None:
        if joining:
            await self.runtime.bus.publish(_JOINED, msgspec.json.encode([b.host for b in beats]))
        now = self.runtime.world.clock.time()
        async with self.runtime.store.tx(wait=joining) as tx:
            for b in beats:
                known = await HOSTS.find(tx, b.host)
                speaker = await HOSTS.find(tx, b.speaker)
                said = {n: getattr(b, n) for n in ("contracts", "address", "facts", "speaker")}
                said |= {"seen_at": now, "term": speaker.started if speaker else 0}
                if known is None:
                    await HOSTS.insert(tx, Host(id=b.host, **said))
                else:  # what a host that starts anew has not said again yet, it said before
                    said |= {"facts": known.facts | b.facts, "started": known.started + joining}
                    await HOSTS.change(tx, known, **said)


async def hosts_of(db: Reader, contract: Contract[Any], **filters: Any) -> list[Host]:
    """Every host that serves the contract, up or down, by name."""
    known = await HOSTS.list(db, Page(filters, (("id", False),), limit=100_000))
    return await heard(db, [h for h in known if contract.name in h.contracts])


async def heard(db: Reader, hosts: list[Host]) -> list[Host]:
    """The hosts with the last sign of life of those who speak for them."""
    names = sorted({h.speaker for h in hosts} - {""})
    if not names:
        return hosts
    found = await HOSTS.list(db, Page({"id": names}, limit=len(names)))
    seen = {(s.id, s.started): s.seen_at for s in found}
    at = (seen.get((h.speaker, h.term), h.seen_at) for h in hosts)
    return [msgspec.structs.replace(h, seen_at=t) for h, t in zip(hosts, at, strict=True)]


@dataclass
class HostRuntime:
    """What a host's agents are made of. `driver`: qemu or fake. `control_url`: for bytes, by ticket.

    `underlay` names the network namespace that stands for the host's outer network; `address` is the host's in it.
    `deliver` takes bytes to a path of control where there are no sockets to do it over."""

    world: World
    agents: Agents
    name: str
    state: Path
    driver: str
    control_url: str
    address: str = ""
    underlay: str = ""
    deliver: Callable[[str, bytes], Awaitable[None]] | None = None
    prefix: str = ""  # tells this host's kernel objects from another's on the same machine
    settings: Mapping[str, Any] = field(default_factory=dict)  # of each service, by its type


class HostAgent(Protocol):
    """One service's part of a host: keeps a contract and owns a driver."""

    async def start(self) -> dict[str, Any]:
        """Adopts what the machine holds, reports to control, and gives the host's facts."""

    async def stop(self) -> None:
        """Lets go; guests and packets go on."""

    async def forget(self) -> None:
        """Removes all that this host holds. Instead of `start`, with nobody to ask."""


@dataclass(frozen=True)
class AgentSpec:
    """An agent that every host runs. What `make` gives is a HostAgent and keeps `contract`.

    `after` names contracts whose agents start before it: what they set up is what it builds on.
    """

    contract: Contract[Any]
    make: Callable[[HostRuntime], Any]
    after: tuple[str, ...] = ()

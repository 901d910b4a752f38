"""What a segment is: one piece of layer 2 that a network is made of, where it is, and how it gets its number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from pileus.kernel.faults import Conflict, Fault
from pileus.kernel.hosts import HOSTS, Host
from pileus.kernel.store import Column, Reader, Unique
from pileus.kernel.world import World

from .checks import LAST_VLAN, OUTSIDE
from .refusals import bad_input
from .resource import COLUMNS, Noun, Nouns

FLAT, VLAN, VXLAN = "flat", "vlan", "vxlan"
LAST_TUNNEL = (1 << 24) - 1
WIRED = "physical_networks"  # a host's fact: the names of those that it has besides
Ranges = Mapping[str, Sequence[int]]  # physical network: the VLANs that may be drawn


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where frames are: in tunnels, or on a physical network, under a number; 0 is one that is to be drawn."""

    network_type: str = VXLAN
    physical_network: str = ""
    segmentation_id: int = 0

    @property
    def key(self) -> str:
        parts = (self.network_type, self.physical_network, self.segmentation_id)
        return ":".join(str(p) for p in parts if p)


class Segment(Noun, kw_only=True, frozen=True):
    network_id: str
    network_type: str
    physical_network: str = ""
    segmentation_id: int = 0
    segment_index: int = 0

    @property
    def place(self) -> Place:
        return Place(
            network_type=self.network_type,
            physical_network=self.physical_network,
            segmentation_id=self.segmentation_id,
        )


def _taken(place: Place) -> tuple[str, str]:
    if place.network_type == FLAT:
        return (
            "FlatNetworkInUse",
            "Unable to create the flat network. "
            f"Physical network {place.physical_network} is in use.",
        )
    what, where = f"tunnel ID {place.segmentation_id}", ""
    if place.network_type == VLAN:
        what = f"VLAN {place.segmentation_id}"
        where = f" on physical network {place.physical_network}"
    code = "VlanIdInUse" if where else "TunnelIdInUse"
    return code, f"Unable to create the network. The {what}{where} is in use."


SEGMENTS = Nouns[Segment](
    "network_segments",
    Segment,
    columns=(
        *COLUMNS,
        "network_id",
        "network_type",
        "physical_network",
        "segmentation_id",
        "segment_index",
        Column("place", lambda s: s.place.key),
    ),
    unique=(Unique(("place",), lambda s: _taken(s.place)[1], "TunnelIdInUse"),),
    indexes=(("network_id", "segment_index"),),
    noun="Segment",
).worded("SegmentNotFound", "Segment {id} could not be found.")


def checked_place(kind: str, physical: str, number: int | None, ranges: Ranges) -> Place:
    """Raises Invalid for one that no segment can have."""
    if kind not in (FLAT, VLAN, VXLAN):
        raise bad_input(f"network_type value '{kind[:32]}' not supported; use flat, vlan or vxlan")
    if kind == FLAT and not physical:
        raise bad_input("physical_network required for flat provider network")
    if kind == FLAT and number:
        raise bad_input("segmentation_id prohibited for flat provider network")
    if kind == VXLAN and physical:
        raise bad_input("provider:physical_network specified for vxlan network")
    if kind == VLAN and physical and physical not in ranges:
        known = ", ".join(ranges) or "none"
        raise bad_input(
            f"physical_network '{physical[:64]}' unknown for VLAN provider network; known: {known}"
        )
    if kind == VLAN and number is not None and not physical:
        raise bad_input("segmentation_id requires physical_network for VLAN provider network")
    last = LAST_VLAN if kind == VLAN else LAST_TUNNEL
    if number is not None and kind != FLAT and not 1 <= number <= last:
        raise bad_input(f"segmentation_id out of range (1 through {last})")
    return Place(network_type=kind, physical_network=physical, segmentation_id=number or 0)


async def drawn(db: Reader, world: World, wanted: Place, ranges: Ranges) -> Place:
    """With a number, where it needs one and has none. Raises Conflict if all are taken."""
    if wanted.segmentation_id or wanted.network_type == FLAT:
        return wanted
    if wanted.network_type == VXLAN:
        return await _free_tunnel(db, world)
    return await _free_vlan(db, wanted.physical_network, ranges)


async def refuse_taken(db: Reader, place: Place) -> None:
    """The type's segments are held. Raises Conflict."""
    if await SEGMENTS.one(db, place=place.key) is not None:
        code, message = _taken(place)
        raise Conflict(message, code=code)


async def _free_tunnel(db: Reader, world: World) -> Place:
    for _ in range(64):
        found = Place(segmentation_id=world.random.randint(1, LAST_TUNNEL))
        if await SEGMENTS.one(db, place=found.key) is None:
            return found
    raise _none_left()


async def _free_vlan(db: Reader, physical: str, ranges: Ranges) -> Place:
    """The lowest; of any physical network that has one, where none is named."""
    for name in [physical] if physical else ranges:
        used = {
            s.segmentation_id
            for s in await SEGMENTS.all(db, network_type=VLAN, physical_network=name)
        }
        for number in ranges[name]:
            if number not in used:
                return Place(network_type=VLAN, physical_network=name, segmentation_id=number)
    raise _none_left()


def _none_left() -> Fault:
    return Conflict(
        "Unable to create the network. No tenant network is available for allocation.",
        code="NoNetworkAvailable",
    )


async def segments_of(db: Reader, network_id: str) -> list[Segment]:
    """In the order in which a host tries them."""
    found = await SEGMENTS.all(db, network_id=network_id)
    return sorted(found, key=lambda s: s.segment_index)


async def wired(db: Reader, host: str) -> frozenset[str]:
    """The physical networks that a host has, as it says itself."""
    known = await HOSTS.find(db, host)
    return at_host(known) if known is not None else frozenset((OUTSIDE,))


def at_host(host: Host) -> frozenset[str]:
    return frozenset((OUTSIDE, *host.facts.get(WIRED, ())))


def reached(places: Iterable[Place | Segment], physical: frozenset[str]) -> int:
    """Which of a network's segments a host with these physical networks is on; -1: on none."""
    for at, place in enumerate(places):
        if place.network_type == VXLAN or place.physical_network in physical:
            return at
    return -1


async def segment_at(db: Reader, network_id: str, host: str) -> Segment | None:
    """The segment of the network that the host is on."""
    segments = await segments_of(db, network_id)
    at = reached(segments, await wired(db, host))
    return segments[at] if at >= 0 else None

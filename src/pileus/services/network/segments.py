"""Segments: the pieces of layer 2 that a network is made of, one by one (API reference: segments).

On a network whose subnets are each on a segment, a port's address is of the segment that its host is on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from pileus.kernel.faults import Conflict
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context
from pileus.kernel.store import Match, Tx

from .attributes import Attributes, changes_of
from .network import NETWORKS, at_places
from .networks import Networks, refuse_untagged
from .plain import Plain
from .port import PORTS
from .resource import ADMIN, hold, kept_by, listing, standard
from .segment import (
    SEGMENTS,
    Segment,
    checked_place,
    drawn,
    reached,
    refuse_taken,
    segments_of,
    wired,
)
from .settings import settings_of
from .subnet import SUBNETS
from .wiring import wake_networks

_FIXED = frozenset({"id", "created_at", "updated_at", "revision_number"})


class CreateSegment(Attributes):
    root: ClassVar[str] = "segment"
    plural: ClassVar[str] = "segments"
    fixed = _FIXED

    network_id: str
    network_type: str
    physical_network: str | None = None
    segmentation_id: int | None = None
    name: str | None = None
    description: str | None = None
    project_id: str = ""


class Segments(
    Plain[Segment],
    path="/segments",
    create=CreateSegment,
    update=changes_of(
        CreateSegment, "network_id", "network_type", "physical_network", "segmentation_id"
    ),
):
    table = SEGMENTS
    noun = "segment"
    plural = "segments"
    id_param = "segment_id"
    see = "get_segment"
    rules = kept_by(ADMIN, "segment", readers=ADMIN)
    listing = listing(
        ("network_id", "network_type", "physical_network"),
        False,
        segmentation_id=Filter(kind=int),
    )

    def view(self, ctx: Context, record: Segment) -> dict[str, Any]:
        s = record
        shown = standard(s)
        for name in ("project_id", "tenant_id", "tags"):
            del shown[name]
        return shown | {
            "name": s.name or None,
            "description": s.description or None,
            "network_id": s.network_id,
            "network_type": s.network_type,
            "physical_network": s.physical_network or None,
            "segmentation_id": s.segmentation_id or None,
        }

    async def checked(
        self, ctx: Context, given: dict[str, Any], old: Segment | None
    ) -> dict[str, Any]:
        if old is None:
            network = await Networks().visible(ctx, given["network_id"])
            vlans = settings_of(ctx.runtime).vlans
            wanted = checked_place(
                given["network_type"],
                given.get("physical_network", ""),
                given.get("segmentation_id"),
                vlans,
            )
            refuse_untagged(network.vlan_transparent, network.qinq, [wanted])
            place = await drawn(ctx.runtime.store, ctx.runtime.world, wanted, vlans)
            given |= msgspec.structs.asdict(place)
        return given

    async def enter(self, tx: Tx, new: Segment, old: Segment | None) -> Segment:
        if old is not None:
            return new
        await hold(tx, "networks", new.network_id)
        await hold(tx, "segments", new.network_type)
        await refuse_taken(tx, new.place)
        others = await segments_of(tx, new.network_id)
        index = others[-1].segment_index + 1 if others else 0
        new = msgspec.structs.replace(new, segment_index=index)
        await _keep(tx, new.network_id, [*others, new])
        return new

    async def leave(self, tx: Tx, record: Segment) -> None:
        await hold(tx, "networks", record.network_id)
        subnets = await SUBNETS.all(tx, segment_id=record.id)
        if subnets:
            ids = ", ".join(s.id for s in subnets)
            raise _in_use(record, f"The segment is still associated with subnet(s) {ids}")
        segments = await segments_of(tx, record.network_id)
        ports = await PORTS.all(tx, network_id=record.network_id, host=Match("gt", ""))
        bound = 0
        for host, count in Counter(p.host for p in ports).items():
            at = reached(segments, await wired(tx, host))
            bound += count if at >= 0 and segments[at].id == record.id else 0
        if bound:
            raise _in_use(record, f"The segment is still bound with {bound} port(s)")
        await _keep(tx, record.network_id, [s for s in segments if s.id != record.id])

    async def changed(self, ctx: Context, *records: Segment) -> None:
        await wake_networks(ctx.runtime, *{r.network_id for r in records})


async def _keep(tx: Tx, network_id: str, segments: Sequence[Segment]) -> None:
    """The network, which is held, knows where its segments are."""
    network = await NETWORKS.get(tx, network_id)
    await NETWORKS.revise(tx, network, **at_places([s.place for s in segments]))


def _in_use(segment: Segment, reason: str) -> Conflict:
    return Conflict(f"Segment '{segment.id}' cannot be deleted: {reason}.", code="SegmentInUse")

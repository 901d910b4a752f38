"""What a network is, and how it gets its segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from pileus.kernel.events import emit
from pileus.kernel.faults import Conflict
from pileus.kernel.quota import Quota
from pileus.kernel.store import Column, Many, Reader, Tx
from pileus.kernel.world import World

from .rbac_policy import follow_flags
from .resource import COLUMNS, SHARED_WITH, TAGS, Nouns, Shared, hold
from .segment import SEGMENTS, VXLAN, Place, Ranges, Segment, drawn, refuse_taken


class Network(Shared, kw_only=True, frozen=True):
    """Where its first segment is, and where further ones are; `routed`: its subnets are on one segment each.

    These and `subnets`, the ids of its subnets, are kept here so that a list needs no second look.
    """

    admin_state_up: bool = True
    external: bool = False
    external_to: list[str] = []
    is_default: bool = False
    mtu: int = 1450
    port_security_enabled: bool = True
    dns_domain: str = ""
    network_type: str = VXLAN
    physical_network: str = ""
    segmentation_id: int = 0
    more_segments: list[Place] = []
    routed: bool = False
    vlan_transparent: bool = False
    qinq: bool = False
    availability_zone_hints: list[str] = []
    subnets: list[str] = []
    qos_policy_id: str = ""
    ipv4_address_scope: str = ""
    ipv6_address_scope: str = ""
    pvlan: bool = False  # private: see `pvlan.py`

    @property
    def places(self) -> list[Place]:
        """Of its segments; one that lost them all has none."""
        first = Place(
            network_type=self.network_type,
            physical_network=self.physical_network,
            segmentation_id=self.segmentation_id,
        )
        return [first, *self.more_segments] if self.network_type else []

    @property
    def is_outer(self) -> bool:
        """Is it the outside for anybody?"""
        return self.external or bool(self.external_to)

    def is_external_to(self, project_id: str) -> bool:
        return self.external or project_id in self.external_to


EXTERNAL_TO = Many[Any]("external_to", lambda n: n.external_to)


def at_places(places: Sequence[Place]) -> dict[str, Any]:
    """What a network keeps of where its segments are."""
    first = places[0] if places else Place(network_type="")
    return {**msgspec.structs.asdict(first), "more_segments": list(places[1:])}


def _keys(network: Network) -> str:
    return ",".join(p.key for p in network.places)


NETWORKS = Nouns[Network](
    "network_networks",
    Network,
    columns=(
        *COLUMNS,
        "admin_state_up",
        "shared",
        "external",
        "is_default",
        "mtu",
        "port_security_enabled",
        "network_type",
        "physical_network",
        "segmentation_id",
        "qos_policy_id",
        "pvlan",
        Column("status", lambda n: "ACTIVE"),
        "vlan_transparent",
        "qinq",
        # written for control processes of before segments were rows, while those run beside this one
        Column("segment", _keys),
    ),
    many=(TAGS, SHARED_WITH, EXTERNAL_TO),
    quotas=(Quota("network", "network", default=100),),
    indexes=(("project_id", "created_at", "id"), ("external",), ("shared",), ("qos_policy_id",)),
    noun="Network",
).worded("NetworkNotFound", "Network {id} could not be found.")


def network_target(network: Network, project_id: str) -> dict[str, object]:
    """What rules may ask of a network, or of a thing in it, when that project asks."""
    return {
        "project_id": network.project_id,
        "shared": network.is_shared_to(project_id),
        "router:external": network.is_external_to(project_id),
        "network:project_id": network.project_id,
    }


async def add_network(
    tx: Tx, world: World, network: Network, ranges: Ranges | None = None
) -> Network:
    """Writes it with segments of its own; `ranges`: the VLANs that may be drawn. Raises Conflict."""
    await hold(tx, "segments", *(p.network_type for p in network.places))
    places = []
    for index, wanted in enumerate(network.places):
        places.append(await drawn(tx, world, wanted, ranges or {}))
        if places[-1] == wanted:
            await refuse_taken(tx, wanted)
        await SEGMENTS.insert(tx, segment_of(world, network, places[-1], index))
    network = msgspec.structs.replace(network, **at_places(places))
    await refuse_second_default(tx, network)
    await follow_flags(tx, world, "network", None, network)
    network = await NETWORKS.insert(tx, network)
    await emit(tx, "network.create.end", network.project_id, id=network.id)
    return network


def segment_of(world: World, network: Network, place: Place, index: int) -> Segment:
    return Segment(
        id=world.new_id(),
        project_id=network.project_id,
        network_id=network.id,
        segment_index=index,
        **msgspec.structs.asdict(place),
    )


async def refuse_second_default(tx: Reader, network: Network) -> None:
    """There is one default outside, or it would be unclear which is meant. Raises Conflict."""
    if network.external and network.is_default:
        other = await NETWORKS.one(tx, external=1, is_default=1)
        if other is not None and other.id != network.id:
            raise Conflict(
                f"A default external network already exists: {other.id}.",
                code="DefaultExternalNetworkExists",
            )

"""What a network is, and how it gets its segment."""

from __future__ import annotations

from typing import Any

import msgspec

from pileus.kernel.events import emit
from pileus.kernel.faults import Conflict
from pileus.kernel.quota import Quota
from pileus.kernel.store import Column, Many, Reader, Tx, Unique
from pileus.kernel.world import World

from .rbac_policy import follow_flags
from .resource import COLUMNS, SHARED_WITH, TAGS, Nouns, Shared, hold

VXLAN, FLAT = "vxlan", "flat"
LAST_SEGMENT = (1 << 24) - 1


class Network(Shared, kw_only=True, frozen=True):
    """`segmentation_id` is the VXLAN identifier; a flat network has a physical network instead.

    `subnets` are the ids of its subnets, kept here so that a list needs no second look.
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
    availability_zone_hints: list[str] = []
    subnets: list[str] = []
    qos_policy_id: str = ""
    ipv4_address_scope: str = ""
    ipv6_address_scope: str = ""
    pvlan: bool = False  # private: see `pvlan.py`

    @property
    def is_outer(self) -> bool:
        """Is it the outside for anybody?"""
        return self.external or bool(self.external_to)

    def is_external_to(self, project_id: str) -> bool:
        return self.external or project_id in self.external_to


EXTERNAL_TO = Many[Any]("external_to", lambda n: n.external_to)


def _segment(n: Network) -> str:
    if n.network_type == VXLAN:
        return f"{VXLAN}:{n.segmentation_id}"
    return f"{n.network_type}:{n.physical_network}"


def _segment_taken(n: Network) -> str:
    if n.network_type == VXLAN:
        return (
            "Unable to create the network. The tunnel ID "
            f"{n.segmentation_id} is in use."
        )  # fmt: skip
    return (
        "Unable to create the flat network. "
        f"Physical network {n.physical_network} is in use."
    )  # fmt: skip


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
        Column("segment", _segment),
    ),
    unique=(Unique(("segment",), _segment_taken, "TunnelIdInUse"),),
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


async def add_network(tx: Tx, world: World, network: Network) -> Network:
    """Writes it with a segment of its own."""
    await hold(tx, "segments", network.network_type)
    if network.network_type == VXLAN and not network.segmentation_id:
        segment = await _free_segment(tx, world)
        network = msgspec.structs.replace(network, segmentation_id=segment)
    await refuse_second_default(tx, network)
    await follow_flags(tx, world, "network", None, network)
    network = await NETWORKS.insert(tx, network)
    await emit(tx, "network.create.end", network.project_id, id=network.id)
    return network


async def refuse_second_default(tx: Reader, network: Network) -> None:
    """There is one default outside, or it would be unclear which is meant. Raises Conflict."""
    if network.external and network.is_default:
        other = await NETWORKS.one(tx, external=1, is_default=1)
        if other is not None and other.id != network.id:
            raise Conflict(
                f"A default external network already exists: {other.id}.",
                code="DefaultExternalNetworkExists",
            )


async def _free_segment(tx: Reader, world: World) -> int:
    for _ in range(64):
        segment = world.random.randint(1, LAST_SEGMENT)
        if await NETWORKS.one(tx, segment=f"{VXLAN}:{segment}") is None:
            return segment
    raise Conflict(
        "Unable to create the network. No tenant network is available for allocation.",
        code="NoNetworkAvailable",
    )

"""What QoS policies promise guests at least: a port's `resource_request`, and what placement has of it on each host.

Placement keeps it: a server is placed where its ports' reservations find room beside those of others. A host's network
is a provider below the host's own, with as much as the operator says (`settings.py`); it says nothing by itself.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from uuid import UUID, uuid5

from pileus.kernel.faults import Conflict, Fault
from pileus.kernel.hosts import hosts_of
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Match, Reader, Tx
from pileus.services.placement.contract import PLACEMENT, Inventory

from .agents import agent_id, note_down
from .contract import Reservation
from .network import NETWORKS, Network
from .port import PORTS, Port
from .qos_policy import ANY, EGRESS, INGRESS, QOS_POLICIES, RESERVING, QosPolicy, Rule
from .segment import at_host
from .settings import settings_of
from .wiring import NETWORK_HOST

log = logging.getLogger(__name__)
RECONCILER, PERIOD_S = "network.reservations", 60.0
_CLASSES = {
    ("minimum_bandwidth", EGRESS): "NET_BW_EGR_KILOBIT_PER_SEC",
    ("minimum_bandwidth", INGRESS): "NET_BW_IGR_KILOBIT_PER_SEC",
    ("minimum_packet_rate", EGRESS): "NET_PACKET_RATE_EGR_KILOPACKET_PER_SEC",
    ("minimum_packet_rate", INGRESS): "NET_PACKET_RATE_IGR_KILOPACKET_PER_SEC",
    ("minimum_packet_rate", ANY): "NET_PACKET_RATE_KILOPACKET_PER_SEC",
}
_TUNNELS = "CUSTOM_NETWORK_TUNNEL_PROVIDER"
_NOT_IN_TRAITS = re.compile("[^A-Z0-9_]")


def _trait(kind: str, name: str) -> str:
    return f"CUSTOM_{kind}_{_NOT_IN_TRAITS.sub('_', name.upper())}"


def _network_trait(network: Network) -> str:
    found = network.physical_network
    return _trait("PHYSNET", found) if found else _TUNNELS


def _amount(rule: Rule) -> int:
    return int(rule.values["min_kbps" if rule.type == "minimum_bandwidth" else "min_kpps"])


def _reservations(port: Port, network: Network, policy: QosPolicy) -> list[Reservation]:
    found = []
    for kind in RESERVING:
        rules = [r for r in policy.rules if r.type == kind and _amount(r)]
        where = [_network_trait(network)] if kind == "minimum_bandwidth" else []
        if rules:
            found.append(
                Reservation(
                    id=str(uuid5(UUID(port.id), "".join(sorted(r.id for r in rules)))),
                    required=[*where, _trait("VNIC_TYPE", port.vnic_type)],
                    resources={_CLASSES[kind, str(r.kind[1])]: _amount(r) for r in rules},
                )
            )
    return found


async def reservations_of(
    db: Reader, ports: Sequence[Port], under: Mapping[str, str]
) -> dict[str, list[Reservation]]:
    """By port, of those that have any. `under`: the networks' policies, by network."""
    named = {p.id: p.qos_policy_id or under.get(p.network_id, "") for p in ports}
    ids = sorted(set(named.values()) - {""})
    policies = {p.id: p for p in await QOS_POLICIES.all(db, id=ids)} if ids else {}
    subject = [p for p in ports if named[p.id] in policies]
    wanted = sorted({p.network_id for p in subject})
    networks = {n.id: n for n in await NETWORKS.all(db, id=wanted)} if wanted else {}
    found = {p.id: _reservations(p, networks[p.network_id], policies[named[p.id]]) for p in subject}
    return {id: some for id, some in found.items() if some}


async def refuse_bound(tx: Tx, policy_id: str) -> None:
    """What placement holds for a guest stays as it was claimed. Raises Conflict."""
    networks = [n.id for n in await NETWORKS.all(tx, qos_policy_id=policy_id)]
    guests = {"guest": Match("ne", "")}
    for port in (
        *await PORTS.all(tx, qos_policy_id=policy_id, **guests),
        *(await PORTS.all(tx, network_id=networks, qos_policy_id="", **guests) if networks else ()),
    ):
        raise Conflict(
            f"QoS Policy {policy_id} is used by port {port.id}, for which its minimum is reserved: "
            f"detach the port from server {port.guest} first.",
            code="QosPolicyInUse",
        )


async def tell_placement(runtime: Runtime, key: str) -> None:
    """The standing fact: each host's network has what the operator says it has."""
    chosen, store = settings_of(runtime), runtime.store
    told = {_CLASSES["minimum_bandwidth", d]: chosen.host_bandwidth_kbps for d in (EGRESS, INGRESS)}
    told[_CLASSES["minimum_packet_rate", ANY]] = chosen.host_packet_rate_kpps
    amounts = {name: Inventory(total=total) for name, total in told.items() if total}
    if not amounts or not runtime.contracts.has(PLACEMENT):
        return
    for host in await hosts_of(store, NETWORK_HOST):
        physical = (_trait("PHYSNET", n) for n in at_host(host))
        traits = frozenset((_TUNNELS, _trait("VNIC_TYPE", "normal"), *physical))
        name = f"{host.id}:network"
        try:
            await runtime.contracts.get(PLACEMENT).report(name, amounts, traits, below=host.id)
        except Fault as fault:
            log.warning("placement is not told of %s: %s", name, fault.message)
            await note_down(store, agent_id(host.id), synced=False)
        else:
            await note_down(store, agent_id(host.id), synced=True)

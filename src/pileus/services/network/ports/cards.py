"""Ports that are to be cards of a host: no host here hands one out, but a Nova of somebody else's may.

What ports say of them beside this (`numa_affinity_policy`, `propagate_uplink_status`) is for whoever hands them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from pileus.kernel.faults import Invalid
from pileus.kernel.store import Tx
from pileus.kernel.world import World

from ..port import Port
from .bodies import mac_address
from .lifecycle import free_mac

_WHOLE = "direct-physical"
_ACCELERATORS = ("accelerator-direct", "accelerator-direct-physical")
CARDS = ("direct", "macvtap", _WHOLE, "virtio-forwarder", "vdpa", "remote-managed", *_ACCELERATORS)


def offloading(profile: dict[str, Any], kind: str) -> dict[str, Any]:
    """The binding's profile with that kind of offload, if any, among the card's capabilities."""
    known = profile.get("capabilities")
    known = known if isinstance(known, list) else []
    return {**profile, "capabilities": [*known, kind]} if kind and kind not in known else profile


def card_mac(port: Port) -> str:
    """The MAC of the whole card that a port is, as told by who binds it; "" of any other. Raises Invalid."""
    told = port.profile.get("device_mac_address") if port.vnic_type == _WHOLE else None
    return mac_address(str(told)) if told and port.host else ""


async def worn_mac(tx: Tx, world: World, port: Port, changes: Mapping[str, Any]) -> dict[str, str]:
    """What changes with the binding of a whole card: it wears its MAC, and a free one when let go. Raises Invalid."""
    new = replace(port, **changes)
    bound = bool(new.host) and (new.host, new.profile) != (port.host, port.profile)
    freed = bool(port.device_id) and not (new.device_id or new.device_owner)
    if new.vnic_type != _WHOLE or not (bound or freed):
        return {}
    worn = card_mac(new) if bound else ""
    return {"mac_address": worn or await free_mac(tx, world, port.network_id)}


def refuse_accelerator(port: Port) -> None:
    """Raises Invalid, as Nova does where no accelerator service is."""
    if port.vnic_type in _ACCELERATORS:
        why = f"No device profile for port {port.id}."
        if port.device_profile:
            why = "Could not communicate with Cyborg: the catalog has no accelerator service."
        raise Invalid(f"Device profile name {port.device_profile or None}: {why}")


def refuse_card(port: Port, guest_id: str) -> None:
    """Raises Invalid for what no host has."""
    if port.vnic_type in CARDS:
        raise Invalid(
            f"Failed to claim PCI device for {guest_id} during interface attach: no host has a card "
            f"for port {port.id}, of vnic_type {port.vnic_type}."
        )

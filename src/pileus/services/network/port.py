"""What a port is: an address card of a network, bound to a device and, when that runs, to a host."""

from __future__ import annotations

import msgspec

from pileus.kernel.quota import Quota
from pileus.kernel.store import Column, Many, Unique

from .resource import COLUMNS, Noun, Nouns

ROUTER_INTERFACE = "network:router_interface"
ROUTER_GATEWAY = "network:router_gateway"
FLOATING_IP = "network:floatingip"
ROUTER_OWNERS = (ROUTER_INTERFACE, ROUTER_GATEWAY)
SERVICE_OWNERS = (*ROUTER_OWNERS, FLOATING_IP)
COMMUNITY = "community"
ACTIVE, DOWN = "ACTIVE", "DOWN"


class Fixed(msgspec.Struct, frozen=True, kw_only=True):
    subnet_id: str
    ip_address: str


class AddressPairing(msgspec.Struct, frozen=True, kw_only=True):
    """Another address that the port may send from."""

    mac_address: str
    ip_address: str


class ExtraDhcpOpt(msgspec.Struct, frozen=True, kw_only=True):
    opt_name: str
    opt_value: str
    ip_version: int = 4


class Port(Noun, kw_only=True, frozen=True):
    """`project_id` "" is the cloud's own (a router's gateway, a floating IP). `host` is where it is bound.

    `guest` is the server that compute attached it to (a device_id anybody may write); `made`: made for that guest, so
    it goes with it; `order` and `nic_tag`: as the guest asked for it.
    """

    network_id: str
    network_project_id: str = ""
    mac_address: str
    admin_state_up: bool = True
    status: str = DOWN
    device_id: str = ""
    device_owner: str = ""
    fixed_ips: list[Fixed] = []
    bare: bool = False  # was asked to have no address
    deferred: bool = False  # gets its addresses with its host
    security_groups: list[str] = []
    port_security_enabled: bool = True
    allowed_address_pairs: list[AddressPairing] = []
    extra_dhcp_opts: list[ExtraDhcpOpt] = []
    host: str = ""
    next_host: str = ""  # where it is wired too, for a guest that is on its way there or from there
    vnic_type: str = "normal"
    profile: dict[str, object] = {}
    next_profile: dict[str, object] = {}
    dns_name: str = ""
    dns_domain: str = ""
    dns_zone: str = (
        ""  # the domain that it was named in: its own or its network's, keywords replaced
    )
    qos_policy_id: str = ""
    pvlan_type: str = ""  # its part in a private network
    pvlan_community: str = ""
    numa_affinity_policy: str = ""
    device_profile: str = ""
    hardware_offload_type: str = ""
    trusted: bool | None = None  # None: nobody said
    propagate_uplink_status: bool = True
    guest: str = ""
    made: bool = False
    order: int = 0
    nic_tag: str = ""


def _addresses(p: Port) -> list[str]:
    return [
        text
        for f in p.fixed_ips
        for text in (f"ip_address={f.ip_address}", f"subnet_id={f.subnet_id}")
    ]


def part_of(p: Port) -> str:
    """Its part in a private network, in one word for those that are of one community."""
    return f"{COMMUNITY} {p.pvlan_community}" if p.pvlan_type == COMMUNITY else p.pvlan_type


def binding_of(p: Port) -> dict[str, object]:
    """How it is wired on its host."""
    return {
        "vnic_type": p.vnic_type,
        "profile": p.profile if p.trusted is None else {**p.profile, "trusted": p.trusted},
        "vif_type": "bridge" if p.host else "unbound",
        "vif_details": {"port_filter": p.port_security_enabled} if p.host else {},
    }


def ip_allocation(p: Port) -> str:
    return "none" if p.bare else "deferred" if p.deferred else "immediate"


PORTS = Nouns(
    "network_ports",
    Port,
    columns=(
        *COLUMNS,
        "network_id",
        "network_project_id",
        "mac_address",
        "admin_state_up",
        "status",
        "device_id",
        "device_owner",
        "host",
        "next_host",
        "guest",
        "port_security_enabled",
        "vnic_type",
        "dns_name",
        "qos_policy_id",
        "pvlan_type",
        "pvlan_community",
        Column("ip_allocation", ip_allocation),
    ),
    unique=(
        Unique(
            ("network_id", "mac_address"),
            lambda p: (
                f"Unable to complete operation for network {p.network_id}. "
                f"The mac address {p.mac_address} is in use."
            ),
            "MacAddressInUse",
        ),
    ),
    many=(
        Many("fixed_ips", lambda p: list(dict.fromkeys(_addresses(p)))),
        Many("security_groups", lambda p: p.security_groups),
        Many("tags", lambda p: p.tags),
    ),
    quotas=(Quota("network", "port", default=500, of=lambda p: 1 if p.project_id else 0),),
    indexes=(
        ("project_id", "created_at", "id"),
        ("network_id", "created_at", "id"),
        ("device_id",),
        ("host",),
        ("next_host",),
        ("guest",),
        ("network_project_id",),
        ("qos_policy_id",),
    ),
    noun="Port",
).worded("PortNotFound", "Port {id} could not be found.")


def port_target(port: Port) -> dict[str, object]:
    return {
        "project_id": port.project_id,
        "device_owner": port.device_owner,
        "network:project_id": port.network_project_id,
    }

"""What a port may be asked to be, and the grammar of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_interface, ip_network
from typing import Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType, field

from pileus.kernel.faults import Conflict, Invalid

from ..attributes import Attributes, changes_of, domain_name, printable, text
from ..port import AddressPairing, ExtraDhcpOpt
from ..pvlan import CommunityName, Part
from ..refusals import bad_input

_MAC = re.compile(r"[0-9a-fA-F]{2}(?:[:-][0-9a-fA-F]{2}){5}")
_MOST_PAIRS = 10  # upstream's max_allowed_address_pair
_MOST_OPTIONS = 32
Affinity = Literal["required", "preferred", "legacy", "socket"]
_MULTICAST: Any = {4: ip_network("224.0.0.0/4"), 6: ip_network("ff00::/8")}
VNIC_TYPES = (
    "normal",
    "direct",
    "macvtap",
    "baremetal",
    "direct-physical",
    "virtio-forwarder",
    "smart-nic",
    "vdpa",
    "accelerator-direct",
    "accelerator-direct-physical",
    "remote-managed",
)


class FixedRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    subnet_id: str | None = None
    ip_address: str | None = None


class PairRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    ip_address: str
    mac_address: str | None = None


class OptionRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value of null takes the option away."""

    opt_name: str
    opt_value: str | None = None
    ip_version: int = 4


_FIXED = frozenset(
    [
        "id",
        "status",
        "created_at",
        "updated_at",
        "revision_number",
        "dns_assignment",
        "qos_network_policy_id",
        "resource_request",
        "ip_allocation",
        "binding:vif_type",
        "binding:vif_details",
    ]
)


class CreatePort(Attributes):
    root: ClassVar[str] = "port"
    plural: ClassVar[str] = "ports"
    fixed = _FIXED
    defaults = {
        "device_owner": "",
        "device_id": "",
        "binding:host_id": "",
        "binding:profile": {},
        "binding:vnic_type": "normal",
    }

    network_id: str
    name: str = ""
    description: str = ""
    project_id: str | UnsetType = UNSET
    admin_state_up: bool = True
    mac_address: str | None = None
    fixed_ips: list[FixedRequest] | UnsetType | None = UNSET
    device_id: str | None = ""
    device_owner: str | None = ""
    security_groups: list[str] | UnsetType | None = UNSET
    port_security_enabled: bool | UnsetType = UNSET
    allowed_address_pairs: list[PairRequest] | None = None
    extra_dhcp_opts: list[OptionRequest] | None = None
    host: str | None = field(name="binding:host_id", default="")
    profile: dict[str, Any] | None = field(name="binding:profile", default=None)
    vnic_type: str = field(name="binding:vnic_type", default="normal")
    dns_name: str = ""
    dns_domain: str = ""
    qos_policy_id: str | None = None
    pvlan_type: Part | None = None
    pvlan_community: CommunityName | None = None
    numa_affinity_policy: Affinity | None = None
    device_profile: str | None = None
    hardware_offload_type: Literal["switchdev"] | UnsetType = UNSET
    trusted: bool | UnsetType = UNSET
    propagate_uplink_status: bool = True
    tags: list[str] = []


UpdatePort = changes_of(CreatePort, "network_id", "tags", "device_profile", "hardware_offload_type")


def mac_address(value: str) -> str:
    """In lower case with colons. Raises Invalid."""
    found = value.lower().replace("-", ":")
    if not _MAC.fullmatch(value) or found == "00:00:00:00:00:00" or int(found[:2], 16) & 1:
        raise Invalid(
            f"Invalid input for mac_address. Reason: '{value[:40]}' is not a valid MAC address."
        )
    return found


def vnic_type(value: str) -> str:
    if value not in VNIC_TYPES:
        raise Invalid(
            f"Invalid input for binding:vnic_type. Reason: '{value[:40]}' is not in {VNIC_TYPES}."
        )
    return value


def address_pairs(given: Sequence[PairRequest], mac: str) -> list[AddressPairing]:
    """Pairs without a MAC get the port's. Raises Invalid."""
    if len(given) > _MOST_PAIRS:
        raise Invalid(
            f"The number of allowed address pair exceeds the maximum {_MOST_PAIRS}.",
            code="AllowedAddressPairExhausted",
        )
    found: list[AddressPairing] = []
    for pair in given:
        try:
            outside = ip_interface(pair.ip_address[:64]).network
        except ValueError:
            raise Invalid(
                f"Invalid input for allowed_address_pairs. Reason: '{pair.ip_address[:64]}' "
                "is not a valid IP address or subnet."
            ) from None
        multicast = _MULTICAST[outside.version]
        if outside.prefixlen and outside.overlaps(multicast):
            raise Invalid(
                f"Invalid input for allowed_address_pairs. Reason: Subnet {outside} overlaps with "
                f"multicast range {multicast}, which is not supported."
            )
        own = mac_address(pair.mac_address) if pair.mac_address else mac
        made = AddressPairing(mac_address=own, ip_address=pair.ip_address)
        if made in found:
            raise bad_input(
                f"Request contains duplicate address pair: mac_address {own} "
                f"ip_address {pair.ip_address}",
                "DuplicateAddressPairInRequest",
            )
        found.append(made)
    return found


def dhcp_options(
    given: Sequence[OptionRequest], known: Sequence[ExtraDhcpOpt] = ()
) -> list[ExtraDhcpOpt]:
    """The known options changed by the given ones. Raises Invalid: these values reach a server's configuration."""
    found = {(o.opt_name, o.ip_version): o for o in known}
    for option in given:
        name = printable(option.opt_name, "extra_dhcp_opts").strip()
        if not name:
            raise Invalid("Invalid input for extra_dhcp_opts. Reason: opt_name must not be blank.")
        if option.ip_version not in (4, 6):
            raise Invalid("Invalid input for extra_dhcp_opts. Reason: ip_version must be 4 or 6.")
        if option.opt_value is None:
            found.pop((name, option.ip_version), None)
            continue
        value = printable(option.opt_value, "extra_dhcp_opts")
        made = ExtraDhcpOpt(opt_name=name, opt_value=value, ip_version=option.ip_version)
        found[name, option.ip_version] = made
    if len(found) > _MOST_OPTIONS:
        raise bad_input(f"A port may have {_MOST_OPTIONS} extra_dhcp_opts, not {len(found)}")
    return list(found.values())


def named(name: str, description: str, device_id: str, device_owner: str) -> None:
    """Raises Invalid for texts that are too long."""
    text(name, "name")
    text(description, "description")
    printable(device_id, "device_id")
    printable(device_owner, "device_owner")


def dns_label(value: str) -> str:
    return domain_name(value, "dns_name")


def secured(security: bool, groups: Sequence[str], pairs: Sequence[AddressPairing]) -> None:
    """Groups and pairs are filters, so there must be filtering. Raises Invalid, Conflict."""
    if security:
        return
    if groups:
        raise bad_input(
            "Port security must be enabled and port must have an IP address in order to use "
            "security groups",
            "PortSecurityAndIPRequiredForSecurityGroups",
        )
    if pairs:
        raise Conflict(
            "Port Security must be enabled in order to have allowed address pairs on a port.",
            code="AddressPairAndPortSecurityRequired",
        )

"""What an operator may choose about networks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import msgspec

from pileus.kernel.runtime import Runtime

from .checks import LAST_VLAN

_RANGE = re.compile(r"([^:]+)(?::(\d{1,4}):(\d{1,4}))?")
_DEVICE = re.compile(r"[^\s/:]{1,15}")  # as the kernel names them


def _words(text: str) -> list[str]:
    return [w for w in text.replace(" ", "").split(",") if w]


@lru_cache(maxsize=8)
def _vlans(text: str) -> Mapping[str, Sequence[int]]:
    found: dict[str, list[int]] = {}
    for word in _words(text):
        parts = _RANGE.fullmatch(word)
        low, high = int(parts[2] or 1) if parts else 0, int(parts[3] or 0) if parts else 0
        if parts is None or (parts[2] and not 1 <= low <= high <= LAST_VLAN):
            raise ValueError(f"{word!r} is not PHYSICAL or PHYSICAL:LOW:HIGH, of 1 to {LAST_VLAN}")
        found.setdefault(parts[1], []).extend(range(low, high + 1))
    return found


class NetworkSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Each field with its reason."""

    public_name: str = "public"  # the external network made on first start; "" makes none
    public_cidr: str = "172.24.4.0/24"  # DevStack's, which scripts expect
    public_gateway: str = "172.24.4.1"  # the host's own address on the outer network
    public_pool_start: str = "172.24.4.10"  # below it, addresses for what is not of this cloud
    public_pool_end: str = "172.24.4.250"
    default_pool: str = (
        "10.0.0.0/16"  # of subnets that ask for no addresses of their own; "" makes none
    )
    vlan_ranges: str = "public:1000:1999"  # of networks that name no VLAN: PHYSICAL[:LOW:HIGH],...
    physical_networks: str = ""  # which device of a host leads to each: [HOST/]PHYSICAL:DEVICE,...
    underlay_mtu: int = 1500  # what hosts can send each other
    vxlan_overhead: int = 50  # what VXLAN takes of it, so guests get 1450
    dns_domain: str = "openstacklocal."  # in which guests find each other by name
    host_bandwidth_kbps: int = (
        0  # each way, of each host: what policies may promise; 0: no promises
    )
    host_packet_rate_kpps: int = 0  # ... of rules for any direction
    plug_timeout_s: float = 60  # how long a server waits for its host to wire its ports

    def __post_init__(self) -> None:
        """Raises ValueError for what is misspelt."""
        _ = self.vlans
        self.devices("")

    @property
    def vlans(self) -> Mapping[str, Sequence[int]]:
        """By physical network, which VLANs may be drawn; on one that is not here, there are none."""
        return _vlans(self.vlan_ranges)

    def devices(self, host: str) -> dict[str, str]:
        """By physical network, the device of this host that leads there."""
        found: dict[str, str] = {}
        for word in _words(self.physical_networks):
            place, _, device = word.partition(":")
            of, slash, name = place.rpartition("/")
            if not name or not _DEVICE.fullmatch(device) or (slash and not of):
                raise ValueError(f"{word!r} is not PHYSICAL:DEVICE or HOST/PHYSICAL:DEVICE")
            if of in ("", host):
                found[name] = device
        return found

    @property
    def tenant_mtu(self) -> int:
        return self.underlay_mtu - self.vxlan_overhead


def settings_of(runtime: Runtime) -> NetworkSettings:
    """What the operator of this cloud chose."""
    chosen: NetworkSettings = runtime.settings["network"]
    return chosen

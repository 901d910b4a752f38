"""What our devices, namespaces and tables are called, and which of those on a machine are ours.

A device has 15 characters: the instance's prefix, a letter for its kind, and the first 11 of the
object's id. Its alias holds the whole id, so that a restarted host knows its own.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from pileus.kernel.faults import Invalid

_PREFIX = re.compile(r"[a-z][a-z0-9]{0,2}\Z")


@dataclass(frozen=True)
class Names:
    """`prefix` tells instances on one machine apart: one to three letters or digits."""

    prefix: str

    def __post_init__(self) -> None:
        if not _PREFIX.match(self.prefix):
            text = "must be one to three lower case letters or digits, a letter first"
            raise Invalid(f"Prefix {self.prefix!r} of the network devices {text}.")

    def bridge(self, network_id: str) -> str:
        return f"{self.prefix}b{network_id[:11]}"

    def vxlan(self, network_id: str) -> str:
        return f"{self.prefix}x{network_id[:11]}"

    def service(self, network_id: str) -> str:
        """The bridge's end of the pair to the network's DHCP, DNS and metadata."""
        return f"{self.prefix}s{network_id[:11]}"

    def interface(self, port_id: str) -> str:
        """The bridge's end of the pair to a router."""
        return f"{self.prefix}r{port_id[:11]}"

    def limiter(self, port_id: str) -> str:
        """Where what a guest sends waits its turn."""
        return f"{self.prefix}l{port_id[:11]}"

    def external(self, network_id: str) -> str:
        """The bridge of an external network, or of one on a physical network, in the underlay."""
        return f"{self.prefix}e{network_id[:11]}"

    def gateway(self, router_id: str) -> str:
        """The external bridge's end of the pair to a router."""
        return f"{self.prefix}g{router_id[:11]}"

    def wire(self, network_id: str) -> str:
        """The frames of a VLAN on the device that leads to its physical network."""
        return f"{self.prefix}v{network_id[:11]}"

    def is_wire(self, name: str) -> bool:
        return name.startswith(f"{self.prefix}v")

    def uplink(self, network_id: str) -> str:
        """From the bridge of guests on an outer network ..."""
        return f"{self.prefix}u{network_id[:11]}"

    def downlink(self, network_id: str) -> str:
        """... to the outer bridge."""
        return f"{self.prefix}d{network_id[:11]}"

    def service_namespace(self, network_id: str) -> str:
        return f"{self.prefix}-net-{network_id}"

    def router_namespace(self, router_id: str) -> str:
        return f"{self.prefix}-router-{router_id}"

    def is_our_namespace(self, name: str) -> bool:
        return name.startswith((f"{self.prefix}-net-", f"{self.prefix}-router-"))

    @property
    def table(self) -> str:
        return f"pileus_{self.prefix}"

    @property
    def underlay_table(self) -> str:
        return f"pileus_{self.prefix}_underlay"

    @property
    def fence_table(self) -> str:
        return f"pileus_{self.prefix}_fence"

    @property
    def log_group(self) -> int:
        """Of the packets that are written down; another for each instance on the machine."""
        return 5000 + zlib.crc32(self.prefix.encode()) % 50_000

    def alias(self, kind: str, id: str, mark: object = "") -> str:
        return f"pileus/{self.prefix}/{kind}/{id}/{mark}"

    def is_our_device(self, name: str, alias: str) -> bool:
        """By its alias; by its name where a crash came between the making and the alias."""
        if alias.startswith(f"pileus/{self.prefix}/"):
            return True
        pattern = self.prefix + r"[bdeglrsuvx][0-9a-zA-Z-]{11}"
        return not alias and re.fullmatch(pattern, name) is not None

    def network_of(self, alias: str) -> tuple[str, int]:
        """The network id and conntrack zone in a bridge's alias; zone 0 for any other alias."""
        parts = alias.split("/")
        if len(parts) != 5 or parts[2] != "network" or not parts[4].isdigit():
            return "", 0
        return parts[3], int(parts[4])


def is_of_pileus(alias: str) -> bool:
    """Whether a device is of one of the instances on the machine."""
    return alias.startswith("pileus/")

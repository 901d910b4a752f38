"""The network of a host with root (or a user namespace of its own): real devices, real packets."""

from pileus.services.network.drivers.linux.driver import LinuxNetworkDriver, Options
from pileus.services.network.drivers.linux.forwarding import system_resolvers

DEBIAN_PACKAGES = ("libnftables1",)

__all__ = ["DEBIAN_PACKAGES", "LinuxNetworkDriver", "Options", "system_resolvers"]

"""What an operator may choose about networks."""

from __future__ import annotations

import msgspec

from pileus.kernel.runtime import Runtime


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
    underlay_mtu: int = 1500  # what hosts can send each other
    vxlan_overhead: int = 50  # what VXLAN takes of it, so guests get 1450
    dns_domain: str = "openstacklocal."  # in which guests find each other by name
    host_bandwidth_kbps: int = (
        0  # each way, of each host: what policies may promise; 0: no promises
    )
    host_packet_rate_kpps: int = 0  # ... of rules for any direction
    plug_timeout_s: float = 60  # how long a server waits for its host to wire its ports

    @property
    def tenant_mtu(self) -> int:
        return self.underlay_mtu - self.vxlan_overhead


def settings_of(runtime: Runtime) -> NetworkSettings:
    """What the operator of this cloud chose."""
    chosen: NetworkSettings = runtime.settings["network"]
    return chosen

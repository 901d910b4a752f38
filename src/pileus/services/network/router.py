"""What a router is, and the host that it lives on."""

from __future__ import annotations

import msgspec

from pileus.kernel.quota import Quota
from pileus.kernel.store import Column, Many

from .resource import COLUMNS, Noun, Nouns
from .subnet import Route


class OuterIp(msgspec.Struct, frozen=True, kw_only=True):
    subnet_id: str
    ip_address: str


class Gateway(msgspec.Struct, frozen=True, kw_only=True):
    """A router's leg on an external network."""

    network_id: str
    port_id: str
    enable_snat: bool = True
    external_fixed_ips: list[OuterIp] = []

    @property
    def addresses(self) -> set[str]:
        return {ip.ip_address for ip in self.external_fixed_ips}


class Router(Noun, kw_only=True, frozen=True):
    """`host` is where it is placed, "" while no host can take it. `error` is what its host last said of it."""

    admin_state_up: bool = True
    gateway: Gateway | None = None
    more_gateways: list[Gateway] = []
    enable_default_route_ecmp: bool = False  # all gateways lead out, not the first alone
    enable_default_route_bfd: bool = False  # ... but those whose next hop does not answer
    routes: list[Route] = []
    host: str = ""
    parked: bool = False  # taken from its host by an administrator, who is to name another
    flavor_id: str = ""
    availability_zone_hints: list[str] = []
    error: str = ""
    ha: bool = False
    candidates: dict[str, int] = {}  # hosts that may have it, by priority, where `ha` is true
    qos_policy_id: str = ""  # of its gateway

    @property
    def gateways(self) -> list[Gateway]:
        """The one that clients without multihoming know comes first."""
        return [self.gateway, *self.more_gateways] if self.gateway else []

    @property
    def ranked(self) -> list[str]:
        """The candidates, from the highest priority on."""
        return sorted(self.candidates, key=lambda h: (-self.candidates[h], h))

    @property
    def enable_snat(self) -> bool:
        return self.gateway is None or self.gateway.enable_snat


def _preferred(r: Router) -> str:
    """Where it is to go back to, "" if it is there."""
    return "".join(h for h in r.ranked[:1] if h != r.host)


ROUTERS = Nouns(
    "network_routers",
    Router,
    columns=(
        *COLUMNS,
        "admin_state_up",
        "host",
        "parked",
        "qos_policy_id",
        "flavor_id",
        Column("preferred", _preferred),
        Column("status", lambda r: "ACTIVE"),
        Column("enable_snat", lambda r: int(r.enable_snat), int),
        Column("gateway_network_id", lambda r: r.gateway.network_id if r.gateway else ""),
    ),
    many=(
        Many("tags", lambda r: r.tags),
        Many("candidates", lambda r: r.ranked),
        Many("more_gateway_networks", lambda r: sorted({g.network_id for g in r.more_gateways})),
    ),
    quotas=(Quota("network", "router", default=10),),
    indexes=(
        ("host",),
        ("preferred",),
        ("project_id", "created_at", "id"),
        ("gateway_network_id",),
    ),
    noun="Router",
).worded("RouterNotFound", "Router {id} could not be found")

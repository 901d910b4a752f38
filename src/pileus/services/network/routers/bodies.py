"""What a router may be asked to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Invalid

from ..addressing import address, block
from ..attributes import Attributes
from ..ports.bodies import FixedRequest
from ..subnet import Route

_MOST_ROUTES = 30  # upstream's max_routes
_FIXED = frozenset(
    [
        "id",
        "status",
        "created_at",
        "updated_at",
        "revision_number",
        "tags",
        "availability_zones",
        "enable_snat",
        "external_gateways",
    ]
)


class GatewayRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An empty one is none."""

    network_id: str | None = None
    enable_snat: bool | UnsetType = UNSET
    external_fixed_ips: list[FixedRequest] | UnsetType = UNSET
    qos_policy_id: str | UnsetType | None = UNSET


class CreateRouter(Attributes):
    root: ClassVar[str] = "router"
    plural: ClassVar[str] = "routers"
    fixed = _FIXED | {"routes"}
    defaults = {"external_gateway_info": None}

    name: str = ""
    description: str = ""
    project_id: str | UnsetType = UNSET
    admin_state_up: bool = True
    external_gateway_info: GatewayRequest | None = None
    availability_zone_hints: list[str] = []
    ha: bool | UnsetType | None = UNSET
    flavor_id: str | None = None
    enable_default_route_ecmp: bool | None = None
    enable_default_route_bfd: bool | None = None


class UpdateRouter(Attributes):
    root: ClassVar[str] = "router"
    creates = False
    fixed = _FIXED | {"project_id", "tenant_id", "availability_zone_hints", "flavor_id"}

    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    admin_state_up: bool | UnsetType = UNSET
    external_gateway_info: GatewayRequest | UnsetType | None = UNSET
    routes: list[Route] | UnsetType | None = UNSET
    ha: bool | UnsetType = UNSET
    enable_default_route_ecmp: bool | UnsetType | None = UNSET
    enable_default_route_bfd: bool | UnsetType | None = UNSET


class ExtraRoutes(Attributes):
    """The body of add_extraroutes and remove_extraroutes."""

    root: ClassVar[str] = "router"
    creates = False

    routes: list[Route] = []


class ExternalGateways(Attributes):
    """The body of add_, update_ and remove_external_gateways."""

    root: ClassVar[str] = "router"
    creates = False

    external_gateways: list[GatewayRequest] = []


class InterfaceRequest(Attributes):
    """The body of add_router_interface and remove_router_interface: it has no root."""

    root: ClassVar[str] = ""
    creates = False

    subnet_id: str | None = None
    port_id: str | None = None


def bad_router(message: str) -> Invalid:
    return Invalid(f"Bad router request: {message}.", code="BadRequest")


def asked_gateway(given: Any) -> GatewayRequest | None:
    """None for "no gateway", said in any way."""
    if given is None or given is UNSET or not given.network_id:
        return None
    found: GatewayRequest = given
    return found


def checked_routes(given: Sequence[Route]) -> list[Route]:
    """Canonical and each once. Raises Invalid."""
    if len(given) > _MOST_ROUTES:
        raise Invalid(
            f"Unable to complete operation for router. The number of routes exceeds the maximum {_MOST_ROUTES}.",
            code="RoutesExhausted",
        )
    found = []
    for route in given:
        destination = block(route.destination, "routes")
        nexthop = address(route.nexthop, "routes")
        if destination.version != nexthop.version:
            raise Invalid(
                f"Invalid input for routes. Reason: {nexthop} cannot be the nexthop of {destination}."
            )
        made = Route(destination=str(destination), nexthop=str(nexthop))
        if made in found:
            raise Invalid(f"Invalid input for routes. Reason: Duplicate items in the list: {made}.")
        found.append(made)
    return found

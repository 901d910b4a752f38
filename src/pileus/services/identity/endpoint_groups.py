"""Endpoint groups (OS-EP-FILTER): endpoints by what they are. https://docs.openstack.org/api-ref/identity/v3-ext/#os-ep-filter-api"""

from __future__ import annotations

from typing import Any, ClassVar

from pileus.kernel.faults import Invalid
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import Body

from .catalog import ENDPOINTS, REVISION
from .endpoint_filters import ENDPOINT_GROUPS, FILTERS, EndpointGroup, matches
from .endpoints import Endpoints
from .kept import Kept, changing
from .wire import ADMIN_OR_SYSTEM_READER, NAME, Name, listed, listing

_INTERFACES = ("admin", "internal", "public")
_ENDPOINTS = "identity:list_endpoints_associated_with_endpoint_group"


class CreateEndpointGroup(Body, kw_only=True):
    root: ClassVar[str] = "endpoint_group"
    lax: ClassVar[bool] = False
    name: Name
    description: str | None = None
    filters: dict[str, Any]


class EndpointGroups(Kept[EndpointGroup]):
    table = ENDPOINT_GROUPS
    path = "OS-EP-FILTER/endpoint_groups"
    id_param = "endpoint_group_id"
    creates, updates = CreateEndpointGroup, changing(CreateEndpointGroup)
    revises = REVISION
    rules = {_ENDPOINTS: ADMIN_OR_SYSTEM_READER}
    listing = listing({"name": NAME})

    async def fields(
        self, ctx: Context, given: dict[str, Any], old: EndpointGroup | None
    ) -> dict[str, Any]:
        if old is None and not given["filters"]:
            raise Invalid("filters field is required and cannot be empty")
        for key, value in given.get("filters", {}).items():
            _check_filter(key, value)
        return given

    @operation("GET", f"/{path}/{{endpoint_group_id}}/endpoints", _ENDPOINTS)
    async def endpoints(self, ctx: Context, group: EndpointGroup) -> dict[str, Any]:
        found = [e for e in await ENDPOINTS.all(ctx.runtime.store) if matches(group, e)]
        return listed(ctx, "endpoints", [Endpoints.view(ctx, e) for e in found])


def _check_filter(key: str, value: object) -> None:
    """Raises Invalid."""
    if key not in FILTERS:
        raise Invalid(
            f"Expecting to find {' or '.join(FILTERS)} in endpoint_group; {key!r} is none."
        )
    if key == "interface" and value not in _INTERFACES:
        raise Invalid(
            f"Invalid input for field 'filters/interface': {value!r} is not one of "
            f"{', '.join(_INTERFACES)}."
        )
    if not isinstance(value, str) and (key != "region_id" or value is not None):
        raise Invalid(f"Invalid input for field 'filters/{key}': {value!r} is not a string.")

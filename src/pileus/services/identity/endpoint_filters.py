"""Which endpoints a project's catalog shows (OS-EP-FILTER): those associated with it, one by one or by a group.

A project with no association sees them all. https://docs.openstack.org/api-ref/identity/v3-ext/#os-ep-filter-api
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pileus.kernel.store import Column, Page, Reader, Record

from .wire import OLDEST, NounTable

FILTERS = ("interface", "service_id", "region_id")


class EndpointGroup(Record, kw_only=True, frozen=True):
    """Every endpoint that has what `filters` say: of FILTERS, those that matter."""

    name: str
    description: str | None = None
    filters: dict[str, Any]


class ProjectEndpoint(Record, kw_only=True, frozen=True):
    """The id is `project:endpoint`."""

    project_id: str
    endpoint_id: str


class ProjectEndpointGroup(Record, kw_only=True, frozen=True):
    """The id is `project:group`."""

    project_id: str
    endpoint_group_id: str


ENDPOINT_GROUPS = NounTable(
    "identity_endpoint_groups",
    EndpointGroup,
    columns=(Column("name_key", lambda g: g.name.lower()),),
    noun="Endpoint Group",
)
PROJECT_ENDPOINTS = NounTable(
    "identity_project_endpoints",
    ProjectEndpoint,
    columns=("project_id", "endpoint_id"),
    indexes=(("project_id",), ("endpoint_id",)),
    noun="project_endpoint",
)
PROJECT_ENDPOINT_GROUPS = NounTable(
    "identity_project_endpoint_groups",
    ProjectEndpointGroup,
    columns=("project_id", "endpoint_group_id"),
    indexes=(("project_id",), ("endpoint_group_id",)),
    noun="project_endpoint_group",
)


@dataclass(frozen=True)
class Selection:
    """What a project is associated with."""

    endpoint_ids: frozenset[str]
    groups: tuple[EndpointGroup, ...]

    def has(self, endpoint: Any) -> bool:
        return endpoint.id in self.endpoint_ids or any(matches(g, endpoint) for g in self.groups)


def matches(group: EndpointGroup, endpoint: Any) -> bool:
    return all(getattr(endpoint, key) == (value or "") for key, value in group.filters.items())


async def groups_of(db: Reader, project_id: str) -> list[EndpointGroup]:
    ids = [
        g.endpoint_group_id for g in await PROJECT_ENDPOINT_GROUPS.all(db, project_id=project_id)
    ]
    return await ENDPOINT_GROUPS.list(db, Page({"id": ids}, OLDEST)) if ids else []


async def selection(db: Reader, project_id: str) -> Selection:
    direct = await PROJECT_ENDPOINTS.all(db, project_id=project_id)
    groups = await groups_of(db, project_id)
    return Selection(frozenset(d.endpoint_id for d in direct), tuple(groups))


async def any_selection(db: Reader) -> bool:
    """Whether any project is associated with anything: hardly any cloud uses this."""
    return bool(await PROJECT_ENDPOINTS.one(db) or await PROJECT_ENDPOINT_GROUPS.one(db))

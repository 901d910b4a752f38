"""The catalog: rows of regions, services and endpoints, and the view of them that goes into tokens.

A URL that begins with `/` is this cloud's own and is shown under whatever root the client asked by. Only `project_id`, `tenant_id` and `user_id` may stand in a URL, as `%(project_id)s` or `$(project_id)s`.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from pileus.kernel import auth
from pileus.kernel.store import Reader, Record

from .endpoint_filters import Selection, any_selection, selection
from .remembered import Remembered
from .wire import NounTable

REVISION = "identity.catalog"
_REMEMBERED = 10_000
_ROOTS = 100  # a client may call the cloud by any name
_PROJECT, _USER = "\ue000", "\ue001"  # stand for ids in what is rendered for everybody
_encode = msgspec.json.Encoder().encode
PLACE = re.compile(r"[$%]\((\w+)\)s")
PLACES = frozenset({"project_id", "tenant_id", "user_id"})


class Region(Record, kw_only=True, frozen=True):
    description: str = ""
    parent_region_id: str = ""
    extra: dict[str, Any] = {}


class CatalogService(Record, kw_only=True, frozen=True):
    """`provided`: made for a service of this cloud at its start, and gone when that is no longer enabled."""

    type: str
    name: str = ""
    description: str | None = None
    enabled: bool = True
    provided: bool = False
    extra: dict[str, Any] = {}


class Endpoint(Record, kw_only=True, frozen=True):
    service_id: str
    interface: str
    url: str
    region_id: str = ""
    name: str = ""
    enabled: bool = True
    extra: dict[str, Any] = {}


REGIONS = NounTable("identity_regions", Region, columns=("parent_region_id",), noun="region")
SERVICES = NounTable("identity_services", CatalogService, columns=("type", "name"), noun="service")
ENDPOINTS = NounTable(
    "identity_endpoints",
    Endpoint,
    columns=("service_id", "interface", "region_id"),
    noun="endpoint",
)
Entry = tuple[CatalogService, list[Endpoint]]


def filled(url: str, root: str, project_id: str, user_id: str) -> str | None:
    """The URL for one caller, or None if it asks for a project that there isn't."""
    values = {"project_id": project_id, "tenant_id": project_id, "user_id": user_id}
    if any(not values.get(m[1]) for m in PLACE.finditer(url)):
        return None
    return rooted(PLACE.sub(lambda m: values[m[1]], url), root)


def rooted(url: str, root: str) -> str:
    return root + url if url.startswith("/") else url


class Catalog:
    """The rows, read again when they are revised."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._endpoints: list[Endpoint] = []
        self._selections: dict[str, Selection] | None = None  # None: no project has one
        self._pages: Remembered[bytes] = Remembered(_ROOTS)
        self._revision = -1

    async def entries(self, db: Reader) -> tuple[list[Entry], int]:
        """Services with their endpoints, and the revision that they are of."""
        revision = await auth.revision(db, REVISION)
        if revision != self._revision:
            self._endpoints = await ENDPOINTS.all(db)
            self._entries = [
                (s, [e for e in self._endpoints if e.service_id == s.id and e.enabled])
                for s in await SERVICES.all(db)
                if s.enabled
            ]
            self._selections = {} if await any_selection(db) else None
            self._revision = revision
        return self._entries, revision

    async def of_project(self, db: Reader, project_id: str) -> list[Entry]:
        """The entries that a project's catalog has: all, unless endpoints are associated with it."""
        entries, revision = await self.entries(db)
        if self._selections is None or not project_id:
            return entries
        chosen = self._selections.get(project_id)
        if chosen is None:
            chosen = await selection(db, project_id)
            if self._revision == revision and len(self._selections) < _REMEMBERED:
                self._selections[project_id] = chosen
        if not any(chosen.has(e) for e in self._endpoints):
            return entries
        kept = [(s, [e for e in endpoints if chosen.has(e)]) for s, endpoints in entries]
        return [(s, endpoints) for s, endpoints in kept if endpoints]

    async def written(self, db: Reader, root: str, project_id: str, user_id: str) -> bytes:
        """The catalog as JSON: rendered once for all callers, but where endpoints are chosen for a project."""
        entries = await self.of_project(db, project_id)
        if entries is not self._entries:
            return _rendered(entries, root, project_id, user_id)
        known = self._pages.at(self._revision)
        key = (root, bool(project_id))
        found = known.get(key)
        if found is None:
            found = known[key] = _rendered(entries, root, _PROJECT if project_id else "", _USER)
        for place, id in ((_PROJECT, project_id), (_USER, user_id)):
            found = found.replace(place.encode(), _encode(id)[1:-1])
        return found


def _rendered(entries: list[Entry], root: str, project_id: str, user_id: str) -> bytes:
    found = []
    for service, endpoints in entries:
        views = [v for e in endpoints if (v := _view(e, root, project_id, user_id))]
        found.append(
            {"endpoints": views, "type": service.type, "id": service.id, "name": service.name}
        )
    return _encode(found)


def _view(e: Endpoint, root: str, project_id: str, user_id: str) -> dict[str, Any] | None:
    url = filled(e.url, root, project_id, user_id)
    if url is None:
        return None
    region = e.region_id or None
    return {"id": e.id, "interface": e.interface, "region_id": region, "url": url, "region": region}

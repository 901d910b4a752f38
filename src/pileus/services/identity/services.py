"""Services of the catalog: https://docs.openstack.org/api-ref/identity/v3/#service-catalog-and-endpoints"""

from __future__ import annotations

from typing import Any

from pileus.kernel.store import Record

from .wire import NounTable


class CatalogService(Record, kw_only=True, frozen=True):
    """`provided`: made for a service of this cloud at its start, and gone when that is no longer enabled."""

    type: str
    name: str = ""
    description: str | None = None
    enabled: bool = True
    provided: bool = False
    extra: dict[str, Any] = {}


SERVICES = NounTable("identity_services", CatalogService, columns=("type", "name"), noun="service")

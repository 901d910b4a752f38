"""Endpoints: https://docs.openstack.org/api-ref/identity/v3/#service-catalog-and-endpoints

A URL that begins with `/` is this cloud's own and is shown under whatever root the client asked by.
"""

from __future__ import annotations

from typing import Any

from pileus.kernel.store import Record

from .wire import NounTable


class Endpoint(Record, kw_only=True, frozen=True):
    service_id: str
    interface: str
    url: str
    region_id: str = ""
    name: str = ""
    enabled: bool = True
    extra: dict[str, Any] = {}


ENDPOINTS = NounTable(
    "identity_endpoints",
    Endpoint,
    columns=("service_id", "interface", "region_id"),
    noun="endpoint",
)

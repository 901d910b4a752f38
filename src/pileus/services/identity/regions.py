"""Regions: https://docs.openstack.org/api-ref/identity/v3/#regions"""

from __future__ import annotations

from typing import Any

from pileus.kernel.store import Record

from .wire import NounTable


class Region(Record, kw_only=True, frozen=True):
    description: str = ""
    parent_region_id: str = ""
    extra: dict[str, Any] = {}


REGIONS = NounTable("identity_regions", Region, columns=("parent_region_id",), noun="region")

"""Mappings: rules that make of what a provider says a user, his groups and his projects here."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta

from pileus.kernel.resources import Context
from pileus.kernel.schema import IGNORE, Body, Extra
from pileus.kernel.store import Record

from ..kept import Kept
from ..wire import NounTable, listing
from .mapping_rules import FIRST_VERSION, check_rules


class Mapping(Record, kw_only=True, frozen=True):
    """`rules` are kept as they were sent; `mapping_rules` reads them."""

    rules: list[Any]
    schema_version: str


MAPPINGS = NounTable("identity_mappings", Mapping, noun="mapping")


class WriteMapping(Body, kw_only=True):
    root: ClassVar[str] = "mapping"
    unknown: ClassVar[Extra] = IGNORE
    rules: Annotated[list[Any], Meta(min_length=1)]
    schema_version: str | None = None


class Mappings(Kept[Mapping]):
    table = MAPPINGS
    path = "OS-FEDERATION/mappings"
    id_param = "mapping_id"
    creates = updates = WriteMapping
    made_by = ("PUT",)
    listing = listing()

    async def fields(
        self, ctx: Context, given: dict[str, Any], old: Mapping | None
    ) -> dict[str, Any]:
        """Raises Invalid for rules that are none of their version's."""
        version = given["schema_version"] or FIRST_VERSION
        check_rules(version, given["rules"])
        return {"rules": given["rules"], "schema_version": version}

"""Which providers a query string asks for: resources, traits, aggregates, a tree."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pileus.kernel.faults import Invalid
from pileus.kernel.resources import Context
from pileus.kernel.store import Match, Page, Reader, Table

from .answers import as_uuid
from .fit import misfit
from .names import require_classes, require_traits

if TYPE_CHECKING:
    from .providers import ResourceProvider

_SLICE = 200  # providers decoded before others get a turn of the loop


@dataclass(frozen=True)
class Wanted:
    """`required` and `member_of` are lists of alternatives: one of each must be there."""

    resources: dict[str, int] = field(default_factory=dict)
    required: tuple[frozenset[str], ...] = ()
    forbidden: frozenset[str] = frozenset()
    member_of: tuple[frozenset[str], ...] = ()
    not_member_of: frozenset[str] = frozenset()
    root_id: str | None = None
    name: str | None = None
    id: str | None = None

    def page(self) -> Page:
        """What the store can narrow down by itself."""
        filters: dict[str, Any] = {
            column: value
            for column, value in (("root_id", self.root_id), ("name", self.name), ("id", self.id))
            if value is not None
        }
        if self.resources:
            filters["classes"] = Match("all", sorted(self.resources))
        if single := sorted(t for one in self.required if len(one) == 1 for t in one):
            filters["traits"] = Match("all", single)
        if self.member_of:
            filters["aggregates"] = Match("any", sorted(self.member_of[0]))
        return Page(filters, (("created_at", False), ("id", False)), limit=_SLICE)

    def meets(self, provider: ResourceProvider) -> bool:
        traits, groups = set(provider.traits), set(provider.aggregates)
        return (
            all(one & traits for one in self.required)
            and all(one & groups for one in self.member_of)
            and not self.forbidden & traits
            and not self.not_member_of & groups
            and not misfit(provider.inventories, traits, self.resources)
        )


async def matching(
    db: Reader, table: Table[ResourceProvider], asked: Wanted
) -> AsyncIterator[ResourceProvider]:
    """The providers that meet what is asked, oldest first, a slice at a time."""
    page = asked.page()
    while True:
        found = await table.list(db, page)
        for provider in found:
            if asked.meets(provider):
                yield provider
        if len(found) < page.limit:
            return
        page = replace(page, marker=found[-1].id)
        await asyncio.sleep(0)


async def every_provider(
    db: Reader, table: Table[ResourceProvider], asked: Wanted
) -> list[ResourceProvider]:
    return [p async for p in matching(db, table, asked)]


async def wanted(ctx: Context, table: Table[ResourceProvider], suffix: str = "") -> Wanted:
    """What the query string asks of one provider. Raises Invalid."""
    q, store = ctx.query, ctx.runtime.store
    resources = resources_of(q.get("resources" + suffix)) if q.has("resources" + suffix) else {}
    await require_classes(store, resources, "Invalid resource class in resources parameter")
    required, forbidden = _traits(ctx, q.all("required" + suffix))
    await require_traits(store, forbidden.union(*required))
    member_of, not_member_of = _aggregates(ctx, q.all("member_of" + suffix))
    root_id = None
    if q.has("in_tree" + suffix):
        member = await table.find(store, as_uuid(q.get("in_tree" + suffix), "in_tree"))
        root_id = member.root_id if member else "-"  # no such tree: nothing is found
    return Wanted(
        resources,
        required,
        forbidden,
        member_of,
        not_member_of,
        root_id,
        q.get("name") if q.has("name") else None,
        as_uuid(q.get("uuid"), "uuid") if q.has("uuid") else None,
    )


def resources_of(text: str) -> dict[str, int]:
    """`VCPU:2,MEMORY_MB:1024` -> amounts by class. Raises Invalid."""
    found = {}
    for part in text.split(","):
        name, colon, amount = part.partition(":")
        if not colon or not name:
            raise Invalid(
                "Badly formed resources parameter. Expected resources query string parameter in "
                f"form: ?resources=VCPU:2,MEMORY_MB:1024. Got: {part or 'empty string'}."
            )
        if not amount.isdecimal() or len(amount) > 10:
            raise Invalid(
                f"Requested resource {name} expected positive integer amount. Got: {amount}."
            )
        if int(amount) < 1:
            raise Invalid(f"Requested resource {name} requires amount >= 1. Got: {amount}.")
        found[name] = int(amount)
    return found


def _traits(ctx: Context, values: list[str]) -> tuple[tuple[frozenset[str], ...], frozenset[str]]:
    """(alternatives that must be there, forbidden ones) of the `required` parameters. Raises Invalid."""
    at = ctx.version
    required: list[frozenset[str]] = []
    forbidden: set[str] = set()
    for value in values if at >= (1, 39) else values[-1:]:
        names = [n.strip() for n in value.removeprefix("in:").split(",")]
        wrong = not all(n.lstrip("!") for n in names)
        if value.startswith("in:"):
            wrong = wrong or at < (1, 39) or any(n.startswith("!") for n in names)
            required.append(frozenset(names))
        else:
            wrong = wrong or (at < (1, 22) and any(n.startswith("!") for n in names))
            required += [frozenset((n,)) for n in names if not n.startswith("!")]
            forbidden |= {n.lstrip("!") for n in names if n.startswith("!")}
        if wrong:
            raise Invalid(
                "Invalid query string parameters: Expected 'required' parameter value of the form: "
                f"HW_CPU_X86_VMX,!CUSTOM_MAGIC (! since 1.22) or in:A,B (since 1.39). Got: {value}"
            )
    if both := sorted(t for one in required if len(one) == 1 for t in one & forbidden):
        raise Invalid(
            "Conflicting required and forbidden traits found in the following traits keys: "
            f"required: ({', '.join(both)})"
        )
    return tuple(required), frozenset(forbidden)


def _aggregates(
    ctx: Context, values: list[str]
) -> tuple[tuple[frozenset[str], ...], frozenset[str]]:
    """(alternatives, forbidden ones) of the `member_of` parameters. Raises Invalid."""
    if len(values) > 1 and ctx.version < (1, 24):
        raise Invalid("Multiple member_of parameters are not supported before version 1.24.")
    required: list[frozenset[str]] = []
    forbidden: set[str] = set()
    for value in values:
        without = value.startswith("!")
        if without and ctx.version < (1, 32):
            raise Invalid("Forbidden member_of parameters are not supported before version 1.32.")
        ids = value.removeprefix("!").removeprefix("in:").split(",")
        group = frozenset(as_uuid(i, "member_of") for i in ids)
        if len(group) > 1 and "in:" not in value:
            raise Invalid(
                "Multiple values for 'member_of' must be prefixed with the 'in:' keyword. "
                f"Got: {value}"
            )
        if without:
            forbidden |= group
        else:
            required.append(group)
    return tuple(required), frozenset(forbidden)

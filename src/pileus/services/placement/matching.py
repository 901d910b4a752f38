"""Which providers a query string asks for: resources, traits, aggregates, a tree."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pileus.kernel.faults import Invalid
from pileus.kernel.resources import Context
from pileus.kernel.store import Match, Page, Reader, Table

from .answers import as_uuid
from .known import known
from .names import require_classes, require_traits

if TYPE_CHECKING:
    from .providers import ResourceProvider


_QUERY, _ANY = "Invalid query string parameters", "in:HW_CPU_X86_VMX,CUSTOM_MAGIC"


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
        return Page(filters, (("created_at", False), ("id", False)))

    def in_aggregates(self, provider: ResourceProvider) -> bool:
        """Whether the provider is in one aggregate of each list of alternatives."""
        return not self.member_of or all(
            not one.isdisjoint(provider.aggregates) for one in self.member_of
        )

    def in_forbidden(self, provider: ResourceProvider) -> bool:
        return bool(self.not_member_of) and not self.not_member_of.isdisjoint(provider.aggregates)

    @cached_property
    def _is_plain(self) -> bool:
        """Whether it is asked for resources only."""
        return not (self.required or self.forbidden or self.member_of or self.not_member_of)

    def meets(self, provider: ResourceProvider) -> bool:
        """Whether the provider by itself is what is asked."""
        return (self._is_plain or self._suits(provider)) and self.has_room(provider)

    def _suits(self, provider: ResourceProvider) -> bool:
        for one in self.required:  # no generator: a search asks it of every provider
            if one.isdisjoint(provider.traits):
                return False
        return (
            self.forbidden.isdisjoint(provider.traits)
            and self.in_aggregates(provider)
            and not self.in_forbidden(provider)
        )

    def has_room(self, provider: ResourceProvider) -> bool:
        stocks = provider.inventories
        for resource_class, amount in self.resources.items():
            stock = stocks.get(resource_class)
            if stock is None or not stock.gives(amount):
                return False
        return True


async def matching(
    db: Reader, table: Table[ResourceProvider], asked: Wanted
) -> AsyncIterator[ResourceProvider]:
    """The providers that meet what is asked, oldest first, a slice at a time."""
    async for found in known(db).slices(db, table, asked.page()):
        for provider in found:
            if asked.meets(provider):
                yield provider
        await asyncio.sleep(0)


async def every_provider(
    db: Reader, table: Table[ResourceProvider], asked: Wanted
) -> list[ResourceProvider]:
    return [p async for p in matching(db, table, asked)]


async def wanted(ctx: Context, table: Table[ResourceProvider], suffix: str = "") -> Wanted:
    """What the query string asks of one provider; whether its names exist is `require_known`'s. Raises Invalid."""
    q = ctx.query
    resources = resources_of(q.get("resources" + suffix)) if q.has("resources" + suffix) else {}
    required, forbidden = _traits(ctx, suffix)
    member_of, not_member_of = _aggregates(ctx, q.all("member_of" + suffix))
    root_id = None
    if q.has("in_tree" + suffix):
        member = await table.find(ctx.runtime.store, _in_tree(q.get("in_tree" + suffix)))
        root_id = member.root_id if member else "-"  # no such tree: nothing is found
    return Wanted(
        resources,
        required,
        forbidden,
        member_of,
        not_member_of,
        root_id,
        q.get("name") if q.has("name") else None,
        as_uuid(q.get("uuid"), _QUERY) if q.has("uuid") else None,
    )


async def require_known(db: Reader, groups: Collection[Wanted]) -> None:
    """Raises Invalid for a resource class or trait that isn't there."""
    classes = {c for g in groups for c in g.resources}
    await require_classes(db, classes, "Invalid resource class in resources parameter")
    await require_traits(db, {t for g in groups for t in g.forbidden.union(*g.required)})


def _in_tree(text: str) -> str:
    try:
        return as_uuid(text.strip())
    except Invalid:
        raise Invalid(
            "Invalid query string parameters: Expected 'in_tree' parameter to be a format of uuid. "
            f"Got: {text}"
        ) from None


def resources_of(text: str) -> dict[str, int]:
    """`VCPU:2,MEMORY_MB:1024` -> amounts by class. Raises Invalid."""
    found = {}
    for part in text.split(","):
        name, colon, amount = part.partition(":")
        if not colon or not name:
            raise Invalid(
                "Badly formed resources parameter. Expected resources query string parameter in "
                f"form: ?resources=VCPU:2,MEMORY_MB:1024. Got: {part if text else 'empty string'}."
            )
        amount = amount.strip()
        if not re.fullmatch(r"-?[0-9]{1,10}", amount):
            raise Invalid(
                f"Requested resource {name} expected positive integer amount. Got: {amount}."
            )
        if int(amount) < 1:
            raise Invalid(f"Requested resource {name} requires amount >= 1. Got: {amount}.")
        found[name] = int(amount)
    return found


def traits_of(
    values: Collection[str], *, any_of: bool, forbidding: bool
) -> tuple[tuple[frozenset[str], ...], frozenset[str]]:
    """(alternatives that must be there, forbidden ones) of `A,!B` and `in:A,B`. Raises Invalid."""
    required: list[frozenset[str]] = []
    forbidden: set[str] = set()
    for value in values:
        names = [n.strip() for n in value.removeprefix("in:").split(",")]
        without = {n.lstrip("!") for n in names if n.startswith("!")}
        wrong = not all(n.lstrip("!") for n in names) or (without and not forbidding)
        if value.startswith("in:"):
            wrong = wrong or without
            required.append(frozenset(names))
        else:
            required += [frozenset((n,)) for n in names if not n.startswith("!")]
            forbidden |= without
        if value.startswith("in:") and not any_of:
            raise Invalid(f"{_QUERY}: The format '{_ANY}' only supported since microversion 1.39.")
        if wrong:
            form = f"HW_CPU_X86_VMX,{'!' if forbidding else ''}CUSTOM_MAGIC"
            more = f" Or '{_ANY}'." if any_of else ""
            raise Invalid(
                f"{_QUERY}: Expected 'required' parameter value of the form: {form}. "
                f"Got: {value}.{more}"
            )
    return tuple(required), frozenset(forbidden)


def _traits(ctx: Context, suffix: str) -> tuple[tuple[frozenset[str], ...], frozenset[str]]:
    """(alternatives that must be there, forbidden ones) of the `required` parameters. Raises Invalid."""
    at, values = ctx.version, ctx.query.all("required" + suffix)
    required, forbidden = traits_of(
        values if at >= (1, 39) else values[-1:], any_of=at >= (1, 39), forbidding=at >= (1, 22)
    )
    if never := [one for one in required if one <= forbidden]:
        both = "; ".join(f"required{suffix}: ({', '.join(sorted(one))})" for one in never)
        raise Invalid(
            f"Conflicting required and forbidden traits found in the following traits keys: {both}"
        )
    return required, forbidden


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
            raise Invalid(
                "Forbidden member_of parameters are not supported in the specified microversion "
                "(they are since 1.32)."
            )
        text = value.removeprefix("!")
        if "," in text and not text.startswith("in:"):
            raise Invalid(
                "Multiple values for 'member_of' must be prefixed with the 'in:' or '!in:' keyword "
                f"using the valid microversion. Got: {value}"
            )
        group = frozenset(_aggregate(i) for i in text.removeprefix("in:").split(","))
        if without:
            forbidden |= group
        else:
            required.append(group)
    return tuple(required), frozenset(forbidden)


def _aggregate(text: str) -> str:
    try:
        return as_uuid(text)
    except Invalid:
        raise Invalid(
            "Invalid query string parameters: Expected 'member_of' parameter to contain valid "
            f"UUID(s). Got: {text}"
        ) from None

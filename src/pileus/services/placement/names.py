"""Traits and resource classes: the standard ones, which releases add to, and those that users make (`CUSTOM_`)."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache
from importlib import resources

from pileus.kernel.faults import Invalid
from pileus.kernel.store import Page, Reader, Record, Table, Tx

from .answers import is_custom


class CustomName(Record, kw_only=True, frozen=True):
    """A trait or resource class of the users' own; its name is the id."""


TRAITS = Table("placement_traits", CustomName, noun="Trait")
RESOURCE_CLASSES = Table("placement_resource_classes", CustomName, noun="Resource class")


@cache
def standard_traits() -> tuple[str, ...]:
    return _listed("standard_traits.txt")


@cache
def standard_resource_classes() -> tuple[str, ...]:
    return _listed("standard_resource_classes.txt")


def _listed(name: str) -> tuple[str, ...]:
    text = (resources.files("pileus.services.placement") / name).read_text("utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))


async def unknown_traits(db: Reader, names: Collection[str]) -> list[str]:
    """Those that are neither standard nor made by somebody, sorted."""
    return await _unknown(db, TRAITS, frozenset(standard_traits()), names)


async def unknown_classes(db: Reader, names: Collection[str]) -> list[str]:
    """Those that are neither standard nor made by somebody, sorted."""
    return await _unknown(db, RESOURCE_CLASSES, frozenset(standard_resource_classes()), names)


async def _unknown(
    db: Reader, table: Table[CustomName], standard: frozenset[str], names: Collection[str]
) -> list[str]:
    rest = sorted(set(names) - standard)
    if not rest:
        return []
    made = await table.list(db, Page({"id": rest}, limit=len(rest)))
    return sorted(set(rest) - {m.id for m in made})


async def require_traits(db: Reader, names: Collection[str]) -> None:
    """Raises Invalid for one that isn't there."""
    if unknown := await unknown_traits(db, names):
        raise Invalid(f"No such trait(s): {', '.join(unknown)}.")


async def require_classes(db: Reader, names: Collection[str], where: str) -> None:
    """Raises Invalid for one that isn't there; `where` says in whose words."""
    if unknown := await unknown_classes(db, names):
        raise Invalid(f"{where}: No such resource class {', '.join(unknown)}.")


async def make(tx: Tx, table: Table[CustomName], name: str) -> bool:
    """Whether it was not there: of several who make it at once one does, and the others find it."""
    await tx.lock(f"{table.name}.{name}")
    is_new = await table.find(tx, name) is None
    if is_new:
        await table.insert(tx, CustomName(id=name))
    return is_new


async def make_missing(tx: Tx, traits: Collection[str], classes: Collection[str]) -> None:
    """Makes the custom names that a host uses. Raises Invalid for one that is neither standard nor custom."""
    for table, names in (
        (TRAITS, await unknown_traits(tx, traits)),
        (RESOURCE_CLASSES, await unknown_classes(tx, classes)),
    ):
        for name in names:
            if not is_custom(name):
                raise Invalid(
                    f"{name} is not a standard {table.noun.lower()}; CUSTOM_ ones may be."
                )
            await make(tx, table, name)

"""Unified limits: the rows that other services read, and what the enforcement model asks of them.

A registered limit says how much of a service's resource everybody may have; a limit overrides it for one project or
domain. Whoever enforces them (oslo.limit) reads them here. https://docs.openstack.org/api-ref/identity/v3/#unified-limits
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, TypeVar

from msgspec import Meta

from pileus.kernel.faults import Forbidden, Invalid, NotFound
from pileus.kernel.store import Reader, Record, Unique

from .catalog import REGIONS, SERVICES
from .tree import PROJECTS, subtree
from .wire import NounTable

Amount = Annotated[int, Meta(ge=-1, le=0x7FFFFFFF)]
Description = Annotated[str, Meta(max_length=255)]
RegionId = Annotated[str, Meta(min_length=1, max_length=255)]
UNLIMITED = -1
R = TypeVar("R", bound=Record)
FLAT, STRICT_TWO_LEVEL = "flat", "strict_two_level"
MODELS = {
    FLAT: "Limit enforcement and validation does not take project hierarchy into consideration.",
    STRICT_TWO_LEVEL: "This model requires project hierarchy never exceeds a depth of two",
}
TREE_DEPTHS = {STRICT_TWO_LEVEL: 2}  # a domain and the projects in it


class RegisteredLimit(Record, kw_only=True, frozen=True):
    service_id: str
    region_id: str = ""
    resource_name: str
    default_limit: int
    description: str | None = None


class Limit(Record, kw_only=True, frozen=True):
    """Of a project or of a domain; `within` is the domain of either. The rest is its registered limit's, which
    cannot change while there is a limit of it."""

    registered_limit_id: str
    service_id: str
    region_id: str = ""
    resource_name: str
    project_id: str = ""
    domain_id: str = ""
    within: str
    resource_limit: int
    description: str | None = None

    @property
    def what(self) -> dict[str, str]:
        """What it limits, by column."""
        region_id, name = self.region_id, self.resource_name
        return {"service_id": self.service_id, "region_id": region_id, "resource_name": name}

    def key(self, place_id: str = "") -> tuple[str, ...]:
        """Which of a place's limits it is; or which it would be of another place."""
        return (place_id or self.project_id or self.domain_id, *self.what.values())


class _Limits(NounTable[R]):
    def missing(self, id: str) -> NotFound:
        return NotFound(f"Could not find {self.noun.replace('_', ' ')} for {id}.")


def _taken_default(limit: RegisteredLimit) -> str:
    return (
        "Conflict occurred attempting to store registered_limit - Duplicate entry: there is one "
        f"for {limit.resource_name} of service {limit.service_id} in this region."
    )


def _taken(limit: Limit) -> str:
    whose = f"project {limit.project_id}" if limit.project_id else f"domain {limit.domain_id}"
    return (
        "Conflict occurred attempting to store limit - Duplicate entry: there is one for "
        f"{limit.resource_name} of service {limit.service_id} in this region for {whose}."
    )


REGISTERED_LIMITS = _Limits(
    "identity_registered_limits",
    RegisteredLimit,
    columns=("service_id", "region_id", "resource_name"),
    unique=(Unique(("service_id", "region_id", "resource_name"), _taken_default),),
    noun="registered_limit",
)
LIMITS = _Limits(
    "identity_limits",
    Limit,
    columns=(
        "registered_limit_id",
        "service_id",
        "region_id",
        "resource_name",
        "project_id",
        "domain_id",
        "within",
    ),
    unique=(Unique(("registered_limit_id", "project_id", "domain_id"), _taken),),
    indexes=(("project_id",), ("within",)),
    noun="limit",
)


async def check_place(db: Reader, noun: str, service_id: str, region_id: str) -> None:
    """A limit is of a service, and of a region if it names one. Raises Invalid."""
    if await SERVICES.find(db, service_id) is None:
        raise Invalid(f"Invalid {noun}: there is no service {service_id}.")
    if region_id and await REGIONS.find(db, region_id) is None:
        raise Invalid(f"Invalid {noun}: there is no region {region_id}.")


async def registered(db: Reader, limit: Limit) -> RegisteredLimit | None:
    """The registered limit that `limit` would override."""
    return await REGISTERED_LIMITS.one(db, **limit.what)


async def check_model(db: Reader, model: str, wanted: Sequence[Limit]) -> None:
    """Whether the limits fit the tree, together with those that are there. Raises Forbidden."""
    if model != STRICT_TWO_LEVEL:
        return
    asked = {w.key(): w.resource_limit for w in wanted}
    for limit in wanted:
        if limit.project_id:
            above = asked.get(limit.key(limit.within))
            if above is None:
                above = await _of_domain(db, limit)
            if above is not None and _less(above, limit.resource_limit):
                raise _misfit(limit, f"its domain {limit.within} may have {above}")
        else:
            await _check_below(db, limit, asked)


async def _of_domain(db: Reader, limit: Limit) -> int | None:
    """What the domain of a project may have."""
    known = await LIMITS.one(db, domain_id=limit.within, **limit.what)
    if known is not None:
        return known.resource_limit
    default = await registered(db, limit)
    return default.default_limit if default is not None else None


async def _check_below(db: Reader, limit: Limit, asked: Mapping[tuple[str, ...], int]) -> None:
    known = await LIMITS.all(db, within=limit.domain_id, **limit.what)
    there = {k.project_id: k.resource_limit for k in known}
    domain = await PROJECTS.get(db, limit.domain_id)
    for project in await subtree(db, domain):
        has = asked.get(limit.key(project.id), there.get(project.id))
        if has is not None and _less(limit.resource_limit, has):
            raise _misfit(limit, f"project {project.id} below it may have {has}")


def _less(a: int, b: int) -> bool:
    return a != UNLIMITED and (b == UNLIMITED or a < b)


def _misfit(limit: Limit, why: str) -> Forbidden:
    level = "project_id" if limit.project_id else "domain_id"
    return Forbidden(
        f"Invalid resource limit: The resource limit ({level}: "
        f"{limit.project_id or limit.domain_id}, resource_name: {limit.resource_name}, "
        f"resource_limit: {limit.resource_limit}, service_id: {limit.service_id}, region_id: "
        f"{limit.region_id or None}) doesn't satisfy current hierarchy model: {why}."
    )

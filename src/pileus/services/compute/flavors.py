"""Flavors: what a server may have. https://docs.openstack.org/api-ref/compute/#flavors"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.query import Filter, Listing, boolean, extended
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import Body, since, trim, until
from pileus.kernel.store import Many, Match, Page, Record, Table, Unique
from pileus.services.compute import checks
from pileus.services.compute.checks import Count, Flag, Name, Positive
from pileus.services.compute.server import FlavorCopy

READ = "os_compute_api:any_token"  # where upstream asks no rule; ours lets everybody in
SPECS = "os_compute_api:os-flavor-extra-specs:index"
_MANAGE = "os_compute_api:os-flavor-manage:"
_ID = re.compile(r"(?! )[a-zA-Z0-9. _-]+(?<! )")


class Flavor(Record, kw_only=True, frozen=True):
    """`ram` and `swap` in MiB, disks in GiB. A flavor that is not public is for its projects only."""

    name: str
    ram: int
    vcpus: int
    disk: int
    ephemeral: int = 0
    swap: int = 0
    rxtx_factor: float = 1.0
    is_public: bool = True
    description: str | None = None
    extra_specs: dict[str, str] = {}
    projects: list[str] = []

    def copy(self) -> FlavorCopy:
        """What a server keeps of it."""
        return FlavorCopy(
            id=self.id,
            name=self.name,
            vcpus=self.vcpus,
            ram=self.ram,
            disk=self.disk,
            ephemeral=self.ephemeral,
            swap=self.swap,
            extra_specs=self.extra_specs,
        )


FLAVORS = Table(
    "compute_flavors",
    Flavor,
    columns=("name", "ram", "vcpus", "disk", "ephemeral", "swap", "is_public"),
    unique=(Unique(("name",), lambda f: f"Flavor with name {f.name} already exists."),),
    many=(Many("projects", lambda f: f.projects),),
)


class CreateFlavor(Body):
    root: ClassVar[str] = "flavor"
    name: Name
    ram: Positive
    vcpus: Positive
    disk: Count
    id: Annotated[str, Meta(max_length=255)] | int | None = None
    ephemeral: Count = field(default=0, name="OS-FLV-EXT-DATA:ephemeral")
    swap: Count = 0
    rxtx_factor: float | UnsetType = UNSET
    is_public: Flag = field(default=True, name="os-flavor-access:is_public")
    description: Annotated[str | UnsetType | None, since("2.55")] = UNSET


class UpdateFlavor(Body):
    root: ClassVar[str] = "flavor"
    description: str | None


class FlavorView(msgspec.Struct, kw_only=True):
    id: str
    name: str
    links: list[dict[str, str]]
    ram: int
    disk: int
    vcpus: int
    swap: int | str
    ephemeral: int = field(name="OS-FLV-EXT-DATA:ephemeral")
    is_public: bool = field(name="os-flavor-access:is_public")
    disabled: Annotated[bool | UnsetType, until("2.102")] = field(
        default=False, name="OS-FLV-DISABLED:disabled"
    )
    rxtx_factor: Annotated[float | UnsetType, until("2.102")] = 1.0
    description: Annotated[str | UnsetType | None, since("2.55")] = UNSET
    extra_specs: Annotated[dict[str, str] | UnsetType, since("2.61")] = UNSET


def view(ctx: Context, f: Flavor) -> FlavorView:
    """A flavor in full, as it looks at the request's version."""
    full = FlavorView(
        id=f.id,
        name=f.name,
        links=checks.links(ctx, "flavors", f),
        ram=f.ram,
        disk=f.disk,
        vcpus=f.vcpus,
        swap=f.swap or (0 if ctx.version >= (2, 75) else ""),
        ephemeral=f.ephemeral,
        is_public=f.is_public,
        rxtx_factor=f.rxtx_factor,
        description=f.description,
        extra_specs=f.extra_specs if ctx.allows(SPECS) else UNSET,
    )
    return trim(full, ctx.version)


def brief(ctx: Context, f: Flavor) -> dict[str, Any]:
    """A flavor in a list without details."""
    found = {"id": f.id, "name": f.name, "links": checks.links(ctx, "flavors", f)}
    return found | ({"description": f.description} if ctx.version >= (2, 55) else {})


_SORTS = {
    "flavorid": "id",
    "id": "id",
    "name": "name",
    "memory_mb": "ram",
    "vcpus": "vcpus",
    "root_gb": "disk",
    "ephemeral_gb": "ephemeral",
    "swap": "swap",
    "is_public": "is_public",
    "created_at": "created_at",
    "updated_at": "updated_at",
}
_QUERY = (*checks.PAGING, "is_public", "minRam", "minDisk")


class OfFlavor(Resource[Flavor]):
    """What every resource about flavors has: whom one is there for."""

    table = FLAVORS
    id_param = "flavor_id"

    async def load(self, ctx: Context, id: str) -> Flavor:
        """A flavor that is neither public nor the caller's project's is not there."""
        flavor = await super().load(ctx, id)
        hidden = not flavor.is_public and ctx.caller.project_id not in flavor.projects
        if hidden and not ctx.caller.is_admin:
            raise self.table.missing(id)
        return flavor


class Flavors(OfFlavor):
    rules = {
        READ: "@",
        _MANAGE + "create": "rule:context_is_admin",
        _MANAGE + "update": "rule:context_is_admin",
        _MANAGE + "delete": "rule:context_is_admin",
    }
    scopes: ClassVar[Mapping[str, tuple[str, ...]]] = {READ: ()}
    listing = Listing(
        {
            "minRam": Filter("ram", int, "ge"),
            "minDisk": Filter("disk", int, "ge"),
        },
        _SORTS,
        default=(("id", False),),
    )

    @operation("GET", "/flavors", READ)
    async def index(self, ctx: Context) -> dict[str, Any]:
        page = self._page(ctx)
        found = await checks.listed(ctx, FLAVORS, page)
        return checks.with_links(ctx, "flavors", [brief(ctx, f) for f in found], page, found)

    @operation("GET", "/flavors/detail", READ)
    async def detail(self, ctx: Context) -> dict[str, Any]:
        page = self._page(ctx)
        found = await checks.listed(ctx, FLAVORS, page)
        return checks.with_links(ctx, "flavors", [view(ctx, f) for f in found], page, found)

    @operation("GET", "/flavors/{flavor_id}", READ)
    async def show(self, ctx: Context, flavor: Flavor) -> dict[str, FlavorView]:
        return {"flavor": view(ctx, flavor)}

    @operation("POST", "/flavors", _MANAGE + "create", status=200)
    async def create(self, ctx: Context, body: CreateFlavor) -> dict[str, FlavorView]:
        if body.rxtx_factor is not UNSET and ctx.version >= (2, 102):
            raise Invalid("Additional properties are not allowed ('rxtx_factor' was unexpected)")
        flavor = Flavor(
            id=_id(ctx, body.id),
            name=checks.name(body.name),
            ram=body.ram,
            vcpus=body.vcpus,
            disk=body.disk,
            ephemeral=body.ephemeral,
            swap=body.swap,
            rxtx_factor=body.rxtx_factor if body.rxtx_factor is not UNSET else 1.0,
            is_public=checks.flag(body.is_public, "os-flavor-access:is_public"),
            description=body.description if body.description is not UNSET else None,
        )
        async with ctx.runtime.store.tx() as tx:
            if await FLAVORS.find(tx, flavor.id):
                raise Conflict(f"Flavor with ID {flavor.id} already exists.")
            flavor = await FLAVORS.insert(tx, flavor)
        return {"flavor": view(ctx, flavor)}

    @operation("PUT", "/flavors/{flavor_id}", _MANAGE + "update", since="2.55")
    async def update(
        self, ctx: Context, flavor: Flavor, body: UpdateFlavor
    ) -> dict[str, FlavorView]:
        async with ctx.runtime.store.tx() as tx:
            flavor = await FLAVORS.change(tx, flavor, description=body.description)
        return {"flavor": view(ctx, flavor)}

    @operation("DELETE", "/flavors/{flavor_id}", _MANAGE + "delete", status=202)
    async def delete(self, ctx: Context, flavor: Flavor) -> None:
        async with ctx.runtime.store.tx() as tx:
            await FLAVORS.delete(tx, flavor)

    def _page(self, ctx: Context) -> Page:
        """Public ones and the project's own; an administrator may ask for others with `is_public`."""
        checks.known_only(ctx, (*_QUERY, "name") if ctx.version >= (2, 102) else _QUERY)
        page = self.listing.parse(ctx.query, scopes=_visible(ctx))
        if ctx.version >= (2, 102) and ctx.query.has("name"):
            page = extended(page, name=ctx.query.get("name"))
        return page


def _visible(ctx: Context) -> tuple[Mapping[str, Any], ...]:
    own: tuple[Mapping[str, Any], ...] = (
        {"is_public": 1},
        {"projects": Match("any", [ctx.caller.project_id])},
    )
    asked = ctx.query.get("is_public")
    if not asked or not ctx.caller.is_admin:
        return own
    if asked.lower() == "none":
        return ()
    return own if boolean(asked, "is_public") else ({"is_public": 0},)


def _id(ctx: Context, asked: str | int | None) -> str:
    if asked in (None, "", "auto"):
        return ctx.runtime.world.new_id()
    text = str(asked)
    if not _ID.fullmatch(text):
        raise checks.wrong("id", text, "It must hold letters, digits, dots, spaces and -_ only")
    return text

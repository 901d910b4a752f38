"""Resource providers: trees of what has inventories. Placement API, "Resource Providers".

The record holds all that the provider's public generation covers: inventories with their usage, traits, aggregates.
So a claim is one row written, and hosts can be ranked by an index on their free memory.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import Conflict, Invalid, NotFound
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import Body, since
from pileus.kernel.store import Column, Many, Record, Table, Tx, Unique

from . import answers
from .answers import answer, as_uuid
from .fit import NOTHING, Stock
from .matching import every_provider, require_known, wanted
from .media_types import JsonResource

MEMORY = "MEMORY_MB"
Name = Annotated[str, Meta(max_length=200)]


class ResourceProvider(Record, kw_only=True, frozen=True):
    """`provider_generation` is the public one. `reported_traits` are those the host itself spoke of."""

    name: str
    parent_id: str = ""
    root_id: str
    provider_generation: int = 0
    inventories: dict[str, Stock] = {}
    traits: list[str] = []
    aggregates: list[str] = []
    reported_traits: list[str] = []

    @property
    def in_use(self) -> bool:
        return any(s.used for s in self.inventories.values())


def _memory(provider: ResourceProvider) -> Stock:
    return provider.inventories.get(MEMORY, NOTHING)


PROVIDERS = Table(
    "placement_providers",
    ResourceProvider,
    columns=(
        "name",
        "parent_id",
        "root_id",
        Column("memory_free", lambda p: _memory(p).free, int),
        Column("memory_room", lambda p: _memory(p).room, int),
    ),
    indexes=(
        ("root_id",),
        ("parent_id", "memory_room", "id", "memory_free"),
        # holds all that a search looks at before it decodes what it does not know yet
        ("parent_id", "created_at", "id", "generation", "memory_free", "deleted_at"),
    ),
    unique=(
        Unique(
            ("name",),
            lambda p: f"Conflicting resource provider name: {p.name} already exists.",
            answers.DUPLICATE_NAME,
        ),
    ),
    many=(
        Many("classes", lambda p: list(p.inventories)),
        Many("traits", lambda p: p.traits),
        Many("aggregates", lambda p: p.aggregates),
    ),
    noun="Resource provider",
)


async def revise(
    tx: Tx, provider: ResourceProvider, *, by: int = 1, **changes: Any
) -> ResourceProvider:
    """A write that the public generation counts."""
    following = provider.provider_generation + by
    return await PROVIDERS.change(tx, provider, provider_generation=following, **changes)


def refuse_stale(provider: ResourceProvider, said: int) -> None:
    """Raises Conflict unless the caller knows the provider as it is."""
    if provider.provider_generation != said:
        raise answers.concurrent(
            f"resource provider generation conflict for {provider.id}: "
            f"actual: {provider.provider_generation}, given: {said}; read it again and retry."
        )


def links_of(ctx: Context, provider_id: str) -> list[dict[str, str]]:
    url = f"{ctx.service.prefix}/resource_providers/{provider_id}"
    kinds = ["inventories", "usages"]
    for at, kind in (((1, 1), "aggregates"), ((1, 6), "traits"), ((1, 11), "allocations")):
        if ctx.version >= at:
            kinds.append(kind)
    return [{"rel": "self", "href": url}, *({"rel": k, "href": f"{url}/{k}"} for k in kinds)]


def view(ctx: Context, provider: ResourceProvider) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "uuid": provider.id,
        "name": provider.name,
        "generation": provider.provider_generation,
        "links": links_of(ctx, provider.id),
    }
    if ctx.version >= (1, 14):
        shown["parent_provider_uuid"] = provider.parent_id or None
        shown["root_provider_uuid"] = provider.root_id
    return shown


class CreateProvider(Body):
    lax = False
    name: Name
    uuid: str | UnsetType = UNSET
    parent_provider_uuid: Annotated[str | UnsetType | None, since("1.14")] = UNSET


class UpdateProvider(Body):
    lax = False
    name: Name
    parent_provider_uuid: Annotated[str | UnsetType | None, since("1.14")] = UNSET


class OfProvider(JsonResource[ResourceProvider]):
    """What stands below one provider's URL."""

    table = PROVIDERS
    id_param = "provider_id"

    async def load(self, ctx: Context, id: str) -> ResourceProvider:
        found = await PROVIDERS.find(ctx.runtime.store, id)
        if found is None:
            raise NotFound(f"No resource provider with uuid {id} found.")
        return found


class ResourceProviders(OfProvider):
    rules = {
        f"placement:resource_providers:{verb}": "rule:admin_or_service_api"
        for verb in ("list", "create", "show", "update", "delete")
    }

    @operation("GET", "/resource_providers", "placement:resource_providers:list")
    async def index(self, ctx: Context) -> Any:
        known = ["name", "uuid"]
        for at, keys in (
            ((1, 3), ("member_of",)),
            ((1, 4), ("resources",)),
            ((1, 14), ("in_tree",)),
            ((1, 18), ("required",)),
        ):
            known += keys if ctx.version >= at else ()
        answers.only(ctx, *known)
        asked = await wanted(ctx, PROVIDERS)
        await require_known(ctx.runtime.store, [asked])
        found = await every_provider(ctx.runtime.store, PROVIDERS, asked)
        newest = max((p.updated_at or p.created_at for p in found), default="")
        return answer(ctx, {"resource_providers": [view(ctx, p) for p in found]}, changed_at=newest)

    @operation("POST", "/resource_providers", "placement:resource_providers:create")
    async def create(self, ctx: Context, body: CreateProvider) -> Any:
        if not body.name:
            raise Invalid("Unable to create resource provider: a name is required.")
        id = as_uuid(body.uuid) if body.uuid else ctx.runtime.world.new_id()
        async with ctx.runtime.store.tx() as tx:
            if await PROVIDERS.find(tx, id) is not None:
                raise Conflict(
                    f"Conflicting resource provider uuid: {id} already exists.",
                    code=answers.DUPLICATE_NAME,
                )
            parent = await _parent(tx, body.parent_provider_uuid or "", id)
            provider = await PROVIDERS.insert(
                tx,
                ResourceProvider(
                    id=id,
                    name=body.name,
                    parent_id=parent.id if parent else "",
                    root_id=parent.root_id if parent else id,
                ),
            )
        location = f"{ctx.service.prefix}/resource_providers/{id}"
        if ctx.version < (1, 20):
            return answer(ctx, None, 201, location=location)
        return answer(
            ctx, view(ctx, provider), 200, changed_at=provider.created_at, location=location
        )

    @operation("GET", "/resource_providers/{provider_id}", "placement:resource_providers:show")
    async def show(self, ctx: Context, provider: ResourceProvider) -> Any:
        changed_at = provider.updated_at or provider.created_at
        return answer(ctx, view(ctx, provider), changed_at=changed_at)

    @operation("PUT", "/resource_providers/{provider_id}", "placement:resource_providers:update")
    async def update(self, ctx: Context, provider: ResourceProvider, body: UpdateProvider) -> Any:
        """A rename, or a move in the tree; neither counts in the public generation."""
        async with ctx.runtime.store.tx() as tx:
            provider = await PROVIDERS.get(tx, provider.id)
            if body.parent_provider_uuid is not UNSET:
                provider = await _move(
                    tx, provider, body.parent_provider_uuid or "", freely=ctx.version >= (1, 37)
                )
            if body.name != provider.name:
                provider = await PROVIDERS.change(tx, provider, name=body.name)
        return answer(ctx, view(ctx, provider), changed_at=provider.updated_at)

    @operation("DELETE", "/resource_providers/{provider_id}", "placement:resource_providers:delete")
    async def delete(self, ctx: Context, provider: ResourceProvider) -> None:
        async with ctx.runtime.store.tx() as tx:
            provider = await PROVIDERS.get(tx, provider.id)
            if provider.in_use:
                raise Conflict(
                    f"Unable to delete resource provider {provider.id}: "
                    "Resource provider has allocations.",
                    code=answers.PROVIDER_IN_USE,
                )
            if await PROVIDERS.one(tx, parent_id=provider.id) is not None:
                raise Conflict(
                    f"Unable to delete parent resource provider {provider.id}: "
                    "It has child resource providers.",
                    code=answers.PROVIDER_HAS_CHILDREN,
                )
            await PROVIDERS.delete(tx, provider)


async def _parent(tx: Tx, id: str, of: str) -> ResourceProvider | None:
    if not id:
        return None
    wanted_id = as_uuid(id)
    found = await PROVIDERS.find(tx, wanted_id)
    if wanted_id == of and found is None:
        raise Invalid(
            f"Unable to create resource provider {of}: parent provider UUID cannot be same as "
            "UUID. A provider can't be its own parent."
        )
    if found is None:
        raise Invalid(
            f"Unable to save resource provider {of}: parent provider UUID does not exist: {id}."
        )
    return found


async def _move(
    tx: Tx, provider: ResourceProvider, parent_id: str, *, freely: bool
) -> ResourceProvider:
    """Gives the provider another parent ("" for none); its whole subtree goes with it."""
    parent = await _parent(tx, parent_id, provider.id)
    new_parent = parent.id if parent else ""
    if new_parent == provider.parent_id:
        return provider
    if provider.parent_id and not freely:
        verb = "re-parenting" if parent else "un-parenting"
        raise Invalid(
            f"Unable to save resource provider {provider.id}: {verb} a provider is not currently "
            "allowed (it is since 1.37)."
        )
    subtree = [provider]
    family = await PROVIDERS.all(tx, root_id=provider.root_id)
    for one in subtree:  # grows as children are found
        subtree += [p for p in family if p.parent_id == one.id]
    if any(p.id == new_parent for p in subtree):
        raise Invalid(
            f"Unable to save resource provider {provider.id}: creating loop in the provider "
            f"tree is not allowed. {new_parent} is the provider itself or below it."
        )
    root_id = parent.root_id if parent else provider.id
    for below in subtree[1:]:
        await PROVIDERS.change(tx, below, root_id=root_id)
    return await PROVIDERS.change(tx, provider, parent_id=new_parent, root_id=root_id)

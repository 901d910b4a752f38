"""Allocations: what a consumer holds of which provider. Placement API, "Allocations"."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import KEEP, Body, since
from pileus.kernel.store import Match, Page

from . import answers
from .answers import answer, as_uuid, consumer_uuid
from .ledger import CONSUMERS, Consumer, Wish, drop, fulfil
from .media_types import JsonResource
from .providers import PROVIDERS, OfProvider, ResourceProvider

Amount = Annotated[int, Meta(ge=1)]
Owner = Annotated[str, Meta(min_length=1, max_length=255)]
Mappings = Annotated[
    dict[str, Annotated[list[str], Meta(min_length=1)]], Meta(min_length=1)
]  # suffix of a group -> its providers; checked, not kept
_SLICE = 200
_NOBODY = "00000000-0000-0000-0000-000000000000"  # the owner of what was allocated before 1.8


class ProviderRef(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    uuid: str


class OldAllocation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of a list, until 1.11."""

    resource_provider: ProviderRef
    resources: Annotated[dict[str, Amount], Meta(min_length=1)]


class NewAllocation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of an object by provider, since 1.12. Its generation is what GET shows; it is not checked."""

    resources: Annotated[dict[str, Amount], Meta(min_length=1)]
    generation: int | UnsetType = UNSET


class OldAllocations(Body):
    lax = False
    allocations: Annotated[list[OldAllocation], Meta(min_length=1)]
    project_id: Annotated[Owner | UnsetType, since("1.8")] = UNSET
    user_id: Annotated[Owner | UnsetType, since("1.8")] = UNSET


class NewAllocations(Body):
    lax = False
    allocations: dict[str, NewAllocation]
    project_id: Owner
    user_id: Owner
    consumer_generation: Annotated[int | UnsetType | None, since("1.28")] = UNSET
    mappings: Annotated[Mappings | UnsetType, since("1.34")] = UNSET
    consumer_type: Annotated[Owner | UnsetType, since("1.38")] = UNSET


class ManyAllocations(Body):
    """By consumer; each is checked as a NewAllocations."""

    lax = False
    unknown = KEEP


def wish_of(ctx: Context, consumer_id: str, body: NewAllocations, *, emptying: bool) -> Wish:
    """What the body asks for. Raises Invalid where the version asks for more than was sent."""
    for at, name in (((1, 28), "consumer_generation"), ((1, 38), "consumer_type")):
        if ctx.version >= at and getattr(body, name) is UNSET:
            raise Invalid(f"JSON does not validate: '{name}' is a required property")
    if not body.allocations and not emptying:
        raise Invalid("JSON does not validate: {} does not have enough properties: 'allocations'")
    allocations = {as_uuid(p): one.resources for p, one in body.allocations.items()}
    for amounts in allocations.values():
        answers.class_names(amounts)
    kind = body.consumer_type or ""
    if kind:
        answers.class_names((kind,))
    return Wish(
        consumer_id=consumer_uuid(consumer_id),
        allocations=allocations,
        project_id=body.project_id,
        user_id=body.user_id,
        consumer_type=kind,
        expected=body.consumer_generation,
    )


class ProviderAllocations(OfProvider):
    rules = {"placement:resource_providers:allocations:list": "rule:admin_or_service_api"}

    @operation(
        "GET",
        "/resource_providers/{provider_id}/allocations",
        "placement:resource_providers:allocations:list",
    )
    async def index(self, ctx: Context, provider: ResourceProvider) -> Any:
        shown: dict[str, Any] = {}
        marker = ""
        while True:
            filters = {"providers": Match("any", [provider.id])}
            page = Page(filters, (("created_at", False), ("id", False)), _SLICE, marker)
            found = await CONSUMERS.list(ctx.runtime.store, page)
            for consumer in found:
                one: dict[str, Any] = {"resources": consumer.allocations[provider.id]}
                if ctx.version >= (1, 28):
                    one["consumer_generation"] = consumer.consumer_generation
                shown[consumer.id] = one
            if len(found) < _SLICE:
                break
            marker = found[-1].id
            await asyncio.sleep(0)
        generation = provider.provider_generation
        return answer(ctx, {"allocations": shown, "resource_provider_generation": generation})


class Allocations(JsonResource[Consumer]):
    table = CONSUMERS
    rules = {
        f"placement:allocations:{verb}": "rule:admin_or_service_api"
        for verb in ("manage", "list", "update", "delete")
    }

    @operation("GET", "/allocations/{consumer_id}", "placement:allocations:list")
    async def show(self, ctx: Context, consumer_id: str) -> Any:
        consumer = await CONSUMERS.find(ctx.runtime.store, consumer_id)
        if consumer is None:
            return answer(ctx, {"allocations": {}})
        page = Page({"id": list(consumer.allocations)}, limit=len(consumer.allocations))
        providers = await PROVIDERS.list(ctx.runtime.store, page)
        generations = {p.id: p.provider_generation for p in providers}
        shown: dict[str, Any] = {
            "allocations": {
                p: {"resources": amounts, "generation": generations.get(p, 0)}
                for p, amounts in consumer.allocations.items()
            }
        }
        for at, name in (
            ((1, 12), "project_id"),
            ((1, 12), "user_id"),
            ((1, 28), "consumer_generation"),
            ((1, 38), "consumer_type"),
        ):
            if ctx.version >= at:
                shown[name] = getattr(consumer, name)
        changed_at = consumer.updated_at or consumer.created_at
        return answer(ctx, shown, changed_at=changed_at)

    @operation("PUT", "/allocations/{consumer_id}", "placement:allocations:update", until="1.12")
    async def set_listed(self, ctx: Context, consumer_id: str, body: OldAllocations) -> None:
        if ctx.version >= (1, 8) and (body.project_id is UNSET or body.user_id is UNSET):
            raise Invalid(
                "JSON does not validate: 'project_id' and 'user_id' are required properties"
            )
        allocations: dict[str, dict[str, int]] = defaultdict(dict)
        for one in body.allocations:
            answers.class_names(one.resources)
            allocations[as_uuid(one.resource_provider.uuid)] |= one.resources
        wish = Wish(
            consumer_id=consumer_uuid(consumer_id),
            allocations=allocations,
            project_id=body.project_id or _NOBODY,
            user_id=body.user_id or _NOBODY,
        )
        async with ctx.runtime.store.tx() as tx:
            await fulfil(tx, [wish])

    @operation("PUT", "/allocations/{consumer_id}", "placement:allocations:update", since="1.12")
    async def set_all(self, ctx: Context, consumer_id: str, body: NewAllocations) -> None:
        wish = wish_of(ctx, consumer_id, body, emptying=ctx.version >= (1, 28))
        async with ctx.runtime.store.tx() as tx:
            await fulfil(tx, [wish])

    @operation("POST", "/allocations", "placement:allocations:manage", since="1.13")
    async def manage(self, ctx: Context, body: ManyAllocations) -> Any:
        """The allocations of several consumers, all or none: how a resource changes hands."""
        document: Mapping[str, Any] = ctx.document
        if not document:
            raise Invalid("JSON does not validate: {} does not have enough properties")
        wishes = [
            wish_of(ctx, consumer, NewAllocations.take(given, ctx.version), emptying=True)
            for consumer, given in document.items()
        ]
        async with ctx.runtime.store.tx() as tx:
            await fulfil(tx, wishes)
        return None

    @operation("DELETE", "/allocations/{consumer_id}", "placement:allocations:delete")
    async def delete(self, ctx: Context, consumer_id: str) -> None:
        async with ctx.runtime.store.tx() as tx:
            consumer = await CONSUMERS.find(tx, consumer_id)
            if consumer is None:
                raise NotFound(f"No allocations for consumer '{consumer_id}'")
            await drop(tx, consumer)

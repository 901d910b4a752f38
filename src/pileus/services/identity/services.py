"""Services of the catalog: https://docs.openstack.org/api-ref/identity/v3/#service-catalog-and-endpoints"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import UNSET, Meta, UnsetType

from pileus.kernel import auth
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, operation

from .catalog import REVISION, SERVICES, CatalogService
from .wire import (
    ADMIN_OR_SYSTEM_READER,
    Noun,
    NounBody,
    changed,
    changes_of,
    extras,
    linked,
    listing,
    removed,
)

Type = Annotated[str, Meta(min_length=1, max_length=255)]
Text = Annotated[str, Meta(max_length=255)]


class CreateService(NounBody, kw_only=True):
    root: ClassVar[str] = "service"
    type: Type
    name: Text = ""
    description: str | None = None
    enabled: bool = True


class UpdateService(NounBody, kw_only=True):
    root: ClassVar[str] = "service"
    type: Type | UnsetType = UNSET
    name: Text | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET


def view(ctx: Context, s: CatalogService) -> dict[str, Any]:
    shown = {**s.extra, "id": s.id, "name": s.name, "type": s.type, "enabled": s.enabled}
    if s.description is not None:
        shown["description"] = s.description
    return linked(ctx, "services", shown)


class Services(Noun[CatalogService]):
    table = SERVICES
    id_param = "service_id"
    rules = {
        "identity:get_service": ADMIN_OR_SYSTEM_READER,
        "identity:list_services": ADMIN_OR_SYSTEM_READER,
        "identity:create_service": "rule:admin_required",
        "identity:update_service": "rule:admin_required",
        "identity:delete_service": "rule:admin_required",
    }
    scopes = {name: ("system", "project") for name in rules}
    listing = listing({"type": Filter(), "name": Filter()})

    @operation("GET", "/services", "identity:list_services")
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await self.index_of(ctx, "services", view)

    @operation("POST", "/services", "identity:create_service", status=201)
    async def create(self, ctx: Context, body: CreateService) -> dict[str, Any]:
        service = CatalogService(
            id=ctx.runtime.world.new_hex(), extra=extras(ctx, body), **body.given()
        )
        async with ctx.runtime.store.tx() as tx:
            service = await SERVICES.insert(tx, service)
            await auth.revise(tx, REVISION)
            await changed(tx, "service", service.id, "created")
        return {"service": view(ctx, service)}

    @operation("GET", "/services/{service_id}", "identity:get_service")
    async def show(self, ctx: Context, service: CatalogService) -> dict[str, Any]:
        return {"service": view(ctx, service)}

    @operation("PATCH", "/services/{service_id}", "identity:update_service")
    async def update(
        self, ctx: Context, service: CatalogService, body: UpdateService
    ) -> dict[str, Any]:
        changes = changes_of(ctx, service, body)
        async with ctx.runtime.store.tx() as tx:
            service = await SERVICES.change(tx, service, **changes)
            await auth.revise(tx, REVISION)
            await changed(tx, "service", service.id, "updated")
        return {"service": view(ctx, service)}

    @operation("DELETE", "/services/{service_id}", "identity:delete_service")
    async def delete(self, ctx: Context, service: CatalogService) -> None:
        async with ctx.runtime.store.tx() as tx:
            await removed(ctx, tx, "service", service.id)
            await SERVICES.delete(tx, service)
            await auth.revise(tx, REVISION)

"""Service providers: other clouds that take this one's word for a user. Tokens name the enabled ones."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import UNSET, Meta, UnsetType

from pileus.kernel import auth
from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Reader, Record

from ..wire import ADMIN_OR_SYSTEM_READER, Noun, NounTable, changed, linked, listing
from .identity_providers import check_id

_PATH = "OS-FEDERATION/service_providers"
_RELAY_STATE = "ss:mem:"  # upstream's default
Url = Annotated[str, Meta(max_length=225, pattern=r"^[a-zA-Z0-9+.-]+:.+")]


class ServiceProvider(Record, kw_only=True, frozen=True):
    auth_url: str
    sp_url: str
    enabled: bool = False
    description: str | None = None
    relay_state_prefix: str = _RELAY_STATE


SERVICE_PROVIDERS = NounTable(
    "identity_service_providers", ServiceProvider, columns=("enabled",), noun="Service Provider"
)


class CreateServiceProvider(Body, kw_only=True):
    root: ClassVar[str] = "service_provider"
    auth_url: Url
    sp_url: Url
    enabled: bool = False
    description: str | None = None
    relay_state_prefix: str | None = None


class UpdateServiceProvider(Body, kw_only=True):
    root: ClassVar[str] = "service_provider"
    auth_url: Url | UnsetType = UNSET
    sp_url: Url | UnsetType = UNSET
    enabled: bool | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    relay_state_prefix: str | UnsetType | None = UNSET


def view(ctx: Context, p: ServiceProvider) -> dict[str, Any]:
    shown = {
        "id": p.id,
        "auth_url": p.auth_url,
        "sp_url": p.sp_url,
        "enabled": p.enabled,
        "description": p.description,
        "relay_state_prefix": p.relay_state_prefix,
    }
    return linked(ctx, _PATH, shown)


async def in_tokens(db: Reader) -> list[dict[str, str]]:
    """The enabled ones as every token names them."""
    found = await SERVICE_PROVIDERS.all(db, enabled=1)
    return [{"auth_url": p.auth_url, "id": p.id, "sp_url": p.sp_url} for p in found]


class ServiceProviders(Noun[ServiceProvider]):
    table = SERVICE_PROVIDERS
    id_param = "service_provider_id"
    rules = {
        "identity:create_service_provider": "rule:admin_required",
        "identity:list_service_providers": ADMIN_OR_SYSTEM_READER,
        "identity:get_service_provider": ADMIN_OR_SYSTEM_READER,
        "identity:update_service_provider": "rule:admin_required",
        "identity:delete_service_provider": "rule:admin_required",
    }
    scopes = {name: ("system", "project") for name in rules}
    listing = listing({"id": Filter(), "enabled": Filter(kind=bool)})

    @operation("GET", f"/{_PATH}", "identity:list_service_providers")
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await self.index_of(ctx, "service_providers", view)

    @operation(
        "PUT",
        f"/{_PATH}/{{service_provider_id}}",
        "identity:create_service_provider",
        status=201,
    )
    async def create(
        self, ctx: Context, service_provider_id: str, body: CreateServiceProvider
    ) -> dict[str, Any]:
        provider = ServiceProvider(
            id=check_id(service_provider_id),
            auth_url=body.auth_url,
            sp_url=body.sp_url,
            enabled=body.enabled,
            description=body.description,
            relay_state_prefix=body.relay_state_prefix or _RELAY_STATE,
        )
        async with ctx.runtime.store.tx() as tx:
            if await SERVICE_PROVIDERS.find(tx, provider.id) is not None:
                raise Conflict(
                    "Conflict occurred attempting to store service_provider - Duplicate entry "
                    f"found with ID {provider.id}."
                )
            provider = await SERVICE_PROVIDERS.insert(tx, provider)
            await auth.revise(tx, "auth")
            await changed(tx, "service_provider", provider.id, "created")
        return {"service_provider": view(ctx, provider)}

    @operation("GET", f"/{_PATH}/{{service_provider_id}}", "identity:get_service_provider")
    async def show(self, ctx: Context, provider: ServiceProvider) -> dict[str, Any]:
        return {"service_provider": view(ctx, provider)}

    @operation("PATCH", f"/{_PATH}/{{service_provider_id}}", "identity:update_service_provider")
    async def update(
        self, ctx: Context, provider: ServiceProvider, body: UpdateServiceProvider
    ) -> dict[str, Any]:
        changes = body.given()
        if not changes:
            raise Invalid("Invalid input for field 'service_provider': it changes nothing.")
        if "relay_state_prefix" in changes:
            changes["relay_state_prefix"] = changes["relay_state_prefix"] or _RELAY_STATE
        async with ctx.runtime.store.tx() as tx:
            provider = await SERVICE_PROVIDERS.change(tx, provider, **changes)
            await auth.revise(tx, "auth")
            await changed(tx, "service_provider", provider.id, "updated")
        return {"service_provider": view(ctx, provider)}

    @operation("DELETE", f"/{_PATH}/{{service_provider_id}}", "identity:delete_service_provider")
    async def delete(self, ctx: Context, provider: ServiceProvider) -> None:
        async with ctx.runtime.store.tx() as tx:
            await SERVICE_PROVIDERS.delete(tx, provider)
            await auth.revise(tx, "auth")
            await changed(tx, "service_provider", provider.id, "deleted")

"""Service providers: other clouds that take this one's word for a user. Tokens name the enabled ones."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta

from pileus.kernel.query import Filter
from pileus.kernel.resources import Context
from pileus.kernel.schema import Body
from pileus.kernel.store import Reader, Record

from ..kept import Kept, changing
from ..wire import NounTable, listing

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


async def in_tokens(db: Reader) -> list[dict[str, str]]:
    """The enabled ones as every token names them."""
    found = await SERVICE_PROVIDERS.all(db, enabled=1)
    return [{"auth_url": p.auth_url, "id": p.id, "sp_url": p.sp_url} for p in found]


class ServiceProviders(Kept[ServiceProvider]):
    table = SERVICE_PROVIDERS
    path = "OS-FEDERATION/service_providers"
    id_param = "service_provider_id"
    creates, updates = CreateServiceProvider, changing(CreateServiceProvider)
    made_by = ("PUT",)
    revises = "auth"
    listing = listing({"id": Filter(), "enabled": Filter(kind=bool)})

    async def fields(
        self, ctx: Context, given: dict[str, Any], old: ServiceProvider | None
    ) -> dict[str, Any]:
        if "relay_state_prefix" in given:
            given["relay_state_prefix"] = given["relay_state_prefix"] or _RELAY_STATE
        return given

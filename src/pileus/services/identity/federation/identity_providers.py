"""Identity providers: who may vouch for users, known by what they call themselves (an OpenID issuer)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import UNSET, Meta, UnsetType

from pileus.kernel import auth
from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Many, Page, Record, Tx

from ..tree import PROJECTS, Project
from ..users import check_domain
from ..wire import (
    ADMIN_OR_SYSTEM_READER,
    Noun,
    NounTable,
    changed,
    linked,
    listing,
    removed,
)

PATH = "OS-FEDERATION/identity_providers"
_LONGEST_ID = 64
RemoteId = Annotated[str, Meta(max_length=255)]


class IdentityProvider(Record, kw_only=True, frozen=True):
    """`authorization_ttl`: for how many minutes groups that a mapping gave stay a user's; None for his token only."""

    domain_id: str
    enabled: bool = False
    description: str | None = None
    authorization_ttl: int | None = None
    remote_ids: list[str] = []


IDENTITY_PROVIDERS = NounTable(
    "identity_providers",
    IdentityProvider,
    columns=("domain_id", "enabled"),
    many=(Many("remote_ids", lambda p: p.remote_ids),),
    noun="Identity Provider",
)


class _Fields(Body, kw_only=True):
    root: ClassVar[str] = "identity_provider"
    enabled: bool | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    authorization_ttl: Annotated[int, Meta(ge=0)] | UnsetType | None = UNSET
    remote_ids: list[RemoteId] | UnsetType | None = UNSET


class CreateIdentityProvider(_Fields, kw_only=True):
    domain_id: str | None = None


class UpdateIdentityProvider(_Fields, kw_only=True):
    pass


def _fields(body: _Fields) -> dict[str, Any]:
    """Raises Invalid for a remote id that is named twice."""
    given = body.given()
    given.pop("domain_id", None)
    if "remote_ids" in given:
        ids = given["remote_ids"] or []
        if len(set(ids)) != len(ids):
            raise Invalid(
                "Invalid input for field 'remote_ids': each may stand there once; "
                f"{next(i for i in ids if ids.count(i) > 1)!r} does so again."
            )
        given["remote_ids"] = sorted(ids)
    return given


def check_id(id: str) -> str:
    """Ids of federation's nouns are free text of up to 64 characters. Raises Invalid."""
    if len(id) > _LONGEST_ID or "/" in id:
        raise Invalid(f"Invalid id {id[:80]!r}: it may have {_LONGEST_ID} characters and no slash.")
    return id


def view(ctx: Context, p: IdentityProvider) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "id": p.id,
        "enabled": p.enabled,
        "description": p.description,
        "domain_id": p.domain_id,
        "authorization_ttl": p.authorization_ttl,
        "remote_ids": p.remote_ids,
    }
    shown = linked(ctx, PATH, shown)
    shown["links"]["protocols"] = f"{shown['links']['self']}/protocols"
    return shown


async def _check_remote_ids(tx: Tx, provider: IdentityProvider) -> None:
    """No two providers go by one name, or a token of one would log in as the other's user. Raises Conflict."""
    await tx.lock("identity_providers.remote_ids")
    for remote_id in provider.remote_ids:
        for other in await IDENTITY_PROVIDERS.list(tx, Page({"remote_ids": remote_id}, limit=2)):
            if other.id != provider.id:
                raise Conflict(
                    "Conflict occurred attempting to store identity_provider - "
                    f"Duplicate remote ID: {remote_id}."
                )


async def _delete(ctx: Context, tx: Tx, provider: IdentityProvider) -> None:
    await removed(ctx, tx, "identity_provider", provider.id)
    await IDENTITY_PROVIDERS.delete(tx, provider)
    await auth.revise(tx, "auth")


async def _with_domain(ctx: Context, tx: Tx, domain_id: str) -> None:
    for provider in await IDENTITY_PROVIDERS.all(tx, domain_id=domain_id):
        await _delete(ctx, tx, provider)


class IdentityProviders(Noun[IdentityProvider]):
    """A provider without a domain gets one of its own, in which its users then live."""

    table = IDENTITY_PROVIDERS
    id_param = "idp_id"
    follows = {"domain": _with_domain}
    rules = {
        "identity:create_identity_provider": "rule:admin_required",
        "identity:list_identity_providers": ADMIN_OR_SYSTEM_READER,
        "identity:get_identity_provider": ADMIN_OR_SYSTEM_READER,
        "identity:update_identity_provider": "rule:admin_required",
        "identity:delete_identity_provider": "rule:admin_required",
    }
    scopes = {name: ("system", "project") for name in rules}
    listing = listing({"id": Filter(), "enabled": Filter(kind=bool)})

    @operation("GET", f"/{PATH}", "identity:list_identity_providers")
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await self.index_of(ctx, "identity_providers", view)

    @operation("PUT", f"/{PATH}/{{idp_id}}", "identity:create_identity_provider", status=201)
    async def create(
        self, ctx: Context, idp_id: str, body: CreateIdentityProvider
    ) -> dict[str, Any]:
        domain_id = body.domain_id or ctx.runtime.world.new_hex()
        provider = IdentityProvider(id=check_id(idp_id), domain_id=domain_id, **_fields(body))
        async with ctx.runtime.store.tx() as tx:
            if await IDENTITY_PROVIDERS.find(tx, idp_id) is not None:
                raise Conflict(
                    "Conflict occurred attempting to store identity_provider - "
                    f"Duplicate entry: {idp_id}."
                )
            await _check_remote_ids(tx, provider)
            if body.domain_id:
                await check_domain(tx, domain_id)
            else:
                await PROJECTS.insert(tx, _domain_of(provider))
                await changed(tx, "domain", domain_id, "created")
            provider = await IDENTITY_PROVIDERS.insert(tx, provider)
            await changed(tx, "identity_provider", idp_id, "created")
        return {"identity_provider": view(ctx, provider)}

    @operation("GET", f"/{PATH}/{{idp_id}}", "identity:get_identity_provider")
    async def show(self, ctx: Context, provider: IdentityProvider) -> dict[str, Any]:
        return {"identity_provider": view(ctx, provider)}

    @operation("PATCH", f"/{PATH}/{{idp_id}}", "identity:update_identity_provider")
    async def update(
        self, ctx: Context, provider: IdentityProvider, body: UpdateIdentityProvider
    ) -> dict[str, Any]:
        changes = _fields(body)
        if not changes:
            raise Invalid("Invalid input for field 'identity_provider': it changes nothing.")
        async with ctx.runtime.store.tx() as tx:
            provider = await IDENTITY_PROVIDERS.change(tx, provider, **changes)
            await _check_remote_ids(tx, provider)
            await auth.revise(tx, "auth")
            await changed(tx, "identity_provider", provider.id, "updated")
        return {"identity_provider": view(ctx, provider)}

    @operation("DELETE", f"/{PATH}/{{idp_id}}", "identity:delete_identity_provider")
    async def delete(self, ctx: Context, provider: IdentityProvider) -> None:
        async with ctx.runtime.store.tx() as tx:
            await _delete(ctx, tx, provider)


def _domain_of(provider: IdentityProvider) -> Project:
    about = f"Auto generated federated domain for Identity Provider: {provider.id}"
    id = provider.domain_id
    return Project(id=id, name=id, is_domain=True, description=about)

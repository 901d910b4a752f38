"""Identity providers: who may vouch for users, known by what they call themselves (an OpenID issuer)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context
from pileus.kernel.schema import Body
from pileus.kernel.store import Many, Page, Record, Tx

from ..kept import Kept
from ..tree import PROJECTS, Project, get_domain
from ..wire import NounTable, changed, listing


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


class UpdateIdentityProvider(Body, kw_only=True):
    root: ClassVar[str] = "identity_provider"
    enabled: bool | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    authorization_ttl: Annotated[int, Meta(ge=0)] | UnsetType | None = UNSET
    remote_ids: list[Annotated[str, Meta(max_length=255)]] | UnsetType | None = UNSET


class CreateIdentityProvider(UpdateIdentityProvider, kw_only=True):
    domain_id: str | None = None


class IdentityProviders(Kept[IdentityProvider]):
    """A provider without a domain gets one of its own, in which its users then live."""

    table = IDENTITY_PROVIDERS
    path = "OS-FEDERATION/identity_providers"
    id_param = "idp_id"
    creates, updates = CreateIdentityProvider, UpdateIdentityProvider
    made_by = ("PUT",)
    revises = "auth"
    goes_with = {"domain": "domain_id"}
    listing = listing({"id": Filter(), "enabled": Filter(kind=bool)})

    @classmethod
    def view(cls, ctx: Context, record: IdentityProvider) -> dict[str, Any]:
        shown = super().view(ctx, record)
        shown["links"]["protocols"] = f"{shown['links']['self']}/protocols"
        return shown

    async def fields(
        self, ctx: Context, given: dict[str, Any], old: IdentityProvider | None
    ) -> dict[str, Any]:
        """Raises Invalid for a remote id that is named twice."""
        if old is None:
            given["domain_id"] = given["domain_id"] or ctx.runtime.world.new_hex()
        if "remote_ids" in given:
            ids = given["remote_ids"] or []
            if len(set(ids)) != len(ids):
                raise Invalid(
                    "Invalid input for field 'remote_ids': each may stand there once; "
                    f"{next(i for i in ids if ids.count(i) > 1)!r} does so again."
                )
            given["remote_ids"] = sorted(ids)
        return given

    async def check(
        self, ctx: Context, tx: Tx, new: IdentityProvider, old: IdentityProvider | None
    ) -> None:
        """No two go by one name, or a token of one would log in as the other's user. Raises Conflict, NotFound."""
        await tx.lock("identity_providers.remote_ids")
        for remote_id in new.remote_ids:
            known = await IDENTITY_PROVIDERS.list(tx, Page({"remote_ids": remote_id}, limit=2))
            if any(other.id != new.id for other in known):
                raise Conflict(
                    "Conflict occurred attempting to store identity_provider - "
                    f"Duplicate remote ID: {remote_id}."
                )
        if old is None and ctx.document["identity_provider"].get("domain_id"):
            await get_domain(tx, new.domain_id)
        elif old is None:
            await PROJECTS.insert(tx, _domain_of(new))
            await changed(tx, "domain", new.domain_id, "created")


def _domain_of(provider: IdentityProvider) -> Project:
    about = f"Auto generated federated domain for Identity Provider: {provider.id}"
    id = provider.domain_id
    return Project(id=id, name=id, is_domain=True, description=about)

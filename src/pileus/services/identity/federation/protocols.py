"""Federation protocols: how a provider's users log in, and the mapping that says who they are here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from pileus.kernel import auth
from pileus.kernel.faults import Conflict, Forbidden, Invalid, NotFound
from pileus.kernel.resources import Context, operation
from pileus.kernel.runtime import Runtime
from pileus.kernel.schema import Body
from pileus.kernel.store import Page, Reader, Record, Table, Tx

from ..kept import check_id
from ..users import USERS
from ..vouchers import Voucher
from ..wire import ADMIN_OR_SYSTEM_READER, Noun, listed
from .federated_users import forget_users
from .identity_providers import IDENTITY_PROVIDERS
from .mappings import MAPPINGS

_MANY = "/OS-FEDERATION/identity_providers/{idp_id}/protocols"
_ONE = _MANY + "/{protocol_id}"
MappingId = Annotated[str, Meta(min_length=1, max_length=64)]
RemoteAttribute = Annotated[str, Meta(max_length=64)]


class Protocol(Record, kw_only=True, frozen=True):
    """The id is `provider/protocol`. `remote_id_attribute` names the claim in which the provider says who it is."""

    idp_id: str
    protocol_id: str
    mapping_id: str
    remote_id_attribute: str | None = None


PROTOCOLS = Table(
    "identity_federation_protocols",
    Protocol,
    columns=("idp_id", "protocol_id", "mapping_id"),
    indexes=(("idp_id",),),
    noun="federated protocol",
)


class CreateProtocol(Body, kw_only=True):
    root: ClassVar[str] = "protocol"
    mapping_id: MappingId
    remote_id_attribute: RemoteAttribute | None = None


class UpdateProtocol(CreateProtocol, kw_only=True):
    pass


async def protocol_of(db: Reader, idp_id: str, protocol_id: str) -> Protocol:
    """Raises NotFound."""
    found = await PROTOCOLS.find(db, f"{idp_id}/{protocol_id}")
    if found is None:
        raise NotFound(_missing(idp_id, protocol_id))
    return found


def _missing(idp_id: str, protocol_id: str) -> str:
    return f"Could not find federated protocol {protocol_id} for Identity Provider: {idp_id}."


def view(ctx: Context, p: Protocol) -> dict[str, Any]:
    provider = f"{ctx.base}/OS-FEDERATION/identity_providers/{p.idp_id}"
    return {
        "id": p.protocol_id,
        "mapping_id": p.mapping_id,
        "remote_id_attribute": p.remote_id_attribute,
        "links": {"self": f"{provider}/protocols/{p.protocol_id}", "identity_provider": provider},
    }


async def _check_mapping(db: Reader, mapping_id: str) -> None:
    if await MAPPINGS.find(db, mapping_id) is None:
        raise Invalid(f"Invalid mapping id: {mapping_id}")


async def _delete(ctx: Context, tx: Tx, protocol: Protocol) -> None:
    await PROTOCOLS.delete(tx, protocol)
    await forget_users(ctx, tx, protocol.idp_id, protocol.protocol_id)
    await auth.revise(tx, "auth")


async def _with_provider(ctx: Context, tx: Tx, idp_id: str) -> None:
    for protocol in await PROTOCOLS.all(tx, idp_id=idp_id):
        await _delete(ctx, tx, protocol)


class Protocols(Noun[Protocol]):
    table = PROTOCOLS
    follows = {"identity_provider": _with_provider}
    rules = {
        "identity:create_protocol": "rule:admin_required",
        "identity:update_protocol": "rule:admin_required",
        "identity:get_protocol": ADMIN_OR_SYSTEM_READER,
        "identity:list_protocols": ADMIN_OR_SYSTEM_READER,
        "identity:delete_protocol": "rule:admin_required",
    }
    scopes = {name: ("system", "project") for name in rules}

    @operation("GET", _MANY, "identity:list_protocols")
    async def index(self, ctx: Context, idp_id: str) -> dict[str, Any]:
        found = await PROTOCOLS.all(ctx.runtime.store, idp_id=idp_id)
        return listed(ctx, "protocols", [{**view(ctx, p), "idp_id": p.idp_id} for p in found])

    @operation("PUT", _ONE, "identity:create_protocol", status=201)
    async def create(
        self, ctx: Context, idp_id: str, protocol_id: str, body: CreateProtocol
    ) -> dict[str, Any]:
        check_id("protocol", protocol_id)
        protocol = Protocol(
            id=f"{idp_id}/{protocol_id}",
            idp_id=idp_id,
            protocol_id=protocol_id,
            mapping_id=body.mapping_id,
            remote_id_attribute=body.remote_id_attribute,
        )
        async with ctx.runtime.store.tx() as tx:
            await IDENTITY_PROVIDERS.get(tx, idp_id)
            await _check_mapping(tx, body.mapping_id)
            if await PROTOCOLS.find(tx, protocol.id) is not None:
                raise Conflict(
                    "Conflict occurred attempting to store federation_protocol - Duplicate entry "
                    f"found with ID {protocol_id}."
                )
            protocol = await PROTOCOLS.insert(tx, protocol)
        return {"protocol": view(ctx, protocol)}

    @operation("GET", _ONE, "identity:get_protocol")
    async def show(self, ctx: Context, idp_id: str, protocol_id: str) -> dict[str, Any]:
        protocol = await protocol_of(ctx.runtime.store, idp_id, protocol_id)
        return {"protocol": view(ctx, protocol)}

    @operation("PATCH", _ONE, "identity:update_protocol")
    async def update(
        self, ctx: Context, idp_id: str, protocol_id: str, body: UpdateProtocol
    ) -> dict[str, Any]:
        async with ctx.runtime.store.tx() as tx:
            protocol = await protocol_of(tx, idp_id, protocol_id)
            await _check_mapping(tx, body.mapping_id)
            protocol = await PROTOCOLS.change(tx, protocol, **body.given())
        return {"protocol": view(ctx, protocol)}

    @operation("DELETE", _ONE, "identity:delete_protocol")
    async def delete(self, ctx: Context, idp_id: str, protocol_id: str) -> None:
        async with ctx.runtime.store.tx() as tx:
            await _delete(ctx, tx, await protocol_of(tx, idp_id, protocol_id))


class VouchingKept:
    """Keeps `vouchers.VOUCHING`: vouchers are of providers and protocols that are there, and nobody else's."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    async def check(
        self, ctx: Context, tx: Tx, user_id: str, domain_id: str, vouchers: Sequence[Voucher]
    ) -> None:
        """Raises Invalid, Forbidden, Conflict."""
        for one in vouchers:
            provider = await IDENTITY_PROVIDERS.find(tx, one.idp_id)
            if provider is None:
                raise Invalid(f"Could not find Identity Provider: {one.idp_id}")
            if await PROTOCOLS.find(tx, f"{one.idp_id}/{one.protocol_id}") is None:
                raise Invalid(_missing(one.idp_id, one.protocol_id))
            if provider.domain_id != domain_id and not ctx.caller.is_admin:
                raise Forbidden(  # or who manages a domain could have another's users log in to it
                    f"Identity Provider {one.idp_id} belongs to another domain than the user."
                )
        await _check_unclaimed(tx, user_id, vouchers)


async def _check_unclaimed(tx: Tx, user_id: str, vouchers: Sequence[Voucher]) -> None:
    """A voucher leads to one user. Raises Conflict."""
    if not vouchers:
        return
    await tx.lock("identity.vouchers")
    keys = [v.key for v in vouchers]
    for user in await USERS.list(tx, Page({"vouchers": keys}, limit=2)):
        if user.id != user_id:
            raise Conflict(
                "Conflict occurred attempting to store federated_user - another user comes by "
                f"{', '.join(v.unique_id for v in vouchers if v in user.vouchers)}."
            )

"""Credentials: https://docs.openstack.org/api-ref/identity/v3/#credentials

Blobs are encrypted in their rows. A lent token may neither read nor change any.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import Conflict, Forbidden, Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Record

from .assignments import held_on
from .claims import forbid_delegated
from .discreet import Discreet
from .kept import owned, shown
from .keys import CREDENTIAL, KEYRING
from .tree import PROJECTS
from .users import USERS
from .wire import (
    AUTHENTICATED,
    Noun,
    NounBody,
    NounTable,
    changed,
    changes_of,
    extras,
    linked,
    listed,
    listing,
    page,
    tidied,
)

EC2 = "ec2"
_BOUND = ("trust_id", "app_cred_id", "access_token_id", "access_id")  # keys of an EC2 blob
_OWN = "(rule:admin_required) or user_id:%(target.credential.user_id)s"
_READ = (
    "(rule:admin_required) or (role:reader and system_scope:all) or "
    "user_id:%(target.credential.user_id)s"
)
Type = Annotated[str, Meta(min_length=1, max_length=255)]


class Credential(Record, kw_only=True, frozen=True):
    """`sealed` is the blob, encrypted with a key of the ring."""

    user_id: str
    type: str
    sealed: str
    project_id: str = ""
    extra: dict[str, Any] = {}


CREDENTIALS = NounTable(
    "identity_credentials",
    Credential,
    columns=("user_id", "type", "project_id"),
    indexes=(("user_id",), ("project_id",)),
    noun="credential",
)


class CreateCredential(Discreet, NounBody, kw_only=True):
    root: ClassVar[str] = "credential"
    user_id: str
    blob: str
    type: Type
    project_id: str | None = None


class UpdateCredential(Discreet, NounBody, kw_only=True):
    root: ClassVar[str] = "credential"
    user_id: str | UnsetType = UNSET
    blob: str | UnsetType = UNSET
    type: Type | UnsetType = UNSET
    project_id: str | UnsetType | None = UNSET


async def opened_blob(runtime: Runtime, c: Credential) -> str:
    """Raises Conflict if its key is lost."""
    content = await runtime.contracts.get(KEYRING).open(CREDENTIAL, c.sealed)
    if content is None:
        raise Conflict(
            f"Credential {c.id} could not be decrypted: its key is gone.",
            internal=f"no key of the ring opens credential {c.id}",
        )
    return content.decode()


async def view(ctx: Context, c: Credential) -> dict[str, Any]:
    blob = await opened_blob(ctx.runtime, c)
    return linked(ctx, "credentials", {**shown(c, "sealed"), "blob": blob})


def ec2_blob(blob: str) -> dict[str, Any]:
    """Raises Invalid."""
    try:
        found = msgspec.json.decode(blob)
    except (msgspec.DecodeError, RecursionError):
        raise Invalid("Invalid blob in credential") from None
    if not isinstance(found, dict) or not isinstance(found.get("access"), str):
        raise Invalid("Invalid blob in credential: it must be an object that has an 'access'.")
    return found


class Credentials(Noun[Credential]):
    table = CREDENTIALS
    id_param = "credential_id"
    follows = owned(CREDENTIALS)
    rules = {
        "identity:get_credential": _READ,
        "identity:list_credentials": _READ,
        "identity:create_credential": _OWN,
        "identity:update_credential": _OWN,
        "identity:delete_credential": _OWN,
    }
    listing = listing({"user_id": Filter(), "type": Filter()})

    def target(self, ctx: Context, record: Credential) -> Mapping[str, object]:
        return {"target.credential.user_id": record.user_id}

    def scope_target(self, ctx: Context, params: Mapping[str, str]) -> Mapping[str, object]:
        if not params and not ctx.caller.system_scope:
            return {"target.credential.user_id": ctx.caller.user_id}
        return dict(params)

    @operation("GET", "/credentials", "identity:list_credentials")
    async def index(self, ctx: Context) -> dict[str, Any]:
        await forbid_delegated(ctx, "read credentials")
        own = {}
        if not ctx.allows("identity:get_credential", {}):  # sees no one's, so his own only
            own = {"user_id": ctx.caller.user_id}
        asked = page(self.listing, ctx.query, **own)
        wanted = ctx.query.get("user_id", ctx.caller.user_id)
        found = await CREDENTIALS.list(ctx.runtime.store, asked)
        if own and wanted != ctx.caller.user_id:
            found = []
        mine = [c for c in found if ctx.allows("identity:get_credential", self.target(ctx, c))]
        return listed(ctx, "credentials", [await view(ctx, c) for c in mine], asked)

    @operation("POST", "/credentials", AUTHENTICATED, status=201)
    async def create(self, ctx: Context, body: CreateCredential) -> dict[str, Any]:
        ctx.require("identity:create_credential", {"target.credential.user_id": body.user_id})
        await forbid_delegated(ctx, "create credentials")
        id = ctx.runtime.world.new_hex()
        if body.type.lower() == EC2:
            id = hashlib.sha256(ec2_blob(body.blob)["access"].encode()).hexdigest()
            if not body.project_id:
                raise Invalid("Invalid project_id in credential: type 'ec2' needs one.")
        await USERS.get(ctx.runtime.store, body.user_id)
        await _check_project(ctx, body.user_id, body.project_id or "")
        credential = Credential(
            id=id,
            user_id=body.user_id,
            type=body.type,
            sealed=await self._seal(ctx, body.blob),
            project_id=body.project_id or "",
            extra=extras(ctx, body),
        )
        async with ctx.runtime.store.tx() as tx:
            credential = await CREDENTIALS.insert(tx, credential)
            await changed(tx, "credential", credential.id, "created")
        return {"credential": await view(ctx, credential)}

    async def _seal(self, ctx: Context, blob: str) -> str:
        return await ctx.peer(KEYRING).seal(CREDENTIAL, blob.encode())

    @operation("GET", "/credentials/{credential_id}", "identity:get_credential")
    async def show(self, ctx: Context, credential: Credential) -> dict[str, Any]:
        await forbid_delegated(ctx, "read credentials")
        return {"credential": await view(ctx, credential)}

    @operation("PATCH", "/credentials/{credential_id}", "identity:update_credential")
    async def update(
        self, ctx: Context, credential: Credential, body: UpdateCredential
    ) -> dict[str, Any]:
        await forbid_delegated(ctx, "change credentials")
        changes = tidied(changes_of(ctx, credential, body), "project_id")
        owner = changes.get("user_id", credential.user_id)
        ctx.require("identity:update_credential", {"target.credential.user_id": owner})
        if owner != credential.user_id:
            await USERS.get(ctx.runtime.store, owner)
        if owner != credential.user_id or "project_id" in changes:
            project_id = changes.get("project_id", credential.project_id)
            await _check_project(ctx, owner, project_id)
        if (blob := changes.pop("blob", None)) is not None:
            if EC2 in (credential.type.lower(), changes.get("type", "").lower()):
                await _check_bounds(ctx, credential, ec2_blob(blob))
            changes["sealed"] = await self._seal(ctx, blob)
        elif changes.get("type", "").lower() == EC2:
            ec2_blob(await opened_blob(ctx.runtime, credential))
        async with ctx.runtime.store.tx() as tx:
            credential = await CREDENTIALS.change(tx, credential, **changes)
            await changed(tx, "credential", credential.id, "updated")
        return {"credential": await view(ctx, credential)}

    @operation("DELETE", "/credentials/{credential_id}", "identity:delete_credential")
    async def delete(self, ctx: Context, credential: Credential) -> None:
        await forbid_delegated(ctx, "delete credentials")
        async with ctx.runtime.store.tx() as tx:
            await CREDENTIALS.delete(tx, credential)
            await changed(tx, "credential", credential.id, "deleted")


async def _check_project(ctx: Context, user_id: str, project_id: str) -> None:
    """A credential is for a project where its user holds a role; an administrator may prepare one."""
    if not project_id or ctx.caller.is_admin:
        return
    store = ctx.runtime.store
    project = await PROJECTS.find(store, project_id)
    if project is None or not await held_on(store, user_id, project):
        raise Forbidden(f"User {user_id} holds no role on project {project_id}.")


async def _check_bounds(ctx: Context, credential: Credential, new: dict[str, Any]) -> None:
    """What an EC2 credential is bound to stays. Raises Invalid."""
    old: dict[str, Any] = {}
    if credential.type.lower() == EC2:
        old = ec2_blob(await opened_blob(ctx.runtime, credential))
    for key in _BOUND:
        if old.get(key) != new.get(key):
            raise Invalid(f"{key} can not be updated for credential")

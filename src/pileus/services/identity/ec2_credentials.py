"""EC2 credentials of a user: a pair of access key and secret for one project, kept among his credentials.

https://docs.openstack.org/api-ref/identity/v3/#credentials (type `ec2`), path `/users/{user_id}/credentials/OS-EC2`
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from pileus.kernel.faults import NotFound
from pileus.kernel.resources import Context, operation
from pileus.kernel.runtime import Runtime
from pileus.kernel.schema import IGNORE, Body, Extra
from pileus.kernel.store import Record

from .claims import forbid_delegated
from .credentials import CREDENTIALS, EC2, Credential, ec2_blob, opened_blob
from .keys import CREDENTIAL, KEYRING
from .tree import PROJECTS
from .users import USERS
from .wire import AUTHENTICATED, READERS, Discreet, Noun, changed, listed

_PATH = "/users/{user_id}/credentials/OS-EC2"
_OWN = "(rule:admin_required) or (role:member and user_id:%(target.credential.user_id)s)"


class KeyPair(Discreet, msgspec.Struct):
    """What the blob of a key pair says that can sign. The last three bind it to what it was made with."""

    access: str
    secret: Annotated[str, Meta(min_length=1)]  # what has none anybody could sign for
    trust_id: str | None = None
    app_cred_id: str | None = None
    access_token_id: str | None = None


class CreateEc2Credential(Body, kw_only=True):
    unknown: ClassVar[Extra] = IGNORE
    tenant_id: str | None = None


def id_of(access: str) -> str:
    return hashlib.sha256(access.encode()).hexdigest()


async def find(runtime: Runtime, access: str) -> tuple[Credential, dict[str, Any]]:
    """The credential and its blob. Raises NotFound in words that do not tell whether the key exists."""
    found = await CREDENTIALS.find(runtime.store, id_of(access))
    if found is None or found.type != EC2:
        raise NotFound("EC2 access key not found.")
    return found, ec2_blob(await opened_blob(runtime, found))


async def find_pair(runtime: Runtime, access: str) -> tuple[Credential, KeyPair]:
    """One that can sign. Raises NotFound."""
    found, blob = await find(runtime, access)
    try:
        return found, msgspec.convert(blob, KeyPair)
    except msgspec.ValidationError as why:
        text = f"blob of credential {found.id}: {why}"
        raise NotFound("EC2 access key not found.", internal=text) from None


def view(ctx: Context, c: Credential, blob: dict[str, Any]) -> dict[str, Any]:
    access = blob["access"]
    return {
        "user_id": c.user_id,
        "tenant_id": c.project_id,
        "access": access,
        "secret": blob.get("secret"),
        "trust_id": blob.get("trust_id"),
        "links": {"self": f"{ctx.base}/users/{c.user_id}/credentials/OS-EC2/{access}"},
    }


class Ec2Credentials(Noun[Record]):
    """As upstream: one that isn't there is a 404 for everybody, its own user counts and not the path's, and it may be
    for a project where he has no role; only then it yields no token.
    """

    rules = {
        "identity:ec2_get_credential": f"{READERS} or user_id:%(target.credential.user_id)s",
        "identity:ec2_list_credentials": f"{READERS} or rule:owner",
        "identity:ec2_create_credential": _OWN,
        "identity:ec2_delete_credential": _OWN,
    }
    scopes = {name: ("system", "project") for name in rules}

    def scope_target(self, ctx: Context, params: Mapping[str, str]) -> Mapping[str, object]:
        return {**params, "target.credential.user_id": params["user_id"]}

    @operation("GET", _PATH, "identity:ec2_list_credentials")
    async def index(self, ctx: Context, user_id: str) -> dict[str, Any]:
        await forbid_delegated(ctx, "read credentials")
        await USERS.get(ctx.runtime.store, user_id)
        found = await CREDENTIALS.all(ctx.runtime.store, user_id=user_id, type=EC2)
        blobs = [(c, ec2_blob(await opened_blob(ctx.runtime, c))) for c in found]
        return listed(ctx, "credentials", [view(ctx, c, blob) for c, blob in blobs])

    @operation("POST", _PATH, "identity:ec2_create_credential", status=201)
    async def create(self, ctx: Context, user_id: str, body: CreateEc2Credential) -> dict[str, Any]:
        store, world = ctx.runtime.store, ctx.runtime.world
        await USERS.get(store, user_id)
        project = await PROJECTS.get(store, body.tenant_id or "")
        await forbid_delegated(ctx, "create credentials")
        pair = {"access": world.new_hex(), "secret": world.new_hex(), "trust_id": None}
        blob = msgspec.json.encode(pair)
        credential = Credential(
            id=id_of(str(pair["access"])),
            user_id=user_id,
            type=EC2,
            sealed=await ctx.peer(KEYRING).seal(CREDENTIAL, blob),
            project_id=project.id,
        )
        async with store.tx() as tx:
            credential = await CREDENTIALS.insert(tx, credential)
            await changed(tx, "credential", credential.id, "created")
        return {"credential": view(ctx, credential, pair)}

    @operation("GET", _PATH + "/{credential_id}", AUTHENTICATED)
    async def show(self, ctx: Context, user_id: str, credential_id: str) -> dict[str, Any]:
        rule = "identity:ec2_get_credential"
        credential, blob = await self._of(ctx, user_id, credential_id, rule)
        await forbid_delegated(ctx, "read credentials")
        return {"credential": view(ctx, credential, blob)}

    @operation("DELETE", _PATH + "/{credential_id}", AUTHENTICATED)
    async def delete(self, ctx: Context, user_id: str, credential_id: str) -> None:
        rule = "identity:ec2_delete_credential"
        credential, _ = await self._of(ctx, user_id, credential_id, rule)
        await forbid_delegated(ctx, "delete credentials")
        async with ctx.runtime.store.tx() as tx:
            await CREDENTIALS.delete(tx, credential)
            await changed(tx, "credential", credential.id, "deleted")

    async def _of(
        self, ctx: Context, user_id: str, access: str, rule: str
    ) -> tuple[Credential, dict[str, Any]]:
        found, blob = await find(ctx.runtime, access)
        ctx.require(rule, {"target.credential.user_id": found.user_id})
        await USERS.get(ctx.runtime.store, user_id)
        return found, blob

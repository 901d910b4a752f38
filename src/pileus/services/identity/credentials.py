"""Credentials: https://docs.openstack.org/api-ref/identity/v3/#credentials

Blobs are encrypted in their rows. A lent token may neither read nor change any.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import Meta

from pileus.kernel.faults import Conflict, Forbidden, Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Record

from .assignments import held_on
from .claims import forbid_delegated
from .kept import ANY_SCOPE, Kept, changing, owned, stored
from .keys import CREDENTIAL, KEYRING
from .tree import PROJECTS
from .users import USERS
from .wire import READERS, Discreet, NounBody, NounTable, listed, listing, page

EC2 = "ec2"
_BOUND = ("trust_id", "app_cred_id", "access_token_id", "access_id")  # keys of an EC2 blob
_OWN = "(rule:admin_required) or user_id:%(target.credential.user_id)s"
_READ = f"{READERS} or user_id:%(target.credential.user_id)s"
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


async def opened_blob(runtime: Runtime, c: Credential) -> str:
    """Raises Conflict if its key is lost."""
    content = await runtime.contracts.get(KEYRING).open(CREDENTIAL, c.sealed)
    if content is None:
        raise Conflict(
            f"Credential {c.id} could not be decrypted: its key is gone.",
            internal=f"no key of the ring opens credential {c.id}",
        )
    return content.decode()


def ec2_blob(blob: str) -> dict[str, Any]:
    """Raises Invalid."""
    try:
        found = msgspec.json.decode(blob)
    except (msgspec.DecodeError, RecursionError):
        raise Invalid("Invalid blob in credential") from None
    if not isinstance(found, dict) or not isinstance(found.get("access"), str):
        raise Invalid("Invalid blob in credential: it must be an object that has an 'access'.")
    return found


class Credentials(Kept[Credential]):
    table = CREDENTIALS
    path = "credentials"
    id_param = "credential_id"
    creates, updates = CreateCredential, changing(CreateCredential)
    asked_later = frozenset({"create"})
    hidden = ("sealed",)
    follows = owned(CREDENTIALS)
    rules = {
        "identity:get_credential": _READ,
        "identity:list_credentials": _READ,
        "identity:create_credential": _OWN,
        "identity:update_credential": _OWN,
        "identity:delete_credential": _OWN,
    }
    scopes = dict.fromkeys(rules, ANY_SCOPE)
    listing = listing({"user_id": Filter(), "type": Filter()})

    def target(self, ctx: Context, record: Credential) -> Mapping[str, object]:
        return {"target.credential.user_id": record.user_id}

    def scope_target(self, ctx: Context, params: Mapping[str, str]) -> Mapping[str, object]:
        if not params and not ctx.caller.system_scope:
            return {"target.credential.user_id": ctx.caller.user_id}
        return dict(params)

    async def index(self, ctx: Context, **fixed: Any) -> dict[str, Any]:
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
        return listed(ctx, "credentials", [await self.told(ctx, c) for c in mine], asked)

    async def told(self, ctx: Context, record: Credential, *, made: bool = False) -> dict[str, Any]:
        return {**self.view(ctx, record), "blob": await opened_blob(ctx.runtime, record)}

    async def ask(self, ctx: Context, verb: str, record: Credential) -> None:
        await forbid_delegated(ctx, f"{verb} credentials")

    async def fields(
        self, ctx: Context, given: dict[str, Any], old: Credential | None
    ) -> dict[str, Any]:
        """Raises Invalid, Forbidden, NotFound."""
        found = stored(Credential, given)
        blob, type = found.pop("blob", None), found.get("type", "").lower()
        owner = found.get("user_id", old.user_id if old else "")
        rule = "identity:update_credential" if old else "identity:create_credential"
        ctx.require(rule, {"target.credential.user_id": owner})
        if old is not None:
            await _check_bounds(ctx, old, type, blob)
        else:
            await forbid_delegated(ctx, "create credentials")
            found |= _ec2_fields(found, blob) if type == EC2 else {}
        if old is None or owner != old.user_id:
            await USERS.get(ctx.runtime.store, owner)
        if old is None or owner != old.user_id or "project_id" in found:
            project_id = found.get("project_id", old.project_id if old else "")
            await _check_project(ctx, owner, project_id)
        if blob is not None:
            found["sealed"] = await ctx.peer(KEYRING).seal(CREDENTIAL, blob.encode())
        return found


def _ec2_fields(given: Mapping[str, Any], blob: str) -> dict[str, str]:
    """The id of an EC2 credential is the digest of its access key. Raises Invalid."""
    id = hashlib.sha256(ec2_blob(blob)["access"].encode()).hexdigest()
    if not given["project_id"]:
        raise Invalid("Invalid project_id in credential: type 'ec2' needs one.")
    return {"id": id}


async def _check_project(ctx: Context, user_id: str, project_id: str) -> None:
    """A credential is for a project where its user holds a role; an administrator may prepare one."""
    if not project_id or ctx.caller.is_admin:
        return
    store = ctx.runtime.store
    project = await PROJECTS.find(store, project_id)
    if project is None or not await held_on(store, user_id, project):
        raise Forbidden(f"User {user_id} holds no role on project {project_id}.")


async def _check_bounds(ctx: Context, old: Credential, type: str, blob: str | None) -> None:
    """What an EC2 credential is bound to stays. Raises Invalid."""
    if EC2 not in (old.type.lower(), type) or (blob is None and type != EC2):
        return
    known: dict[str, Any] = {}
    if blob is None or old.type.lower() == EC2:
        known = ec2_blob(await opened_blob(ctx.runtime, old))
    new = known if blob is None else ec2_blob(blob)
    for key in _BOUND:
        if known.get(key) != new.get(key):
            raise Invalid(f"{key} can not be updated for credential")

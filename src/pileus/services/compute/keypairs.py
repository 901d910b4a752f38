"""Key pairs: they belong to users, not projects. https://docs.openstack.org/api-ref/compute/#keypairs-keypairs"""

from __future__ import annotations

import asyncio
import re
from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import Forbidden, Invalid, NotFound
from pileus.kernel.query import Listing, next_link
from pileus.kernel.quota import limit_of
from pileus.kernel.resources import Answer, Context, Resource, operation
from pileus.kernel.schema import Body, since
from pileus.kernel.store import Page, Reader, Record, Table, Tx, Unique
from pileus.services.compute import checks, keypair_crypto

_KEYS = "os_compute_api:os-keypairs:"
_OWNER = "(rule:context_is_admin) or user_id:%(user_id)s"
_SAFE = re.compile(r"[@._\- a-zA-Z0-9]+")
DEFAULT_LIMIT = 100


class Keypair(Record, kw_only=True, frozen=True):
    """`number` is the id that the API shows; the name tells a user's keys apart."""

    user_id: str
    name: str
    public_key: str
    fingerprint: str
    type: str = "ssh"
    number: int = 0


KEYPAIRS = Table(
    "compute_keypairs",
    Keypair,
    columns=("user_id", "name"),
    unique=(Unique(("user_id", "name"), lambda k: f"Key pair '{k.name}' already exists."),),
)


class CreateKeypair(Body):
    root: ClassVar[str] = "keypair"
    name: Annotated[str, Meta(min_length=1, max_length=255)]
    public_key: Annotated[str, Meta(max_length=65_535)] | UnsetType = UNSET
    type: Annotated[Literal["ssh", "x509"] | UnsetType, since("2.2")] = UNSET
    user_id: Annotated[str | UnsetType, since("2.10")] = UNSET


def _brief(ctx: Context, k: Keypair) -> dict[str, Any]:
    found = {"name": k.name, "public_key": k.public_key, "fingerprint": k.fingerprint}
    return found | ({"type": k.type} if ctx.version >= (2, 2) else {})


def _full(ctx: Context, k: Keypair) -> dict[str, Any]:
    rest = {
        "user_id": k.user_id,
        "id": k.number,
        "created_at": k.created_at.removesuffix("Z"),
        "updated_at": None,
        "deleted": False,
        "deleted_at": None,
    }
    return _brief(ctx, k) | rest


async def key_of(db: Reader, user_id: str, name: str) -> Keypair | None:
    """The user's key of that name."""
    return await KEYPAIRS.one(db, user_id=user_id, name=name)


class Keypairs(Resource[Keypair]):
    table = KEYPAIRS
    id_param = "keypair_name"
    rules = {_KEYS + verb: _OWNER for verb in ("index", "show", "create", "delete")}
    listing = Listing(default=(("name", False), ("id", False)))

    async def load(self, ctx: Context, id: str) -> Keypair:
        """By name, of the caller or of the user whom an administrator names."""
        user_id = _user(ctx, "show")
        found = await key_of(ctx.runtime.store, user_id, id)
        if found is None:
            raise NotFound(f"Keypair {id} not found for user {user_id}")
        return found

    @operation("GET", "/os-keypairs", _KEYS + "index")
    async def index(self, ctx: Context) -> dict[str, Any]:
        user_id = _user(ctx, "index")
        allowed = ("user_id", *checks.PAGING[:2])
        checks.known_only(ctx, allowed)
        paged = ctx.version >= (2, 35)
        page = self.listing.parse(ctx.query, user_id=user_id) if paged else None
        if page is None:
            page = Page({"user_id": user_id}, self.listing.default)
        elif page.marker:
            page = await self._behind(ctx, page, user_id)
        found = await checks.listed(ctx, KEYPAIRS, page)
        views = [{"keypair": _brief(ctx, k)} for k in found]
        answer: dict[str, Any] = {"keypairs": views}
        if paged and found and len(found) == page.limit:
            href = next_link(ctx.url, ctx.query, found[-1].name)
            answer["keypairs_links"] = [{"rel": "next", "href": href}]
        return answer

    async def _behind(self, ctx: Context, page: Page, user_id: str) -> Page:
        """Markers are names."""
        marker = await key_of(ctx.runtime.store, user_id, page.marker)
        if marker is None:
            raise Invalid(f"Marker {page.marker} could not be found.")
        return Page(page.filters, page.sorts, page.limit, marker.id)

    @operation("GET", "/os-keypairs/{keypair_name}", _KEYS + "show")
    async def show(self, ctx: Context, keypair: Keypair) -> dict[str, Any]:
        return {"keypair": _full(ctx, keypair)}

    @operation("POST", "/os-keypairs", _KEYS + "create")
    async def create(self, ctx: Context, body: CreateKeypair) -> Answer:
        user_id = body.user_id or ctx.caller.user_id
        if user_id != ctx.caller.user_id:
            ctx.require(_KEYS + "create", {"user_id": user_id})
        kind = body.type or "ssh"
        if not _SAFE.fullmatch(body.name) or body.name != body.name.strip():
            raise Invalid("Keypair data is invalid: Keypair name contains unsafe characters")
        keys = await _keys(ctx, body, kind, user_id)
        keypair = Keypair(
            id=ctx.runtime.world.new_id(),
            user_id=user_id,
            name=body.name,
            public_key=keys.public,
            fingerprint=keys.fingerprint,
            type=kind,
            number=ctx.runtime.world.random.getrandbits(31),
        )
        async with ctx.runtime.store.tx() as tx:
            await _within_limit(tx, ctx.caller.project_id, user_id)
            await KEYPAIRS.insert(tx, keypair)
        view = _brief(ctx, keypair) | {"user_id": user_id}
        if keys.private:
            view["private_key"] = keys.private
        return Answer({"keypair": view}, 201 if ctx.version >= (2, 2) else 200)

    @operation("DELETE", "/os-keypairs/{keypair_name}", _KEYS + "delete")
    async def delete(self, ctx: Context, keypair: Keypair) -> Answer:
        async with ctx.runtime.store.tx() as tx:
            await KEYPAIRS.delete(tx, keypair)
        return Answer(status=204 if ctx.version >= (2, 2) else 202)


def _user(ctx: Context, verb: str) -> str:
    """Whose keys are meant. Raises Forbidden before anything is looked up."""
    asked = ctx.query.get("user_id") if ctx.version >= (2, 10) else ""
    if asked and asked != ctx.caller.user_id:
        ctx.require(_KEYS + verb, {"user_id": asked})
    return asked or ctx.caller.user_id


async def _keys(ctx: Context, body: CreateKeypair, kind: str, user_id: str) -> keypair_crypto.Keys:
    """Those sent, or, until 2.91, new ones."""
    if body.public_key is not UNSET:
        public = body.public_key
        return keypair_crypto.Keys(public, "", keypair_crypto.fingerprint(public, kind))
    if ctx.version >= (2, 92):
        raise Invalid(
            "Invalid input for field/attribute keypair. 'public_key' is a required property"
        )
    if kind == "x509":
        now = ctx.runtime.world.clock.time()
        return await asyncio.to_thread(keypair_crypto.make_x509, user_id, now)
    return await asyncio.to_thread(keypair_crypto.make_ssh)


async def _within_limit(tx: Tx, project_id: str, user_id: str) -> None:
    """Counted per user, limited by the caller's project."""
    await tx.lock(f"compute.keypairs.{user_id}")
    used = await KEYPAIRS.count(tx, Page({"user_id": user_id}))
    limit = await limit_of(tx, "compute", "key_pairs", project_id, DEFAULT_LIMIT)
    if 0 <= limit <= used:
        raise Forbidden("Quota exceeded, too many key pairs.")

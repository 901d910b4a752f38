"""Subnet pools: prefixes from which subnets are cut (API reference: subnetpools)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel.events import emit
from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.query import Filter
from pileus.kernel.quota import Quota
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Many, Tx

from .addressing import Block, block, compact, free_prefix, inside, overlaps
from .attributes import Attributes, text
from .refusals import bad_input
from .resource import (
    ADMIN,
    COLUMNS,
    OWNER,
    READER,
    NetworkResource,
    Noun,
    Nouns,
    hold,
    listing,
    owner_of,
    project_of,
    sees_all,
    standard,
)
from .subnet import SUBNETS

_LEAST = {4: 8, 6: 64}
_MOST = {4: 32, 6: 128}


class SubnetPool(Noun, kw_only=True, frozen=True):
    """`default_quota`: how many addresses (IPv6: /64s) a project may have of it; -1 is no limit."""

    prefixes: list[str]
    ip_version: int
    min_prefixlen: int
    max_prefixlen: int
    default_prefixlen: int
    default_quota: int = -1
    shared: bool = False
    is_default: bool = False

    @property
    def blocks(self) -> list[Block]:
        return [block(p) for p in self.prefixes]


SUBNETPOOLS = Nouns(
    "network_subnetpools",
    SubnetPool,
    columns=(
        *COLUMNS,
        "ip_version",
        "shared",
        "is_default",
        "min_prefixlen",
        "max_prefixlen",
        "default_prefixlen",
        "default_quota",
    ),
    many=(Many("tags", lambda p: p.tags),),
    quotas=(Quota("network", "subnetpool", default=-1),),
    indexes=(("project_id", "created_at", "id"),),
    noun="Subnet pool",
).worded("SubnetPoolNotFound", "Subnet pool {id} could not be found.")

_FIXED = frozenset(["id", "ip_version", "created_at", "updated_at", "revision_number", "tags"])


class CreateSubnetPool(Attributes):
    root: ClassVar[str] = "subnetpool"
    plural: ClassVar[str] = "subnetpools"
    fixed = _FIXED
    defaults = {"shared": False, "is_default": False}

    name: str
    prefixes: list[str]
    description: str = ""
    default_prefixlen: int | None = None
    min_prefixlen: int | None = None
    max_prefixlen: int | None = None
    default_quota: int | None = None
    shared: bool = False
    is_default: bool = False
    address_scope_id: None = None
    project_id: str | UnsetType = UNSET


class UpdateSubnetPool(Attributes):
    root: ClassVar[str] = "subnetpool"
    creates = False
    fixed = _FIXED | {"project_id", "tenant_id", "shared"}

    name: str | UnsetType = UNSET
    description: str | UnsetType = UNSET
    prefixes: list[str] | UnsetType = UNSET
    default_prefixlen: int | UnsetType = UNSET
    min_prefixlen: int | UnsetType = UNSET
    max_prefixlen: int | UnsetType = UNSET
    default_quota: int | UnsetType | None = UNSET
    is_default: bool | UnsetType = UNSET
    address_scope_id: UnsetType | None = UNSET


class SubnetPools(NetworkResource[SubnetPool]):
    table = SUBNETPOOLS
    noun = "subnetpool"
    plural = "subnetpools"
    id_param = "subnetpool_id"
    see = "get_subnetpool"
    rules = {
        "create_subnetpool": OWNER,
        "create_subnetpool:shared": ADMIN,
        "create_subnetpool:is_default": ADMIN,
        "get_subnetpool": f"{READER} or rule:shared_subnetpools",
        "get_subnetpool:tags": f"{READER} or rule:shared_subnetpools",
        "update_subnetpool": OWNER,
        "update_subnetpool:is_default": ADMIN,
        "update_subnetpool:tags": OWNER,
        "delete_subnetpool": OWNER,
        "delete_subnetpool:tags": OWNER,
    }
    listing = listing(
        ip_version=Filter(kind=int),
        shared=Filter(kind=bool),
        is_default=Filter(kind=bool),
        min_prefixlen=Filter(kind=int),
        max_prefixlen=Filter(kind=int),
        default_prefixlen=Filter(kind=int),
        default_quota=Filter(kind=int),
    )

    def target(self, ctx: Context, record: SubnetPool) -> Mapping[str, object]:
        return {"project_id": record.project_id, "shared": record.shared}

    def scopes_of(self, ctx: Context) -> tuple[Mapping[str, Any], ...]:
        return () if sees_all(ctx) else ({"project_id": project_of(ctx.caller)}, {"shared": 1})

    def view(self, ctx: Context, record: SubnetPool) -> dict[str, Any]:
        p = record
        return standard(p) | {
            "prefixes": p.prefixes,
            "ip_version": p.ip_version,
            "min_prefixlen": p.min_prefixlen,
            "max_prefixlen": p.max_prefixlen,
            "default_prefixlen": p.default_prefixlen,
            "default_quota": None if p.default_quota < 0 else p.default_quota,
            "shared": p.shared,
            "is_default": p.is_default,
            "address_scope_id": None,
        }

    @operation("POST", "/subnetpools", "create_subnetpool", status=201)
    async def create(self, ctx: Context, body: CreateSubnetPool) -> Any:
        owner = owner_of(ctx, body.project_id)
        target = {"project_id": owner, "shared": body.shared}
        ctx.require("create_subnetpool", target)
        self.guard(ctx, "create", ctx.document["subnetpool"], target, CreateSubnetPool)
        pool = _pool(ctx.runtime.world.new_id(), owner, body)
        async with ctx.runtime.store.tx() as tx:
            await _one_default(tx, pool)
            pool = await SUBNETPOOLS.insert(tx, pool)
            await emit(tx, "subnetpool.create.end", owner, id=pool.id)
        return self.one(ctx, pool)

    @operation("GET", "/subnetpools", "get_subnetpool")
    async def index(self, ctx: Context) -> Any:
        return await self.listed(ctx)

    @operation("GET", "/subnetpools/{subnetpool_id}", "get_subnetpool")
    async def show(self, ctx: Context, pool: SubnetPool) -> Any:
        return self.one(ctx, pool)

    @operation("PUT", "/subnetpools/{subnetpool_id}", "update_subnetpool")
    async def update(self, ctx: Context, pool: SubnetPool, body: UpdateSubnetPool) -> Any:
        self.match(ctx, pool)
        raw = ctx.document["subnetpool"]
        self.guard(ctx, "update", raw, self.target(ctx, pool), UpdateSubnetPool)
        changes = body.given()
        changes.pop("address_scope_id", None)
        text(changes.get("name", ""), "name")
        text(changes.get("description", ""), "description")
        if changes.get("default_quota", 0) is None:
            changes["default_quota"] = -1
        if "prefixes" in changes:
            changes["prefixes"] = _larger(pool, changes["prefixes"])
        lengths = {f"{n}_prefixlen": changes.get(f"{n}_prefixlen", getattr(pool, f"{n}_prefixlen"))
                   for n in ("min", "max", "default")}  # fmt: skip
        _bounds(pool.ip_version, *lengths.values())
        async with ctx.runtime.store.tx() as tx:
            await hold(tx, "subnetpools", pool.id)
            pool = await SUBNETPOOLS.revise(tx, pool, **changes)
            await _one_default(tx, pool)
            await emit(tx, "subnetpool.update.end", pool.project_id, id=pool.id)
        return self.one(ctx, pool)

    @operation("DELETE", "/subnetpools/{subnetpool_id}", "delete_subnetpool")
    async def delete(self, ctx: Context, pool: SubnetPool) -> None:
        self.match(ctx, pool)
        async with ctx.runtime.store.tx() as tx:
            await hold(tx, "subnetpools", pool.id)
            if await SUBNETS.one(tx, subnetpool_id=pool.id) is not None:
                raise Invalid(
                    "Unable to delete subnet pool: Subnet pool has existing allocations.",
                    code="SubnetPoolDeleteError",
                )
            await SUBNETPOOLS.delete(tx, await SUBNETPOOLS.get(tx, pool.id))
            await emit(tx, "subnetpool.delete.end", pool.project_id, id=pool.id)


def _pool(id: str, owner: str, body: CreateSubnetPool) -> SubnetPool:
    blocks = _prefixes(body.prefixes)
    version = blocks[0].version
    least = _LEAST[version] if body.min_prefixlen is None else body.min_prefixlen
    most = _MOST[version] if body.max_prefixlen is None else body.max_prefixlen
    usual = least if body.default_prefixlen is None else body.default_prefixlen
    _bounds(version, least, most, usual)
    return SubnetPool(
        id=id,
        project_id=owner,
        name=text(body.name, "name"),
        description=text(body.description, "description"),
        prefixes=[str(b) for b in blocks],
        ip_version=version,
        min_prefixlen=least,
        max_prefixlen=most,
        default_prefixlen=usual,
        default_quota=-1 if body.default_quota is None else body.default_quota,
        shared=body.shared,
        is_default=body.is_default,
    )


def _prefixes(texts: Sequence[str]) -> list[Block]:
    """Raises Invalid."""
    if not texts:
        raise Invalid("Empty subnet pool prefix list.", code="EmptySubnetPoolPrefixList")
    blocks = [block(t, "prefixes") for t in texts]
    if len({b.version for b in blocks}) > 1:
        raise Invalid(
            "Cannot mix IPv4 and IPv6 prefixes in a subnet pool.", code="PrefixVersionMismatch"
        )
    return compact(blocks)


def _larger(pool: SubnetPool, texts: Sequence[str]) -> list[str]:
    """A pool's prefixes may grow, never shrink. Raises Invalid."""
    blocks = _prefixes(texts)
    if blocks[0].version != pool.ip_version:
        raise Invalid(
            "Cannot mix IPv4 and IPv6 prefixes in a subnet pool.", code="PrefixVersionMismatch"
        )
    if not all(inside(old, blocks) for old in pool.blocks):
        raise Invalid(
            "Illegal update to prefixes: Existing prefixes must be a subset of the new prefixes.",
            code="IllegalSubnetPoolPrefixUpdate",
        )
    return [str(b) for b in blocks]


def _bounds(version: int, least: int, most: int, usual: int) -> None:
    """Raises Invalid."""
    absolute = _MOST[version]
    if least < _LEAST[version]:
        raise Invalid(
            f"Prefix '{least}' not supported in IPv{version} pool.",
            code="UnsupportedMinSubnetPoolPrefix",
        )
    order = (
        ("min_prefixlen", least, "max_prefixlen", most),
        ("max_prefixlen", most, "ip_version_max", absolute),
        ("min_prefixlen", least, "default_prefixlen", usual),
        ("default_prefixlen", usual, "max_prefixlen", most),
    )
    for one, low, other, high in order:
        if low > high:
            raise Invalid(
                f"Illegal prefix bounds: {one}={low}, {other}={high}.",
                code="IllegalSubnetPoolPrefixBounds",
            )


async def _one_default(tx: Tx, pool: SubnetPool) -> None:
    if not pool.is_default:
        return
    other = await SUBNETPOOLS.one(tx, is_default=1, ip_version=pool.ip_version)
    if other is not None and other.id != pool.id:
        raise bad_input(
            "A default subnetpool for this IP family has already been set. "
            "Only one default may exist per IP family"
        )


async def cut(tx: Tx, pool: SubnetPool, cidr: str, length: int | None, project_id: str) -> Block:
    """A prefix of the pool that no subnet has: `cidr`, or any of that length. Raises Invalid, Conflict.

    The pool is held until the transaction ends.
    """
    await hold(tx, "subnetpools", pool.id)
    pool = await SUBNETPOOLS.get(tx, pool.id)
    subnets = await SUBNETS.all(tx, subnetpool_id=pool.id)
    taken = [s.block for s in subnets]
    wanted = block(cidr) if cidr else None
    if length is None:
        length = wanted.prefixlen if wanted is not None else pool.default_prefixlen
    _within_bounds(pool, length)
    if wanted is not None:
        if not inside(wanted, pool.blocks) or overlaps(wanted, taken):
            raise _unallocated(
                "Cannot allocate requested subnet from the available set of prefixes"
            )
        found: Block | None = wanted
    else:
        found = free_prefix(pool.blocks, taken, length)
    if found is None:
        raise _unallocated(f"Insufficient prefix space to allocate subnet size /{length}")
    mine = [s.block for s in subnets if s.project_id == project_id]
    if 0 <= pool.default_quota < sum(_cost(b) for b in (*mine, found)):
        raise Conflict(
            "Per-project subnet pool prefix quota exceeded.", code="SubnetPoolQuotaExceeded"
        )
    return found


def _cost(of: Block) -> int:
    """Addresses, or /64s."""
    return of.num_addresses if of.version == 4 else max(1, of.num_addresses >> 64)


def _within_bounds(pool: SubnetPool, length: int) -> None:
    if length > pool.max_prefixlen:
        raise Invalid(
            f"Unable to allocate subnet with prefix length {length}, "
            f"maximum allowed prefix is {pool.max_prefixlen}.",
            code="MaxPrefixSubnetAllocationError",
        )
    if length < pool.min_prefixlen:
        raise Invalid(
            f"Unable to allocate subnet with prefix length {length}, "
            f"minimum allowed prefix is {pool.min_prefixlen}.",
            code="MinPrefixSubnetAllocationError",
        )


def _unallocated(reason: str) -> Conflict:
    return Conflict(f"Failed to allocate subnet: {reason}.", code="SubnetAllocationError")

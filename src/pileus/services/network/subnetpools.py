"""Subnet pools: prefixes from which subnets are cut (API reference: subnetpools)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Reader, Tx

from .address_scopes import ADDRESS_SCOPES, AddressScopes
from .addressing import Block, block, compact, free_prefix, inside, overlaps, without
from .attributes import Attributes, changes_of
from .network import NETWORKS
from .networks import Networks
from .plain import Plain
from .refusals import bad_input
from .resource import ADMIN, OWNER, READER, hold, kept_by, listing, sees_all, standard
from .subnet import SUBNETS
from .subnetpool import SUBNETPOOLS, SubnetPool

_LEAST = {4: 8, 6: 64}
_MOST = {4: 32, 6: 128}


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
    address_scope_id: str | None = None
    project_id: str | UnsetType = UNSET


class PoolPrefixes(Attributes):
    root: ClassVar[str] = ""
    creates = False

    prefixes: list[str]


class Onboarded(Attributes):
    root: ClassVar[str] = ""
    creates = False

    network_id: str


class SubnetPools(
    Plain[SubnetPool],
    path="/subnetpools",
    create=CreateSubnetPool,
    update=changes_of(CreateSubnetPool, "shared"),
):
    table = SUBNETPOOLS
    noun = "subnetpool"
    plural = "subnetpools"
    id_param = "subnetpool_id"
    see = "get_subnetpool"
    share_type = "subnetpool"
    rules = kept_by(
        OWNER, "subnetpool", readers=f"{READER} or rule:shared_subnetpools", tagged=True
    ) | {
        "create_subnetpool:shared": ADMIN,
        "create_subnetpool:is_default": ADMIN,
        "update_subnetpool:is_default": ADMIN,
        "add_prefixes": OWNER,
        "remove_prefixes": OWNER,
        "onboard_network_subnets": OWNER,
    }
    listing = listing(
        ("address_scope_id",),
        ip_version=Filter(kind=int),
        shared=Filter(kind=bool),
        is_default=Filter(kind=bool),
        min_prefixlen=Filter(kind=int),
        max_prefixlen=Filter(kind=int),
        default_prefixlen=Filter(kind=int),
        default_quota=Filter(kind=int),
    )

    def view(self, ctx: Context, record: SubnetPool) -> dict[str, Any]:
        p = record
        return standard(p) | {
            "prefixes": p.prefixes,
            "ip_version": p.ip_version,
            "min_prefixlen": str(p.min_prefixlen),
            "max_prefixlen": str(p.max_prefixlen),
            "default_prefixlen": str(p.default_prefixlen),
            "default_quota": None if p.default_quota < 0 else p.default_quota,
            "shared": p.is_shared_to(ctx.caller.project_id),
            "is_default": p.is_default,
            "address_scope_id": p.address_scope_id or None,
        }

    async def checked(
        self, ctx: Context, given: dict[str, Any], old: SubnetPool | None
    ) -> dict[str, Any]:
        if given.get("address_scope_id"):
            await AddressScopes().visible(ctx, given["address_scope_id"])
        if old is not None and old.address_scope_id:
            await _may_change(ctx, old)
        if old is None:
            return _new(given)
        if "prefixes" in given:
            given["prefixes"] = _larger(old, given["prefixes"])
        ends = (f"{n}_prefixlen" for n in ("min", "max", "default"))
        _bounds(old.ip_version, *(given.get(n, getattr(old, n)) for n in ends))
        return given

    async def enter(self, tx: Tx, new: SubnetPool, old: SubnetPool | None) -> SubnetPool:
        await hold(tx, self.plural, new.id)
        await _one_default(tx, new)
        if new.address_scope_id:
            await hold(tx, "address_scopes", new.address_scope_id)
            await _fits_scope(tx, new)
        if old is not None and old.address_scope_id != new.address_scope_id:
            await _rescope(tx, new)
        return new

    async def leave(self, tx: Tx, record: SubnetPool) -> None:
        await hold(tx, self.plural, record.id)
        if await SUBNETS.one(tx, subnetpool_id=record.id) is not None:
            raise Invalid(
                "Unable to delete subnet pool: Subnet pool has existing allocations.",
                code="SubnetPoolDeleteError",
            )

    @operation("PUT", "/subnetpools/{subnetpool_id}/add_prefixes", "add_prefixes")
    async def add_prefixes(self, ctx: Context, pool: SubnetPool, body: PoolPrefixes) -> Any:
        if body.prefixes:
            wider = [*pool.prefixes, *body.prefixes]
            pool = await self.write(ctx, pool, {"prefixes": wider})
        return {"prefixes": pool.prefixes}

    @operation("PUT", "/subnetpools/{subnetpool_id}/remove_prefixes", "remove_prefixes")
    async def remove_prefixes(self, ctx: Context, pool: SubnetPool, body: PoolPrefixes) -> Any:
        gone = [block(p, "prefixes") for p in body.prefixes]
        async with ctx.runtime.store.tx() as tx:
            await hold(tx, self.plural, pool.id)
            pool = await SUBNETPOOLS.get(tx, pool.id)
            taken = [s.block for s in await SUBNETS.all(tx, subnetpool_id=pool.id)]
            if any(overlaps(g, taken) for g in gone):
                raise _illegal("One or more the prefixes to be removed is in use by a subnet.")
            left = [str(b) for b in compact(without(pool.blocks, gone))]
            if left != pool.prefixes:
                pool = await SUBNETPOOLS.revise(tx, pool, prefixes=left)
        return {"prefixes": pool.prefixes}

    @operation("PUT", "/subnetpools/{subnetpool_id}/onboard_network_subnets", "onboard_network_subnets")  # fmt: skip
    async def onboard(self, ctx: Context, pool: SubnetPool, body: Onboarded) -> Any:
        network = await Networks().visible(ctx, body.network_id)
        ctx.require("update_network", Networks().target(ctx, network))
        async with ctx.runtime.store.tx() as tx:
            await hold(tx, "networks", network.id)
            await hold(tx, self.plural, pool.id)
            pool = await SUBNETPOOLS.get(tx, pool.id)
            found = await SUBNETS.all(tx, network_id=network.id, ip_version=pool.ip_version)
            new = [s for s in found if s.subnetpool_id != pool.id]
            pool = await _take_in(tx, pool, [s.block for s in new])
            for subnet in new:
                await SUBNETS.revise(tx, subnet, subnetpool_id=pool.id)
            await _rescope(tx, pool)
        return [{"id": s.id, "cidr": s.cidr} for s in found]


async def _may_change(ctx: Context, pool: SubnetPool) -> None:
    """Raises Invalid for a pool in a scope that is only shared with the caller."""
    scope = await ADDRESS_SCOPES.get(ctx.runtime.store, pool.address_scope_id)
    if scope.project_id != ctx.caller.project_id and not sees_all(ctx):
        raise Invalid(
            f"Illegal subnetpool update : subnetpool {pool.id} cannot be updated when associated "
            f"with shared address scope {scope.id}.",
            code="IllegalSubnetPoolUpdate",
        )


async def _fits_scope(tx: Tx, pool: SubnetPool) -> None:
    """In one address scope an address means one thing. Raises Invalid, Conflict."""
    scope = await ADDRESS_SCOPES.get(tx, pool.address_scope_id)
    if scope.ip_version != pool.ip_version:
        raise Invalid(
            f"Illegal subnetpool association: subnetpool {pool.id} cannot associate with address "
            f"scope {scope.id} because subnetpool ip_version is not {scope.ip_version}.",
            code="IllegalSubnetPoolIpVersionAssociationToAddressScope",
        )
    for other in await SUBNETPOOLS.all(tx, address_scope_id=scope.id):
        if other.id != pool.id and any(overlaps(b, other.blocks) for b in pool.blocks):
            raise Conflict(
                "Failed to associate address scope: subnetpools within an address scope must "
                "have unique prefixes.",
                code="AddressScopePrefixConflict",
            )


async def _rescope(tx: Tx, pool: SubnetPool) -> None:
    """The networks of the pool's subnets are in the pool's scope."""
    subnets = await SUBNETS.all(tx, subnetpool_id=pool.id)
    for network_id in sorted({s.network_id for s in subnets}):
        network = await NETWORKS.get(tx, network_id)
        await NETWORKS.revise(tx, network, **scoped(pool))


async def _take_in(tx: Tx, pool: SubnetPool, blocks: Sequence[Block]) -> SubnetPool:
    """The pool with these subnets' blocks among its prefixes. Raises Invalid if another of its subnets overlaps."""
    taken = [s.block for s in await SUBNETS.all(tx, subnetpool_id=pool.id)]
    if any(overlaps(b, taken) for b in blocks):
        raise Invalid(
            "Illegal subnetpool update : a subnet to onboard overlaps with one of the pool.",
            code="IllegalSubnetPoolUpdate",
        )
    wider = [str(b) for b in compact([*pool.blocks, *blocks])]
    pool = await SUBNETPOOLS.revise(tx, pool, prefixes=wider)
    if pool.address_scope_id:
        await _fits_scope(tx, pool)
    return pool


def scoped(pool: SubnetPool) -> dict[str, str]:
    """What a network keeps of the pool of its subnets."""
    return {f"ipv{pool.ip_version}_address_scope": pool.address_scope_id}


def _new(given: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a new pool, defaults filled in. Raises Invalid."""
    blocks = _prefixes(given["prefixes"])
    version = blocks[0].version
    least = given.get("min_prefixlen", _LEAST[version])
    most = given.get("max_prefixlen", _MOST[version])
    usual = given.get("default_prefixlen", least)
    _bounds(version, least, most, usual)
    lengths = {"min_prefixlen": least, "max_prefixlen": most, "default_prefixlen": usual}
    return {**given, **lengths, "prefixes": [str(b) for b in blocks], "ip_version": version}


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
        raise _illegal("Existing prefixes must be a subset of the new prefixes.")
    return [str(b) for b in blocks]


def _illegal(why: str) -> Invalid:
    return Invalid(f"Illegal update to prefixes: {why}", code="IllegalSubnetPoolPrefixUpdate")


def _bounds(version: int, least: int, most: int, usual: int) -> None:
    """Raises Invalid."""
    absolute = _MOST[version]
    if least < 0:
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
    other = await default_pool(tx, pool.ip_version)
    if other is not None and other.id != pool.id:
        raise bad_input(
            "A default subnetpool for this IP family has already been set. "
            "Only one default may exist per IP family"
        )


async def default_pool(db: Reader, version: int) -> SubnetPool | None:
    return await SUBNETPOOLS.one(db, is_default=1, ip_version=version)


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

"""Host aggregates, and the availability zones that they name.

https://docs.openstack.org/api-ref/compute/#host-aggregates-os-aggregates
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar
from weakref import WeakKeyDictionary

from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import Conflict, Invalid, NotFound
from pileus.kernel.hosts import HOSTS
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Page, Reader, Record, Table, Tx, Unique
from pileus.services.compute import checks
from pileus.services.compute.checks import Name
from pileus.services.compute.mirror import mirror

_RULE = "os_compute_api:os-aggregates:"
_VERBS = (
    "index",
    "create",
    "show",
    "update",
    "delete",
    "add_host",
    "remove_host",
    "set_metadata",
)
_ONE = "/os-aggregates/{aggregate_id}"
ZONE = "availability_zone"


class Aggregate(Record, kw_only=True, frozen=True):
    """The id is a number in text; the zone is kept in the metadata, as the API shows it."""

    name: str
    uuid: str
    number: int
    hosts: list[str] = []
    metadata: dict[str, str] = {}


AGGREGATES = Table(
    "compute_aggregates",
    Aggregate,
    columns=("name", "number"),
    unique=(Unique(("name",), lambda a: f"Aggregate {a.name} already exists."),),
)


class CreateAggregate(Body):
    root: ClassVar[str] = "aggregate"
    name: Name
    availability_zone: Name | None = None


class UpdateAggregate(Body):
    root: ClassVar[str] = "aggregate"
    name: Name | UnsetType = UNSET
    availability_zone: Name | UnsetType | None = UNSET


class AddHost(Body):
    root: ClassVar[str] = "add_host"
    host: Name


class RemoveHost(Body):
    root: ClassVar[str] = "remove_host"
    host: Name


class SetMetadata(Body):
    root: ClassVar[str] = "set_metadata"
    metadata: dict[str, Annotated[str, Meta(max_length=255)] | None]


async def aggregates_of(db: Reader) -> Mapping[str, Sequence[Aggregate]]:
    """Those of each host that is in any, out of memory as long as none has changed."""
    page = Page({}, (("id", False),), limit=_ALL)
    rows = await AGGREGATES.page(db, page, select=("id", "created_at", "generation"))
    now = tuple(map(tuple, rows))
    known, found = _OF_STORE.get(db, ((), {}))
    if known != now:
        lists: dict[str, list[Aggregate]] = defaultdict(list)
        for aggregate in await AGGREGATES.list(db, page):
            for host in aggregate.hosts:
                lists[host].append(aggregate)
        _OF_STORE[db] = (now, found := dict(lists))
    return found


_ALL = 1 << 30
_OF_STORE: WeakKeyDictionary[Reader, tuple[tuple[Any, ...], Mapping[str, Sequence[Aggregate]]]] = (
    WeakKeyDictionary()
)


def zone_in(aggregates: Sequence[Aggregate]) -> str:
    """The zone that one of a host's aggregates puts it in, or ""."""
    return next((a.metadata[ZONE] for a in aggregates if a.metadata.get(ZONE)), "")


async def zones_of(db: Reader) -> dict[str, str]:
    """The zone of each host that an aggregate puts in one."""
    found = {host: zone_in(some) for host, some in (await aggregates_of(db)).items()}
    return {host: zone for host, zone in found.items() if zone}


def _view(ctx: Context, a: Aggregate, *, new: bool = False) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": a.number,
        "name": a.name,
        "availability_zone": a.metadata.get(ZONE),
        "created_at": a.created_at.removesuffix("Z"),
        "updated_at": a.updated_at.removesuffix("Z") or None,
        "deleted": False,
        "deleted_at": None,
    }
    if not new:
        found |= {"hosts": a.hosts, "metadata": a.metadata}
    return found | ({"uuid": a.uuid} if ctx.version >= (2, 41) else {})


class Aggregates(Resource[Aggregate]):
    table = AGGREGATES
    id_param = "aggregate_id"
    rules: ClassVar[Mapping[str, str]] = {_RULE + v: "rule:context_is_admin" for v in _VERBS}

    async def load(self, ctx: Context, id: str) -> Aggregate:
        if not id.removeprefix("-").isdecimal():
            raise Invalid(f"id must be an integer, not '{id}'")
        return await super().load(ctx, id)

    @operation("GET", "/os-aggregates", _RULE + "index")
    async def index(self, ctx: Context) -> dict[str, Any]:
        page = Page({}, (("number", False),), limit=10_000)
        found = await AGGREGATES.list(ctx.runtime.store, page)
        return {"aggregates": [_view(ctx, a) for a in found]}

    @operation("POST", "/os-aggregates", _RULE + "create", status=200)
    async def create(self, ctx: Context, body: CreateAggregate) -> dict[str, Any]:
        zone = body.availability_zone
        async with ctx.runtime.store.tx() as tx:
            await tx.lock("compute.aggregates")
            last = await AGGREGATES.list(tx, Page({}, (("number", True),), limit=1))
            number = last[0].number + 1 if last else 1
            aggregate = await AGGREGATES.insert(
                tx,
                Aggregate(
                    id=str(number),
                    number=number,
                    name=checks.name(body.name),
                    uuid=ctx.runtime.world.new_id(),
                    metadata={ZONE: _zone(zone)} if zone else {},
                ),
            )
        return {"aggregate": _view(ctx, aggregate, new=True)}

    @operation("GET", _ONE, _RULE + "show")
    async def show(self, ctx: Context, aggregate: Aggregate) -> dict[str, Any]:
        return {"aggregate": _view(ctx, aggregate)}

    @operation("PUT", _ONE, _RULE + "update")
    async def update(
        self, ctx: Context, aggregate: Aggregate, body: UpdateAggregate
    ) -> dict[str, Any]:
        metadata = dict(aggregate.metadata)
        if body.availability_zone is not UNSET:
            metadata.pop(ZONE, None)
            if body.availability_zone:
                metadata[ZONE] = _zone(body.availability_zone)
        name = checks.name(body.name) if body.name is not UNSET else aggregate.name
        async with ctx.runtime.store.tx() as tx:
            await _no_second_zone(tx, aggregate, aggregate.hosts, metadata.get(ZONE))
            aggregate = await AGGREGATES.change(tx, aggregate, name=name, metadata=metadata)
        return {"aggregate": _view(ctx, aggregate)}

    @operation("DELETE", _ONE, _RULE + "delete", status=200)
    async def delete(self, ctx: Context, aggregate: Aggregate) -> None:
        if aggregate.hosts:
            raise Invalid(
                f"Cannot remove aggregate {aggregate.id}: it still has the hosts "
                f"{', '.join(aggregate.hosts)}; remove them first."
            )
        async with ctx.runtime.store.tx() as tx:
            await AGGREGATES.delete(tx, aggregate)

    @operation("POST", _ONE + "/action", _RULE + "add_host", action="add_host", status=200)
    async def add_host(self, ctx: Context, aggregate: Aggregate, body: AddHost) -> dict[str, Any]:
        if body.host in aggregate.hosts:
            raise Conflict(f"Aggregate {aggregate.id} already has host {body.host}.")
        async with ctx.runtime.store.tx() as tx:
            if await HOSTS.find(tx, body.host) is None:
                raise NotFound(f"Compute host {body.host} could not be found.")
            await _no_second_zone(tx, aggregate, [body.host], aggregate.metadata.get(ZONE))
            hosts = [*aggregate.hosts, body.host]
            aggregate = await AGGREGATES.change(tx, aggregate, hosts=hosts)
        await mirror(ctx.runtime, body.host, aggregates={aggregate.uuid: True})
        return {"aggregate": _view(ctx, aggregate)}

    @operation("POST", _ONE + "/action", _RULE + "remove_host", action="remove_host", status=200)
    async def remove_host(
        self, ctx: Context, aggregate: Aggregate, body: RemoveHost
    ) -> dict[str, Any]:
        if body.host not in aggregate.hosts:
            raise NotFound(f"Cannot remove host {body.host} in aggregate {aggregate.id}")
        async with ctx.runtime.store.tx() as tx:
            hosts = [h for h in aggregate.hosts if h != body.host]
            aggregate = await AGGREGATES.change(tx, aggregate, hosts=hosts)
        await mirror(ctx.runtime, body.host, aggregates={aggregate.uuid: False})
        return {"aggregate": _view(ctx, aggregate)}

    @operation("POST", _ONE + "/action", _RULE + "set_metadata", action="set_metadata", status=200)
    async def set_metadata(
        self, ctx: Context, aggregate: Aggregate, body: SetMetadata
    ) -> dict[str, Any]:
        gone = {k for k, v in body.metadata.items() if v is None}
        more = {k: v for k, v in body.metadata.items() if v is not None}
        metadata = {k: v for k, v in aggregate.metadata.items() if k not in gone} | more
        checks.metadata(more)
        async with ctx.runtime.store.tx() as tx:
            await _no_second_zone(tx, aggregate, aggregate.hosts, metadata.get(ZONE))
            aggregate = await AGGREGATES.change(tx, aggregate, metadata=metadata)
        return {"aggregate": _view(ctx, aggregate)}


def _zone(text: str) -> str:
    if ":" in text:
        raise checks.wrong("availability_zone", text, "It must not contain ':'")
    return checks.name(text, "availability_zone")


async def _no_second_zone(tx: Tx, own: Aggregate, hosts: list[str], zone: str | None) -> None:
    """A host is in one zone only. Raises Conflict."""
    if not zone:
        return
    for other in await AGGREGATES.all(tx):
        theirs = other.metadata.get(ZONE)
        both = set(other.hosts) & set(hosts)
        if other.id != own.id and theirs and theirs != zone and both:
            raise Conflict(
                f"One or more hosts already in availability zone(s) {theirs}: "
                f"{', '.join(sorted(both))}; a host is in one zone only."
            )

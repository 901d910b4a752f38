"""A small service that uses everything the kernel has: what the kernel's own tests are run on."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from pileus.kernel import http
from pileus.kernel.agents import Agents
from pileus.kernel.auth import NOT_AUTHENTICATED, Caller, Callers
from pileus.kernel.bus import MemoryBus
from pileus.kernel.faults import NOVA, Unauthenticated
from pileus.kernel.policy import PolicyFile
from pileus.kernel.query import Filter, Listing
from pileus.kernel.quota import Quota
from pileus.kernel.reconcile import Reconcilers
from pileus.kernel.resources import Context, Resource, Service, operation
from pileus.kernel.runtime import Runtime
from pileus.kernel.sagas import Failure, Run, Saga, Step
from pileus.kernel.schema import Body, since
from pileus.kernel.sqlite import SqliteStore
from pileus.kernel.states import Lifecycle, Verb
from pileus.kernel.store import Many, Record, Store, Table, Unique
from pileus.kernel.versions import Microversions
from pileus.kernel.world import World
from pileus.testing.client import Client


class Thing(Record, kw_only=True, frozen=True):
    project_id: str
    name: str
    status: str = ""
    size: int = 1
    place: str = ""
    fault: str = ""
    tags: list[str] = []


THINGS = Table(
    "toy_things",
    Thing,
    columns=("project_id", "name", "status", "size"),
    indexes=(("project_id", "created_at", "id"),),
    unique=(Unique(("project_id", "name"), lambda t: f"There is a thing named {t.name} already."),),
    many=(Many("tags", lambda t: t.tags),),
    quotas=(Quota("toy", "things", 10), Quota("toy", "gigabytes", 100, lambda t: t.size)),
    tombstone_s=3600,
    noun="Thing",
)

LIFECYCLE = Lifecycle(
    {
        "create": Verb(frozenset(), "creating", "available", "error"),
        "grow": Verb({"available"}, "growing", "available", "error"),
        "delete": Verb({"available", "error"}, "deleting", None, "error_deleting", interrupts=True),
    }
)


@dataclass
class Ground:
    """The outside that the toy's sagas change. `broken` names the calls that fail, `calls` what was called."""

    held: set[str] = field(default_factory=set)
    built: dict[str, int] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)

    def touch(self, name: str) -> None:
        self.calls.append(name)
        if name in self.broken:
            raise RuntimeError(f"{name} is broken")


def _ground(run: Run[Thing]) -> Ground:
    found: Ground = run.runtime.settings["toy"]
    return found


async def hold(run: Run[Thing]) -> dict[str, Any]:
    _ground(run).touch("hold")
    _ground(run).held.add(run.record.id)
    return {"place": "here"}


async def let_go(run: Run[Thing]) -> None:
    _ground(run).touch("let_go")
    _ground(run).held.discard(run.record.id)


async def build(run: Run[Thing]) -> None:
    _ground(run).built[run.record.id] = run.record.size
    _ground(run).touch("build")


async def tear_down(run: Run[Thing]) -> None:
    _ground(run).touch("tear_down")
    _ground(run).built.pop(run.record.id, None)


async def grow(run: Run[Thing]) -> dict[str, Any]:
    _ground(run).touch("grow")
    _ground(run).built[run.record.id] = run.becoming.size
    return {"size": run.becoming.size}


def _failed(thing: Thing, failure: Failure) -> dict[str, Any]:
    return {"fault": failure.message}


CREATE = Saga(
    "toy.create",
    THINGS,
    LIFECYCLE,
    "create",
    Step(hold, let_go),
    Step(build, tear_down),
    failed=_failed,
)
GROW = Saga("toy.grow", THINGS, LIFECYCLE, "grow", Step(grow), failed=_failed)
DELETE = Saga("toy.delete", THINGS, LIFECYCLE, "delete", Step(tear_down), Step(let_go))


class CreateThing(Body):
    root = "thing"
    name: str
    size: int = 1
    tags: list[str] = []
    hue: Annotated[str | UnsetType, since("1.3")] = UNSET


class GrowThing(Body):
    root = "grow"
    size: int


class Things(Resource[Thing]):
    table, id_param, see, sagas = THINGS, "thing_id", "toy:show", (CREATE, GROW, DELETE)
    rules = {
        "toy:show": "role:reader and project_id:%(project_id)s",
        "toy:create": "role:member and project_id:%(project_id)s",
        "toy:delete": "role:member and project_id:%(project_id)s",
    }
    listing = Listing(
        {
            "name": Filter(),
            "status": Filter(),
            "match": Filter("name", op="regex"),
            "tags": Filter(op="all"),
            "size": Filter(kind=int),
        },
        {"name": "name", "size": "size"},
    )

    @operation("POST", "/things", "toy:create", status=202)
    async def create(self, ctx: Context, body: CreateThing) -> Any:
        thing = Thing(
            id=ctx.runtime.world.new_id(),
            project_id=ctx.caller.project_id,
            name=body.name,
            size=body.size,
            tags=body.tags,
        )
        return {"thing": await ctx.start(CREATE, thing)}

    @operation("GET", "/things", "toy:show")
    async def index(self, ctx: Context) -> Any:
        page = self.listing.parse(ctx.query, project_id=ctx.caller.project_id)
        found = await THINGS.list(ctx.runtime.store, page)
        return {"things": found, "next": ctx.next_page(page, found)}

    @operation("GET", "/things/{thing_id}", "toy:show")
    async def show(self, ctx: Context, thing: Thing) -> Any:
        return {"thing": thing}

    @operation(
        "POST", "/things/{thing_id}/action", "toy:create", action="grow", since="1.2", status=202
    )
    async def grow(self, ctx: Context, thing: Thing, body: GrowThing) -> None:
        await ctx.start(GROW, thing, becoming=msgspec.structs.replace(thing, size=body.size))

    @operation("DELETE", "/things/{thing_id}", "toy:delete")
    async def delete(self, ctx: Context, thing: Thing) -> None:
        await ctx.start(DELETE, thing)


SERVICE = Service(
    "toy",
    "toy",
    "/toy",
    "/v1",
    "/toy/v1",
    NOVA,
    (Things,),
    versions=Microversions(("toy",), "1.0", "1.9"),
)


class AnyProject:
    """Takes `PROJECT:ROLE,ROLE` for a token."""

    async def caller(self, token: str, late: bool) -> Caller:
        project, colon, roles = token.partition(":")
        if not colon:
            raise Unauthenticated(NOT_AUTHENTICATED)
        return Caller(
            user_id="u", project_id=project, roles=frozenset(roles.split(",")), expires_at=4e9
        )


MEMBER = {"x-auth-token": "p1:member,reader"}


@asynccontextmanager
async def toy(
    store: Store | None = None, *, world: World | None = None, ground: Ground | None = None
) -> AsyncIterator[tuple[Runtime, Client]]:
    """The toy cloud: its runtime and a member's client."""
    world = world or World()
    with tempfile.TemporaryDirectory(prefix="pileus-toy-") as folder:
        kept = store or SqliteStore(f"{folder}/toy.sqlite", world)
        await kept.start()
        bus = MemoryBus(world)
        await bus.start()
        runtime = Runtime(
            world,
            kept,
            bus,
            Agents(bus),
            Reconcilers(world),
            Path(folder),
            "http://cloud.test:5000",
            "toy",
            (SERVICE,),
        )
        runtime.policies["toy"] = PolicyFile(world, SERVICE.all_rules())
        runtime.callers = Callers(kept, world, AnyProject())
        runtime.settings["toy"] = ground or Ground()
        runtime.sagas.register(*SERVICE.all_sagas())
        await runtime.sagas.adopt(frozenset({runtime.sagas.me}))
        try:
            yield runtime, Client(http.Application(runtime), MEMBER)
        finally:
            await runtime.sagas.stop()
            await kept.stop()
            await bus.stop()

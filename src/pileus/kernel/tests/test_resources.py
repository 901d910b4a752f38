"""Declarations: what a method's signature says, and what a context gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pileus.kernel.auth import Caller
from pileus.kernel.contracts import Contract
from pileus.kernel.faults import NOVA, Forbidden, NotFound, Unavailable
from pileus.kernel.query import Query
from pileus.kernel.resources import (
    PUBLIC,
    Context,
    Operation,
    Resource,
    Service,
    Stream,
    operation,
)
from pileus.kernel.runtime import Provided, Runtime
from pileus.kernel.schema import Body, Bulk
from pileus.kernel.store import Page
from pileus.kernel.tests.toy import SERVICE, THINGS, Thing, Things, toy
from pileus.kernel.versions import UNVERSIONED


class Note(Body):
    text: str = ""


class Notes(Resource[Thing]):
    table, id_param = THINGS, "note_id"
    rules = {"n:a": "@", "n:b": "@"}
    scopes = {"n:a": ("system", "project")}

    @operation("GET", "/notes/{note_id}/pages/{page}", "n:a", since="2.3", until="2.9")
    async def page(self, ctx: Context, note: Thing, page: str) -> Any: ...

    @operation("POST", "/notes", "n:b", status=201)
    @operation("PUT", "/notes", PUBLIC)
    async def write(self, ctx: Context, notes: Bulk[Note]) -> Any: ...

    @operation("PUT", "/notes/raw", "n:b", max_body=5)
    async def raw(self, ctx: Context, data: Stream) -> Any: ...

    @operation("PATCH", "/notes/{note_id}", "n:b", action="sign")
    async def sign(self, ctx: Context, note: Thing, body: Note) -> Any: ...


NOTES = Service("notes", "notes", "/notes", "/v2", "/notes/v2", NOVA, (Notes,),
    rules={"deeper": "!"}, scopes=("project",))  # fmt: skip


def by_name() -> dict[tuple[str, str], Operation]:
    return {(op.name, op.method): op for op in Notes().operations()}


def test_the_signature_says_what_an_operation_is_given() -> None:
    ops = by_name()
    page = ops["page", "GET"]
    assert (page.record_param, page.path_params, page.body) == ("note", ("page",), None)
    write = ops["write", "POST"]
    assert (write.body, write.body_param, write.many, write.status) == (Note, "notes", True, 201)
    assert (ops["write", "PUT"].rule, ops["write", "PUT"].status) == (PUBLIC, 0)
    raw = ops["raw", "PUT"]
    assert (raw.stream_param, raw.max_body) == ("data", 5)
    sign = ops["sign", "PATCH"]
    assert (sign.body_param, sign.many, sign.action) == ("body", False, "sign")


def test_an_operation_exists_in_its_versions_and_where_there_are_none() -> None:
    page = by_name()["page", "GET"]
    exists = {v: page.exists(v) for v in ((2, 2), (2, 3), (2, 8), (2, 9), (0, 0))}
    assert exists == {(2, 2): False, (2, 3): True, (2, 8): True, (2, 9): False, (0, 0): True}
    assert by_name()["raw", "PUT"].exists((2, 1))


def test_a_parameter_that_the_path_lacks_is_an_error_at_the_start() -> None:
    class Lost(Resource[Thing]):
        @operation("GET", "/lost", "x")
        async def show(self, ctx: Context, name: str) -> Any: ...

    class Unnamed(Resource[Thing]):
        id_param = "thing_id"

        @operation("GET", "/unnamed", "x")
        async def show(self, ctx: Context, thing: Thing) -> Any: ...

    with pytest.raises(TypeError, match=r"Lost\.show: /lost lacks {'name'}"):
        list(Lost().operations())
    with pytest.raises(TypeError, match=r"Unnamed\.show: /unnamed lacks thing_id"):
        list(Unnamed().operations())


def test_a_service_puts_paths_rules_scopes_and_sagas_together() -> None:
    paths = {op.path for _, op in NOTES.operations()}
    assert "/notes/v2/notes/{note_id}" in paths
    assert NOTES.all_rules() == {"deeper": "!", "n:a": "@", "n:b": "@"}
    assert NOTES.all_scopes() == {"n:a": ("system", "project"), "n:b": ("project",)}
    assert [s.verb for s in SERVICE.all_sagas()] == ["create", "grow", "delete"]

    class Versions(Notes):
        api = ""

    bare = replace(NOTES, resources=(Versions,))
    assert "/notes/notes" in {op.path for _, op in bare.operations()}


def context(r: Runtime, **more: Any) -> Context:
    given: dict[str, Any] = {
        "caller": Caller(user_id="u", project_id="p1", roles=frozenset({"reader"})),
        "query": Query(""),
        **more,
    }
    return Context(r, SERVICE, given["caller"], UNVERSIONED, given["query"], "req-1",
        "http://a.test", {}, "GET", "/toy/v1/things")  # fmt: skip


async def test_a_context_knows_its_urls_and_what_the_caller_may() -> None:
    async with toy() as (r, _):
        ctx = context(r)
        assert (ctx.base, ctx.url) == ("http://a.test/toy/v1", "http://a.test/toy/v1/things")
        assert ctx.own == {"project_id": "p1", "user_id": "u", "domain_id": ctx.caller.domain_id}
        assert ctx.allows("toy:show") and not ctx.allows("toy:show", {"project_id": "p2"})
        ctx.require("toy:show")
        with pytest.raises(Forbidden, match="Policy doesn't allow toy:create"):
            ctx.require("toy:create")
        with pytest.raises(Forbidden):
            ctx.require("toy:show", {"project_id": "p2"})


async def test_a_page_that_is_full_has_a_next_one() -> None:
    async with toy() as (r, _):
        ctx = context(r, query=Query("limit=2"))
        rows = [Thing(id=i, project_id="p1", name=i) for i in "abc"]
        page = Page(limit=2)
        assert ctx.next_page(page, rows[:1]) == "" == ctx.next_page(Page(limit=0), [])
        assert ctx.next_page(page, rows[:2]) == "http://a.test/toy/v1/things?limit=2&marker=b"
        assert ctx.next_page(page, rows[:2], "http://x/y") == "http://x/y?limit=2&marker=b"


async def test_what_a_body_refers_to_is_visible_only_to_who_may_see_it() -> None:
    async with toy() as (r, _):
        async with r.store.tx() as tx:
            await THINGS.insert(tx, Thing(id="t", project_id="p1", name="n"))
        things = Things()
        assert (await things.visible(context(r), "t")).name == "n"
        foreign = Caller(project_id="p2", roles=frozenset({"reader"}))
        for id in ("t", "nothing"):
            with pytest.raises(NotFound, match=f"Thing {id} could not be found"):
                await things.visible(context(r, caller=foreign), id)
        blind = type("Blind", (Things,), {"see": ""})()
        assert (await blind.visible(context(r, caller=foreign), "t")).name == "n"


async def test_a_target_has_the_owners_that_the_record_has() -> None:
    async with toy() as (r, _):
        thing = Thing(id="t", project_id="p1", name="n")
        assert Things().target(context(r), thing) == {"project_id": "p1"}


async def test_a_contract_is_offered_here_and_to_hosts_if_they_may_call_it() -> None:
    class Bell:
        async def ring(self) -> str:
            return "ding"

    near, far = Contract("near", Bell), Contract("far", Bell)
    async with toy() as (r, _):
        await Provided(near, lambda runtime: Bell()).offer(r)
        await Provided(far, lambda runtime: Bell(), remote=True).offer(r)
        assert isinstance(context(r).peer(near), Bell)
        assert await r.agents.proxy(far, "control").ring() == "ding"
        with pytest.raises(Unavailable):
            await r.agents.proxy(near, "control").ring()

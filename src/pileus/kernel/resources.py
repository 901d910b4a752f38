"""Declarations: a service is a set of resources; a resource is what can be done to one noun, and who may.

An operation is a method marked with `operation`. Its signature says what it is given: `ctx`; the record, if a
parameter is typed as the resource's own Record (loaded by the path's `id_param`, and invisible to whom `see` denies);
the body, if one is typed as a Body or Bulk; the bytes, if one is typed Stream; and the path's parameters by name.
"""

from __future__ import annotations

import builtins
import inspect
import re
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import IO, Any, ClassVar, Generic, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec

from .auth import Caller
from .contracts import Contract
from .events import Watch
from .faults import Dialect, NotFound, Stale
from .hosts import AgentSpec
from .policy import Rules
from .query import Listing, Query, next_link
from .runtime import Provided, Runtime, Standing
from .sagas import Saga
from .schema import Body, Bulk, bulk, parse, unwrap
from .store import Page, R, Record, Table
from .versions import NO_VERSION, Microversions, Negotiated, Version, version

P = TypeVar("P")
F = TypeVar("F", bound=Callable[..., Awaitable[Any]])
PUBLIC = ""  # the rule of an operation that needs no token
ZERO_COPY = "http.response.zerocopysend"  # ASGI's extension
_STALE_TRIES = 8


class Stream:
    """A request's body as it arrives. `length` is Content-Length, or -1."""

    def __init__(self, chunks: AsyncIterable[bytes], length: int, content_type: str) -> None:
        self.chunks, self.length, self.content_type = chunks, length, content_type


class FilePart(msgspec.Struct):
    """A stream that a server may send without reading it; whoever sends it closes the file."""

    file: IO[bytes]
    offset: int
    count: int


class Answer(msgspec.Struct):
    """An answer that is more than a body: status, headers, bytes or a stream of them."""

    body: Any = None
    status: int = 0  # 0: as declared
    headers: Mapping[str, str] = {}
    content_type: str = ""
    stream: AsyncIterable[bytes] | None = None


class Context(msgspec.Struct):
    """One request. `base` is the service's own URL, versioned part included; `root` the cloud's."""

    runtime: Runtime
    service: Service
    caller: Caller
    at: Negotiated
    query: Query
    request_id: str
    root: str
    headers: Mapping[str, str]
    method: str = "GET"
    path: str = ""
    document: Any = None  # the whole parsed body
    rules: Rules = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.rules = self.runtime.rules(self.service.type)

    @property
    def version(self) -> Version:
        return self.at.version

    @property
    def base(self) -> str:
        return self.root + self.service.prefix + self.service.api

    @property
    def url(self) -> str:
        """This request's, without its query string."""
        return self.root + self.path

    def allows(self, rule: str, target: Mapping[str, object] | None = None) -> bool:
        """Whether the caller may, with `target` (default: the caller's own project and user)."""
        return self.rules.allows(rule, self.caller, self.own if target is None else target)

    def require(self, rule: str, target: Mapping[str, object] | None = None) -> None:
        """Raises Forbidden in the service's words."""
        if not self.allows(rule, target):
            raise self.service.dialect.forbidden(rule)

    @property
    def own(self) -> dict[str, object]:
        c = self.caller
        return {"project_id": c.project_id, "user_id": c.user_id, "domain_id": c.domain_id}

    def peer(self, contract: Contract[P]) -> P:
        return self.runtime.contracts.get(contract)

    def next_page(self, page: Page, records: Sequence[Record], url: str = "") -> str:
        """The URL of the next page, or "" if this one is not full."""
        if len(records) < page.limit or not records:
            return ""
        return next_link(url or self.url, self.query, records[-1].id)

    async def start(self, saga: Saga[R], record: R, *, becoming: R | None = None) -> R:
        """One transaction: checks the state, charges quota, writes the busy record; then the saga runs."""
        sagas = self.runtime.sagas
        async with self.runtime.store.tx() as tx:
            record, entry = await sagas.begin(
                tx, saga, record, becoming=becoming, caller=self.caller, request_id=self.request_id
            )
        sagas.launch(entry)
        return record


@dataclass(frozen=True)
class Operation:
    """A marked method, as declared and as its signature says."""

    method: str
    path: str
    rule: str
    name: str
    status: int
    action: str = ""
    since: Version = NO_VERSION
    until: Version = (1 << 30, 0)
    max_body: int = 0
    call: Callable[..., Awaitable[Any]] = None  # type: ignore[assignment]
    record_param: str = ""
    body_param: str = ""
    body: type[Body] | None = None
    many: bool = False
    stream_param: str = ""
    path_params: tuple[str, ...] = ()

    def exists(self, at: Version) -> bool:
        return at == NO_VERSION or self.since <= at < self.until


_PARAM = re.compile(r"{(\w+)}")


def operation(
    method: str,
    path: str,
    rule: str,
    *,
    status: int = 0,
    action: str = "",
    since: str = "",
    until: str = "",
    max_body: int = 0,
) -> Callable[[F], F]:
    """Marks a method as what answers `method path`. `rule` is the policy's name, PUBLIC for anybody.

    `action`: the single key of the body of a POST that several operations share. `status` 0 means 200 or, if
    nothing is returned, 204.
    """

    def mark(fn: F) -> F:
        first = version(since) if since else NO_VERSION
        last = version(until) if until else (1 << 30, 0)
        marked = Operation(method, path, rule, fn.__name__, status, action, first, last, max_body)
        fn.__dict__.setdefault("__operations__", []).append(marked)
        return fn

    return mark


class Resource(Generic[R]):
    """One noun. Subclasses declare; a service makes one instance of each."""

    table: ClassVar[Table[Any]]
    id_param: ClassVar[str] = ""
    see: ClassVar[str] = ""  # the rule without which a record is as if it were not there
    rules: ClassVar[Mapping[str, str]] = {}
    # rules that tell an unknown id to whom they deny it; rules whose scope types are not the service's
    discloses: ClassVar[frozenset[str]] = frozenset()
    scopes: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    sagas: ClassVar[tuple[Saga[Any], ...]] = ()
    listing: ClassVar[Listing] = Listing()
    api: ClassVar[str | None] = None  # instead of the service's ("" for version documents)

    def target(self, ctx: Context, record: R) -> Mapping[str, object]:
        """What policy may ask of a record."""
        found: dict[str, object] = {}
        for name in ("project_id", "user_id", "domain_id"):
            value = getattr(record, name, None)
            if value is not None:
                found[name] = value
        return found

    def scope_target(self, ctx: Context, params: Mapping[str, str]) -> Mapping[str, object]:
        """What policy may ask where no record is loaded (create, list, or an id that isn't there)."""
        return ctx.own

    async def load(self, ctx: Context, id: str) -> R:
        """The record a path names. Raises NotFound."""
        return cast(R, await self.table.get(ctx.runtime.store, id))

    async def visible(self, ctx: Context, id: str) -> R:
        """The record, if the caller may see it: for references by id in bodies and paths alike. Raises NotFound."""
        record = await self.load(ctx, id)
        if self.see and not ctx.allows(self.see, self.target(ctx, record)):
            raise self.table.missing(id)
        return record

    def operations(self) -> Iterator[Operation]:
        for name, fn in inspect.getmembers(type(self), inspect.isfunction):
            for declared in getattr(fn, "__operations__", ()):
                yield _resolve(self, declared, getattr(self, name))

    async def call(
        self,
        ctx: Context,
        op: Operation,
        params: Mapping[str, str],
        raw: bytes,
        stream: Stream | None,
    ) -> Any:
        """Policy, decode, load, then the operation; again from the load if a compare-and-swap was lost."""
        for tries in range(_STALE_TRIES):
            given: dict[str, Any] = {p: params[p] for p in op.path_params}
            try:
                if op.record_param:
                    given[op.record_param] = await self._record(ctx, op, params)
                elif op.rule:
                    _authorize(ctx, op.rule, self.scope_target(ctx, params))
                if op.body is not None:
                    given[op.body_param] = body_of(ctx, op, raw)
                if op.stream_param:
                    given[op.stream_param] = stream
                return await op.call(ctx, **given)
            except Stale:
                if tries + 1 == _STALE_TRIES or stream is not None:
                    raise
                await ctx.runtime.store.sync()  # or the load may not see yet who was first
        raise AssertionError("unreachable")

    async def _record(self, ctx: Context, op: Operation, params: Mapping[str, str]) -> R:
        try:
            record = await self.load(ctx, params[self.id_param])
        except NotFound:
            if ctx.service.hides_unknown and op.rule not in self.discloses:
                _authorize(ctx, op.rule, self.scope_target(ctx, params))
            raise
        target = self.target(ctx, record)
        if self.see and op.rule and not ctx.allows(self.see, target):
            raise self.table.missing(params[self.id_param])
        if op.rule and op.rule != self.see:
            _authorize(ctx, op.rule, target)
        return record


def _authorize(ctx: Context, rule: str, target: Mapping[str, object]) -> None:
    if not ctx.allows(rule, target):
        raise ctx.service.dialect.forbidden(rule)


def body_of(ctx: Context, op: Operation, raw: bytes) -> Any:
    assert op.body is not None
    if ctx.document is None:
        ctx.document = parse(raw)
    if op.many:
        return bulk(op.body, ctx.document, ctx.version)
    if op.action:
        inner = ctx.document[op.action]
        if op.body.root:
            return op.body.take({} if inner is None else inner, ctx.version)
        return op.body.take(ctx.document, ctx.version)
    return op.body.take(unwrap(op.body, ctx.document), ctx.version)


def _resolve(
    resource: Resource[Any], declared: Operation, bound: Callable[..., Awaitable[Any]]
) -> Operation:
    """Reads the method's signature."""
    hints = get_type_hints(bound)
    found: dict[str, Any] = {}
    path_params = []
    for name in list(inspect.signature(bound).parameters)[1:]:
        hint = hints[name]
        if get_origin(hint) is Bulk:
            found |= {"body_param": name, "body": get_args(hint)[0], "many": True}
        elif isinstance(hint, type) and issubclass(hint, Body):
            found |= {"body_param": name, "body": hint}
        elif isinstance(hint, type) and issubclass(hint, Record):
            found["record_param"] = name
        elif hint is Stream:
            found["stream_param"] = name
        else:
            path_params.append(name)
    there = set(_PARAM.findall(declared.path))
    unknown = set(path_params) - there
    if unknown or (found.get("record_param") and resource.id_param not in there):
        name, lacks = type(resource).__name__, unknown or resource.id_param
        raise TypeError(f"{name}.{declared.name}: {declared.path} lacks {lacks}")
    return replace(declared, call=bound, path_params=tuple(path_params), **found)


async def _nothing(runtime: Runtime) -> None:
    """A service without a bootstrap."""


@dataclass(frozen=True)
class Service:
    """`type` is the official service type, `name` the project's. Routes: `prefix` + `api` + the operation's path.

    `endpoint` is the URL in the catalog. `hides_unknown`: an id that isn't there answers 403 to whom the rule denies.
    `scopes`: the scope types of its rules where a rule doesn't say otherwise (empty: any).
    """

    type: str
    name: str
    prefix: str
    api: str
    endpoint: str
    dialect: Dialect
    resources: tuple[builtins.type[Resource[Any]], ...]
    versions: Microversions | None = None
    description: str = ""
    aliases: tuple[str, ...] = ()
    rules: Mapping[str, str] = field(default_factory=dict)  # rules that others refer to
    scopes: tuple[str, ...] = ()
    provides: tuple[Provided, ...] = ()
    agents: tuple[AgentSpec, ...] = ()
    reconcilers: tuple[Standing, ...] = ()
    watches: tuple[Watch, ...] = ()
    bootstrap: Callable[[Runtime], Awaitable[None]] = _nothing
    settings: Callable[[], Any] = dict
    hides_unknown: bool = False
    unruled: frozenset[str] = frozenset()  # `METHOD /path` that access rules do not narrow
    either_dash: bool = False  # a - in the names of paths may be a _, and a _ a -
    strict: bool = False  # a slash at the end of a path says that an id is missing: 404
    optional_project: bool = False  # the project's id may stand in front of every path
    request_id_header: str = ""
    max_body: int = 114_688

    @cached_property
    def made(self) -> tuple[Resource[Any], ...]:
        return tuple(kind() for kind in self.resources)

    def operations(self) -> Sequence[tuple[Resource[Any], Operation]]:
        """Every operation with its resource; the path is the whole one."""
        return self._operations

    @cached_property
    def _operations(self) -> Sequence[tuple[Resource[Any], Operation]]:
        found = []
        for resource in self.made:
            api = self.api if resource.api is None else resource.api
            for op in resource.operations():
                found.append((resource, replace(op, path=self.prefix + api + op.path)))
        return tuple(found)

    def all_rules(self) -> dict[str, str]:
        found = dict(self.rules)
        for resource in self.made:
            found |= resource.rules
        return found

    def all_scopes(self) -> dict[str, tuple[str, ...]]:
        """Scope types of every rule that an operation names."""
        own: dict[str, tuple[str, ...]] = {}
        for resource in self.made:
            for name in resource.rules:
                own[name] = resource.scopes.get(name, self.scopes)
        return own

    def all_sagas(self) -> list[Saga[Any]]:
        return [s for r in self.made for s in r.sagas]

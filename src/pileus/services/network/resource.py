"""What the nouns of this API have in common: names, tags, revisions, and rules per attribute."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlencode

import msgspec

from pileus.kernel.auth import Caller
from pileus.kernel.faults import Forbidden, Invalid, NotFound, PreconditionFailed
from pileus.kernel.query import TAG_FILTERS, Filter, Listing, Query
from pileus.kernel.resources import Context, Operation, Resource, Stream, body_of, operation
from pileus.kernel.store import Many, Page, Record, Table, Tx

from .attributes import Attributes
from .memory import lists

ADMIN = "rule:admin_only"
OWNER = "(rule:admin_only) or (role:member and project_id:%(project_id)s)"
MANAGER = "(rule:admin_only) or (role:manager and project_id:%(project_id)s)"
READER = "(rule:admin_only) or (role:reader and project_id:%(project_id)s)"
SERVICE_TOO = "(rule:admin_only) or (rule:service_api)"
_EVERYTHING = 100_000
_encode = msgspec.json.Encoder().encode
Look = tuple[str, tuple[str, ...]]  # its name, and the attributes that the caller may not see
_REVISION = re.compile(r"revision_number=(\d{1,18})")


def kept_by(
    writers: str, noun: str, *, readers: str = "", tagged: bool = False, updated: bool = True
) -> dict[str, str]:
    """The rules of a noun that one sort of callers makes, changes and drops, and another sees."""
    readers = readers or READER
    found = {f"create_{noun}": writers, f"get_{noun}": readers, f"delete_{noun}": writers}
    found |= {f"update_{noun}": writers} if updated else {}
    if tagged:
        found |= {f"get_{noun}:tags": readers}
        found |= {f"{verb}_{noun}:tags": writers for verb in ("update", "delete")}
    return found


class Noun(Record, kw_only=True, frozen=True):
    """A record of this API. `revision_number` counts its changes as clients see them."""

    project_id: str
    name: str = ""
    description: str = ""
    revision_number: int = 1
    tags: list[str] = []


class Shared(Noun, kw_only=True, frozen=True):
    """A noun that other projects may be shown by RBAC policies: all (`shared`) or those of `shared_with`."""

    shared: bool = False
    shared_with: list[str] = []

    def is_shared_to(self, project_id: str) -> bool:
        return self.shared or project_id in self.shared_with


SHARED_WITH = Many[Any]("shared_with", lambda r: r.shared_with)
TAGS = Many[Any]("tags", lambda r: r.tags)
N = TypeVar("N", bound=Noun)


class Nouns(Table[N]):
    """A table that words a missing row as this API does: `gone` is (type, sentence with {id})."""

    gone: tuple[str, str] = ("HTTPNotFound", "Resource {id} could not be found.")

    def worded(self, code: str, sentence: str) -> Nouns[N]:
        self.gone = (code, sentence)
        return self

    def missing(self, id: str) -> NotFound:
        return NotFound(self.gone[1].format(id=id), code=self.gone[0])

    async def revise(self, tx: Tx, old: N, **changes: Any) -> N:
        """A change that clients count."""
        return await self.change(tx, old, revision_number=old.revision_number + 1, **changes)


async def hold(tx: Tx, kind: str, *ids: str) -> None:
    """Serialises those who change what belongs together, in one order, until the transaction ends."""
    for id in sorted(set(ids)):
        await tx.lock(f"network.{kind}.{id}")


def listing(columns: Iterable[str] = (), tagged: bool = True, /, **filters: Filter) -> Listing:
    """Filters and sorts of a noun. `columns`: text columns by their own name. `tagged`: it can have tags."""
    plain = {c: Filter() for c in ("id", "name", "description", "project_id", *columns)}
    declared = {**plain, "tenant_id": Filter("project_id"), **filters}
    declared |= TAG_FILTERS if tagged else {}
    declared["revision_number"] = Filter(kind=int)
    sorts = {n: f.column or n for n, f in declared.items() if f.op == "eq"}
    sorts |= {"created_at": "created_at", "updated_at": "updated_at"}
    return Listing(
        declared,
        sorts,
        (("created_at", False), ("id", False)),
        default_limit=_EVERYTHING,
        max_limit=_EVERYTHING,
    )


COLUMNS = ("project_id", "name", "description", "revision_number")


class NetworkResource(Resource[N]):
    """`noun` and `plural` are the body's roots and the rules' names; `hidden` attributes need `get_noun:attribute`."""

    noun: ClassVar[str]
    plural: ClassVar[str]
    hidden: ClassVar[tuple[str, ...]] = ()
    root: ClassVar[str] = ""  # the body's root, where it is not the noun
    share_type: ClassVar[str] = (
        ""  # what RBAC policies call the noun, if they can show it to others
    )

    def __init_subclass__(cls, *, path: str = "", **more: Any) -> None:
        """`path`: where the list is, and below it each record; all nouns answer those alike."""
        super().__init_subclass__(**more)
        if path:
            _declare_reads(cls, path)

    async def call(
        self,
        ctx: Context,
        op: Operation,
        params: Mapping[str, str],
        raw: bytes,
        stream: Stream | None,
    ) -> Any:
        """A body that is wrong is called so before the caller is refused, as upstream. Raises Invalid."""
        try:
            return await super().call(ctx, op, params, raw, stream)
        except (Forbidden, NotFound):
            if op.body is not None:
                body_of(ctx, op, raw)
            raise

    def target(self, ctx: Context, record: N) -> Mapping[str, object]:
        found: dict[str, object] = {"project_id": record.project_id}
        if isinstance(record, Shared):
            found["shared"] = record.is_shared_to(ctx.caller.project_id)
        return found

    def view(self, ctx: Context, record: N) -> dict[str, Any]:
        """Every attribute, of the record alone and of whether it is shared to the caller: it is kept as JSON."""
        raise NotImplementedError

    def best_target(self, ctx: Context) -> Mapping[str, object]:
        """What a target could be at best, before the body says which it is."""
        return ctx.own

    def scope_target(self, ctx: Context, params: Mapping[str, str]) -> Mapping[str, object]:
        return self.best_target(ctx)

    def look(self, ctx: Context, record: N, judged: dict[object, Look]) -> Look:
        """All that the view depends on besides the record. `judged`: what was found of targets alike."""
        target = self.target(ctx, record)
        shared = isinstance(record, Shared) and record.is_shared_to(ctx.caller.project_id)
        key = shared, *target.values()
        found = judged.get(key)
        if found is None:
            rules = {n: f"get_{self.noun}:{n}" for n in self.hidden}
            denied = tuple(n for n, rule in rules.items() if not ctx.allows(rule, target))
            found = judged[key] = f"{shared} {denied}", denied
        return found

    def shown(self, ctx: Context, record: N, denied: Sequence[str]) -> bytes:
        """The attributes that the caller may see, as JSON without its end."""
        view = self.view(ctx, record)
        for name in denied:
            view.pop(name, None)
        return _encode(view)[:-1]

    async def tails(self, ctx: Context, records: Sequence[N]) -> Sequence[bytes]:
        """The ends of their JSON: what is shown of others, fetched together."""
        return [b"}"] * len(records)

    async def rendered(self, ctx: Context, records: Sequence[N]) -> list[Any]:
        """What is shown of them: JSON, or with `fields=` those attributes."""
        judged: dict[object, Look] = {}
        shelves, parts = lists(ctx.runtime.store).of(self.table), []
        for record, tail in zip(records, await self.tails(ctx, records), strict=True):
            (look, denied), kept = self.look(ctx, record, judged), shelves.parts(record)
            part = kept.get(look)
            if part is None:
                part = kept[look] = self.shown(ctx, record, denied)
            parts.append(part + tail)
        if ctx.query.has("fields"):
            return [projected(ctx, msgspec.json.decode(part)) for part in parts]
        return [msgspec.Raw(part) for part in parts]

    async def one(self, ctx: Context, record: N) -> dict[str, Any]:
        return {self.root or self.noun: (await self.rendered(ctx, [record]))[0]}

    async def made(self, ctx: Context, records: Sequence[N], single: bool) -> dict[str, Any]:
        """The answer to a create of one or of many."""
        views = await self.rendered(ctx, records)
        return {self.root or self.noun: views[0]} if single else {self.plural: views}

    def scopes_of(self, ctx: Context) -> tuple[Mapping[str, Any], ...]:
        """Which rows the caller may see: alternatives. None given: all."""
        if sees_all(ctx):
            return ()
        mine = project_of(ctx.caller)
        owned: tuple[Mapping[str, Any], ...] = ({"project_id": mine},)
        if issubclass(self.table.kind, Shared):
            owned += ({"shared": 1}, {"shared_with": [mine]})
        return owned

    async def listed(self, ctx: Context, **fixed: Any) -> dict[str, Any]:
        page = self.page(ctx, **fixed)
        records: list[N] = await lists(ctx.runtime.store).list(self.table, page)
        found: dict[str, Any] = {self.plural: await self.rendered(ctx, records)}
        if links := page_links(ctx, page, records):
            found[f"{self.plural}_links"] = links
        return found

    def page(self, ctx: Context, **fixed: Any) -> Page:
        declared = self.listing
        refuse_unknown(ctx.query, declared.filters)
        secret = [n for n in self.hidden if n in declared.filters]
        if secret and ctx.query.pairs:
            kept = [
                n for n in secret if not ctx.allows(f"get_{self.noun}:{n}", self.best_target(ctx))
            ]
            filters = {n: f for n, f in declared.filters.items() if n not in kept}
            declared = without(declared, filters)
        return declared.parse(ctx.query, scopes=self.scopes_of(ctx), **fixed)

    def match(self, ctx: Context, record: N) -> None:
        """If-Match: revision_number=N. Raises PreconditionFailed, Invalid."""
        given = ctx.headers.get("if-match")
        if given is None:
            return
        found = _REVISION.fullmatch(given.strip())
        if found is None:
            raise Invalid(
                f"Invalid value for If-Match header: '{given[:60]}'; use revision_number=N."
            )
        if int(found[1]) != record.revision_number:
            raise PreconditionFailed(
                f"Constrained to {found[1]}, but current revision is {record.revision_number}",
                code="RevisionNumberConstraintFailed",
            )

    def guard(
        self, ctx: Context, verb: str, raw: Mapping[str, Any], target: Mapping[str, object],
        body: type[Attributes],
    ) -> None:  # fmt: skip
        """The rules of single attributes: presence is judged, not value (but for defaults on create)."""
        start = verb if verb in self.rules else f"{verb}_{self.noun}"  # an action has its own name
        for name, value in raw.items():
            rule = f"{start}:{name}"
            if rule not in self.rules:
                continue
            if verb == "create" and name in body.defaults and body.defaults[name] == value:
                continue
            ctx.require(rule, target)
            for part in _parts(value):
                if f"{rule}:{part}" in self.rules:
                    ctx.require(f"{rule}:{part}", target)


def _declare_reads(kind: type[NetworkResource[Any]], path: str) -> None:
    async def index(self: NetworkResource[Any], ctx: Context) -> Any:
        return await self.listed(ctx)

    async def show(self: NetworkResource[Any], ctx: Context, record: Any) -> Any:
        return await self.one(ctx, record)

    declare(kind, "GET", path, kind.see, index)
    declare(kind, "GET", f"{path}/{{{kind.id_param}}}", kind.see, show, record=kind.table.kind)


def declare(
    kind: type[Any], method: str, path: str, rule: str, call: Any, status: int = 0, **types: Any
) -> None:
    """Makes an operation of the class; `types` are those of the call's parameters that differ from class to class."""
    call.__annotations__ |= types
    setattr(kind, call.__name__, operation(method, path, rule, status=status)(call))


_ASKED = frozenset(("fields", "limit", "marker", "page_reverse", "sort_dir", "sort_key"))


def refuse_unknown(query: Query, known: Iterable[str]) -> None:
    """A filter that is none would list what was not asked for. Raises Invalid."""
    if query.pairs:
        unknown = sorted({k for k, _ in query.pairs} - _ASKED - set(known))
        if unknown:
            raise Invalid(f"{unknown} is invalid attribute for filtering", code="HTTPBadRequest")


def sifted(ctx: Context, views: Sequence[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    """Of a list that no table holds, what is asked for by these attributes. Raises Invalid."""
    refuse_unknown(ctx.query, names)
    for name in names:
        if wanted := [v.lower() for v in ctx.query.all(name)]:
            views = [v for v in views if str(v[name]).lower() in wanted]
    return [projected(ctx, v) for v in views]


def without(declared: Listing, filters: Mapping[str, Filter]) -> Listing:
    """The listing without the filters that would tell what the caller may not see."""
    return Listing(
        filters, declared.sorts, declared.default, declared.default_limit, declared.max_limit
    )


def _parts(value: Any) -> list[str]:
    """The keys inside an attribute that is an object or a list of them."""
    items = value if isinstance(value, list) else [value]
    return list(dict.fromkeys(k for i in items if isinstance(i, dict) for k in i))


def sees_all(ctx: Context) -> bool:
    return ctx.allows("context_is_admin")


def project_of(caller: Caller) -> str:
    """Never "", which is the owner of what belongs to nobody."""
    return caller.project_id or "-"


def owner_of(ctx: Context, project_id: str | msgspec.UnsetType) -> str:
    """The project a new record is to belong to. Raises Invalid for another's without the right."""
    if project_id is msgspec.UNSET or not project_id or project_id == ctx.caller.project_id:
        return ctx.caller.project_id
    if not sees_all(ctx):
        raise Invalid(
            "Specifying 'project_id' or 'tenant_id' other than the authenticated "
            "project in request requires admin privileges"
        )
    return str(project_id)


def standard(record: Noun) -> dict[str, Any]:
    """The attributes that every noun shows."""
    return {
        "id": record.id,
        "name": record.name,
        "description": record.description,
        "project_id": record.project_id,
        "tenant_id": record.project_id,
        "tags": record.tags,
        "revision_number": record.revision_number,
        "created_at": moment(record.created_at),
        "updated_at": moment(record.updated_at or record.created_at),
    }


def moment(at: str) -> str:
    """A time as this API spells it."""
    return at[:19] + "Z" if at else ""


def projected(ctx: Context, view: dict[str, Any]) -> dict[str, Any]:
    """`fields=`: only those."""
    wanted = ctx.query.all("fields")
    if not wanted:
        return view
    return {k: v for k, v in view.items() if k in wanted}


def page_links(ctx: Context, page: Page, records: Sequence[Record]) -> list[dict[str, str]]:
    """Links to the neighbours of a page, where a limit was asked for."""
    if not ctx.query.has("limit") or page.limit >= _EVERYTHING:
        return []
    kept = [(k, v) for k, v in ctx.query.pairs if k not in ("marker", "page_reverse")]
    links = []

    def link(rel: str, *more: tuple[str, str]) -> None:
        links.append({"rel": rel, "href": f"{ctx.url}?{urlencode([*kept, *more])}"})

    full = len(records) >= page.limit
    if records and (full or page.reverse):
        link("next", ("marker", records[-1].id))
    if not records and page.marker and not page.reverse:
        link("previous", ("page_reverse", "True"))  # behind the last one: back to it
    if records and (page.marker or page.reverse) and (full or not page.reverse):
        link("previous", ("marker", records[0].id), ("page_reverse", "True"))
    return links

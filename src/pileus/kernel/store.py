"""Rows: one table per Record (document, declared columns, generation); every write is a compare-and-swap.

SQLAlchemy Core writes each statement once per dialect; what is kept is plain SQL text, run directly on the driver.
Rules that keep SQLite and PostgreSQL alike: text and integers only; no NULL in a column; one collation (bytes).
Columns are derived from the document, so a table that lacks a declared column gains it on start, filled from the
documents: there are no migrations to write.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar, cast

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.sql.base import Executable

from .faults import Conflict, Fault, NotFound, Stale
from .sql import TEXT, member_of, regex_match

if TYPE_CHECKING:
    from .quota import Quota

Row = Sequence[Any]
METADATA = sa.MetaData()
_STATEMENTS = 2_000  # kept compiled; callers choose filters and sorts
_KEPT = 4_000  # documents that a store remembers
_LONGEST = 8_192  # characters of one


class Record(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """What a row holds. Times are text as `World.clock.now()` writes it; "" means never."""

    id: str
    created_at: str = ""
    updated_at: str = ""
    deleted_at: str = ""
    generation: int = 0


R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Sql:
    """A compiled statement: text, and the order in which the driver wants the values."""

    text: str
    names: tuple[str, ...]
    fixed: Mapping[str, Any]

    def args(self, values: Mapping[str, Any]) -> list[Any]:
        fixed = self.fixed
        return [values[n] if n in values else fixed[n] for n in self.names]


class Reader(Protocol):
    """What can be asked: the store (committed rows only) or a transaction (its own writes too)."""

    @property
    def memo(self) -> dict[Hashable, Any] | None:
        """What was read since the last commit, for what every request asks; None where others may commit too."""

    @property
    def kept(self) -> dict[tuple[str, str], str] | None:
        """Documents read by table and id; a commit drops those it wrote. None in a transaction, and as `memo`."""

    def sql(self, key: Hashable, build: Callable[[], Executable]) -> Sql: ...
    async def rows(self, sql: Sql, values: Mapping[str, Any]) -> Sequence[Row]: ...


class Tx(Reader, Protocol):
    """A transaction. Await nothing but its methods inside it."""

    now: str  # the one time of everything written in it

    async def run(self, sql: Sql, values: Mapping[str, Any]) -> int:
        """Executes a write; the number of rows it touched. Raises Duplicate, after which the transaction must end."""

    def touch(self, table: str, *ids: str) -> None:
        """Says which rows it writes."""

    async def lock(self, name: str) -> None:
        """Serialises transactions that read before they write. SQLite has one writer anyway."""


class Store(Reader, Protocol):
    """SQLite or PostgreSQL behind the same statements."""

    shared: bool  # may other controls have it open?

    async def start(self) -> None: ...
    async def stop(self) -> None: ...

    def tx(self, *, wait: bool = True) -> AbstractAsyncContextManager[Tx]:
        """A transaction, committed on leaving. `wait=False`: go on before the disk has it; order is kept, `sync` waits."""

    async def sync(self) -> None:
        """Returns when everything committed so far is on disk."""

    async def visible(self) -> None:
        """Returns when everything written so far can be read by others. Hurries nothing, unlike `sync`."""

    def on_commit(self, wake: Callable[[], None]) -> None:
        """Calls `wake` after every commit here."""


class Duplicate(Fault):
    """A unique index refused a row; `Table` turns it into the Conflict its declaration words."""

    def __init__(self, index: str) -> None:
        super().__init__(f"unique index {index}")
        self.index = index


def went_on(*_: object) -> NoReturn:
    """What a transaction meets that goes on after a refused statement: half of a write may be in it, quota charged."""
    raise RuntimeError("a transaction went on after a refused statement")


class Statements:
    """The cache of compiled statements, one per store. Hot path: one dict lookup."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect, self._known = dialect, dict[Hashable, Sql]()

    def sql(self, key: Hashable, build: Callable[[], Executable]) -> Sql:
        found = self._known.get(key)
        if found is None:
            c = cast(Any, build()).compile(dialect=self.dialect)
            fixed = {k: v for k, v in c.params.items() if v is not None}
            found = self._known[key] = Sql(c.string, tuple(c.positiontup or ()), fixed)
            if len(self._known) > _STATEMENTS:
                del self._known[next(iter(self._known))]  # the oldest
        return found


@dataclass(frozen=True)
class Column(Generic[R]):
    """A column that is not just a field: `of` computes it, from the document alone."""

    name: str
    of: Callable[[R], str | int]
    type: type = str


@dataclass(frozen=True)
class Unique(Generic[R]):
    """No two live rows share these columns. `message` words the 409, given the refused record."""

    columns: tuple[str, ...]
    message: Callable[[R], str]
    code: str = ""


@dataclass(frozen=True)
class Many(Generic[R]):
    """A side table (id, value) of what a record has several of: tags, metadata pairs, addresses."""

    name: str
    of: Callable[[R], Sequence[str]]


@dataclass(frozen=True)
class Match:
    """A filter other than equality. `op`: eq ne gt ge lt le regex prefix any all not_any not_all (the last four on a Many)."""

    op: str
    value: Any


@dataclass(frozen=True)
class Page:
    """What a list asks for. `filters`: column -> value, list of values (any of), or Match.

    `scopes`: what the caller may see; a row must meet one of these alternatives (none given: no restriction).
    """

    filters: Mapping[str, Any] = field(default_factory=dict)
    # (column, descending)
    sorts: tuple[tuple[str, bool], ...] = (("created_at", True), ("id", True))
    limit: int = 1000
    marker: str = ""
    scopes: tuple[Mapping[str, Any], ...] = ()
    deleted: bool | None = False  # None: live and deleted alike
    reverse: bool = False  # Neutron's page_reverse: the rows before the marker


_OPS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": lambda c, p: c == p,
    "ne": lambda c, p: c != p,
    "gt": lambda c, p: c > p,
    "ge": lambda c, p: c >= p,
    "lt": lambda c, p: c < p,
    "le": lambda c, p: c <= p,
    "regex": regex_match,
    "prefix": lambda c, p: sa.func.substr(c, 1, sa.func.length(p)) == p,
}


def index_name(kind: str, table: str, columns: Sequence[str]) -> str:
    """At most as long as PostgreSQL allows."""
    return f"{kind}_{table}_{'_'.join(columns)}"[:63]


class Table(Generic[R]):
    """One kind of record, its columns, and how rows are read and written."""

    def __init__(
        self,
        name: str,
        kind: type[R],
        *,
        columns: tuple[str | Column[R], ...] = (),
        indexes: tuple[tuple[str, ...], ...] = (),
        unique: tuple[Unique[R], ...] = (),
        many: tuple[Many[R], ...] = (),
        quotas: tuple[Quota[R], ...] = (),
        history: tuple[tuple[str, ...], ...] = (),
        tombstone_s: int = 0,
        noun: str = "",
    ) -> None:
        """`tombstone_s`: how long a deleted row can still be asked for; 0 deletes it at once.

        Where tombstones are kept, `indexes` are of live rows only, so that lists do not wade through the dead;
        `history`: those for questions that take tombstones too.
        """
        self.name, self.kind, self.noun = name, kind, noun or kind.__name__
        self.quotas, self.tombstone_s, self.unique = quotas, tombstone_s, unique
        self.decode = msgspec.json.Decoder(kind).decode
        self.columns = _columns(kind, columns)
        kept = [
            sa.Column(n, _type(t), primary_key=n == "id", nullable=False)
            for n, t, _ in self.columns
        ]
        self.t = sa.Table(
            name, METADATA, *kept, sa.Column("document", TEXT, nullable=False), info={"table": self}
        )
        live = self.t.c.deleted_at == sa.literal_column("''")
        if tombstone_s:
            self._index(("deleted_at",), "ix", where=self.t.c.deleted_at > sa.literal_column("''"))
        for i in indexes:
            self._index(i, "live" if tombstone_s else "ix", where=live if tombstone_s else None)
        for i in history:
            self._index(i, "ix")
        for u in unique:
            self._index(u.columns, "uq", where=live, unique=True)
        self.many = {m.name: (m, _side_table(name, m.name)) for m in many}

    def _index(
        self, columns: Sequence[str], kind: str, *, where: Any = None, unique: bool = False
    ) -> None:
        name, of = index_name(kind, self.name, columns), (self.t.c[c] for c in columns)
        sa.Index(name, *of, unique=unique, sqlite_where=where, postgresql_where=where)

    # Reading

    async def get(self, db: Reader, id: str) -> R:
        """The live row, or NotFound in the noun's name."""
        found = await self.find(db, id)
        if found is None:
            raise self.missing(id)
        return found

    def missing(self, id: str) -> NotFound:
        return NotFound(f"{self.noun} {id} could not be found.")

    async def find(self, db: Reader, id: str, *, deleted: bool | None = False) -> R | None:
        """The row with that id; `deleted=None` takes a tombstone too."""
        kept, key = db.kept, (self.name, id)
        text = kept.get(key) if kept is not None else None
        if text is None:
            rows = await db.rows(db.sql((self.name, "get"), self._by_id), {"id": id})
            if not rows:
                return None
            text = cast(str, rows[0][0])
            if kept is not None and len(text) <= _LONGEST:
                kept[key] = text
                if len(kept) > _KEPT:
                    del kept[next(iter(kept))]  # the one first read
        record = self.decode(text)
        return record if deleted is None or bool(record.deleted_at) == deleted else None

    def _by_id(self) -> Executable:
        return sa.select(self.t.c.document).where(self.t.c.id == sa.bindparam("id"))

    async def one(self, db: Reader, **filters: Any) -> R | None:
        """The first live row that matches."""
        found = await self.list(db, Page(filters, limit=1))
        return found[0] if found else None

    async def all(self, db: Reader, **filters: Any) -> list[R]:
        """Every live row that matches, oldest first; for sets known to be small."""
        return await self.list(
            db, Page(filters, (("created_at", False), ("id", False)), limit=1_000_000)
        )

    async def list(self, db: Reader, page: Page) -> list[R]:
        return [self.decode(r[0]) for r in await self.page(db, page)]

    async def count(self, db: Reader, page: Page) -> int:
        """How many rows the filters and scopes match; limit and marker do not count."""
        values, shape = self._shape(page)

        def build() -> Executable:
            counted = sa.select(sa.func.count()).select_from(self.t)
            return cast(Executable, self._where(counted, page, shape))

        return int(
            (await db.rows(db.sql((self.name, "count", shape, page.deleted), build), values))[0][0]
        )

    async def page(
        self, db: Reader, page: Page, *, select: tuple[str, ...] = ("document",)
    ) -> Sequence[Row]:
        """Rows of the selected columns, in order. Raises NotFound for an unknown marker."""
        values, shape = self._shape(page)
        values["limit"] = page.limit
        if page.marker:
            values |= await self._marker(db, page)
        how = (page.sorts, bool(page.marker), page.deleted, page.reverse)
        key = (self.name, "page", select, shape, how)
        rows = await db.rows(db.sql(key, lambda: self._page(select, shape, page)), values)
        return rows[::-1] if page.reverse else rows

    async def _marker(self, db: Reader, page: Page) -> dict[str, Any]:
        names = [c for c, _ in page.sorts]
        where = sa.select(*(self.t.c[c] for c in names)).where(self.t.c.id == sa.bindparam("id"))
        at = await db.rows(
            db.sql((self.name, "marker", tuple(names)), lambda: where), {"id": page.marker}
        )
        if not at:
            raise NotFound(f"marker [{page.marker}] not found")
        return {"m_" + c: v for c, v in zip(names, at[0], strict=True)}

    def _shape(self, page: Page) -> tuple[dict[str, Any], Hashable]:
        """Values to bind, and what tells one statement from another."""
        values: dict[str, Any] = {}
        shape = []
        for n, filters in enumerate((page.filters, *page.scopes)):
            part = []
            for column, wanted in filters.items():
                match = wanted if isinstance(wanted, Match) else None
                op, value = (match.op, match.value) if match else ("eq", wanted)
                many = isinstance(value, list | tuple | set | frozenset)
                part.append((column, op, many))
                values[f"f{n}_{column}"] = _bound(value, many)
                if op in ("all", "not_all"):
                    values[f"n{n}_{column}"] = len(set(value))
            shape.append(tuple(part))
        return values, tuple(shape)

    def _where(self, q: Any, page: Page, shape: Any) -> Any:
        own, *scopes = [[self._condition(n, *one) for one in part] for n, part in enumerate(shape)]
        at = self.t.c.deleted_at
        live = {None: [], True: [at != ""], False: [at == sa.literal_column("''")]}[page.deleted]
        if scopes:  # SQLite takes a partial index for an alternative which implies it by itself
            each = live if not page.sorts else [sa.true()]  # in order, it walks the order's index
            q = q.where(sa.or_(*(sa.and_(*each, *s) for s in scopes)))
        return q.where(*own, *live)

    def _condition(self, n: int, column: str, op: str, many: bool) -> Any:
        name = f"f{n}_{column}"
        if column in self.many:
            return self._many_condition(n, column, op, many)
        c = self.t.c[column]
        if many:
            inside = member_of(c, name)
            return sa.not_(inside) if op == "ne" else inside
        return _OPS[op](c, sa.bindparam(name, type_=c.type))

    def _many_condition(self, n: int, column: str, op: str, many: bool) -> Any:
        side, name = self.many[column][1], f"f{n}_{column}"
        hit = (
            member_of(side.c.value, name)
            if many
            else side.c.value == sa.bindparam(name, type_=TEXT)
        )
        ids = sa.select(side.c.id).where(hit)
        if op in ("all", "not_all"):
            ids = ids.group_by(side.c.id)
            ids = ids.having(
                sa.func.count() == sa.bindparam(f"n{n}_{column}", type_=sa.BigInteger())
            )
        inside = self.t.c.id.in_(ids)
        return sa.not_(inside) if op.startswith("not") else inside

    def _page(self, select: tuple[str, ...], shape: Any, page: Page) -> Executable:
        c = self.t.c
        sorts = tuple((s, down != page.reverse) for s, down in page.sorts)
        q = sa.select(*(c[s] for s in select)).limit(sa.bindparam("limit", type_=sa.BigInteger()))
        q = self._where(q, page, shape)
        if page.marker:
            q = q.where(self._after(sorts))
        ordered: Executable = q.order_by(
            *(c[s].desc() if down else c[s].asc() for s, down in sorts)
        )
        return ordered

    def _after(self, sorts: tuple[tuple[str, bool], ...]) -> sa.ColumnElement[bool]:
        """Rows behind the marker. One row-value comparison can use an index; mixed directions need the long form."""
        c, at = self.t.c, {s: sa.bindparam("m_" + s, type_=self.t.c[s].type) for s, _ in sorts}
        if len({down for _, down in sorts}) == 1:
            left, right = sa.tuple_(*(c[s] for s, _ in sorts)), sa.tuple_(*at.values())
            return left < right if sorts[0][1] else left > right
        options = []
        for n, (s, down) in enumerate(sorts):
            same = [c[p] == at[p] for p, _ in sorts[:n]]
            options.append(sa.and_(*same, c[s] < at[s] if down else c[s] > at[s]))
        return sa.or_(*options)

    # Writing

    async def insert(self, tx: Tx, record: R) -> R:
        """Writes a new row, charges its quotas, and gives the record as stored. Raises Conflict, OverQuota."""
        changes = {} if record.created_at else {"created_at": tx.now}
        new = msgspec.structs.replace(record, generation=1, **changes)
        for q in self.quotas:
            await q.charge(tx, None, new)
        sql = tx.sql((self.name, "insert"), lambda: sa.insert(self.t))
        await self._guarded(tx, sql, self.values(new), new)
        for name in self.many:
            await self._write_many(tx, name, new.id, (), self.many[name][0].of(new))
        return new

    async def change(self, tx: Tx, old: R, **changes: Any) -> R:
        """Compare-and-swap on the generation. Raises Stale if somebody else was first, Conflict, OverQuota."""
        changes.setdefault("updated_at", tx.now)
        new = msgspec.structs.replace(old, generation=old.generation + 1, **changes)
        for q in self.quotas:
            await q.charge(tx, old, new)
        await self._swap(tx, old, new)
        for name, (many, _) in self.many.items():
            await self._write_many(tx, name, new.id, many.of(old), many.of(new))
        return new

    async def delete(self, tx: Tx, old: R) -> None:
        """Gives back the quotas; the row goes, or stays as a tombstone where the table keeps those. Raises Stale."""
        for q in self.quotas:
            await q.charge(tx, old, None)
        if self.tombstone_s:
            new = msgspec.structs.replace(old, generation=old.generation + 1, deleted_at=tx.now)
            await self._swap(tx, old, new)
            return
        for name, (many, _) in self.many.items():
            await self._write_many(tx, name, old.id, many.of(old), ())
        tx.touch(self.name, old.id)
        sql = tx.sql((self.name, "delete"), lambda: sa.delete(self.t).where(*self._same()))
        if await tx.run(sql, {"the_id": old.id, "was": old.generation}) != 1:
            raise Stale(f"{self.noun} {old.id} changed under this request.")

    def _same(self) -> tuple[Any, ...]:
        c = self.t.c
        return c.id == sa.bindparam("the_id"), c.generation == sa.bindparam("was")

    async def sweep(self, tx: Tx, before: str, limit: int = 500) -> int:
        """Drops some of the tombstones older than `before`; how many."""
        c = self.t.c

        def oldest() -> Executable:
            old = sa.and_(
                c.deleted_at > sa.literal_column("''"), c.deleted_at < sa.bindparam("before")
            )
            some = sa.bindparam("limit", type_=sa.BigInteger())
            return sa.select(c.id).where(old).order_by(c.deleted_at).limit(some)

        values = {"before": before, "limit": limit}
        ids = [r[0] for r in await tx.rows(tx.sql((self.name, "oldest"), oldest), values)]
        if ids:
            tx.touch(self.name, *ids)
            for t in (*(side for _, side in self.many.values()), self.t):
                gone = partial(_those, t)
                await tx.run(tx.sql((t.name, "sweep"), gone), {"ids": _bound(ids, True)})
        return len(ids)

    async def _swap(self, tx: Tx, old: R, new: R) -> None:
        t, values = self.t, {**self.values(new), "the_id": old.id, "was": old.generation}
        tx.touch(self.name, old.id)

        def build() -> Executable:
            every: dict[str, Any] = {c.name: sa.bindparam(c.name) for c in t.c if c.name != "id"}
            return sa.update(t).where(*self._same()).values(every)

        if await self._guarded(tx, tx.sql((self.name, "change"), build), values, new) != 1:
            raise Stale(f"{self.noun} {old.id} changed under this request.")

    async def _guarded(self, tx: Tx, sql: Sql, values: Mapping[str, Any], record: R) -> int:
        try:
            return await tx.run(sql, values)
        except Duplicate as e:
            for u in self.unique:
                if e.index == index_name("uq", self.name, u.columns):
                    raise Conflict(u.message(record), code=u.code) from None
            raise Conflict(f"{self.noun} {record.id} already exists.") from None

    async def _write_many(
        self, tx: Tx, name: str, id: str, old: Sequence[str], new: Sequence[str]
    ) -> None:
        side, before, after = self.many[name][1], set(old), set(new)
        if before - after:

            def gone() -> Executable:
                return sa.delete(side).where(
                    side.c.id == sa.bindparam("the_id"), member_of(side.c.value, "values")
                )

            values = {"the_id": id, "values": _bound(sorted(before - after), True)}
            await tx.run(tx.sql((self.name, "many-", name), gone), values)
        for value in sorted(after - before):
            await tx.run(
                tx.sql((self.name, "many+", name), lambda: sa.insert(side)),
                {"id": id, "value": value},
            )

    def values(self, record: R) -> dict[str, Any]:
        """A row's columns."""
        row: dict[str, Any] = {n: of(record) for n, _, of in self.columns}
        row["document"] = msgspec.json.encode(record).decode()
        return row


def _columns(
    kind: type[Record], declared: Sequence[str | Column[Any]]
) -> list[tuple[str, type, Callable[[Any], Any]]]:
    types = {f.name: f.type for f in msgspec.structs.fields(kind)}
    found: list[tuple[str, type, Callable[[Any], Any]]] = []
    for c in ("id", "created_at", "updated_at", "deleted_at", "generation", *declared):
        if isinstance(c, Column):
            found.append((c.name, c.type, c.of))
        elif types[c] in (int, bool):
            found.append((c, int, lambda r, c=c: int(getattr(r, c))))  # type: ignore[misc]
        else:
            found.append((c, str, lambda r, c=c: getattr(r, c) or ""))  # type: ignore[misc]
    return found


def _type(kind: type) -> Any:
    return sa.BigInteger() if kind is int else TEXT


def _side_table(table: str, name: str) -> sa.Table:
    return sa.Table(
        f"{table}__{name}",
        METADATA,
        sa.Column("id", TEXT, primary_key=True, nullable=False),
        sa.Column("value", TEXT, primary_key=True, nullable=False),
        sa.Index(f"ix_{table}__{name}_value", "value"),
    )


def _those(t: sa.Table) -> Executable:
    return sa.delete(t).where(member_of(t.c.id, "ids"))


def _bound(value: Any, many: bool) -> Any:
    if many:
        return msgspec.json.encode(
            [int(v) if isinstance(v, int) else str(v) for v in value]
        ).decode()
    return int(value) if isinstance(value, bool) else value

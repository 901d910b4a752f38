"""What SQLAlchemy lacks to say one thing to both databases: collation, set membership, regular expressions, DDL."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


class member_of(sa.ColumnElement[bool]):
    """`column IN (the JSON list bound to name)`: one text for any number of values."""

    inherit_cache = False
    type = sa.Boolean()

    def __init__(self, column: sa.ColumnElement[Any], name: str) -> None:
        self.column, self.param = column, sa.bindparam(name, type_=sa.Text)

    def self_group(self, against: Any = None) -> Any:
        """Itself: SQLAlchemy would write `(...) = 1` on SQLite, and no index would be used."""
        return self


@compiles(member_of, "sqlite")
def _(e: member_of, compiler: Any, **kw: Any) -> str:
    return f"{compiler.process(e.column)} IN (SELECT value FROM json_each({compiler.process(e.param)}))"


@compiles(member_of, "postgresql")
def _(e: member_of, compiler: Any, **kw: Any) -> str:
    cast = "::bigint" if isinstance(e.column.type, sa.BigInteger) else ""
    values = f"jsonb_array_elements_text({compiler.process(e.param)}::jsonb) AS v"
    return f"{compiler.process(e.column)} IN (SELECT v{cast} FROM {values})"


class regex_match(sa.ColumnElement[bool]):
    """The column matches the bound regular expression somewhere."""

    inherit_cache = False
    type = sa.Boolean()

    def __init__(self, column: sa.ColumnElement[Any], param: Any) -> None:
        self.column, self.param = column, param


@compiles(regex_match, "sqlite")
def _(e: regex_match, compiler: Any, **kw: Any) -> str:
    return f"{compiler.process(e.column)} REGEXP {compiler.process(e.param)}"


@compiles(regex_match, "postgresql")
def _(e: regex_match, compiler: Any, **kw: Any) -> str:
    return f"{compiler.process(e.column)} ~ {compiler.process(e.param)}"


class current_epoch(sa.ColumnElement[int]):
    """The number of this transaction, where several may be open at once; 0 where there is one writer."""

    inherit_cache = True
    type = sa.BigInteger()


@compiles(current_epoch, "sqlite")
def _(e: current_epoch, compiler: Any, **kw: Any) -> str:
    return "0"


@compiles(current_epoch, "postgresql")
def _(e: current_epoch, compiler: Any, **kw: Any) -> str:
    return "pg_current_xact_id()::text::bigint"


class is_settled(sa.ColumnElement[bool]):
    """No transaction with the column's number or an older one is still open."""

    inherit_cache = False
    type = sa.Boolean()

    def __init__(self, column: sa.ColumnElement[Any]) -> None:
        self.column = column


@compiles(is_settled, "sqlite")
def _(e: is_settled, compiler: Any, **kw: Any) -> str:
    return "1 = 1"


@compiles(is_settled, "postgresql")
def _(e: is_settled, compiler: Any, **kw: Any) -> str:
    oldest_open = "pg_snapshot_xmin(pg_current_snapshot())::text::bigint"
    return f"{compiler.process(e.column)} < {oldest_open}"


@lru_cache(256)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


def regexp(pattern: str, value: str) -> bool:
    """SQLite's REGEXP operator. The caller has checked that the pattern compiles."""
    return _pattern(pattern).search(value) is not None


def creates(metadata: sa.MetaData, dialect: Dialect) -> Iterator[tuple[sa.Table, str, list[str]]]:
    """Each table, the statement that makes it, and those that make its indexes; all do nothing if it is there."""
    for table in metadata.sorted_tables:
        known = table.info.setdefault("made", {})  # tests start many stores
        if dialect.name not in known:
            made = CreateTable(table, if_not_exists=True).compile(dialect=dialect)
            indexes = [CreateIndex(i, if_not_exists=True) for i in table.indexes]
            texts = (str(i.compile(dialect=dialect)) for i in indexes)
            known[dialect.name] = str(made), sorted(texts)
        yield table, *known[dialect.name]


def unwanted(table: sa.Table, there: Iterable[str]) -> list[str]:
    """Drops those of a table's indexes, given by name, that an older version declared and this one does not."""
    declared = {i.name for i in table.indexes}
    gone = (n for n in there if n.startswith(("ix_", "live_")) and n not in declared)
    return [f'DROP INDEX IF EXISTS "{name}"' for name in sorted(gone)]


def upsert(table: sa.Table, column: str, *, replace: bool = False) -> sa.TextClause:
    """Inserts a number under the table's primary key, or adds it to the one there (`replace`: takes its place).

    It returns the number as it then is. As text, since SQLAlchemy's ON CONFLICT belongs to one dialect each, and
    importing another one's costs a start 50 ms.
    """
    keys = ", ".join(c.name for c in table.primary_key)
    columns = ", ".join(c.name for c in table.c)
    values = ", ".join(f":{c.name}" for c in table.c)
    new = f"excluded.{column}" if replace else f"{table.name}.{column} + excluded.{column}"
    return sa.text(
        f"INSERT INTO {table.name} ({columns}) VALUES ({values}) "
        f"ON CONFLICT ({keys}) DO UPDATE SET {column} = {new} RETURNING {column}"
    )


def add_column(column: sa.Column[Any], dialect: Dialect) -> str:
    """Adds a column that an older version did not have; the store fills it from the documents."""
    spelled = str(CreateColumn(column).compile(dialect=dialect))
    default = "0" if isinstance(column.type, sa.BigInteger) else "''"
    return f'ALTER TABLE "{column.table.name}" ADD COLUMN {spelled} DEFAULT {default}'

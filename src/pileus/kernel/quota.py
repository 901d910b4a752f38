"""Quotas: a usage row per (project, resource), moved by the store in the transaction that moves the rows themselves.

The upsert of the usage row also serialises those who charge the same project and resource, so that two creates
cannot both be the last one. A limit of -1 means unlimited.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.sql.base import Executable

from .faults import OverQuota
from .sql import TEXT, upsert

if TYPE_CHECKING:
    from .store import Reader, Record, Tx

R = TypeVar("R", bound="Record")
DEFAULTS = ""  # the project id under which an operator's own defaults are kept


def _tables() -> tuple[sa.Table, sa.Table]:
    from .store import METADATA

    def key() -> list[sa.Column[Any]]:
        return [
            sa.Column(n, TEXT, primary_key=True, nullable=False)
            for n in ("service", "resource", "project_id")
        ]

    usage = sa.Table(
        "quota_usage", METADATA, *key(), sa.Column("used", sa.BigInteger(), nullable=False)
    )
    limits = sa.Table(
        "quota_limits", METADATA, *key(), sa.Column("hard_limit", sa.BigInteger(), nullable=False)
    )
    return usage, limits


USAGE, LIMITS = _tables()


@dataclass(frozen=True)
class Quota(Generic[R]):
    """What one record costs. `of` gives the amount; `project` whose it is; `default` the limit unless set."""

    service: str
    name: str
    default: int = -1
    of: Callable[[R], int] = lambda _: 1
    project: Callable[[R], str] = lambda r: r.project_id  # type: ignore[attr-defined]

    async def charge(self, tx: Tx, old: R | None, new: R | None) -> None:
        """Moves usage from what `old` costs to what `new` costs. Raises OverQuota if that is more than allowed."""
        moves: dict[str, int] = {}
        for record, sign in ((old, -1), (new, 1)):
            if record is not None:
                project = self.project(record)
                moves[project] = moves.get(project, 0) + sign * self.of(record)
        for project, delta in sorted(moves.items()):
            if delta:
                await self.add(tx, project, delta)

    async def add(self, tx: Tx, project: str, delta: int) -> None:
        """Moves the usage. Raises OverQuota if it grows past the limit."""
        used = await add_usage(tx, self.service, self.name, project, delta)
        if delta > 0:
            limit = await limit_of(tx, self.service, self.name, project, self.default)
            if 0 <= limit < used:
                raise OverQuota(self.name, delta, used - delta, limit)


async def add_usage(tx: Tx, service: str, name: str, project_id: str, delta: int) -> int:
    """The usage after adding `delta`."""
    values = {"service": service, "resource": name, "project_id": project_id, "used": delta}
    return int((await tx.rows(_upsert(tx, USAGE, "used", replace=False), values))[0][0])


async def limit_of(db: Reader, service: str, name: str, project_id: str, default: int) -> int:
    """The project's own limit, else the operator's default, else the declared one."""
    t = LIMITS

    def build() -> Executable:
        mine = t.c.project_id.in_([sa.bindparam("project_id"), sa.literal_column("''")])
        where = (
            t.c.service == sa.bindparam("service"),
            t.c.resource == sa.bindparam("resource"),
            mine,
        )
        return sa.select(t.c.hard_limit).where(*where).order_by(t.c.project_id.desc())

    sql = db.sql(("quota", "limit"), build)
    rows = await db.rows(sql, {"service": service, "resource": name, "project_id": project_id})
    return int(rows[0][0]) if rows else default


async def limits(db: Reader, service: str, project_id: str) -> dict[str, int]:
    """The limits set for this project itself (DEFAULTS: the operator's defaults), by resource."""
    return await _by_resource(db, LIMITS, "hard_limit", service, project_id)


async def usage(db: Reader, service: str, project_id: str) -> dict[str, int]:
    """What the project uses, by resource."""
    return await _by_resource(db, USAGE, "used", service, project_id)


async def set_limits(tx: Tx, service: str, project_id: str, values: Mapping[str, int]) -> None:
    for name, limit in values.items():
        row = {"service": service, "resource": name, "project_id": project_id, "hard_limit": limit}
        await tx.rows(_upsert(tx, LIMITS, "hard_limit", replace=True), row)


async def clear_limits(tx: Tx, service: str, project_id: str) -> None:
    """Back to the defaults."""
    t = LIMITS

    def build() -> Executable:
        return sa.delete(t).where(
            t.c.service == sa.bindparam("service"), t.c.project_id == sa.bindparam("project_id")
        )

    await tx.run(tx.sql(("quota", "clear"), build), {"service": service, "project_id": project_id})


async def _by_resource(
    db: Reader, t: sa.Table, column: str, service: str, project_id: str
) -> dict[str, int]:
    def build() -> Executable:
        where = (
            t.c.service == sa.bindparam("service"),
            t.c.project_id == sa.bindparam("project_id"),
        )
        return sa.select(t.c.resource, t.c[column]).where(*where)

    rows = await db.rows(
        db.sql(("quota", t.name, "all"), build), {"service": service, "project_id": project_id}
    )
    return {r[0]: int(r[1]) for r in rows}


def _upsert(tx: Tx, t: sa.Table, column: str, *, replace: bool) -> Any:
    return tx.sql(("quota", "upsert", t.name), lambda: upsert(t, column, replace=replace))

"""What a cloud holds: rows, usage, guests, journals; and what must be true of it at any quiet moment.

Generated tests compare what a saga left behind with what it should have; simulations ask for `broken` at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from pileus.kernel import quota
from pileus.kernel.runtime import Runtime
from pileus.kernel.sagas import JOURNAL
from pileus.kernel.states import Lifecycle
from pileus.kernel.store import METADATA, Page, Record, Store, Table
from pileus.node.host import Hosts

# What comes and goes by itself: the time of day, not what a saga did.
PASSING = frozenset({"events", "event_cursors", "revisions", "controls", "hosts", "quota_usage"})
Held = dict[str, Any]


def tables() -> Iterator[tuple[sa.Table, Table[Any] | None]]:
    """Every table, with the Table that owns it if records are kept in it."""
    for t in METADATA.sorted_tables:
        yield t, t.info.get("table")


async def held(runtime: Runtime, hosts: Hosts | None = None) -> Held:
    """How many live rows each table has (by state, where it has states), usage, guests and their cards by host."""
    found: Held = {"usage": await _usage(runtime.store)}
    cycles = dict(lifecycles(runtime))
    for t, owner in tables():
        if t.name in PASSING:
            continue
        if owner is not None and t.name in cycles:
            records = await owner.all(runtime.store)
            found[t.name] = dict(Counter(state_of(cycles[t.name], r) for r in records))
        else:
            found[t.name] = await _count(runtime.store, t)
    if hosts is not None:
        found["guests"] = {host: len(ids) for host, ids in (await guests(hosts)).items()}
        found["cards"] = await _cards(hosts)
    return {name: value for name, value in found.items() if value}


def lifecycles(runtime: Runtime) -> Iterator[tuple[str, Lifecycle]]:
    """Name of the table -> its records' lifecycle, for what sagas work on."""
    for saga in runtime.sagas.known.values():
        yield saga.table.name, saga.lifecycle


def state_of(cycle: Lifecycle, record: Record) -> str:
    stable, busy = getattr(record, cycle.stable), getattr(record, cycle.busy)
    return str(stable if not cycle.two_fields or not busy else f"{stable} {busy}")


async def _count(store: Store, t: sa.Table) -> int:
    def build() -> Any:
        counted = sa.select(sa.func.count()).select_from(t)
        none: sa.ColumnElement[str] = sa.literal_column("''")
        owner, _, many = t.name.partition("__")
        if many:  # what a tombstone had goes with the tombstone
            of = METADATA.tables[owner].c
            return counted.where(t.c.id.in_(sa.select(of.id).where(of.deleted_at == none)))
        live = t.c.get("deleted_at")
        return counted if live is None else counted.where(live == none)

    return int((await store.rows(store.sql(("held", t.name), build), {}))[0][0])


async def _usage(store: Store) -> dict[tuple[str, str, str], int]:
    """(service, resource, project) -> what the usage row says, but zeros."""
    t = quota.USAGE
    sql = store.sql(
        ("held", "usage"), lambda: sa.select(t.c.service, t.c.resource, t.c.project_id, t.c.used)
    )
    return {(r[0], r[1], r[2]): int(r[3]) for r in await store.rows(sql, {}) if r[3]}


async def counted(store: Store) -> dict[tuple[str, str, str], int]:
    """What the usage rows should say: every live record's cost, added up."""
    found: Counter[tuple[str, str, str]] = Counter()
    for _, owner in tables():
        if owner is not None and owner.quotas:
            for record in await owner.list(store, Page(limit=1_000_000)):
                for q in owner.quotas:
                    found[q.service, q.name, q.project(record)] += q.of(record)
    return {key: n for key, n in found.items() if n}


async def guests(hosts: Hosts) -> dict[str, list[str]]:
    """The ids of the guests that each fake host runs."""
    return {host: sorted(g.id for g in await driver.guests()) for host, driver in _machines(hosts)}


async def _cards(hosts: Hosts) -> dict[str, int]:
    """How many network cards the guests of each fake host have; a host without any is left out."""
    found = {
        host: sum(len(g.ports) for g in await driver.guests()) for host, driver in _machines(hosts)
    }
    return {host: n for host, n in found.items() if n}


def _machines(hosts: Hosts) -> Iterator[tuple[str, Any]]:
    for host, agent in hosts._agents:
        driver: Any = getattr(agent, "driver", None)
        if hasattr(driver, "guests"):
            yield host.name, driver


async def broken(runtime: Runtime) -> list[str]:
    """What must be true when nothing runs, and is not: [] in a healthy cloud."""
    store, found = runtime.store, []
    await store.sync()
    journal = await JOURNAL.all(store)
    found += [f"saga {e.saga} of {e.record_id} is left at step {e.step}" for e in journal]
    for name, cycle in dict(lifecycles(runtime)).items():
        owner = METADATA.tables[name].info["table"]
        for record in await owner.all(store):
            if cycle.is_busy(record):
                found.append(f"{name} {record.id} is busy ({state_of(cycle, record)})")
    says, should = await _usage(store), await counted(store)
    for key in sorted(says.keys() | should.keys()):
        if says.get(key, 0) != should.get(key, 0):
            found.append(f"usage of {key} is {says.get(key, 0)}, counted {should.get(key, 0)}")
    return found

"""A directory of thousands is written into rows without keeping anybody waiting."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import msgspec

from pileus.kernel.sqlite import SqliteStore
from pileus.kernel.store import Store
from pileus.services.identity.groups import GROUPS, MEMBERSHIPS, Group
from pileus.services.identity.ldap_rows import Seen, keep
from pileus.services.identity.tests.clouds import Identity, alone
from pileus.services.identity.users import USERS, User
from pileus.services.identity.wire import NounTable

COUNT, OF_GROUP = 3_000, 20
MOST = 1_200  # statements and rows read in one turn; a turn of so many takes less than 20 ms


class Work:
    """Counts what is asked of the store, and how much of it at most between two turns of the loop."""

    def __init__(self, store: Store) -> None:
        self.done = self.most = self.every = 0
        if isinstance(store, SqliteStore):
            for connection in (store._read, store._write):
                connection.set_trace_callback(self.count)
        else:
            store.sql = self.counted(store.sql)  # type: ignore[method-assign]
        tables: list[NounTable[Any]] = [USERS, GROUPS, MEMBERSHIPS]
        for table in tables:
            table.decode = self.counted(table.decode)

    def count(self, *_: Any) -> None:
        self.done += 1
        self.every += 1

    def counted(self, do: Any) -> Any:
        def done(*asked: Any) -> Any:
            self.count()
            return do(*asked)

        return done

    async def turns(self) -> None:
        while True:
            self.most, self.done = max(self.most, self.done), 0
            await asyncio.sleep(0)


def everything(domain_id: str) -> Seen:
    """Each user is in one group."""
    users = [
        User(id=f"u{n:031x}", name=f"user-{n}", domain_id=domain_id, entry=f"e{n}")
        for n in range(COUNT)
    ]
    groups = [
        Group(id=f"g{n:031x}", name=f"group-{n}", domain_id=domain_id, entry=f"e{n}")
        for n in range(COUNT // OF_GROUP)
    ]
    members = {(groups[n // OF_GROUP].id, user.id) for n, user in enumerate(users)}
    return Seen(users, groups, members)


@alone
async def test_a_large_directory_is_kept_in_many_turns(i: Identity) -> None:
    store, domain_id = i.cloud.runtime.store, await i.domain("large")
    seen = everything(domain_id)
    renamed = [msgspec.structs.replace(u, name=f"{u.name}-new") for u in seen.users[::3]]
    left = replace(seen, users=[*renamed, *seen.users[1::3]], members=set(list(seen.members)[::2]))
    tables: list[NounTable[Any]] = [USERS, GROUPS, MEMBERSHIPS]
    decodes = [table.decode for table in tables]
    work = Work(store)
    watching = asyncio.create_task(work.turns())
    try:
        for directory in (seen, seen, left, Seen([], [], set())):
            await keep(i.cloud.runtime, domain_id, directory)
            there = await USERS.all(store, domain_id=domain_id)
            assert {u.name for u in there} == {u.name for u in directory.users}
            work.done = 0  # what the test itself read
    finally:
        watching.cancel()
        for table, decode in zip(tables, decodes, strict=True):
            table.decode = decode
    assert work.every > 20 * MOST
    assert work.most <= MOST

"""Callers: remembered until anything is revoked, on both databases."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pileus.kernel import auth
from pileus.kernel.auth import Caller, Callers, remembered, revise, revision
from pileus.kernel.faults import Unauthenticated
from pileus.kernel.tests.databases import Database, SqliteDatabase, started
from pileus.kernel.world import Clock, World


class Tokens:
    """A source that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.revoked: set[str] = set()
        self.expires_at = 4e9

    async def caller(self, token: str, late: bool) -> Caller:
        self.asked.append(token)
        if token in self.revoked or token == "bad":
            raise Unauthenticated(auth.NOT_AUTHENTICATED)
        return Caller(user_id=token, roles=frozenset({token}), expires_at=self.expires_at)


async def test_a_token_is_looked_up_once_until_something_is_revised(database: Database) -> None:
    async with started(database) as store:
        source = Tokens()
        callers = Callers(store, World(), source)
        for _ in range(3):
            assert (await callers.of("a")).user_id == "a"
        assert source.asked == ["a"]
        async with store.tx() as tx:
            await revise(tx, "something else")
        await callers.of("a")
        assert source.asked == ["a"]
        source.revoked.add("a")
        async with store.tx() as tx:
            await revise(tx, "auth")
        with pytest.raises(Unauthenticated):
            await callers.of("a")
        assert source.asked == ["a", "a"]


async def test_revisions_count_up_by_name(database: Database) -> None:
    async with started(database) as store:
        assert await revision(store, "auth") == 0
        for n in (1, 2, 3):
            async with store.tx() as tx:
                await revise(tx, "auth")
            assert await revision(store, "auth") == n
        assert await revision(store, "other") == 0


async def test_a_transaction_sees_its_own_revision_before_others_do(database: Database) -> None:
    async with started(database) as store:
        assert await revision(store, "auth") == 0
        async with store.tx() as tx:
            await revise(tx, "auth")
            assert await revision(tx, "auth") == 1
            assert await revision(tx, "auth") == 1
        assert await revision(store, "auth") == 1


async def test_revisions_are_read_once_between_commits_where_nobody_else_commits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(SqliteDatabase(tmp_path / "test.sqlite")) as store:
        asked: list[str] = []
        rows = store.rows

        async def noted(sql: Any, values: Any) -> Any:
            asked.append(sql.text)
            return await rows(sql, values)

        monkeypatch.setattr(store, "rows", noted)
        for name in ("auth", "other", "auth"):
            assert await revision(store, name) == 0
        assert len(asked) == 1
        async with store.tx() as tx:
            await revise(tx, "auth")
        assert (await revision(store, "auth"), await revision(store, "other")) == (1, 0)
        assert len(asked) == 2


async def test_a_revision_undone_revokes_nothing(database: Database) -> None:
    async with started(database) as store:
        source = Tokens()
        callers = Callers(store, World(), source)
        await callers.of("a")
        with pytest.raises(ValueError, match="no"):
            async with store.tx() as tx:
                await revise(tx, "auth")
                raise ValueError("no")
        await callers.of("a")
        assert source.asked == ["a"]


async def test_no_token_and_bad_tokens_are_refused_and_not_remembered(database: Database) -> None:
    async with started(database) as store:
        source = Tokens()
        callers = Callers(store, World(), source)
        for _ in range(2):
            with pytest.raises(Unauthenticated, match="requires authentication"):
                await callers.of("bad")
        with pytest.raises(Unauthenticated, match="requires authentication"):
            await callers.of("")
        assert source.asked == ["bad", "bad"]


async def test_a_remembered_token_expires(database: Database) -> None:
    class Set(Clock):
        at = 1000.0

        def time(self) -> float:
            return self.at

    async with started(database) as store:
        clock = Set()
        source = Tokens()
        source.expires_at = 1000.0
        callers = Callers(store, World(clock=clock), source)
        assert (await callers.of("a")).user_id == "a", "to the last moment"
        clock.at = 1000.1
        with pytest.raises(Unauthenticated):
            await callers.of("a")


async def test_a_service_token_lends_its_roles_and_must_be_good_too(database: Database) -> None:
    async with started(database) as store:
        callers = Callers(store, World(), Tokens())
        lent = await callers.of("a", "service")
        assert (lent.user_id, lent.roles, lent.service_roles) == (
            "a",
            frozenset({"a"}),
            frozenset({"service"}),
        )
        assert (await callers.of("a")).service_roles == frozenset()
        with pytest.raises(Unauthenticated):
            await callers.of("a", "bad")


async def test_a_token_revoked_while_it_is_looked_up_is_not_remembered(database: Database) -> None:
    """The look-up saw the token before its revocation and answers after it."""

    class Slow(Tokens):
        def __init__(self) -> None:
            super().__init__()
            self.reached, self.go = asyncio.Event(), asyncio.Event()

        async def caller(self, token: str, late: bool) -> Caller:
            found = await super().caller(token, late)
            if token == "a":
                self.reached.set()
                await self.go.wait()
            return found

    async with started(database) as store:
        source = Slow()
        callers = Callers(store, World(), source)
        first = asyncio.create_task(callers.of("a"))
        await source.reached.wait()
        source.revoked.add("a")
        async with store.tx() as tx:
            await revise(tx, "auth")
        await callers.of("b")  # somebody else's request sees the revision
        source.go.set()
        await first
        with pytest.raises(Unauthenticated):
            await callers.of("a")


async def test_what_one_control_revokes_another_refuses_at_its_next_request(
    database: Database,
) -> None:
    async with started(database) as store, AsyncExitStack() as controls:
        other = store  # SQLite has one control, with as many callers as workers
        if database.kind == "postgres":
            other = await controls.enter_async_context(started(database))
        source = Tokens()
        callers = Callers(other, World(), source)
        assert (await callers.of("a")).user_id == "a"
        source.revoked.add("a")
        assert (await callers.of("a")).user_id == "a", "remembered"
        async with store.tx() as tx:
            await revise(tx, "auth")
        with pytest.raises(Unauthenticated):
            await callers.of("a")


async def test_the_memory_is_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_LIMIT", 3)
    async with started(database) as store:
        callers = Callers(store, World(), Tokens())
        for n in range(10):
            await callers.of(f"t{n}")
            assert len(callers._known) <= 3
        assert "t9" in callers._known


def test_a_journal_keeps_a_caller_without_the_token() -> None:
    kept: dict[str, Any] = remembered(Caller(user_id="u", token="secret", roles=frozenset({"r"})))
    assert kept["user_id"] == "u" and kept["roles"] == ["r"] and "secret" not in str(kept)


def test_an_admin_is_who_has_the_role() -> None:
    assert Caller(roles=frozenset({"admin", "member"})).is_admin
    assert not Caller(roles=frozenset({"member"})).is_admin

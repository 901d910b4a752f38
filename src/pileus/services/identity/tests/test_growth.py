"""What a list costs does not grow with what is not in it, and a long one leaves others their turns."""

import asyncio

import pytest
from msgspec import structs

from pileus.kernel.sqlite import SqliteStore
from pileus.kernel.store import Page
from pileus.services.identity.revocations import REVOCATIONS, Revocation, revoke
from pileus.services.identity.rotation import sweep
from pileus.services.identity.users import USERS, User
from pileus.services.identity.wire import OLDEST, SLICE, in_slices
from pileus.testing.cloud import Cloud, cloud

V3 = "/identity/v3"
MANY = ("users", "projects", "groups", "memberships", "assignments")  # there may be thousands


async def many(c: Cloud, count: int) -> list[str]:
    ids = [f"{n:032x}" for n in range(count)]
    async with c.runtime.store.tx() as tx:
        for id in ids:
            await USERS.insert(tx, User(id=id, name=f"u-{id}", domain_id="default"))
    return ids


async def places(c: Cloud) -> dict[str, str]:
    found = {"role": (await c.admin.get(f"{V3}/roles?name=admin")).json["roles"][0]["id"]}
    found["user"] = (await c.admin.get(f"{V3}/users?name=admin")).json["users"][0]["id"]
    found["project"] = (await c.admin.get(f"{V3}/projects?name=admin")).json["projects"][0]["id"]
    return found


async def plans(c: Cloud, path: str) -> list[str]:
    """How SQLite finds the rows that an answer is made of."""
    store = c.runtime.store
    assert isinstance(store, SqliteStore)
    store.statements._known.clear()
    assert (await c.admin.get(V3 + path)).status == 200
    found = []
    for sql in store.statements._known.values():
        asked = "EXPLAIN QUERY PLAN " + sql.text
        found += [row[3] for row in store._read.execute(asked, [None] * len(sql.names))]
    return found


SHORT = (
    "/users?name=admin",
    "/users?domain_id=default&name=admin",
    "/projects?name=admin",
    "/projects?parent_id=default",
    "/groups?name=admins",
    "/groups?domain_id=default",
    "/domains",
    "/domains?name=Default",
    "/users/{user}/groups",
    "/users/{user}/projects",
    "/auth/projects",
    "/auth/domains",
    "/role_assignments?user.id={user}",
    "/role_assignments?user.id={user}&effective&include_names",
    "/role_assignments?group.id={user}",
    "/role_assignments?role.id={role}",
    "/role_assignments?scope.system=all",
    "/role_assignments?scope.domain.id=default&effective",
    "/role_assignments?scope.project.id={project}",
    "/role_assignments?scope.project.id={project}&effective&include_names",
    "/role_assignments?scope.project.id={project}&include_subtree&effective",
)


@pytest.mark.sqlite
def test_no_list_looks_at_rows_that_are_not_in_it() -> None:
    async def scenario() -> None:
        async with cloud(hosts=0) as c:
            known = await places(c)
            scans = {f"SCAN identity_{noun}" for noun in MANY}
            for path in SHORT:
                found = await plans(c, path.format(**known))
                assert any("identity_" in p for p in found), path
                assert [p for p in found if " ".join(p.split()[:2]) in scans] == [], path

    asyncio.run(scenario())


@pytest.mark.sqlite
def test_a_page_is_found_in_the_order_of_an_index() -> None:
    async def scenario() -> None:
        async with cloud(hosts=0) as c:
            marker = (await places(c))["user"]
            for query in ("", f"&marker={marker}", "&domain_id=default", "&sort_key=name"):
                found = await plans(c, f"/users?limit=2{query}")
                assert not any("TEMP B-TREE" in p for p in found), query

    asyncio.run(scenario())


def test_a_long_list_leaves_others_their_turns() -> None:
    async def scenario() -> None:
        async with cloud(hosts=0) as c:
            ids = await many(c, 3 * SLICE)
            turns = 0

            async def others() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            task = asyncio.create_task(others())
            found = (await c.admin.get(f"{V3}/users")).json["users"]
            task.cancel()
            assert {u["id"] for u in found} > set(ids)
            assert turns >= 3

    asyncio.run(scenario())


def test_a_list_goes_on_behind_rows_that_went_meanwhile() -> None:
    async def scenario() -> None:
        async with cloud(hosts=0) as c:
            ids = await many(c, 2 * SLICE + 3)
            store = c.runtime.store
            asked = Page({"id": ids}, OLDEST, limit=10_000)
            found = []
            async for rows in in_slices(c.runtime, USERS, asked):
                found += [row.id for row in rows]
                async with store.tx() as tx:
                    for row in rows if len(found) == SLICE else rows[-2:]:
                        await USERS.delete(tx, row)
            assert found == ids

    asyncio.run(scenario())


def test_old_revocations_are_forgotten_and_those_raised_again_are_not() -> None:
    async def scenario() -> None:
        async with cloud(hosts=0) as c:
            store = c.runtime.store
            kept = {"user:revoked again", "user:young"}
            old = Revocation(id="", before_us=1, created_at="2001-01-01T00:00:00.000000Z")
            async with store.tx() as tx:
                for n in range(450):
                    await REVOCATIONS.insert(tx, structs.replace(old, id=f"audit:{n}"))
                await revoke(tx, "user", "young")
                again = structs.replace(old, id="user:revoked again")
                await REVOCATIONS.insert(tx, again)
                await revoke(tx, "user", "revoked again")
            await sweep(c.runtime)
            assert {r.id for r in await REVOCATIONS.all(store)} == kept

    asyncio.run(scenario())

"""Security compliance: locked accounts, and passwords that expire, are remembered, too young or too weak."""

from __future__ import annotations

import asyncio

import pytest

from pileus.kernel.faults import Invalid
from pileus.kernel.world import Clock, World
from pileus.node.settings import chosen
from pileus.services.identity import SERVICE
from pileus.services.identity.tests.clouds import Identity, alone, alone_with
from pileus.testing.client import Reply
from pileus.testing.cloud import PASSWORD

DAY = 86_400


class Later(Clock):
    """A clock that a test can move."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


def later(i: Identity) -> Later:
    clock = i.cloud.runtime.world.clock
    assert isinstance(clock, Later)
    return clock


def movable() -> World:
    return World(clock=Later())


async def change(i: Identity, user: str, old: str, new: str) -> Reply:
    body = {"user": {"original_password": old, "password": new}}
    return await i.anybody.post(f"/users/{user}/password", body)


async def opens(i: Identity, user: str, password: str = PASSWORD) -> bool:
    """Whether the password yields a token that is good for something."""
    reply = await i.password(user, password)
    if reply.status != 201:
        assert reply.status == 401, reply
        return False
    token = i.anybody.client.as_(reply.headers["x-subject-token"])
    return (await token.get("/identity/v3/auth/projects")).status == 200


@alone_with(movable(), lockout_failure_attempts=3, lockout_duration_s=600)
async def test_an_account_is_locked_after_wrong_passwords_and_opens_again_by_itself(
    i: Identity,
) -> None:
    user = await i.user("u", password=PASSWORD)
    for _ in range(2):
        assert not await opens(i, user, "wrong")
    assert await opens(i, user), "two wrong ones lock nobody"
    for _ in range(3):
        assert not await opens(i, user, "wrong")
    assert not await opens(i, user)
    assert (await change(i, user, PASSWORD, "another-one")).status == 401
    later(i).ahead = 400
    assert not await opens(i, user)
    later(i).ahead = 700
    assert not await opens(i, user, "wrong"), "the count starts anew"
    assert await opens(i, user)


@alone_with(lockout_failure_attempts=2, lockout_duration_s=0)
async def test_a_lock_without_end_goes_when_an_administrator_enables_the_account(
    i: Identity,
) -> None:
    user = await i.user("u", password=PASSWORD)
    spared = await i.user("s", password=PASSWORD, options={"ignore_lockout_failure_attempts": True})
    for _ in range(2):
        await opens(i, user, "wrong")
        await opens(i, spared, "wrong")
    assert await opens(i, spared)
    assert not await opens(i, user)
    await i.admin.patch(f"/users/{user}", {"user": {"enabled": True}})
    assert await opens(i, user)


@alone_with(lockout_failure_attempts=3)
async def test_guesses_made_at_once_are_all_counted(i: Identity) -> None:
    user = await i.user("u", password=PASSWORD)
    await asyncio.gather(*(opens(i, user, f"guess-{n}") for n in range(3)))
    assert not await opens(i, user)


@alone_with(lockout_failure_attempts=1)
async def test_ossa_2021_003_a_locked_account_answers_as_an_unknown_user(i: Identity) -> None:
    user = await i.user("u", password=PASSWORD)
    await opens(i, user, "wrong")
    locked = await i.password(user, PASSWORD)
    unknown = await i.password("0" * 32, PASSWORD)
    assert (locked.status, locked.body) == (unknown.status, unknown.body)


@alone_with(movable(), password_expires_days=10)
async def test_an_expired_password_opens_only_its_own_change(i: Identity) -> None:
    made = await i.admin.make("/users", name="u", password=PASSWORD)
    user = made["id"]
    assert made["password_expires_at"].endswith(".000000")
    token = (await i.password(user)).json["token"]
    assert token["user"]["password_expires_at"] == made["password_expires_at"]
    exempt = {"ignore_password_expiry": True}
    spared = await i.admin.make("/users", name="s", password=PASSWORD, options=exempt)
    assert spared["password_expires_at"] is None
    later(i).ahead = 11 * DAY
    assert await opens(i, spared["id"])
    said = (await i.password(user)).json["error"]
    assert said["code"] == 401
    assert said["message"] == (f"The password is expired and needs to be changed for user: {user}.")
    wrong = (await i.password(user, "wrong")).json["error"]["message"]
    assert "expired" not in wrong, "only who knows it is told"
    assert (await change(i, user, PASSWORD, "another-one")).status == 204
    assert await opens(i, user, "another-one")


@alone_with(password_expires_days=10)
async def test_users_are_listed_by_the_end_of_their_passwords(i: Identity) -> None:
    made = await i.admin.make("/users", name="u", password=PASSWORD)
    await i.user("none")
    group = (await i.admin.make("/groups", name="g"))["id"]
    assert (await i.admin.put(f"/groups/{group}/users/{made['id']}")).status == 204
    end = made["password_expires_at"][:19] + "Z"
    year = "2000-01-01T00:00:00Z"
    for asked, names in (
        (f"gt:{year}", ["u"]),
        (f"lt:{year}", []),
        (f"eq:{end}", ["u"]),
        (end, ["u"]),
        (f"neq:{end}", []),
        (f"lte:{end}", ["u"]),
    ):
        for path in ("/users", f"/groups/{group}/users"):
            reply = await i.admin.get(f"{path}?password_expires_at={asked}")
            assert [u["name"] for u in reply.json["users"]] == names, (asked, path)
    for asked in ("over:2000-01-01", "xx:2000-01-01T00:00:00Z", "lt:yesterday"):
        assert (await i.admin.get(f"/users?password_expires_at={asked}")).status == 400


@alone_with(unique_last_password_count=2)
async def test_the_last_passwords_cannot_be_taken_again(i: Identity) -> None:
    user = await i.user("u", password="first-one")
    again = await change(i, user, "first-one", "first-one")
    assert again.status == 400
    assert again.json["error"]["message"] == (
        "The new password cannot be identical to a previous password. The total number which "
        "includes the new password must be unique is 2."
    )
    assert (await change(i, user, "first-one", "second-one")).status == 204
    assert (await change(i, user, "second-one", "first-one")).status == 400
    assert (await change(i, user, "second-one", "third-one")).status == 204
    assert (await change(i, user, "third-one", "first-one")).status == 204
    reset = await i.admin.patch(f"/users/{user}", {"user": {"password": "first-one"}})
    assert reset.status == 200, "an administrator may set any"


@alone
async def test_without_a_history_the_same_password_may_be_taken(i: Identity) -> None:
    user = await i.user("u", password=PASSWORD)
    assert (await change(i, user, PASSWORD, PASSWORD)).status == 204
    assert await opens(i, user)


@alone_with(movable(), minimum_password_age_days=2)
async def test_ones_own_password_stands_for_a_while(i: Identity) -> None:
    user = await i.user("u", password="first-one")
    assert (await change(i, user, "first-one", "second-one")).status == 204, "not his choice"
    young = await change(i, user, "second-one", "third-one")
    assert young.status == 400
    assert "it must be used for 2 day(s)" in young.json["error"]["message"]
    assert "try again in 1 day(s)" in young.json["error"]["message"]
    later(i).ahead = 2 * DAY + 1
    assert (await change(i, user, "second-one", "third-one")).status == 204


@alone_with(password_regex=r"^(?=.*\d).{8,}$", password_regex_description="8 signs, a digit")
async def test_weak_passwords_are_refused_whoever_sets_them(i: Identity) -> None:
    refused = await i.admin.post("/users", {"user": {"name": "u", "password": "no-digit-here"}})
    assert refused.status == 400
    assert refused.json["error"]["message"] == (
        "The password does not match the requirements: 8 signs, a digit."
    )
    user = await i.user("u", password="digit-of-1")
    assert (await i.admin.patch(f"/users/{user}", {"user": {"password": "weak"}})).status == 400
    assert (await change(i, user, "digit-of-1", "weak")).status == 400
    assert (await change(i, user, "wrong", "weak")).status == 401
    assert (await change(i, user, "digit-of-1", "digit-of-2")).status == 204


@alone_with(change_password_upon_first_use=True)
async def test_what_an_administrator_chose_must_be_changed_first(i: Identity) -> None:
    user = await i.user("u", password=PASSWORD)
    assert not await opens(i, user)
    assert (await change(i, user, PASSWORD, "his-own-one")).status == 204
    assert await opens(i, user, "his-own-one")
    await i.admin.patch(f"/users/{user}", {"user": {"password": "reset-by-admin"}})
    assert not await opens(i, user, "reset-by-admin")
    exempt = {"ignore_change_password_upon_first_use": True}
    await i.admin.patch(f"/users/{user}", {"user": {"password": PASSWORD, "options": exempt}})
    assert await opens(i, user)


@alone_with(movable(), disable_user_account_days_inactive=30)
async def test_an_account_that_nobody_uses_counts_as_disabled(i: Identity) -> None:
    idle, busy = [await i.user(n, password=PASSWORD) for n in ("idle", "busy")]
    exempt = {"ignore_user_inactivity": True}
    spared = await i.user("spared", password=PASSWORD, options=exempt)
    await i.grant("admin", f"projects/{i.admin.project_id}", busy)
    later(i).ahead = 20 * DAY
    assert await opens(i, busy)
    later(i).ahead = 40 * DAY
    admin = await i.token(i.admin.user_id, f"projects/{i.admin.project_id}")
    assert (await admin.get("/users")).status == 401, "the administrator idled too"
    assert not await opens(i, idle)
    assert await opens(i, busy) and await opens(i, spared)
    boss = await i.token(busy, f"projects/{i.admin.project_id}")
    assert (await boss.get(f"/users/{idle}")).json["user"]["enabled"] is False
    await boss.patch(f"/users/{idle}", {"user": {"enabled": True}})
    assert await opens(i, idle)
    assert (await boss.get(f"/users/{idle}")).json["user"]["enabled"] is True


def test_a_pattern_that_is_none_is_refused_at_the_start() -> None:
    with pytest.raises(Invalid, match="password_regex is no regular expression"):
        chosen(["identity.password_regex=("], [SERVICE])

"""Keys: rotation while several controls are at work, what goes when, and the file that encrypts them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from pileus.kernel.faults import Conflict, Invalid, NotFound
from pileus.kernel.store import Reader, Row, Sql
from pileus.kernel.world import Clock
from pileus.services.identity import keys
from pileus.services.identity.claims import Claims, new_audit_id
from pileus.services.identity.contract import SECRETS
from pileus.services.identity.credentials import CREDENTIALS
from pileus.services.identity.key_file import KeyFile
from pileus.services.identity.keys import CREDENTIAL, KEYRING, TOKEN, Keyring, numbered
from pileus.services.identity.rotation import rotate, sweep
from pileus.services.identity.settings import Settings
from pileus.services.identity.tests.clouds import V3, Identity, alone

HOUR = 3600.0
SECRET = "0123456789abcdef0123456789abcdef"


class Shifted(Clock):
    """The time, so many seconds later."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


def _shift(i: Identity) -> Shifted:
    clock = Shifted()
    i.cloud.runtime.world.clock = clock
    return clock


async def _numbers(i: Identity, purpose: str) -> list[int]:
    return [k.number for k in await numbered(i.cloud.runtime.store, purpose)]


async def _credential(i: Identity, blob: str) -> str:
    fields = {"user_id": i.admin.user_id, "type": "x", "blob": blob}
    return str((await i.admin.make("/credentials", **fields))["id"])


@alone
async def test_keys_are_shown_without_secrets_and_rotated_by_administrators_only(
    i: Identity,
) -> None:
    project = await i.project("p")
    manager = await i.who("m", "manager", f"projects/{project}")
    assert (await manager.get("/keys")).status == 403
    assert (await manager.post("/keys/rotate")).status == 403
    assert (await i.anybody.post("/keys/rotate")).status == 401
    before = (await i.admin.get("/keys")).json["keys"]
    assert [(k["purpose"], k["number"], k["encrypts"]) for k in before] == [
        (TOKEN, 1, True),
        (CREDENTIAL, 1, True),
    ]
    after = await i.admin.post("/keys/rotate")
    assert [(k["purpose"], k["number"], k["encrypts"]) for k in after.json["keys"]] == [
        (TOKEN, 1, False),
        (TOKEN, 2, True),
        (CREDENTIAL, 1, False),
        (CREDENTIAL, 2, True),
    ]
    stored = await numbered(i.cloud.runtime.store, TOKEN)
    assert all(k.secret.encode() not in after.body and k.secret not in repr(k) for k in stored)
    assert (await manager.get("/auth/projects")).status == 200


@alone
async def test_a_key_goes_when_no_token_of_it_can_be_alive(i: Identity) -> None:
    clock, runtime = _shift(i), i.cloud.runtime
    await rotate(runtime)
    settings = Settings()
    clock.ahead = settings.token_s + settings.expired_window_s + HOUR - 60
    await sweep(runtime)
    assert await _numbers(i, TOKEN) == [1, 2]
    clock.ahead += 120
    await sweep(runtime)
    assert await _numbers(i, TOKEN) == [2]


@alone
async def test_a_long_lived_token_keeps_its_key(i: Identity) -> None:
    clock, runtime = _shift(i), i.cloud.runtime
    runtime.settings["identity"] = Settings(token_s=30 * 86_400)
    await rotate(runtime)
    clock.ahead = 30 * 86_400.0
    await sweep(runtime)
    assert await _numbers(i, TOKEN) == [1, 2]


@alone
async def test_what_another_control_sealed_with_the_older_key_is_not_lost(i: Identity) -> None:
    clock, runtime = _shift(i), i.cloud.runtime
    ring = runtime.contracts.get(KEYRING)
    id = await _credential(i, "first")
    late = await ring.seal(CREDENTIAL, b"late")  # as by a request under way elsewhere
    await rotate(runtime)
    async with runtime.store.tx() as tx:
        row = await CREDENTIALS.get(tx, id)
        assert await ring.is_current(CREDENTIAL, row.sealed)
        await CREDENTIALS.change(tx, row, sealed=late)
    await sweep(runtime)
    assert await _numbers(i, CREDENTIAL) == [1, 2]
    clock.ahead = HOUR + 60
    await sweep(runtime)
    assert await _numbers(i, CREDENTIAL) == [2]
    row = await CREDENTIALS.get(runtime.store, id)
    assert await ring.open(CREDENTIAL, row.sealed) == b"late"


@alone
async def test_a_ticket_is_to_one_right_for_a_while_whatever_is_rotated_and_is_no_token(
    i: Identity,
) -> None:
    clock, runtime = _shift(i), i.cloud.runtime
    secrets, ring = runtime.contracts.get(SECRETS), runtime.contracts.get(KEYRING)
    ticket = await secrets.ticket("read", "x", 600)
    assert (await i.anybody.client.as_(ticket).get(f"{V3}/auth/projects")).status == 401
    assert (await i.login(token={"id": ticket})).status == 404
    said = await ring.open(TOKEN, ticket) or b""
    await rotate(runtime)
    assert await secrets.redeem(ticket, "read") == "x"
    token = (await i.token(await i.user("u"))).token
    for wrong in (ticket[:-2], token, await secrets.seal(said), await ring.seal(TOKEN, b"")):
        with pytest.raises(NotFound, match="no such"):
            await secrets.redeem(wrong, "read")
    with pytest.raises(NotFound, match="not one to write"):
        await secrets.redeem(ticket, "write")
    clock.ahead = 601
    with pytest.raises(NotFound, match="expired"):
        await secrets.redeem(ticket, "read")


@alone
async def test_two_controls_that_rotate_at_once_make_one_key_each_or_are_refused(
    i: Identity,
) -> None:
    runtime = i.cloud.runtime
    done = await asyncio.gather(*(rotate(runtime) for _ in range(4)), return_exceptions=True)
    assert all(d is None or isinstance(d, Conflict) for d in done) and None in done
    numbers = await _numbers(i, TOKEN)
    assert numbers == list(range(1, 2 + sum(d is None for d in done)))
    assert (await i.admin.get("/auth/projects")).status == 200


@alone
async def test_keys_do_not_pile_up(i: Identity) -> None:
    runtime = i.cloud.runtime
    for _ in range(31):
        await rotate(runtime)
    refused = await i.admin.post("/keys/rotate")
    assert refused.status == 409 and b"Rotate less often" in refused.body
    assert (await i.admin.get("/auth/projects")).status == 200


class Slow:
    """A store whose next read of keys waits, as that of a control under load."""

    def __init__(self, store: Reader) -> None:
        self.store, self.wait, self.reading = store, asyncio.Event(), asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    async def rows(self, sql: Sql, values: object) -> list[Row]:
        found = list(await self.store.rows(sql, values))  # type: ignore[arg-type]
        if "identity_keys" in sql.text and not self.wait.is_set():
            self.reading.set()
            await self.wait.wait()
        return found


@alone
async def test_keys_read_before_a_rotation_are_not_remembered_after_it(i: Identity) -> None:
    runtime = i.cloud.runtime
    slow = Slow(runtime.store)
    other = Keyring(runtime)  # another control's
    other.runtime = type("Elsewhere", (), {"store": slow, "world": runtime.world})()
    first = asyncio.create_task(other.open(TOKEN, i.admin.token))
    async with asyncio.timeout(10):
        await slow.reading.wait()
    await rotate(runtime)
    token = await i.tokens.issue(_claims(i))
    slow.wait.set()
    assert await first is not None
    assert await other.open(TOKEN, token) is not None


def _claims(i: Identity) -> Claims:
    now = i.tokens.now_us()
    return Claims(
        user_id=i.admin.user_id,
        methods=("password",),
        issued_us=now,
        expires_us=now + 1_000_000,
        audit_ids=(new_audit_id(i.cloud.runtime.world),),
    )


def _file(path: Path, *secrets: str, mode: int = 0o600) -> str:
    path.write_text("".join(s + "\n" for s in secrets))
    os.chmod(path, mode)
    return str(path)


@pytest.mark.parametrize(
    ("secrets", "mode", "why"),
    [
        ((SECRET,), 0o644, "chmod 600"),
        (("short",), 0o600, "at least 32"),
        ((), 0o600, "at least 32"),
    ],
)
def test_a_key_file_that_protects_nothing_is_refused(
    tmp_path: Path, secrets: tuple[str, ...], mode: int, why: str
) -> None:
    with pytest.raises(Invalid, match=why):
        KeyFile(_file(tmp_path / "keys", *secrets, mode=mode))
    with pytest.raises(Invalid, match="cannot be read"):
        KeyFile(str(tmp_path / "none"))


def test_a_new_first_line_encrypts_and_the_old_one_still_decrypts(tmp_path: Path) -> None:
    old = KeyFile(_file(tmp_path / "a", SECRET))
    stored = old.seal("secret", 0)
    both = KeyFile(_file(tmp_path / "b", SECRET[::-1], SECRET))
    assert "secret" not in stored and both.open(stored) == "secret"
    assert old.is_current(stored) and not both.is_current(stored)
    with pytest.raises(Invalid, match="decrypts"):
        KeyFile(_file(tmp_path / "c", SECRET[::-1])).open(stored)
    with pytest.raises(Invalid, match="key_file"):
        KeyFile("").open(stored)
    assert not KeyFile("").is_current(stored)


@alone
async def test_with_a_key_file_a_copy_of_the_store_has_no_keys(i: Identity) -> None:
    runtime = i.cloud.runtime
    plain = {k.secret for k in await keys.KEYS.all(runtime.store)}
    id = await _credential(i, "blob")
    ring = runtime.contracts.get(KEYRING)
    ring.file = KeyFile(_file(runtime.data / "keys", SECRET))
    await keys.make_first(runtime)  # as at the next start
    await rotate(runtime)
    stored = {k.secret for k in await keys.KEYS.all(runtime.store)}
    assert len(stored) == 4 and not stored & plain
    assert all(s.startswith("sealed:") for s in stored)
    assert (await i.admin.get("/auth/projects")).status == 200
    shown = (await i.admin.get(f"/credentials/{id}")).json["credential"]
    assert shown["blob"] == "blob"
    await keys.make_first(runtime)
    assert {k.secret for k in await keys.KEYS.all(runtime.store)} == stored

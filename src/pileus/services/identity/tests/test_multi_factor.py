"""One-time passcodes, rules that ask for more than one factor, and receipts for those that were shown."""

from __future__ import annotations

import base64
import hmac
import struct
from typing import Any

import msgspec
import pytest

from pileus.services.identity.auth_methods import passcodes
from pileus.services.identity.keys import KEYRING, TOKEN
from pileus.services.identity.tests.clouds import V3, Identity, alone, alone_with
from pileus.testing.client import Reply
from pileus.testing.cloud import PASSWORD

SECRET = base64.b32encode(b"a-shared-secret!").decode().rstrip("=")
BOTH = {"multi_factor_auth_rules": [["password", "totp"]]}


def passcode(i: Identity, secret: str = SECRET, age_s: float = 0) -> str:
    """RFC 6238, written down again."""
    key = base64.b32decode(secret + "=" * (-len(secret) % 8))
    counter = int(i.cloud.runtime.world.clock.time() - age_s) // 30
    digest = hmac.digest(key, struct.pack(">Q", counter), "sha1")
    at = digest[-1] & 15
    number = int.from_bytes(digest[at : at + 4], "big") & 0x7FFFFFFF
    return f"{number % 1_000_000:06d}"


async def user_with_device(i: Identity, **fields: Any) -> str:
    user = await i.user("u", password=PASSWORD, **fields)
    await i.admin.make("/credentials", user_id=user, type="totp", blob=SECRET)
    return user


def totp(user: str, code: str) -> dict[str, Any]:
    return {"user": {"id": user, "passcode": code}}


def password(user: str) -> dict[str, Any]:
    return {"user": {"id": user, "password": PASSWORD}}


async def with_receipt(i: Identity, receipt: str, **parts: Any) -> Reply:
    body = {"auth": {"identity": {"methods": list(parts), **parts}}}
    url = f"{V3}/auth/tokens"
    return await i.anybody.client.post(url, body, openstack_auth_receipt=receipt)


@pytest.mark.parametrize(
    ("at", "code"), [(59, b"287082"), (1111111109, b"081804"), (20000000000, b"353130")]
)
def test_the_examples_of_rfc_6238_fit(at: int, code: bytes) -> None:
    secret = base64.b32encode(b"12345678901234567890")
    assert passcodes(secret, at)[0] == code
    assert passcodes(secret, at + 30)[1] == code


def test_what_is_no_secret_has_no_passcodes() -> None:
    assert passcodes(b"1!", 59) == passcodes(b"AAAA", 59) == []


@alone
async def test_a_passcode_logs_in_for_a_minute_at_most(i: Identity) -> None:
    user = await user_with_device(i)
    reply = await i.login(totp=totp(user, passcode(i)))
    assert reply.status == 201 and reply.json["token"]["methods"] == ["totp"]
    named = {"user": {"name": "U", "domain": {"id": "default"}, "passcode": passcode(i)}}
    assert (await i.login(totp=named)).status == 201
    assert (await i.login(totp=totp(user, passcode(i, age_s=15)))).status == 201
    for wrong in (passcode(i, age_s=90), passcode(i, age_s=-90), "", "000000 ", "é"):
        assert (await i.login(totp=totp(user, wrong))).status == 401, wrong
    other = await i.user("without-device")
    assert (await i.login(totp=totp(other, passcode(i)))).status == 401
    assert (await i.login(totp=totp("nobody", passcode(i)))).status == 401
    assert (await i.login(totp={"user": {"id": user}})).status == 400


@alone
async def test_each_of_several_devices_will_do_and_a_broken_one_is_passed_over(
    i: Identity,
) -> None:
    user = await user_with_device(i)
    other = base64.b32encode(b"another-device!!").decode()
    for blob in ("no base32!", other):
        await i.admin.make("/credentials", user_id=user, type="totp", blob=blob)
    for secret in (SECRET, other.rstrip("=")):
        assert (await i.login(totp=totp(user, passcode(i, secret)))).status == 201


@alone
async def test_both_factors_at_once_let_in(i: Identity) -> None:
    user = await user_with_device(i, options=BOTH)
    both = {"password": password(user), "totp": totp(user, passcode(i))}
    reply = await i.login(**both)
    assert reply.status == 201 and reply.json["token"]["methods"] == ["password", "totp"]
    token = reply.headers["x-subject-token"]
    again = await i.login(token={"id": token})
    assert again.status == 201, "what the first token proved counts for the next"
    wrong = {**both, "totp": totp(user, "000000")}
    assert (await i.login(**wrong)).status == 401
    stranger = {**both, "totp": totp(await i.user("x"), passcode(i))}
    assert (await i.login(**stranger)).status == 401


@alone
async def test_the_first_factor_earns_a_receipt_and_the_second_a_token(i: Identity) -> None:
    user = await user_with_device(i, options=BOTH)
    first = await i.login(password=password(user))
    assert first.status == 401 and "x-subject-token" not in first.headers
    body = first.json
    assert body["required_auth_methods"] == [["password", "totp"]]
    assert body["receipt"]["methods"] == ["password"]
    assert body["receipt"]["user"]["domain"] == {"id": "default", "name": "Default"}
    assert body["receipt"]["expires_at"] > body["receipt"]["issued_at"]
    receipt = first.headers["openstack-auth-receipt"]
    second = await with_receipt(i, receipt, totp=totp(user, passcode(i)))
    assert second.status == 201, second
    assert second.json["token"]["methods"] == ["password", "totp"]
    assert (await with_receipt(i, receipt, totp=totp(user, "000000"))).status == 401
    twice = await with_receipt(i, receipt, password=password(user))
    assert twice.status == 401 and "openstack-auth-receipt" in twice.headers


@alone
async def test_a_receipt_is_for_one_user_and_a_short_while_and_is_no_token(i: Identity) -> None:
    user = await user_with_device(i, options=BOTH)
    receipt = (await i.login(password=password(user))).headers["openstack-auth-receipt"]
    used = i.anybody.client.as_(receipt)
    assert (await used.get(f"{V3}/auth/projects")).status == 401
    assert (await i.login(token={"id": receipt})).status == 404
    other = await i.user("other", password=PASSWORD)
    refused = await with_receipt(i, receipt, password=password(other))
    assert refused.status == 401 and "openstack-auth-receipt" not in refused.headers
    token = (await i.password(other)).headers["x-subject-token"]
    for junk in ("x", "A" * 4096, token):
        assert (await with_receipt(i, junk, totp=totp(user, passcode(i)))).status == 401
    ring = i.cloud.runtime.contracts.get(KEYRING)
    content = msgspec.msgpack.decode(await ring.open(TOKEN, receipt) or b"")
    content[-1] -= 301 * 1_000_000  # the end, five minutes and a second ago
    late = await ring.seal(TOKEN, msgspec.msgpack.encode(content))
    assert (await with_receipt(i, late, totp=totp(user, passcode(i)))).status == 401


@alone
async def test_whoever_is_disabled_earns_no_receipt(i: Identity) -> None:
    user = await user_with_device(i, options=BOTH)
    await i.admin.patch(f"/users/{user}", {"user": {"enabled": False}})
    reply = await i.login(password=password(user))
    assert reply.status == 401 and "openstack-auth-receipt" not in reply.headers


@alone
async def test_rules_can_be_switched_off_and_none_locks_out_for_an_unknown_method(
    i: Identity,
) -> None:
    user = await i.user("u", password=PASSWORD)
    for options, status in (
        ({"multi_factor_auth_rules": [["password", "totp"]]}, 401),
        ({"multi_factor_auth_enabled": False}, 201),
        ({"multi_factor_auth_enabled": True}, 401),
        ({"multi_factor_auth_rules": [["password", "totp"], ["password"]]}, 201),
        ({"multi_factor_auth_rules": [["retina"]]}, 201),
        ({"multi_factor_auth_rules": [["password", "retina"]]}, 201),
        ({"multi_factor_auth_rules": [["totp"], ["retina"]]}, 401),
        ({"multi_factor_auth_rules": []}, 201),
    ):
        patched = await i.admin.patch(f"/users/{user}", {"user": {"options": options}})
        assert patched.status == 200
        assert (await i.password(user)).status == status, options


@alone
async def test_rules_hold_for_application_credentials_too(i: Identity) -> None:
    project = await i.project("p")
    user = await i.user("u", password=PASSWORD)
    await i.grant("member", f"projects/{project}", user)
    owner = await i.token(user, f"projects/{project}")
    made = await owner.make(f"/users/{user}/application_credentials", name="a")
    part = {"id": made["id"], "secret": made["secret"]}
    rules = [["password", "totp"]]
    for more, status in (([], 401), ([["application_credential"]], 201)):
        options = {"multi_factor_auth_rules": rules + more}
        await i.admin.patch(f"/users/{user}", {"user": {"options": options}})
        assert (await i.login(application_credential=part)).status == status


@alone
async def test_a_receipt_ends_with_the_password_that_earned_it(i: Identity) -> None:
    user = await user_with_device(i, options=BOTH)
    receipt = (await i.login(password=password(user))).headers["openstack-auth-receipt"]
    change = {"user": {"original_password": PASSWORD, "password": "an0ther"}}
    assert (await i.anybody.post(f"/users/{user}/password", change)).status == 204
    assert (await with_receipt(i, receipt, totp=totp(user, passcode(i)))).status == 401


@alone_with(lockout_failure_attempts=3)
async def test_wrong_passcodes_lock_an_account_for_who_knows_the_password_too(i: Identity) -> None:
    user = await user_with_device(i, options=BOTH)
    wrong = {"password": password(user), "totp": totp(user, "000000")}
    right = {"password": password(user), "totp": totp(user, passcode(i))}
    for _ in range(2):
        for _ in range(2):
            assert (await i.login(**wrong)).status == 401
        assert (await i.login(**right)).status == 201, "who gets in is forgiven"
    for _ in range(2):
        assert (await i.login(**wrong)).status == 401
    assert (await i.login(totp=totp(user, "000000"))).status == 401
    for parts in (right, {"totp": right["totp"]}, {"password": right["password"]}):
        reply = await i.login(**parts)
        assert reply.status == 401 and "openstack-auth-receipt" not in reply.headers
    await i.admin.patch(f"/users/{user}", {"user": {"enabled": True}})
    assert (await i.login(**right)).status == 201

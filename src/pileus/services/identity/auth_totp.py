"""The method `totp`: a one-time passcode of a device that shares a secret, RFC 6238: six digits, 30 seconds, SHA-1.

The secret is the blob, base32, of a credential of type `totp`.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.hashes import SHA1
from cryptography.hazmat.primitives.twofactor.totp import TOTP as Generator

from pileus.kernel.resources import Context
from pileus.kernel.store import Page

from .auth_request import UserRef
from .credentials import CREDENTIALS
from .discreet import Discreet
from .identification import find_user
from .keys import CREDENTIAL, KEYRING
from .proof import Method, Proof, refused
from .sign_ins import failed, refuse_locked

if TYPE_CHECKING:
    from .authentication import Authentication

_DIGITS = 6
_PERIOD_S = 30
_MOST_DEVICES = 32  # the newest ones: each costs every try
_NEWEST = (("created_at", True), ("id", True))
_WINDOWS = 2  # the passcode of now and the one before, for slow typists and clocks; as upstream


class TotpUser(Discreet, UserRef, kw_only=True):
    passcode: str


class TotpPart(msgspec.Struct):
    user: TotpUser


async def prove(desk: Authentication, ctx: Context, part: TotpPart) -> Proof:
    """An unknown user, a wrong passcode and a locked account are the same."""
    runtime, given = desk.runtime, part.user.passcode.encode()
    user = await find_user(runtime.store, part.user)
    if user is None:
        raise refused("unknown user")
    refuse_locked(runtime, user)
    devices = Page({"user_id": user.id, "type": "totp"}, _NEWEST, limit=_MOST_DEVICES)
    now, good = runtime.world.clock.time(), False
    for row in await CREDENTIALS.list(runtime.store, devices):
        secret = await ctx.peer(KEYRING).open(CREDENTIAL, row.sealed)
        for passcode in passcodes(secret or b"", now):
            good |= hmac.compare_digest(passcode, given)
    if not good:
        await failed(runtime, user)
        raise refused(f"wrong passcode for user {user.id}")
    return Proof(user, ("totp",))


def passcodes(secret: bytes, now: float) -> list[bytes]:
    """What a device with that secret shows, or showed just before; nothing for what is no secret."""
    try:
        key = base64.b32decode(secret + b"=" * (-len(secret) % 8))
        generator = Generator(key, _DIGITS, SHA1(), _PERIOD_S)
    except (binascii.Error, ValueError):
        return []
    return [generator.generate(int(now) - n * _PERIOD_S) for n in range(_WINDOWS)]


TOTP = Method("totp", TotpPart, prove)

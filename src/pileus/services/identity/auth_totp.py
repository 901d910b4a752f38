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

from .auth_request import UserRef
from .credentials import CREDENTIALS
from .identification import find_user
from .keys import CREDENTIAL, KEYRING
from .proof import Method, Proof, refused

if TYPE_CHECKING:
    from .authentication import Authentication

_DIGITS = 6
_PERIOD_S = 30
_WINDOWS = 2  # the passcode of now and the one before, for slow typists and clocks; as upstream


class TotpUser(UserRef, kw_only=True):
    passcode: str


class TotpPart(msgspec.Struct):
    user: TotpUser


async def prove(desk: Authentication, ctx: Context, part: TotpPart) -> Proof:
    """An unknown user and a wrong passcode are the same."""
    store, given = desk.runtime.store, part.user.passcode.encode()
    user = await find_user(store, part.user)
    rows = await CREDENTIALS.all(store, user_id=user.id, type="totp") if user else []
    now, good = desk.runtime.world.clock.time(), False
    for row in rows:
        secret = await ctx.peer(KEYRING).open(CREDENTIAL, row.sealed)
        for passcode in passcodes(secret or b"", now):
            good |= hmac.compare_digest(passcode, given)
    if user is None or not good:
        raise refused("unknown user or wrong passcode")
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

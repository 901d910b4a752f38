"""Fernet keys of tokens and of stored credentials: rows, so that every control has the same and rotation is one write.

The newest key encrypts, older ones still decrypt. A key is dropped once nothing made with it can be alive: token keys
when their successor is older than the longest token, credential keys when no row was encrypted with them. Whoever can
read the store can read its keys: the store's file and its backups are to be kept as secrets.
"""

from __future__ import annotations

import base64
from itertools import pairwise

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from pileus.kernel import auth
from pileus.kernel.contracts import Contract
from pileus.kernel.faults import Conflict
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Record, Table, Tx
from pileus.kernel.world import World, seconds_of

TOKEN, CREDENTIAL = "token", "credential"
_REVISION = "identity.keys"
LONGEST_TOKEN_S = 3 * 86_400  # a token's life and the window in which an expired one may be used


class Key(Record, kw_only=True, frozen=True):
    """`purpose` is TOKEN or CREDENTIAL; the highest `number` encrypts."""

    purpose: str
    number: int
    secret: str


KEYS = Table("identity_keys", Key, columns=("purpose",), noun="key")


class Keyring:
    """The keys in use, read again when they are revised."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._rings: dict[str, MultiFernet] = {}
        self._revision = -1

    async def ring(self, purpose: str) -> MultiFernet:
        store = self.runtime.store
        revision = await auth.revision(store, _REVISION)
        if revision != self._revision:
            self._rings.clear()
            self._revision = revision
        ring = self._rings.get(purpose)
        if ring is None:
            keys = sorted(await KEYS.all(store, purpose=purpose), key=lambda k: -k.number)
            ring = self._rings[purpose] = MultiFernet([Fernet(k.secret) for k in keys])
        return ring

    async def seal(self, purpose: str, content: bytes) -> str:
        ring = await self.ring(purpose)
        sealed = ring.encrypt_at_time(content, int(self.runtime.world.clock.time()))
        return sealed.decode().rstrip("=")

    async def open(self, purpose: str, sealed: str) -> bytes | None:
        """The content, or None if no key fits."""
        try:
            text = sealed.encode("ascii")
            return (await self.ring(purpose)).decrypt(text + b"=" * (-len(text) % 4))
        except (InvalidToken, UnicodeEncodeError):
            return None


KEYRING = Contract("identity.keys", Keyring)


def _new(world: World, purpose: str, number: int) -> Key:
    secret = base64.urlsafe_b64encode(world.random.randbytes(32)).decode()
    return Key(id=f"{purpose}-{number}", purpose=purpose, number=number, secret=secret)


async def make_first(runtime: Runtime) -> None:
    """Makes the first key of each purpose unless there is one."""
    for purpose in (TOKEN, CREDENTIAL):
        if await KEYS.one(runtime.store, purpose=purpose) is None:
            try:
                async with runtime.store.tx() as tx:
                    await _add(tx, _new(runtime.world, purpose, 1))
            except Conflict:
                continue  # another control was first


async def _add(tx: Tx, key: Key) -> None:
    await KEYS.insert(tx, key)
    await auth.revise(tx, _REVISION)


async def rotate_keys(runtime: Runtime, purpose: str) -> int:
    """Makes a new key the one that encrypts, and gives its number. Raises Conflict if another control did so now."""
    known = await KEYS.all(runtime.store, purpose=purpose)
    number = max((k.number for k in known), default=0) + 1
    async with runtime.store.tx() as tx:
        await _add(tx, _new(runtime.world, purpose, number))
    return number


async def drop_token_keys(runtime: Runtime) -> int:
    """Drops token keys whose successor is older than any token that could still be used; how many."""
    known = sorted(await KEYS.all(runtime.store, purpose=TOKEN), key=lambda k: k.number)
    limit = runtime.world.clock.time() - LONGEST_TOKEN_S
    old = [a for a, b in pairwise(known) if seconds_of(b.created_at) < limit]
    return await _drop(runtime, old)


async def drop_older(runtime: Runtime, purpose: str, number: int) -> int:
    """Drops the keys before `number`; how many."""
    known = await KEYS.all(runtime.store, purpose=purpose)
    return await _drop(runtime, [k for k in known if k.number < number])


async def _drop(runtime: Runtime, keys: list[Key]) -> int:
    async with runtime.store.tx() as tx:
        for key in keys:
            await KEYS.delete(tx, key)
        if keys:
            await auth.revise(tx, _REVISION)
    return len(keys)

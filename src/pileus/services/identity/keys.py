"""Fernet keys of tokens and of stored credentials: rows, so that every control has the same and rotation is one write.

The newest key encrypts, older ones still decrypt. A key is dropped once nothing made with it can be alive: a token's
when its successor is older than the longest token, a credential's when its rows were encrypted anew (`rotation`).
Whoever can read the store can read its keys, unless a `key_file` encrypts them.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from itertools import pairwise

import msgspec
from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from pileus.kernel import auth
from pileus.kernel.contracts import Contract
from pileus.kernel.faults import Conflict, NotFound
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Reader, Record, Table, Tx

from .key_file import KeyFile
from .settings import of

TOKEN, CREDENTIAL = "token", "credential"
_REVISION = "identity.keys"
_MOST = 32  # of one purpose: each old one costs every token that is none of ours an attempt


class Key(Record, kw_only=True, frozen=True):
    """`purpose` is TOKEN or CREDENTIAL; the highest `number` encrypts. `secret` is as `KeyFile` stores it."""

    purpose: str
    number: int
    secret: str

    def __repr__(self) -> str:  # a key must not get into a log
        return f"Key({self.id})"


KEYS = Table("identity_keys", Key, columns=("purpose",), noun="key")


@dataclass(frozen=True)
class Ring:
    """The keys of one purpose."""

    newest: Fernet
    every: MultiFernet


class Keyring:
    """The keys in use, read again when they are revised."""

    def __init__(self, runtime: Runtime) -> None:
        """Raises Invalid."""
        self.runtime = runtime
        self.file = KeyFile(of(runtime).key_file)
        self._rings: dict[str, Ring] = {}
        self._revision = -1

    async def ring(self, purpose: str) -> Ring:
        store = self.runtime.store
        revision = await auth.revision(store, _REVISION)
        if revision > self._revision:
            self._rings = {}
            self._revision = revision
        ring = self._rings.get(purpose)
        if ring is None:
            keys = await numbered(store, purpose)
            fernets = [Fernet(self.file.open(k.secret)) for k in reversed(keys)]
            ring = Ring(fernets[0], MultiFernet(fernets))
            if revision == self._revision:  # or the keys were revised while we read them
                self._rings[purpose] = ring
        return ring

    async def seal(self, purpose: str, content: bytes) -> str:
        ring = await self.ring(purpose)
        sealed = ring.newest.encrypt_at_time(content, int(self.runtime.world.clock.time()))
        return sealed.decode().rstrip("=")

    async def open(self, purpose: str, sealed: str) -> bytes | None:
        """The content, or None if no key fits."""
        return _opened((await self.ring(purpose)).every, sealed)

    async def is_current(self, purpose: str, sealed: str) -> bool:
        """Whether the newest key sealed it."""
        return _opened((await self.ring(purpose)).newest, sealed) is not None


KEYRING = Contract("identity.keys", Keyring)


class _Ticket(msgspec.Struct, tag="ticket", array_like=True, frozen=True):
    """`until` in seconds since the epoch."""

    right: str
    name: str
    until: int


class SecretsKept:
    """Keeps `contract.SECRETS`. Tickets are sealed as tokens are, and are none: with the other key users have their
    credentials sealed, and could have what reads like a ticket.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    async def seal(self, content: bytes) -> str:
        return await self.runtime.contracts.get(KEYRING).seal(CREDENTIAL, content)

    async def open(self, sealed: str) -> bytes:
        found = await self.runtime.contracts.get(KEYRING).open(CREDENTIAL, sealed)
        if found is None:
            raise Conflict("A secret cannot be decrypted: no key of the ring is the one it needs.")
        return found

    async def ticket(self, right: str, name: str, good_s: int) -> str:
        said = _Ticket(right, name, int(self.runtime.world.clock.time()) + good_s)
        return await self.runtime.contracts.get(KEYRING).seal(TOKEN, msgspec.msgpack.encode(said))

    async def redeem(self, ticket: str, right: str) -> str:
        content = await self.runtime.contracts.get(KEYRING).open(TOKEN, ticket)
        try:
            said = msgspec.msgpack.decode(content or b"", type=_Ticket)
        except msgspec.DecodeError:
            raise NotFound("There is no such ticket.") from None
        if said.right != right:
            raise NotFound(f"This ticket is not one to {right}.")
        if said.until < self.runtime.world.clock.time():
            raise NotFound("This ticket has expired; a new one is needed.")
        return said.name


def _opened(ring: Fernet | MultiFernet, sealed: str) -> bytes | None:
    try:
        text = sealed.encode("ascii")
        return ring.decrypt(text + b"=" * (-len(text) % 4))
    except (InvalidToken, UnicodeEncodeError):
        return None


async def numbered(db: Reader, purpose: str) -> list[Key]:
    """The keys of a purpose, the newest last."""
    return sorted(await KEYS.all(db, purpose=purpose), key=lambda k: k.number)


async def make_first(runtime: Runtime) -> None:
    """Makes the first key of each purpose unless there is one, and stores all as the key file wants them."""
    for purpose in (TOKEN, CREDENTIAL):
        if await KEYS.one(runtime.store, purpose=purpose) is None:
            try:
                async with runtime.store.tx() as tx:
                    await _add(tx, runtime, purpose, 1)
            except Conflict:
                continue  # another control was first
    file = runtime.contracts.get(KEYRING).file
    async with runtime.store.tx() as tx:
        old = [k for k in await KEYS.all(tx) if not file.is_current(k.secret)]
        for key in old:
            secret = file.seal(file.open(key.secret), int(runtime.world.clock.time()))
            await KEYS.change(tx, key, secret=secret)
        if old:
            await auth.revise(tx, _REVISION)


async def _add(tx: Tx, runtime: Runtime, purpose: str, number: int) -> None:
    world, file = runtime.world, runtime.contracts.get(KEYRING).file
    secret = base64.urlsafe_b64encode(world.random.randbytes(32)).decode()
    stored = file.seal(secret, int(world.clock.time()))
    await KEYS.insert(
        tx, Key(id=f"{purpose}-{number}", purpose=purpose, number=number, secret=stored)
    )
    await auth.revise(tx, _REVISION)


async def add_key(tx: Tx, runtime: Runtime, purpose: str) -> int:
    """Makes a new key the one that encrypts, and gives its number. Raises Conflict."""
    known = await numbered(tx, purpose)
    if len(known) >= _MOST:
        raise Conflict(
            f"There are {len(known)} keys for {purpose}s already, and none can go yet: the oldest "
            f"is of {known[0].created_at}. Rotate less often."
        )
    number = known[-1].number + 1 if known else 1
    await _add(tx, runtime, purpose, number)
    return number


async def drop_succeeded(runtime: Runtime, purpose: str, before: str) -> int:
    """Drops the keys whose successors were made before a time; how many."""
    async with runtime.store.tx() as tx:
        known = await numbered(tx, purpose)
        old = [a for a, b in pairwise(known) if b.created_at < before]
        for key in old:
            await KEYS.delete(tx, key)
        if old:
            await auth.revise(tx, _REVISION)
    return len(old)

"""A LUKS1 container in which nothing is written yet, AES-256 in XTS: what `qemu-img create` makes of one, in no time.

That tool spends seconds on finding out how often a passphrase must be hashed to make guessing slow. Ours are keys of 128
bits or more, which nobody guesses, so the format's least is enough. See "LUKS1 On-Disk Format Specification".
"""

from __future__ import annotations

import hashlib
import os
import random
import struct
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

_MEMORY = "/dev/shm"  # a file system that is nowhere else
_SECTOR = 512
_KEY, _STRIPES, _SALT, _DIGEST = 64, 4000, 32, 20
_ROUNDS = 1000  # the format asks for no fewer
_SLOTS, _USED, _FREE = 8, 0x00AC71F3, 0x0000DEAD
_FIRST = 8  # where the first slot's material begins, in sectors, and what each is rounded up to
_SPAN = -(-_KEY * _STRIPES // _SECTOR // _FIRST) * _FIRST
_HEAD = struct.Struct(">6sH32s32s32sII20s32sI40s")
_SLOT = struct.Struct(">II32sII")
HEADER = (_FIRST + _SLOTS * _SPAN) * _SECTOR  # bytes before those of the disk


def header(passphrase: str, chance: random.Random) -> bytes:
    """What a container begins with, zeros at its end left out: it has HEADER bytes more than the disk in it.

    `chance` must not be foreseen.
    """
    key, salt, own_salt = (chance.randbytes(n) for n in (_KEY, _SALT, _SALT))
    head = _HEAD.pack(
        b"LUKS\xba\xbe",
        1,
        b"aes",
        b"xts-plain64",
        b"sha256",
        HEADER // _SECTOR,
        _KEY,
        _hashed(key, own_salt, _DIGEST),
        own_salt,
        _ROUNDS,
        str(UUID(bytes=chance.randbytes(16), version=4)).encode(),
    )
    slots = [_SLOT.pack(_USED, _ROUNDS, salt, _FIRST, _STRIPES)]
    for n in range(1, _SLOTS):
        slots.append(_SLOT.pack(_FREE, 0, bytes(_SALT), _FIRST + n * _SPAN, _STRIPES))
    material = _sealed(_split(key, chance), _hashed(passphrase.encode(), salt, _KEY))
    return (head + b"".join(slots)).ljust(_FIRST * _SECTOR, b"\0") + material


@contextmanager
def secret(passphrase: str, owner: int | None = None) -> Iterator[list[str]]:
    """The option that makes it the secret `key` of a tool of QEMU's that runs as `owner`: no argument, on no disk."""
    with tempfile.NamedTemporaryFile(dir=_MEMORY) as file:
        file.write(passphrase.encode())
        file.flush()
        if owner is not None:
            os.chown(file.name, owner, owner)
        yield ["--object", f"secret,id=key,file={file.name}"]


def _hashed(secret: bytes, salt: bytes, length: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", secret, salt, _ROUNDS, length)


def _split(key: bytes, chance: random.Random) -> bytes:
    """So long that no disk keeps all of it by accident once it is overwritten: whoever lacks a part lacks the key."""
    noise = chance.randbytes(_KEY * (_STRIPES - 1))
    mixed = bytes(_KEY)
    for at in range(0, len(noise), _KEY):
        mixed = _diffused(_xor(mixed, noise[at : at + _KEY]))
    return noise + _xor(mixed, key)


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one) ^ int.from_bytes(other)).to_bytes(_KEY)


def _diffused(data: bytes) -> bytes:
    """Each block of a digest's length by its digest, numbered."""
    halves = enumerate((data[:32], data[32:]))
    return b"".join(hashlib.sha256(struct.pack(">I", n) + half).digest() for n, half in halves)


def _sealed(data: bytes, key: bytes) -> bytes:
    """Sector by sector, by their numbers."""
    sealed = []
    for n, at in enumerate(range(0, len(data), _SECTOR)):
        sector = Cipher(algorithms.AES(key), modes.XTS(n.to_bytes(16, "little"))).encryptor()
        sealed.append(sector.update(data[at : at + _SECTOR]))
    return b"".join(sealed)

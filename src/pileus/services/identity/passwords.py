"""Passwords and secrets: argon2id, hashed in threads so that the loop goes on, a few at a time.

Those threads give way: on a machine with few processors a row of logins would else take them from everybody.
An unknown user costs the same as a wrong password, so that neither answer nor time tells which it was.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from pileus.kernel.contracts import Contract
from pileus.kernel.runtime import Runtime

from .settings import of

T = TypeVar("T")
_AT_ONCE = 4  # each takes its memory while it runs
_GIVES_WAY = 10  # niceness of their threads
LONGEST = 4096


class Passwords:
    """As costly as the settings say; a hash remembers what it cost, so that they may change."""

    def __init__(self, runtime: Runtime) -> None:
        self.world = runtime.world
        memory, passes = of(runtime).password_hash_memory_kib, of(runtime).password_hash_passes
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory, parallelism=1)
        self._threads = ThreadPoolExecutor(_AT_ONCE, "password", partial(os.nice, _GIVES_WAY))
        self._nobody = ""

    async def hashed(self, password: str) -> str:
        salt = self.world.random.randbytes(16)
        return await self._in_thread(partial(self._hasher.hash, password, salt=salt))

    async def fits(self, hashed: str, password: str) -> bool:
        """Whether the password is the hashed one; "" stands for nobody's and costs as much."""
        if not hashed and not self._nobody:
            self._nobody = await self.hashed(self.world.new_hex())
        ok = await self._in_thread(partial(self._verify, hashed or self._nobody, password))
        return ok and bool(hashed) and bool(password)

    async def _in_thread(self, do: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, do)

    def _verify(self, hashed: str, password: str) -> bool:
        try:
            return self._hasher.verify(hashed, password[:LONGEST])
        except (VerificationError, InvalidHashError):
            return False


PASSWORDS = Contract("identity.passwords", Passwords)

"""The outside of a pure function: clock, chance and identifiers. Simulation supplies its own.

Sockets, subprocesses and files are reached through `pileus.host`; nothing else reads the clock or the environment.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import time
import uuid
from dataclasses import dataclass, field


class Clock:
    """Wall time as UTC text of fixed width, so that text order is time order."""

    def time(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def now(self) -> str:
        """`2026-11-22T10:00:00.123456Z`; each API's spelling is a slice of it."""
        return stamp(self.time())

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def stamp(seconds: float) -> str:
    """Epoch seconds as `YYYY-MM-DDTHH:MM:SS.ffffffZ`."""
    return dt.datetime.fromtimestamp(seconds, dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seconds_of(text: str) -> float:
    """The epoch seconds of an ISO 8601 time; a time without a zone is UTC. Raises ValueError."""
    parsed = dt.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=dt.UTC)).timestamp()


@dataclass
class World:
    clock: Clock = field(default_factory=Clock)
    random: random.Random = field(default_factory=random.SystemRandom)

    def new_id(self) -> str:
        """A UUID with dashes."""
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def new_hex(self) -> str:
        """A UUID as 32 hex digits, Keystone's way."""
        return uuid.UUID(int=self.random.getrandbits(128), version=4).hex

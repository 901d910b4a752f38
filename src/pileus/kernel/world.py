"""The outside of a pure function: clock, chance and identifiers. Simulation supplies its own.

Sockets, subprocesses and files are reached through `pileus.host`; nothing else reads the clock or the environment.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import random
import time
from dataclasses import dataclass, field
from itertools import count


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


_UUID_FIXED = 0xF << 76 | 0x3 << 62  # the bits of a UUID that say version and variant (RFC 9562)
_UUID_4 = 0x4 << 76 | 0x2 << 62


@dataclass
class World:
    clock: Clock = field(default_factory=Clock)
    random: random.Random = field(default_factory=random.SystemRandom)

    def __post_init__(self) -> None:
        self._front, self._requests = f"req-{self.new_id()[:24]}", count()

    def new_request_id(self) -> str:
        """`req-` and a UUID: drawn once, then counted on in its last twelve digits."""
        return f"{self._front}{next(self._requests):012x}"

    def new_id(self) -> str:
        """A UUID with dashes."""
        h = self.new_hex()
        return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"

    def new_hex(self) -> str:
        """A UUID as 32 hex digits, Keystone's way."""
        bits = self.random.getrandbits(128) & ~_UUID_FIXED | _UUID_4
        return f"{bits:032x}"

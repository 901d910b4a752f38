"""Guests' questions about the world outside, passed on to the resolvers that the operator named.

At most MOST_PENDING questions are under way at once, each under a random id of ours and from a
random port, so that an answer can be neither flooded nor guessed in.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from pathlib import Path
from typing import Any

from pileus.host import dns

MOST_PENDING = 256
PATIENCE_S = 3.0


def system_resolvers(path: Path = Path("/etc/resolv.conf")) -> tuple[str, ...]:
    """The name servers that the machine itself uses."""
    if not path.exists():
        return ()
    lines = [line.split() for line in path.read_text(errors="replace").splitlines()]
    return tuple(words[1] for words in lines if len(words) > 1 and words[0] == "nameserver")


class Forwarder:
    """Without resolvers, every foreign name is refused."""

    def __init__(self, resolvers: tuple[str, ...], chance: random.Random) -> None:
        self._resolvers = resolvers
        self._chance = chance
        self._pending: set[asyncio.Task[None]] = set()

    def ask(
        self, packet: bytes, question: dns.Question, back: socket.socket, peer: tuple[Any, ...]
    ) -> None:
        """Answer `peer` over `back` when the resolver has answered; a full queue drops the
        question.
        """
        if not self._resolvers:
            with contextlib.suppress(OSError):
                back.sendto(dns.failure(question, dns.REFUSED), peer)
        elif len(self._pending) < MOST_PENDING:
            task = asyncio.create_task(self._relay(packet, question, back, peer))
            self._pending.add(task)
            task.add_done_callback(self._pending.discard)

    async def close(self) -> None:
        for task in self._pending:
            task.cancel()
        await asyncio.gather(*self._pending, return_exceptions=True)

    async def _relay(
        self, packet: bytes, question: dns.Question, back: socket.socket, peer: tuple[Any, ...]
    ) -> None:
        reply = dns.failure(question, dns.SERVER_FAILURE)
        for resolver in self._resolvers[:3]:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    reply = await self._query(resolver, packet, question)
                    break
            except (TimeoutError, OSError):
                continue
        with contextlib.suppress(OSError):  # the network or its guest has gone meanwhile
            back.sendto(dns.with_id(reply, question.id), peer)

    async def _query(self, resolver: str, packet: bytes, question: dns.Question) -> bytes:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in resolver else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as outward:
            outward.setblocking(False)
            await loop.sock_connect(outward, (resolver, 53))
            id = self._chance.randrange(1 << 16)
            await loop.sock_sendall(outward, dns.with_id(packet, id))
            while True:
                reply = await loop.sock_recv(outward, dns.LONGEST)
                if dns.answers(reply, id, question):
                    return reply

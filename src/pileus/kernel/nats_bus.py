"""The bus over NATS (docs.nats.io): requests, queue groups and hints as its subjects."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

from pileus.kernel.bus import (
    PATTERN,
    Handlers,
    Listener,
    Reply,
    Server,
    Subscription,
    check,
    late,
    nobody,
    unavailable,
)
from pileus.kernel.world import World

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class NatsSettings:
    """How to reach NATS. At most one of token, user and credentials_file."""

    servers: tuple[str, ...] = field(default=("nats://127.0.0.1:4222",), repr=False)
    name: str = "pileus"
    prefix: str = "pileus"  # so that two clouds may share a NATS
    token: str = field(default="", repr=False)
    user: str = ""
    password: str = field(default="", repr=False)
    credentials_file: str = ""
    tls: ssl.SSLContext | None = None
    longest_wait_s: float = 2.0  # between two attempts to connect

    def options(self) -> dict[str, Any]:
        """What nats-py wants to hear."""
        return {
            "servers": list(self.servers),
            "name": self.name,
            "token": self.token or None,
            "user": self.user or None,
            "password": self.password or None,
            "user_credentials": self.credentials_file or None,
            "tls": self.tls,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": self.longest_wait_s,
        }


_STATUS, _REASON = "Pileus-Status", "Pileus-Reason"


@dataclass(eq=False)
class _NatsSeat:
    """One subscription, which outlives connections."""

    seats: list[_NatsSeat]
    subject: str
    on_message: Callable[[Msg], Awaitable[None]]
    queue: str = ""
    client: Client = field(init=False)
    at_nats: Any = field(init=False)  # nats-py's own subscription

    async def attach(self, client: Client) -> None:
        self.client = client
        self.at_nats = await client.subscribe(self.subject, self.queue, cb=self.on_message)

    async def stop(self) -> None:
        if self not in self.seats:
            return
        self.seats.remove(self)
        try:
            if self.client.is_connected:
                await self.at_nats.drain()  # what has been sent to us is still ours to handle
            else:
                await self.at_nats.unsubscribe()
        except NatsError as error:
            log.warning("Unsubscribed from %s without NATS's word: %s", self.subject, error)
        await _settle(self.client)


async def _settle(client: Client) -> None:
    """NATS knows of all that was sent; without a connection it learns of it after the next.

    Twice, because nats-py's ping overtakes commands that its flusher has not written yet.
    """
    try:
        for _ in range(2):
            if client.is_connected:
                await client.flush(timeout=2)
    except (NatsError, OSError) as error:
        log.warning("NATS did not confirm a subscription yet: %s", error)


class NatsBus:
    """A bus over NATS. A lost connection is made anew for ever, with growing pauses."""

    def __init__(self, world: World, settings: NatsSettings | None = None) -> None:
        self._world = world
        self._settings = settings or NatsSettings()
        self._client = Client()
        self._handlers = Handlers()
        self._answers: set[asyncio.Task[None]] = set()
        self._seats: list[_NatsSeat] = []
        self._attempts = 0
        self._is_open = False
        self._revival: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        return bool(self._client.is_connected)

    async def start(self) -> None:
        self._is_open = True
        await self._connect()

    async def stop(self) -> None:
        self._is_open = False
        if self._revival is not None:
            self._revival.cancel()
        for seat in list(self._seats):
            await seat.stop()
        await self._handlers.finish()
        if self._answers:
            await asyncio.wait(self._answers)
        await self._client.close()

    async def _connect(self) -> None:
        self._client = Client()
        await self._client.connect(
            **self._settings.options(),
            error_cb=self._on_error,
            disconnected_cb=self._on_disconnect,
            reconnected_cb=self._on_reconnect,
            closed_cb=self._on_close,
            reconnect_to_server_handler=self._pause,
        )
        for seat in list(self._seats):
            await seat.attach(self._client)
        await _settle(self._client)

    def _pause(self, servers: Any, info: Any) -> tuple[None, float]:
        """Any server, after a pause that doubles up to the longest, with jitter."""
        longest_s = min(self._settings.longest_wait_s, 0.05 * 2 ** min(self._attempts, 16))
        self._attempts += 1
        return None, self._world.random.uniform(longest_s / 2, longest_s)

    async def _on_error(self, error: Exception) -> None:
        log.warning("NATS: %s", error or type(error).__name__)

    async def _on_disconnect(self) -> None:
        if self._is_open:
            log.warning("The connection to NATS is lost.")

    async def _on_reconnect(self) -> None:
        self._attempts = 0
        log.info("The connection to NATS is back.")

    async def _on_close(self) -> None:
        """nats-py gives up when a server refuses it, as one does whose users are being changed."""
        if self._is_open:
            log.error("NATS closed the connection: %s", self._client.last_error)
            self._revival = asyncio.get_running_loop().create_task(self._revive())

    async def _revive(self) -> None:
        await self._world.clock.sleep(self._pause(None, None)[1])
        await self._connect()
        await self._on_reconnect()

    async def _sit(self, seat: _NatsSeat) -> Subscription:
        await seat.attach(self._client)
        self._seats.append(seat)
        await _settle(self._client)
        return seat

    async def serve(self, subject: str, handler: Server, *, queue: str = "") -> Subscription:
        check(subject)

        async def on_message(message: Msg) -> None:
            reply = self._handlers.answer(subject, handler, message.data)
            task = asyncio.get_running_loop().create_task(self._respond(message.reply, reply))
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)

        return await self._sit(_NatsSeat(self._seats, self._ask(subject), on_message, queue))

    async def _respond(self, inbox: str, answer: asyncio.Future[Reply]) -> None:
        reply = await answer
        headers = {_STATUS: str(reply.status), _REASON: reply.reason} if reply.status else None
        try:
            await self._client.publish(inbox, reply.payload, headers=headers)
        except NatsError as error:  # who asked will time out and ask again
            log.warning("An answer was lost: %s", error)

    async def subscribe(self, subject: str, handler: Listener) -> Subscription:
        check(subject, form=PATTERN)
        prefix = self._hint("")

        async def on_message(message: Msg) -> None:
            self._handlers.hear(message.subject.removeprefix(prefix), handler, message.data)

        return await self._sit(_NatsSeat(self._seats, self._hint(subject), on_message))

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        check(subject, payload)
        if not self._client.is_connected:  # nats-py would send it later, to nobody's use
            raise nobody(subject)
        try:
            message = await self._client.request(self._ask(subject), payload, timeout_s)
        except NatsTimeout:
            raise late(subject, timeout_s) from None
        except NoRespondersError:
            raise nobody(subject) from None
        except NatsError as error:
            raise unavailable(f"The bus failed: {error}.", subject) from error
        headers = message.headers or {}
        status = int(headers.get(_STATUS, "0"))
        return Reply(message.data, status, headers.get(_REASON, "")).open(subject)

    async def publish(self, subject: str, payload: bytes) -> None:
        check(subject, payload)
        try:
            await self._client.publish(self._hint(subject), payload)
        except NatsError as error:
            log.warning("Dropped a hint on %s: %s", subject, error)

    def _ask(self, subject: str) -> str:
        return f"{self._settings.prefix}.ask.{subject}"

    def _hint(self, subject: str) -> str:
        return f"{self._settings.prefix}.hint.{subject}"

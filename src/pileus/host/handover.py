"""Bytes from host to host: files that one lends and streams that one takes, for whoever shows the ticket.

The ticket is part of the URL; whoever made it decides when it is good no longer. A file is an ordinary GET. A stream is
a GET that is answered by 101: from then on the connection is the stream's, in both directions.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import http.client
import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pileus.host import sparse
from pileus.host.qemu import reachable
from pileus.kernel.faults import Conflict, Invalid, Unavailable

_CHUNK = 1 << 20
_PATIENCE_S = 60  # without a byte
_AT_ONCE = 64  # connections served; others wait
_HEAD = 4096  # bytes of a request or an answer before its body
log = logging.getLogger(__name__)

Taker = Callable[[socket.socket], None]


@dataclass(frozen=True)
class _Offer:
    ticket: str
    files: Mapping[str, Path] = field(default_factory=dict)
    streams: Mapping[str, Taker] = field(default_factory=dict)


class Handover:
    """Listens as soon as there is something to hand over: at this machine's address on the way to `control_url`."""

    def __init__(self, control_url: str = "") -> None:
        self._control_url = control_url
        self._server: socket.socket | None = None
        self._offers: dict[str, _Offer] = {}
        self._places = threading.BoundedSemaphore(_AT_ONCE)

    async def lend(self, key: str, files: Mapping[str, Path]) -> str:
        """A URL, to which `/name` is added; what was offered for the key before is offered no longer."""
        return await self._offer(key, _Offer(secrets.token_urlsafe(32), files=files))

    async def take(self, key: str, streams: Mapping[str, Taker]) -> str:
        """The same for streams. A taker is called in a thread of its own, and owns the connection."""
        return await self._offer(key, _Offer(secrets.token_urlsafe(32), streams=streams))

    def withdraw(self, key: str) -> None:
        self._offers.pop(key, None)

    def close(self) -> None:
        self._offers.clear()
        if self._server is not None:
            with contextlib.suppress(OSError):
                self._server.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            self._server.close()
            self._server = None

    async def _offer(self, key: str, offer: _Offer) -> str:
        if self._server is None:
            server = self._server = await asyncio.to_thread(_listening, self._control_url)
            accepting = threading.Thread(target=self._accept, args=(server,), daemon=True)
            accepting.start()
        self._offers[key] = offer
        host, port = self._server.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/{offer.ticket}"

    def _accept(self, server: socket.socket) -> None:
        while True:
            self._places.acquire()
            try:
                plug, _ = server.accept()
            except OSError:
                self._places.release()
                return  # closed
            threading.Thread(target=self._serve, args=(plug,), name="handover", daemon=True).start()

    def _serve(self, plug: socket.socket) -> None:
        """In a thread: a slow disk holds up nobody else."""
        try:
            plug.settimeout(_PATIENCE_S)
            ticket, name = _asked(_head(plug))
            offer = self._found(ticket)
            if offer is not None and name in offer.streams:
                plug.sendall(
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: bytes\r\n\r\n"
                )
                plug.settimeout(None)
                offer.streams[name](plug)
                return
            path = offer.files.get(name) if offer is not None else None
            with plug:
                _send(plug, path)
        except (OSError, ValueError) as broken:
            log.info("a handover broke off: %r", broken)
            plug.close()
        finally:
            self._places.release()

    def _found(self, ticket: str) -> _Offer | None:
        for offer in list(self._offers.values()):
            if secrets.compare_digest(offer.ticket.encode(), ticket.encode()):
                return offer
        return None


def _listening(control_url: str) -> socket.socket:
    return listening(local_address(control_url))


def local_address(control_url: str) -> str:
    """Where this host is reached by those that control reaches too. Raises Unavailable."""
    parts = urlsplit(control_url or "http://127.0.0.1:80")
    try:
        found = socket.getaddrinfo(parts.hostname, parts.port or 80, type=socket.SOCK_DGRAM)
        family, way = found[0][0], found[0][4]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(way)  # sends nothing
            return str(probe.getsockname()[0])
    except OSError as reason:
        raise _unreachable(control_url, reason) from None


def listening(address: str, port: int = 0) -> socket.socket:
    """A socket whose connections answer at once, however little they have to say. Raises Unavailable."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        server = socket.create_server((address, port), family=family)
    except OSError as reason:
        raise _unreachable(f"{address}:{port}", reason) from None
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted ones inherit it
    return server


def _unreachable(place: str, reason: OSError) -> Unavailable:
    text = "This host cannot be reached by others."
    return Unavailable(text, internal=f"{place}: {reason}")


def _head(plug: socket.socket) -> bytes:
    """Up to the empty line, and not one byte more: what follows is not ours. Raises ValueError."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = plug.recv(1)
        if not byte or len(head) > _HEAD:
            raise ValueError("no end of the head")
        head += byte
    return head


def _asked(head: bytes) -> tuple[str, str]:
    """The ticket and the name. Raises ValueError."""
    method, path, _ = head.split(b"\r\n", 1)[0].decode("ascii").split(" ")
    _, ticket, name = path.split("/")
    if method != "GET":
        raise ValueError(f"{method} is not GET")
    return ticket, name


def _send(plug: socket.socket, path: Path | None) -> None:
    if path is None:
        plug.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
        plug.sendall(head.encode())
        plug.sendfile(file)


# The other side


async def fetch(url: str, part: Path) -> None:
    """Fill a file that is there with what another host lends. Raises Unavailable."""
    await asyncio.to_thread(_fetch, url, part)


def _fetch(url: str, part: Path) -> None:
    parts = urlsplit(url)
    with _reaching(url):
        connection = http.client.HTTPConnection(*_place(url), timeout=_PATIENCE_S)
        with contextlib.closing(connection):
            connection.request("GET", parts.path)
            answer = connection.getresponse()
            if answer.status != 200:
                raise Unavailable(
                    "The other host does not lend it any more.", internal=f"{answer.status}"
                )
            with part.open("r+b") as out:
                at = 0
                while chunk := answer.read(_CHUNK):
                    sparse.write(out.fileno(), at, chunk)
                    at += len(chunk)
                if answer.length:  # which `read` says nothing of
                    raise http.client.IncompleteRead(b"", answer.length)
                os.ftruncate(out.fileno(), int(answer.headers["Content-Length"]))
                os.fsync(out.fileno())


async def open_stream(url: str) -> socket.socket:
    """A connection to a taker of another host. Raises Unavailable."""
    return await asyncio.to_thread(_open_stream, url)


def _open_stream(url: str) -> socket.socket:
    parts = urlsplit(url)
    with _reaching(url):
        plug = socket.create_connection(_place(url), timeout=_PATIENCE_S)
        try:
            plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            request = (
                f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: Upgrade\r\n"
            )
            plug.sendall(f"{request}Upgrade: bytes\r\n\r\n".encode())
            if b" 101 " not in _head(plug).split(b"\r\n", 1)[0]:
                raise Unavailable("The other host does not expect it any more.")
            plug.settimeout(None)
        except BaseException:
            plug.close()
            raise
    return plug


def _place(url: str) -> tuple[str, int]:
    """Raises Invalid."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or not parts.port:
        raise Invalid(f"Hosts hand things over by http, not by {parts.scheme}:.")
    return parts.hostname, parts.port


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, http.client.HTTPException) as reason:
        if isinstance(reason, OSError) and reason.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Conflict("No room on this host for what is sent.") from None
        place = urlsplit(url).netloc
        raise Unavailable(
            "The other host cannot be reached.", internal=f"{place}: {reason!r}"
        ) from None


def relay(plug: socket.socket, path: Path) -> None:
    """Until either side hangs up, what comes goes to the unix socket and back. Raises OSError."""
    inner = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with plug, inner:
        with reachable(path.parent) as folder:
            inner.connect(f"{folder}/{path.name}")
        back = threading.Thread(target=_pump, args=(inner, plug), name="handover", daemon=True)
        back.start()
        _pump(plug, inner)
        back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    reading, writing = os.pipe()
    try:
        while count := os.splice(source.fileno(), writing, _CHUNK):
            while count:
                count -= os.splice(reading, target.fileno(), count)
    except OSError:
        pass  # one of them hung up, and the other is told
    finally:
        os.close(reading)
        os.close(writing)
        for plug in (source, target):
            with contextlib.suppress(OSError):
                plug.shutdown(socket.SHUT_RDWR)

"""Files of other people's web servers, fetched for a tenant: from the public Internet alone, whatever names say.

A name is resolved once and its address is what is connected to, so that the name cannot mean another one a moment
later; each redirect is looked at like the first URL. Origins that an operator trusts may be anywhere.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

import h11

from pileus.kernel.faults import Invalid, Unavailable

_PORTS = {"http": 80, "https": 443}
_LONGEST = 2048
_REDIRECTS = 5
_CHUNK = 1 << 18
_PATIENCE_S = 30.0  # without a byte
_PRINTABLE = re.compile(r"[!-~]+")
_BROKEN = (OSError, TimeoutError, h11.ProtocolError)
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass
class Download:
    """An answer whose head has come. `size` of the bytes, -1 if the server does not say."""

    size: int
    reader: asyncio.StreamReader
    http: h11.Connection
    url: str

    async def chunks(self) -> AsyncIterator[bytes]:
        """Raises Unavailable where they break off."""
        try:
            while not isinstance(event := await _event(self.reader, self.http), h11.EndOfMessage):
                if isinstance(event, h11.Data):
                    yield bytes(event.data)
        except _BROKEN as e:
            raise _unreachable(self.url, e) from None


async def check(url: str, trusted: Set[str] = frozenset()) -> None:
    """Raises Invalid for a URL that nothing is fetched from, and says why."""
    await _address(_parts(url), trusted)


@asynccontextmanager
async def opened(url: str, trusted: Set[str] = frozenset()) -> AsyncIterator[Download]:
    """GET, redirects followed. `trusted`: origins (`http://10.0.0.5:8080`) that may be private.

    Raises Invalid for what may not be asked or is not there, Unavailable.
    """
    for _ in range(_REDIRECTS + 1):
        parts = _parts(url)
        address, port = await _address(parts, trusted)
        secure = ssl.create_default_context() if parts.scheme == "https" else None
        name = parts.hostname if secure else None
        try:
            async with asyncio.timeout(_PATIENCE_S):
                reader, writer = await asyncio.open_connection(
                    address, port, ssl=secure, server_hostname=name
                )
        except (OSError, TimeoutError) as e:
            raise _unreachable(url, e) from None
        try:
            http = h11.Connection(h11.CLIENT)
            head = await _asked(parts, reader, writer, http, url)
            headers = {k.decode(): v.decode("latin-1") for k, v in head.headers}
            if head.status_code in (301, 302, 303, 307, 308) and "location" in headers:
                url = urljoin(url, headers["location"])
                continue
            if head.status_code != 200:
                raise Invalid(f"The server of {url} answered {head.status_code}; 200 is needed.")
            yield Download(int(headers.get("content-length", -1)), reader, http, url)
            return
        finally:
            writer.close()
    raise Invalid(f"{url} is behind more than {_REDIRECTS} redirects.")


async def _asked(
    parts: SplitResult,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    http: h11.Connection,
    url: str,
) -> h11.Response:
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = [("host", parts.netloc), ("connection", "close"), ("user-agent", "pileus")]
    request = h11.Request(method="GET", target=target, headers=headers)
    try:
        writer.write((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
        while not isinstance(event := await _event(reader, http), h11.Response):
            if isinstance(event, h11.EndOfMessage):
                raise h11.RemoteProtocolError("the answer ended before it began")
        return event
    except _BROKEN as e:
        raise _unreachable(url, e) from None


async def _event(reader: asyncio.StreamReader, http: h11.Connection) -> object:
    while (event := http.next_event()) is h11.NEED_DATA:
        async with asyncio.timeout(_PATIENCE_S):
            http.receive_data(await reader.read(_CHUNK))
    if isinstance(event, h11.ConnectionClosed):
        raise h11.RemoteProtocolError("the connection was closed")
    return event


def _parts(url: str) -> SplitResult:
    if len(url) > _LONGEST or not _PRINTABLE.fullmatch(url):
        raise _refused(url, f"it must be up to {_LONGEST} printable characters without spaces")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise _refused(url, "it cannot be read") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise _refused(url, "it must begin with http:// or https:// and name a host")
    if "@" in parts.netloc:
        raise _refused(url, "it must not hold a password")
    return parts


async def _address(parts: SplitResult, trusted: Set[str]) -> tuple[str, int]:
    """What to connect to. Every address of the name must do, so that none of them can be picked by chance."""
    url, host = parts.geturl(), parts.hostname or ""
    port = parts.port or _PORTS[parts.scheme]
    trust = f"{parts.scheme}://{parts.netloc}" in trusted
    if port not in _PORTS.values() and not trust:
        raise _refused(url, f"its port must be 80 or 443, not {port}")
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_PATIENCE_S):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, TimeoutError, UnicodeError):
        raise _refused(url, f"there is no address of {host}") from None
    addresses = [str(sockaddr[0]) for *_, sockaddr in found]
    for address in addresses:
        if not trust and not _is_public(ipaddress.ip_address(address.partition("%")[0])):
            raise _refused(url, f"the address of {host} is not a public one")
    return addresses[0], port


def _is_public(address: Address) -> bool:
    """Whether it is on the Internet itself; tunnels and translations into IPv4 are not."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.is_site_local:
            return False
        address = address.ipv4_mapped or address
    return address.is_global and not address.is_multicast and not address.is_reserved


def _refused(url: str, why: str) -> Invalid:
    return Invalid(f"URI does not pass filtering: {url[:255]!r}: {why}.")


def _unreachable(url: str, e: Exception) -> Unavailable:
    return Unavailable(f"{url[:255]} can't be fetched at the moment.", internal=repr(e))

"""LDAP: what a directory server says, within limits of time and size.

ldap3 speaks the protocol, in a few threads per server of its own: a server that hangs keeps those and nobody else's.
It is loaded by the first use, as most clouds have no directory.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event
from typing import Any, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")
_PAGE = 500
_MOST = 200_000  # entries of one search
_THREADS = 4
_IDLE_S = 60  # a connection that rested longer is not trusted
_PAGED = "1.2.840.113556.1.4.319"
_NO_SUCH_OBJECT, _SIZE_LIMIT = 32, 4
_NOT_NOW = frozenset({1, 2, 3, 51, 52, 80})  # of a bind: the server's trouble, not the password's
_VERIFY = {"demand": ssl.CERT_REQUIRED, "allow": ssl.CERT_OPTIONAL, "never": ssl.CERT_NONE}
_ALIASES = {"always": "ALWAYS", "searching": "SEARCH", "finding": "FINDING_BASE"}


class LdapFailed(Exception):
    """The server is gone, slow, or won't serve us. The text is for the log."""


@dataclass(frozen=True)
class LdapAddress:
    """Where a directory is and how to come in. `urls` are tried in order; `user` "" comes in as nobody."""

    urls: tuple[str, ...]
    user: str = ""
    password: str = field(default="", repr=False)
    start_tls: bool = False
    verify: str = "demand"  # the server's certificate: demand, allow or never
    ca_file: str = ""
    ca_folder: str = ""
    follow_referrals: bool = False
    aliases: str = "default"
    timeout_s: float = 10


@dataclass(frozen=True)
class Entry:
    """`attributes` are by lower-case name; a value that is no text is left out."""

    dn: str
    attributes: Mapping[str, Sequence[str]]

    def first(self, name: str | None) -> str:
        """The first value of an attribute, or ""."""
        values = self.attributes.get(name.lower(), ()) if name else ()
        return values[0] if values else ""


class LdapServer:
    """One directory. Every call raises LdapFailed instead of waiting for longer than a few timeouts."""

    def __init__(self, address: LdapAddress) -> None:
        self.address = address
        self._threads = ThreadPoolExecutor(_THREADS, "ldap")
        self._idle: list[tuple[float, Any]] = []

    async def search(
        self,
        base: str,
        text: str,
        attributes: Sequence[str],
        *,
        scope: str = "sub",
        page_size: int = 0,
    ) -> list[Entry]:
        """The entries that the filter `text` matches: at `base` ("base"), right below ("one"), anywhere below."""
        names = sorted({name for name in attributes if name})

        def ask(connection: Any) -> list[Entry]:
            return self._search(connection, base, text, names, scope, page_size or _PAGE)

        return await self._in_thread(lambda: self._with_connection(ask))

    async def is_password(self, dn: str, password: str) -> bool:
        """Whether the server lets `dn` in with it. An empty one never fits: servers take it for nobody's."""
        if not password or not dn:
            return False
        return await self._in_thread(lambda: self._try(dn, password))

    def close(self) -> None:
        self._threads.shutdown(wait=False)  # who asks now still gets his answer
        while self._idle:
            _leave(self._idle.pop()[1])

    async def _in_thread(self, do: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            running = loop.run_in_executor(self._threads, do)
        except RuntimeError as e:
            raise LdapFailed("the directory's configuration was changed meanwhile") from e
        try:
            return await asyncio.wait_for(running, 3 * self.address.timeout_s)
        except TimeoutError as e:
            raise LdapFailed(f"no answer from {', '.join(self.address.urls)}") from e

    def _with_connection(self, do: Callable[[Any], T]) -> T:
        """With a connection that rested, or, if it does not work any more, with a new one."""
        trouble = _trouble()
        while self._idle:
            since, connection = self._idle.pop()
            if time.monotonic() - since > _IDLE_S:
                _leave(connection)
                continue
            try:
                return self._rested(connection, do)
            except trouble:
                _leave(connection)
        connection = self.open(self.address.user, self.address.password)
        if connection is None:
            raise LdapFailed(f"the directory does not let {self.address.user!r} in")
        try:
            return self._rested(connection, do)
        except trouble as e:
            _leave(connection)
            raise LdapFailed(f"search failed: {e!r}") from e

    def _rested(self, connection: Any, do: Callable[[Any], T]) -> T:
        found = do(connection)
        self._idle.append((time.monotonic(), connection))
        return found

    def _try(self, dn: str, password: str) -> bool:
        connection = self.open(dn, password)
        if connection is None:
            return False
        _leave(connection)
        return True

    def open(self, user: str, password: str) -> Any:
        """A connection let in as that user at the first server that answers; None if he is not let in."""
        said, trouble = [], _trouble()
        for url in self.address.urls:
            try:
                connection = self.connection(url, user, password)
                return self._bound(connection, user)
            except trouble as e:
                said.append(f"{url}: {e!r}")
        raise LdapFailed("; ".join(said) or "no URL of the directory is configured")

    def connection(self, url: str, user: str, password: str) -> Any:
        """A connection that is not open yet."""
        import ldap3

        there, a = urlsplit(url), self.address
        if there.scheme not in ("ldap", "ldaps") or not there.hostname:
            raise ValueError("a directory's URL is as ldap://HOST:PORT or ldaps://HOST:PORT")
        tls = ldap3.Tls(
            validate=_VERIFY[a.verify],
            ca_certs_file=a.ca_file or None,
            ca_certs_path=a.ca_folder or None,
        )
        server = ldap3.Server(
            there.hostname,
            there.port,
            use_ssl=there.scheme == "ldaps",
            tls=tls,
            get_info=ldap3.NONE,
            connect_timeout=a.timeout_s,
        )
        return ldap3.Connection(
            server,
            user=user or None,
            password=password if user else None,
            client_strategy=ldap3.SYNC,
            check_names=False,
            auto_referrals=a.follow_referrals,
            receive_timeout=max(1, int(a.timeout_s)),  # whole seconds, as the kernel is told
            raise_exceptions=False,
        )

    def _bound(self, connection: Any, user: str) -> Any:
        connection.open()
        if self.address.start_tls and not connection.server.ssl:
            connection.start_tls()
        if connection.bind():
            return connection
        result = dict(connection.result)
        _leave(connection)
        if result["result"] in _NOT_NOW:
            raise OSError(f"bind answered {result['description']}")
        return None

    def _search(
        self, connection: Any, base: str, text: str, names: list[str], scope: str, page: int
    ) -> list[Entry]:
        import ldap3

        found: list[Entry] = []
        scopes = {"base": ldap3.BASE, "one": ldap3.LEVEL, "sub": ldap3.SUBTREE}
        asked = {
            "search_scope": scopes[scope],
            "dereference_aliases": _ALIASES.get(self.address.aliases, "NEVER"),
            "attributes": names,
            "time_limit": int(self.address.timeout_s),
        }
        cookie: Any = None
        while True:
            connection.search(base, text, paged_size=page, paged_cookie=cookie, **asked)
            code = connection.result["result"]
            if code == _NO_SUCH_OBJECT:
                return []
            if code == _SIZE_LIMIT:
                raise LdapFailed("the directory gives only a part; page_size must be lower")
            if code:
                raise LdapFailed(f"search answered {connection.result['description']}")
            found += [_entry(r) for r in connection.response if r["type"] == "searchResEntry"]
            if len(found) > _MOST:
                raise LdapFailed(f"the directory holds more than {_MOST} entries under {base}")
            controls = connection.result.get("controls") or {}
            cookie = controls.get(_PAGED, {}).get("value", {}).get("cookie")
            if not cookie:
                return found


def _entry(response: Mapping[str, Any]) -> Entry:
    attributes = {}
    for name, values in response["raw_attributes"].items():
        read = [text for value in values if (text := _text(value)) is not None]
        attributes[name.partition(";")[0].lower()] = read
    return Entry(response["dn"], attributes)


def _text(value: bytes | str) -> str | None:
    if isinstance(value, str):
        return value
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _trouble() -> tuple[type[Exception], ...]:
    """What ldap3 raises when a server is gone or talks nonsense: it decodes before it checks."""
    from ldap3.core.exceptions import LDAPException
    from pyasn1.error import PyAsn1Error

    return (LDAPException, PyAsn1Error, OSError, ValueError, LookupError, TypeError, struct.error)


def _leave(connection: Any) -> None:
    try:
        connection.unbind()
    except _trouble():
        return  # it is gone already


def escaped(text: str) -> str:
    """Text as it may stand in a filter (RFC 4515)."""
    special = {"\\": "\\5c", "*": "\\2a", "(": "\\28", ")": "\\29", "\0": "\\00"}
    return "".join(special.get(c, c) for c in text)


def dn_parts(dn: str) -> tuple[tuple[str, str], ...]:
    """The attributes and values of a distinguished name; () if it is none."""
    from ldap3.core.exceptions import LDAPInvalidDnError
    from ldap3.utils.dn import parse_dn

    try:
        return tuple((name, value) for name, value, _ in parse_dn(dn, strip=True))
    except LDAPInvalidDnError:
        return ()


def dn_key(dn: str) -> str:
    """The same text for the same name however it is spelled."""
    return ",".join(f"{name.lower()}={value.lower()}" for name, value in dn_parts(dn))


class FakeLdap(LdapServer):
    """A directory in this process: ldap3's own stand-in for a server, with filters and passwords.

    `is_gone` stands for a server that refuses connections, `pause_s` for one that is slow.
    """

    def __init__(self, address: LdapAddress, entries: Mapping[str, Mapping[str, Any]]) -> None:
        super().__init__(address)
        self.entries = entries  # as they are at each call
        self.is_gone = False
        self.pause_s = 0.0
        self.asked = 0  # how often it was connected to

    def connection(self, url: str, user: str, password: str) -> Any:
        import ldap3

        self.asked += 1
        if self.is_gone:
            raise OSError("connection refused")
        Event().wait(self.pause_s)
        found = ldap3.Connection(
            ldap3.Server("fake"),
            user=user or None,
            password=password if user else None,
            client_strategy=ldap3.MOCK_SYNC,
            check_names=False,
        )
        for dn, attributes in self.entries.items():
            found.strategy.add_entry(dn, dict(attributes))
        return found

    def _rested(self, connection: Any, do: Callable[[Any], T]) -> T:
        return do(connection)  # the next sees what was changed meanwhile

"""Consoles: an address with a token that opens a server's screen or serial line, once and for ten minutes.

https://docs.openstack.org/api-ref/compute/#server-consoles-servers-remote-consoles
A token belongs to a server on a host, never to a port that another may have later; it is kept as its hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec

from pileus.host.consoles_contract import PAGE, SOCKET
from pileus.kernel.faults import Conflict, Invalid, NotFound
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.runtime import Runtime
from pileus.kernel.schema import Body
from pileus.kernel.store import Match, Page, Record, Table
from pileus.kernel.world import stamp
from pileus.services.compute import checks
from pileus.services.compute.agent_contract import COMPUTE_HOST
from pileus.services.compute.driver import PAUSED, RUNNING
from pileus.services.compute.server import SERVERS, Server
from pileus.services.compute.servers.operations import ADMIN, MEMBER, PATH, OfServer

_RULE, _TOKENS = "os_compute_api:os-remote-consoles", "os_compute_api:os-console-auth-tokens"
GOOD_S = 600
_OLD_END = "2.6"
_VNC, _SERIAL = ("vnc", "novnc"), ("serial", "serial")
# Which versions know the word at all; of these, two are served.
_PROTOCOLS = {"vnc": (2, 6), "spice": (2, 6), "serial": (2, 6), "rdp": (2, 6), "mks": (2, 8)}
_KINDS = {
    "novnc": (2, 6),
    "xvpvnc": (2, 6),
    "spice-html5": (2, 6),
    "serial": (2, 6),
    "rdp-html5": (2, 6),
    "webmks": (2, 8),
    "spice-direct": (2, 99),
}


class ConsoleToken(Record, kw_only=True, frozen=True):
    """`id` is the token's hash."""

    server_id: str
    host: str
    protocol: str
    expires_at: str


CONSOLE_TOKENS = Table(
    "compute_console_tokens", ConsoleToken, columns=("expires_at",), noun="Token"
)


class GuestConsole(msgspec.Struct, frozen=True, kw_only=True):
    """What a token opens."""

    server_id: str
    host: str
    protocol: str


class CreateConsole(Body):
    root: ClassVar[str] = "remote_console"
    protocol: str
    type: str


class GetVnc(Body):
    root: ClassVar[str] = "os-getVNCConsole"
    type: str


class GetSerial(Body):
    root: ClassVar[str] = "os-getSerialConsole"
    type: str


class GetSpice(Body):
    root: ClassVar[str] = "os-getSPICEConsole"
    type: str


class KeptConsoles:
    """Keeps CONSOLES."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    async def open(self, token: str, path: str) -> None:
        found = await self.redeem(token)
        host = self.runtime.agents.proxy(COMPUTE_HOST, found.host)
        await host.open_console(found.server_id, found.protocol, path)

    async def redeem(self, token: str) -> GuestConsole:
        """What the token opens, this once. Raises NotFound."""
        async with self.runtime.store.tx() as tx:
            found = await CONSOLE_TOKENS.find(tx, _hash(token))
            if found is None:
                raise NotFound("Token not found")
            await CONSOLE_TOKENS.delete(tx, found)
            server = await SERVERS.find(tx, found.server_id)
            holds = server is not None and server.host == found.host and found.expires_at > tx.now
        if not holds:
            raise NotFound("Token not found")
        return GuestConsole(server_id=found.server_id, host=found.host, protocol=found.protocol)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


async def _issue(ctx: Context, server: Server, protocol: str) -> str:
    """A new token; those whose time is over go with it."""
    world = ctx.runtime.world
    token = f"{world.random.getrandbits(256):064x}"
    now = world.clock.time()
    fresh = ConsoleToken(
        id=_hash(token),
        server_id=server.id,
        host=server.host,
        protocol=protocol,
        expires_at=stamp(now + GOOD_S),
    )
    async with ctx.runtime.store.tx() as tx:
        over = Page({"expires_at": Match("le", stamp(now))}, (("id", False),), limit=100)
        for old in await CONSOLE_TOKENS.list(tx, over):
            await CONSOLE_TOKENS.delete(tx, old)
        await CONSOLE_TOKENS.insert(tx, fresh)
    return token


async def _url(ctx: Context, server: Server, protocol: str, kind: str, verb: str) -> str:
    """Raises Invalid for a kind of console that is not there, Conflict for a guest that does not run."""
    if (protocol, kind) not in (_VNC, _SERIAL):
        raise Invalid(f"Unavailable console type {kind}.")
    if server.image is not None and server.image.is_for_containers:
        raise Invalid(f"Unavailable console type {kind}: a container has no {protocol} console.")
    if not server.host:
        raise Conflict(f"Instance {server.id} is not ready")
    if server.power_state not in (RUNNING, PAUSED):
        raise Conflict(
            f"Cannot '{verb}' instance {server.id} while it is in vm_state {server.vm_state} and "
            f"power_state {server.power_state}; it must run."
        )
    token = await _issue(ctx, server, protocol)
    if protocol == "serial":
        return f"ws{ctx.root.removeprefix('http')}{SOCKET}?token={token}"
    path = quote(f"{SOCKET.removeprefix('/')}?token={token}", safe="")
    return f"{ctx.root}{PAGE}?path={path}"


class ServerConsoles(OfServer):
    rules: ClassVar[Mapping[str, str]] = {_RULE: MEMBER}

    @operation("POST", "/servers/{server_id}/remote-consoles", _RULE, status=200, since=_OLD_END)
    async def create(self, ctx: Context, server: Server, body: CreateConsole) -> dict[str, Any]:
        for field, words in (("protocol", _PROTOCOLS), ("type", _KINDS)):
            known = [word for word, since in words.items() if ctx.version >= since]
            if (given := getattr(body, field)) not in known:
                raise checks.wrong(field, given, f"{given!r} is not one of {known}")
        verb = f"get_{body.protocol}_console"
        url = await _url(ctx, server, body.protocol, body.type, verb)
        return {"remote_console": {"protocol": body.protocol, "type": body.type, "url": url}}

    @operation("POST", PATH, _RULE, action="os-getVNCConsole", status=200, until=_OLD_END)
    async def vnc(self, ctx: Context, server: Server, body: GetVnc) -> dict[str, Any]:
        url = await _url(ctx, server, "vnc", body.type, "get_vnc_console")
        return {"console": {"type": body.type, "url": url}}

    @operation("POST", PATH, _RULE, action="os-getSerialConsole", status=200, until=_OLD_END)
    async def serial(self, ctx: Context, server: Server, body: GetSerial) -> dict[str, Any]:
        url = await _url(ctx, server, "serial", body.type, "get_serial_console")
        return {"console": {"type": body.type, "url": url}}

    @operation("POST", PATH, _RULE, action="os-getSPICEConsole", status=200, until=_OLD_END)
    async def spice(self, ctx: Context, server: Server, body: GetSpice) -> dict[str, Any]:
        url = await _url(ctx, server, "spice", body.type, "get_spice_console")
        return {"console": {"type": body.type, "url": url}}


class ConsoleAuthTokens(Resource[ConsoleToken]):
    table = CONSOLE_TOKENS
    rules: ClassVar[Mapping[str, str]] = {_TOKENS: ADMIN}

    @operation("GET", "/os-console-auth-tokens/{console_token}", _TOKENS)
    async def show(self, ctx: Context, console_token: str) -> dict[str, Any]:
        """Does not use it up. Consoles are reached through control, by no port of a host's."""
        if ctx.version < (2, 31):
            raise Invalid("Tokens of this kind are shown since 2.31.")
        found = await CONSOLE_TOKENS.find(ctx.runtime.store, _hash(console_token))
        if found is None or found.expires_at <= ctx.runtime.world.clock.now():
            raise NotFound("Token not found")
        _, _, port = ctx.root.rpartition(":")
        return {
            "console": {
                "instance_uuid": found.server_id,
                "host": found.host,
                "port": int(port) if port.isdecimal() else 443 if "https" in ctx.root else 80,
                "internal_access_path": None,
            }
        }

"""HTTP: an ASGI application out of declarations; route, authenticate, negotiate, call, render.

A body is read when its operation is known, and by whom it is asked; what nobody asks for is never read.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from . import faults
from .access_rules import permits
from .auth import NOBODY, NOT_AUTHENTICATED, Caller
from .faults import Dialect, Fault, Invalid, NotFound, TooLarge, Unauthenticated
from .query import NO_QUERY, Query
from .resources import ZERO_COPY, Answer, Context, FilePart, Operation, Service, Stream
from .routes import Found, Route, Routes
from .runtime import Runtime
from .schema import parse
from .versions import UNVERSIONED

log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_UNEXPECTED = "Unexpected API Error. Please report its request's id to whoever runs this cloud."
_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
_NOT_FOUND = "The resource could not be found."


class Application:
    """ASGI: every operation of the enabled services.

    `/{project_id}` is taken out of a path where it may stand, so that every route is declared once.
    """

    def __init__(self, runtime: Runtime) -> None:
        self.runtime, self.routes = runtime, Routes()
        for service in runtime.services:
            for resource, op in service.operations():
                self.routes.add(service, resource, op)
        fronts = [re.escape(s.prefix + s.api) for s in runtime.services if s.optional_project]
        self._project = re.compile(f"({'|'.join(fronts or ['(?!)'])})/[0-9a-f]{{32}}(?=/)").match

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":  # no websocket is declared
            await send({"type": "websocket.close"})
            return
        request, values = _Request(scope, receive), list[str]()
        reply = _Reply(self.runtime.world.new_request_id())
        if m := self._project(request.path):
            request.path = m[1] + request.path[m.end() :]
        routes = self.routes.find(request.path.split("/"), values)
        method = request.method
        route = routes.get(method) or (routes.get("GET") if method == "HEAD" else None)
        if route is None or (request.slash and route.service.strict and not route.is_public):
            self._unrouted(request, reply, routes)
        else:
            await _respond(self.runtime, route, request, reply, values)
        await _send(request, reply, send)

    def _unrouted(self, request: _Request, reply: _Reply, routes: Mapping[str, Route]) -> None:
        """No such path, or not this method: in the dialect of the service whose prefix it has."""
        fault: Fault = NotFound(_NOT_FOUND)
        if request.method not in _METHODS:
            fault = Invalid(f"There is no method {request.method}.")
        elif routes and not request.slash:  # with the slash an id is missing: nothing has that path
            allow = ", ".join(sorted({"OPTIONS", *routes, *(["HEAD"] if "GET" in routes else ())}))
            if request.method == "OPTIONS":
                reply.headers["allow"] = allow
                return
            text = f"{request.method} is not for this path; {allow} are."
            fault = faults.MethodNotAllowed(text, headers={"allow": allow})
        path, services = request.path, self.runtime.services
        owner = next((s for s in services if path.startswith(s.prefix + "/")), None)
        _refuse(self.runtime, owner.dialect if owner else faults.NOVA, reply, fault)


class _Request:
    """`path` ends in no slash; `whole` has the project's id too that `path` is without."""

    __slots__ = ("headers", "is_read", "method", "path", "receive", "scope", "slash", "whole")

    def __init__(self, scope: dict[str, Any], receive: Any) -> None:
        self.scope, self.receive, self.is_read = scope, receive, False
        self.method: str = scope["method"]
        path: str = scope["path"]
        self.slash = path[-1:] == "/" != path
        self.path = self.whole = path[:-1] if self.slash else path
        self.headers: dict[str, str] = {}
        for name, value in scope["headers"]:
            key, text = name.decode("latin-1"), value.decode("latin-1")
            before = self.headers.get(key)  # a header that came in several lines is one list
            self.headers[key] = text if before is None else f"{before},{text}"

    @property
    def may_have_body(self) -> bool:
        return self.method not in ("GET", "HEAD", "DELETE") or "content-length" in self.headers

    @property
    def length(self) -> int:
        """Content-Length, or -1. Raises Invalid."""
        text = self.headers.get("content-length", "")
        if text and not (text.isascii() and text.isdecimal() and len(text) < 20):
            raise Invalid("Content-Length is not a number of bytes.")
        return int(text) if text else -1

    async def chunks(self) -> AsyncIterator[bytes]:
        self.is_read, more = True, True
        while more:
            event = await self.receive()
            if event["type"] == "http.disconnect":
                raise Invalid("The connection broke before the end of the request's body.")
            if event.get("body"):
                yield event["body"]
            more = event.get("more_body", False)

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises TooLarge."""
        if (length := self.length) > limit:
            raise TooLarge(f"Request is too large: the body may have {limit} bytes, not {length}.")
        parts, size = [], 0
        async for chunk in self.chunks():
            size += len(chunk)
            if size > limit:
                raise TooLarge(f"Request is too large: the body may have {limit} bytes.")
            parts.append(chunk)
        return b"".join(parts)


class _Reply(msgspec.Struct):
    request_id: str
    headers: dict[str, str] = {}
    cookies: list[str] = []
    status: int = 200
    data: bytes = b""
    stream: AsyncIterable[bytes] | None = None


async def _send(request: _Request, reply: _Reply, send: Any) -> None:
    sent, data, stream = reply.headers, reply.data, reply.stream
    sent["x-openstack-request-id"] = reply.request_id
    if reply.status != 204 and stream is None:
        sent.setdefault("content-length", str(len(data)))  # a HEAD may know it by itself
    if not request.is_read and "expect" in request.headers:
        sent["connection"] = "close"  # whether the body still comes, nobody knows
    headers = [(name.encode(), value.encode("latin-1")) for name, value in sent.items()]
    headers += [(b"set-cookie", cookie.encode("latin-1")) for cookie in reply.cookies]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    if request.method == "HEAD":
        data, stream = b"", None
    if isinstance(stream, FilePart) and ZERO_COPY in request.scope.get("extensions", ()):
        with stream.file:
            await send({"type": ZERO_COPY, **msgspec.structs.asdict(stream), "more_body": True})
    elif stream is not None:
        async for chunk in stream:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": data})


async def _respond(
    runtime: Runtime, route: Route, request: _Request, reply: _Reply, values: list[str]
) -> None:
    service, headers = route.service, request.headers
    if service.request_id_header:
        reply.headers[service.request_id_header] = reply.request_id
    reply.headers |= {"content-type": "application/json", **service.dialect.headers}
    try:
        at, versions = UNVERSIONED, service.versions
        if versions is not None:
            legacy = headers.get(versions.legacy.lower(), "")
            at = versions.negotiate(headers.get("openstack-api-version", ""), legacy)
        reply.headers.update(at.headers)
        caller = NOBODY if route.is_public else await _caller(runtime, service, request)
        asked: bytes = request.scope["query_string"]
        query = Query(asked.decode("latin-1")) if asked else NO_QUERY
        root, method, path = _root(runtime, request), request.method, request.path
        ctx = Context(
            runtime, service, caller, at, query, reply.request_id, root, headers, method, path
        )
        raw, stream, most = b"", None, route.max_body or service.max_body
        if request.may_have_body and not route.takes_stream:
            raw = await request.read(most)
        op, resource, names = _choose(route.found, ctx, raw)
        if op.stream_param:
            stream = Stream(request.chunks(), request.length, headers.get("content-type", ""))
        elif route.takes_stream and op.body is not None:  # the stream is another version's
            raw = await request.read(most)
        answer = await resource.call(ctx, op, dict(zip(names, values, strict=True)), raw, stream)
        _render(reply, op, answer)
    except Fault as e:
        _refuse(runtime, service.dialect, reply, e)
    except Exception:  # one of the three places
        path = route.found[0][0].path if route.is_public else request.path  # which tickets are in
        log.exception("%s %s %s", reply.request_id, request.method, path)
        bug = faults.Bug(f"{_UNEXPECTED} ({service.name} {reply.request_id})")
        _refuse(runtime, service.dialect, reply, bug)


async def _caller(runtime: Runtime, service: Service, request: _Request) -> Caller:
    """Raises Unauthenticated, also where an access rule is wanting."""
    headers, method = request.headers, request.method
    token = headers.get("x-auth-token") or _bearer(headers)
    caller = await runtime.callers.of(token, headers.get("x-service-token", ""))
    if caller.access_rules is not None and "service" not in caller.service_roles:
        path = request.whole.removeprefix(service.prefix)
        ruled = f"{method} {path.removeprefix(service.api)}" not in service.unruled
        types = (service.type, *service.aliases)
        if ruled and not permits(caller.access_rules, types, method, (path, request.whole)):
            text = f"no access rule permits {method} {request.whole}"
            raise Unauthenticated(NOT_AUTHENTICATED, internal=text)
    return caller


def _bearer(headers: Mapping[str, str]) -> str:
    """The token where OAuth 2.0 clients send it."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _choose(found: list[Found], ctx: Context, raw: bytes) -> Found:
    """The operation for this version and, where the body's key decides, this action."""
    op = found[0][0]
    if len(found) == 1 and not op.action and op.exists(ctx.version):
        return found[0]
    here = [f for f in found if f[0].exists(ctx.version)]
    if not op.action:
        if not here:
            raise NotFound(_NOT_FOUND)
        return here[0]
    ctx.document = parse(raw)
    if not isinstance(ctx.document, dict) or not ctx.document:
        raise Invalid("Malformed request body: it must be an object whose key is the action.")
    for one in here:
        if one[0].action in ctx.document:
            if len(ctx.document) > 1 and (one[0].body is None or one[0].body.root):
                raise Invalid(
                    "Additional properties are not allowed: the body names more than one action."
                )
            return one
    raise Invalid(f"There is no such action: {next(iter(ctx.document))}.")


def _render(reply: _Reply, op: Operation, answer: Any) -> None:
    status, sent = op.status, reply.headers
    if isinstance(answer, Answer):
        status = answer.status or status
        for name, value in answer.headers.items():
            if name == "set-cookie":
                reply.cookies.append(value)
            else:
                sent[name.lower()] = value
        if answer.content_type:
            sent["content-type"] = answer.content_type
        reply.stream, answer = answer.stream, answer.body
    if answer is not None:
        reply.data = answer if isinstance(answer, bytes) else _encode(answer)
    reply.status = status or (204 if answer is None and reply.stream is None else 200)
    if reply.status == 204:
        del sent["content-type"]


def _refuse(runtime: Runtime, dialect: Dialect, reply: _Reply, fault: Fault) -> None:
    status, sent = dialect.status(fault), reply.headers
    if fault.internal:
        log.info("%s answered %d: %s", reply.request_id, status, fault.internal)
    reply.status, reply.stream = status, None
    reply.data = dialect.encode(fault, status, reply.request_id)
    sent.pop("content-length", None)
    sent |= {"content-type": dialect.content_type, **dialect.headers}
    if status == 401:
        sent["www-authenticate"] = f'Keystone uri="{runtime.public_url}/identity"'
    if status in (413, 429, 503):
        sent["retry-after"] = "0"
    sent.update({name.lower(): value for name, value in fault.headers.items()})


def _root(runtime: Runtime, request: _Request) -> str:
    """The cloud's URL as this client spells it: what it was asked by, unless a public URL is set."""
    headers, scheme = request.headers, request.scope.get("scheme", "http")
    host = headers.get("x-forwarded-host") or headers.get("host", "")
    return _spelled(host, headers.get("x-forwarded-proto", ""), scheme) or runtime.public_url


@lru_cache(256)
def _spelled(host: str, proto: str, scheme: str) -> str:
    if not _HOST.fullmatch(host):
        return ""
    scheme = proto or scheme
    return f"{scheme if scheme in ('http', 'https') else 'http'}://{host}"


_HOST = re.compile(r"[A-Za-z0-9._\-\[\]:]{1,255}")

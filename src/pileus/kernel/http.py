"""HTTP on Falcon: routes out of declarations; authenticate, negotiate, call, render.

Parameter names are numbered by depth for the router, which refuses two names at one place, and given back their
declared names at the call. Operations that share a method and path differ by version or by the body's action key.
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any

import falcon.asgi
import msgspec
from falcon.asgi import Request, Response

from . import faults
from .access_rules import permits
from .auth import NOBODY, NOT_AUTHENTICATED, Caller
from .faults import Bug, Dialect, Fault, Invalid, NotFound, TooLarge, Unauthenticated
from .query import NO_QUERY, Query
from .resources import Answer, Context, Operation, Resource, Service, Stream
from .runtime import Runtime
from .schema import parse
from .versions import UNVERSIONED, Negotiated

log = logging.getLogger(__name__)
_encode = msgspec.json.Encoder().encode
_PARAM = re.compile(r"{(\w+)}")


def application(runtime: Runtime) -> Any:
    """The ASGI application of every enabled service."""
    app = falcon.asgi.App(request_type=_requests(runtime.services), response_type=Response)
    app.req_options.strip_url_path_trailing_slash = True
    app.req_options.auto_parse_form_urlencoded = False
    endpoints: dict[str, _Endpoint] = {}
    for service in runtime.services:
        for resource, op in service.operations():
            names = _PARAM.findall(op.path)
            route = _numbered(op.path)
            endpoint = endpoints.setdefault(route, _Endpoint(runtime, service))
            endpoint.add(op, resource, names)
    for route, endpoint in endpoints.items():
        app.add_route(route or "/", endpoint.finish())
    app.add_error_handler(falcon.HTTPError, _Unrouted(runtime).answer)
    return app


def _requests(services: Iterable[Service]) -> type[Request]:
    """What Falcon makes of a request here.

    `/{project_id}` is taken out of its path where it may stand, so that every route is declared once. And its body
    ends only where the client ended it: Falcon takes a broken connection for the end.
    """
    fronts = [re.escape(s.prefix + s.api) for s in services if s.optional_project]
    match = re.compile(f"({'|'.join(fronts or ['(?!)'])})/[0-9a-f]{{32}}(?=/)").match

    class Whole(Request):
        def __init__(self, scope: dict[str, Any], receive: Any, *args: Any, **more: Any) -> None:
            super().__init__(scope, partial(_unbroken, receive), *args, **more)
            self.whole_path = self.path
            if m := match(self.path):
                self.path = m[1] + self.path[m.end() :]

    return Whole


async def _unbroken(receive: Any) -> Any:
    event = await receive()
    if event["type"] == "http.disconnect":
        raise Invalid("The connection broke before the end of the request's body.")
    return event


def _numbered(path: str) -> str:
    parts = path.split("/")
    return "/".join(f"{{p{n}}}" if p.startswith("{") else p for n, p in enumerate(parts))


class _Endpoint:
    """All operations of one path: what Falcon calls a resource."""

    def __init__(self, runtime: Runtime, service: Service) -> None:
        self.runtime, self.service = runtime, service
        self.by_method: dict[str, list[tuple[Operation, Resource[Any], list[str]]]] = {}

    def add(self, op: Operation, resource: Resource[Any], names: list[str]) -> None:
        self.by_method.setdefault(op.method, []).append((op, resource, names))

    def finish(self) -> _Endpoint:
        for method, found in self.by_method.items():
            responder = _responder(self.runtime, self.service, found)
            setattr(self, "on_" + method.lower(), responder)
            if method == "GET" and "HEAD" not in self.by_method:
                self.on_head = _without_body(responder)
        return self


def _without_body(responder: Callable[..., Any]) -> Callable[..., Any]:
    async def on_head(req: Request, resp: Response, **params: str) -> None:
        await responder(req, resp, **params)
        if resp.status == 200 and resp.data is not None:
            resp.set_header("content-length", str(len(resp.data)))
        resp.data = None
        resp.stream = None

    return on_head


def _responder(
    runtime: Runtime, service: Service, found: list[tuple[Operation, Resource[Any], list[str]]]
) -> Callable[..., Any]:
    legacy = service.versions.legacy.lower().encode() if service.versions else b""
    extra_id = service.request_id_header
    dialect, public = service.dialect, all(not op.rule for op, _, _ in found)
    streaming = any(op.stream_param for op, _, _ in found)
    most = max(op.max_body for op, _, _ in found) or service.max_body

    async def respond(req: Request, resp: Response, **params: str) -> None:
        headers: dict[bytes, bytes] = req._asgi_headers  # get_header() decodes at every call
        request_id = runtime.world.new_request_id()
        sent: dict[str, str] = resp._headers  # set_header() checks what is known
        sent["x-openstack-request-id"] = request_id
        if extra_id:
            sent[extra_id] = request_id
        sent["content-type"] = "application/json"
        try:
            at = _negotiate(service, headers, legacy)
            sent.update(at.headers)
            caller = NOBODY
            if not public:
                caller = await _caller(runtime, service, req, headers)
            asked: bytes = req.scope["query_string"]
            query = Query(asked.decode("latin-1")) if asked else NO_QUERY
            root, known = _root(runtime, req, headers), _Headers(headers)
            ctx = Context(
                runtime, service, caller, at, query, request_id, root, known, req.method, req.path
            )
            raw = b""
            if not streaming and (
                req.method not in ("GET", "HEAD", "DELETE") or headers.get(b"content-length")
            ):
                raw = await _read(req, most)
            op, resource, names = _choose(found, ctx, raw)
            if streaming and op.body is not None:  # another version's operation takes the stream
                raw = await _read(req, most)
            stream = _stream(req, headers) if op.stream_param else None
            values = dict(zip(names, params.values(), strict=True))
            answer = await resource.call(ctx, op, values, raw, stream)
            _render(resp, op, answer)
        except Fault as e:
            _refuse(runtime, dialect, resp, e, request_id)
        except falcon.HTTPError:  # a header that Falcon cannot read
            raise
        except Exception:  # one of the three places
            log.exception("%s %s %s", request_id, req.method, req.path)
            _refuse(runtime, dialect, resp, _bug(service, request_id), request_id)

    return respond


async def _caller(
    runtime: Runtime, service: Service, req: Request, headers: dict[bytes, bytes]
) -> Caller:
    """Raises Unauthenticated, also where an access rule is wanting."""
    token = _text(headers.get(b"x-auth-token")) or _bearer(headers)
    also = _text(headers.get(b"x-service-token"))
    caller = await runtime.callers.of(token, also)
    if caller.access_rules is not None and "service" not in caller.service_roles:
        whole: str = req.whole_path  # type: ignore[attr-defined]
        path = whole.removeprefix(service.prefix)
        ruled = f"{req.method} {path.removeprefix(service.api)}" not in service.unruled
        types = (service.type, *service.aliases)
        if ruled and not permits(caller.access_rules, types, req.method, (path, whole)):
            raise Unauthenticated(
                NOT_AUTHENTICATED, internal=f"no access rule permits {req.method} {whole}"
            )
    return caller


def _bearer(headers: dict[bytes, bytes]) -> str:
    """The token where OAuth 2.0 clients send it."""
    kind, _, token = _text(headers.get(b"authorization")).partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _bug(service: Service, request_id: str) -> Bug:
    return Bug(
        "Unexpected API Error. Please report this with the request's id to whoever runs this cloud. "
        f"({service.name} {request_id})"
    )


def _negotiate(service: Service, headers: dict[bytes, bytes], legacy: bytes) -> Negotiated:
    if service.versions is None:
        return UNVERSIONED
    common = _text(headers.get(b"openstack-api-version"))
    return service.versions.negotiate(common, _text(headers.get(legacy)) if legacy else "")


def _choose(
    found: list[tuple[Operation, Resource[Any], list[str]]], ctx: Context, raw: bytes
) -> tuple[Operation, Resource[Any], list[str]]:
    """The operation for this version and, where the body's key decides, this action."""
    op = found[0][0]
    if len(found) == 1 and not op.action and op.exists(ctx.version):
        return found[0]
    here = [f for f in found if f[0].exists(ctx.version)]
    if not op.action:
        if not here:
            raise NotFound("The resource could not be found.")
        return here[0]
    ctx.document = parse(raw)
    if not isinstance(ctx.document, dict) or not ctx.document:
        raise Invalid(
            "Malformed request body: it must be an object whose key is the action's name."
        )
    for one in here:
        if one[0].action in ctx.document:
            if len(ctx.document) > 1 and (one[0].body is None or one[0].body.root):
                raise Invalid(
                    "Additional properties are not allowed: the body names more than one action."
                )
            return one
    raise Invalid(f"There is no such action: {next(iter(ctx.document))}.")


async def _read(req: Request, limit: int) -> bytes:
    length = req.content_length
    if length is not None and length > limit:
        raise TooLarge(f"Request is too large: the body may have {limit} bytes, not {length}.")
    parts, size = [], 0
    async for chunk in req.stream:
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"Request is too large: the body may have {limit} bytes.")
        parts.append(chunk)
    return b"".join(parts)


def _stream(req: Request, headers: Mapping[bytes, bytes]) -> Stream:
    async def chunks() -> AsyncIterator[bytes]:
        async for chunk in req.stream:
            if chunk:
                yield chunk

    length = req.content_length
    return Stream(chunks(), -1 if length is None else length, _text(headers.get(b"content-type")))


def _render(resp: Response, op: Operation, answer: Any) -> None:
    status, sent = op.status, resp._headers
    if isinstance(answer, Answer):
        status = answer.status or status
        for name, value in answer.headers.items():
            if name == "set-cookie":
                resp.append_header(name, value)
            else:
                sent[name.lower()] = value
        if answer.content_type:
            sent["content-type"] = answer.content_type
        resp.stream, answer = answer.stream, answer.body
    if answer is not None:
        resp.data = answer if isinstance(answer, bytes) else _encode(answer)
    resp.status = status or (204 if answer is None and resp.stream is None else 200)
    if resp.status == 204:
        del sent["content-type"]


def _refuse(
    runtime: Runtime, dialect: Dialect, resp: Response, fault: Fault, request_id: str
) -> None:
    status = dialect.status(fault)
    if fault.internal:
        log.info("%s answered %d: %s", request_id, status, fault.internal)
    resp.stream = None
    resp.status, resp.content_type = status, dialect.content_type
    resp.data = dialect.encode(fault, status, request_id)
    if status == 401:
        resp.set_header("www-authenticate", f'Keystone uri="{runtime.public_url}/identity"')
    if status in (413, 429, 503):
        resp.set_header("retry-after", "0")
    for name, value in fault.headers.items():
        resp.set_header(name, value)


def _root(runtime: Runtime, req: Request, headers: Mapping[bytes, bytes]) -> str:
    """The cloud's URL as this client spells it: what it was asked by, unless a public URL is set."""
    host = headers.get(b"x-forwarded-host") or headers.get(b"host")
    found = _spelled(host, headers.get(b"x-forwarded-proto"), req.scope.get("scheme", "http"))
    return found or runtime.public_url


@lru_cache(256)
def _spelled(host: bytes | None, proto: bytes | None, scheme: str) -> str:
    if host is None or not _HOST.fullmatch(host):
        return ""
    scheme = _text(proto) or scheme
    return f"{scheme if scheme in ('http', 'https') else 'http'}://{_text(host)}"


_HOST = re.compile(rb"[A-Za-z0-9._\-\[\]:]{1,255}")


def _text(value: bytes | None) -> str:
    return value.decode("latin-1") if value is not None else ""


class _Headers(Mapping[str, str]):
    """Request headers by lower-case name."""

    def __init__(self, raw: Mapping[bytes, bytes]) -> None:
        self._raw = raw

    def __getitem__(self, name: str) -> str:
        return self._raw[name.lower().encode()].decode("latin-1")

    def __iter__(self) -> Any:
        return (k.decode("latin-1") for k in self._raw)

    def __len__(self) -> int:
        return len(self._raw)


class _Unrouted:
    """What Falcon itself refuses (no such path, wrong method), in the dialect of the service whose prefix it has."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    async def answer(
        self, req: Request, resp: Response, error: falcon.HTTPError, params: dict[str, Any]
    ) -> None:
        request_id = self.runtime.world.new_request_id()
        dialect = next(
            (s.dialect for s in self.runtime.services if req.path.startswith(s.prefix + "/")),
            faults.NOVA,
        )
        status, text = error.status_code, error.description or error.title or ""
        if status == 405 and req.scope["path"].endswith("/"):
            status = 404  # an id is missing: nothing has that path
        if status == 404:
            text = "The resource could not be found."
        kind = next((f for f in Fault.__subclasses__() if f.status == status), Invalid)
        if status == 401:
            kind, text = Unauthenticated, NOT_AUTHENTICATED
        fault = kind.__new__(kind)
        Fault.__init__(fault, text)
        resp.set_header("x-openstack-request-id", request_id)
        for name, value in dict(error.headers or {}).items():
            resp.set_header(name, value)
        _refuse(self.runtime, dialect, resp, fault, request_id)

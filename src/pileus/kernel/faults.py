"""The error vocabulary, free of transport, and the dialects in which each API spells an error.

A subclass exists only where code treats it differently. `message` is for the caller and says what was wrong, with
values, and what would be right; `internal` goes to the log only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec


class Fault(Exception):
    """An error that a caller may see. `status` is the HTTP status unless the dialect knows better."""

    status = 500
    title = "Internal Server Error"

    def __init__(
        self,
        message: str = "",
        *,
        code: str = "",
        internal: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message or self.title)
        self.message = message or self.title
        self.code = code  # a dialect's own name of it: placement's code, Neutron's type
        self.internal = internal
        self.headers = dict(headers or {})


class Invalid(Fault):
    status, title = 400, "Bad Request"


class Unauthenticated(Fault):
    status, title = 401, "Unauthorized"


class Forbidden(Fault):
    status, title = 403, "Forbidden"


class NotFound(Fault):
    status, title = 404, "Not Found"


class MethodNotAllowed(Fault):
    status, title = 405, "Method Not Allowed"


class NotAcceptable(Fault):
    status, title = 406, "Not Acceptable"


class Conflict(Fault):
    status, title = 409, "Conflict"


class Stale(Conflict):
    """A compare-and-swap lost: load the record again and retry."""


class OverQuota(Fault):
    """The status and the wording belong to the dialect: Nova 403, Neutron 409, Cinder and Glance 413."""

    status, title = 403, "Forbidden"

    def __init__(self, resource: str, asked: int, used: int, limit: int) -> None:
        super().__init__(
            f"Quota exceeded for {resource}: Requested {asked},"
            f" but already used {used} of {limit} {resource}"
        )
        self.resource, self.asked, self.used, self.limit = resource, asked, used, limit


class NoCapacity(Fault):
    """No host has room; `message` names each host and why it was passed over."""

    status, title = 409, "Conflict"


class Gone(Fault):
    status, title = 410, "Gone"


class PreconditionFailed(Fault):
    status, title = 412, "Precondition Failed"


class TooLarge(Fault):
    status, title = 413, "Request Entity Too Large"


class Unsupported(Fault):
    """The body's media type is not one this operation takes."""

    status, title = 415, "Unsupported Media Type"


class RateLimited(Fault):
    status, title = 429, "Too Many Requests"


class NotImplementedYet(Fault):
    """A true name of the API that this cloud does not serve."""

    status, title = 501, "Not Implemented"


class Unavailable(Fault):
    status, title = 503, "Service Unavailable"


class Bug(Fault):
    """Ours: the inside story is in the log under the request id."""


Encode = Callable[[Fault, int, str], bytes]


@dataclass(frozen=True)
class Dialect:
    """How one project spells errors. `statuses` overrides the status of a kind of fault."""

    name: str
    encode: Encode  # (fault, status, request id) -> body
    statuses: Mapping[type[Fault], int] = field(default_factory=dict)
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)  # of every answer
    denied: str = "Policy doesn't allow {rule} to be performed."  # the text of a 403

    def forbidden(self, rule: str) -> Forbidden:
        """The answer to whom `rule` denies; it names the rule."""
        return Forbidden(self.denied.format(rule=rule))

    def status(self, fault: Fault) -> int:
        for kind in type(fault).__mro__:
            if kind in self.statuses:
                return self.statuses[kind]
        return fault.status


_TITLES = {f.status: f.title for f in Fault.__subclasses__()} | {500: "Internal Server Error"}
_NOVA = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    429: "overLimit",
    501: "notImplemented",
    503: "serviceUnavailable",
}


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)


def _nova(fault: Fault, status: int, request_id: str) -> bytes:
    if status == 406:
        error = {
            "request_id": request_id,
            "code": "",
            "status": status,
            "title": "Not Acceptable",
            "detail": fault.message,
            "links": [],
        }
        return _json({"errors": [error]})
    return _json({_NOVA.get(status, "computeFault"): {"code": status, "message": fault.message}})


def _cinder(fault: Fault, status: int, request_id: str) -> bytes:
    return _json({_NOVA.get(status, "computeFault"): {"code": status, "message": fault.message}})


def _keystone(fault: Fault, status: int, request_id: str) -> bytes:
    title = _TITLES.get(status, fault.title)
    return _json({"error": {"code": status, "message": fault.message, "title": title}})


def _neutron(fault: Fault, status: int, request_id: str) -> bytes:
    kind = fault.code or {
        400: "HTTPBadRequest",
        401: "Unauthorized",
        403: "PolicyNotAuthorized",
        404: "HTTPNotFound",
        409: "OverQuota" if isinstance(fault, OverQuota) else "Conflict",
        412: "RevisionNumberConstraintFailed",
    }.get(status, "HTTPInternalServerError")
    message = fault.message
    if isinstance(fault, OverQuota):
        message = f"Quota exceeded for resources: ['{fault.resource}']."
    return _json({"NeutronError": {"type": kind, "message": message, "detail": ""}})


def _glance(fault: Fault, status: int, request_id: str) -> bytes:
    title = _TITLES.get(status, fault.title)
    return (
        f"<html>\n <head>\n  <title>{status} {title}</title>\n </head>\n <body>\n"
        f"  <h1>{status} {title}</h1>\n  {_html(fault.message)}<br /><br />\n\n\n\n </body>\n</html>"
    ).encode()


def _html(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _placement(fault: Fault, status: int, request_id: str) -> bytes:
    error = {
        "status": status,
        "title": _TITLES.get(status, fault.title),
        "detail": fault.message,
        "code": fault.code or "placement.undefined_code",
        "request_id": request_id,
    }
    return _json({"errors": [error]})


NOVA = Dialect("nova", _nova, {OverQuota: 403, NoCapacity: 500})
CINDER = Dialect("cinder", _cinder, {OverQuota: 413})
KEYSTONE = Dialect(
    "keystone",
    _keystone,
    {OverQuota: 403},
    headers={"vary": "X-Auth-Token"},
    denied="You are not authorized to perform the requested action: {rule}.",
)
NEUTRON = Dialect(
    "neutron", _neutron, {OverQuota: 409}, denied="(rule:{rule}) is disallowed by policy"
)
GLANCE = Dialect(
    "glance",
    _glance,
    {OverQuota: 413},
    "text/html; charset=UTF-8",
    denied="You are not authorized to complete {rule} action.",
)
PLACEMENT = Dialect("placement", _placement)

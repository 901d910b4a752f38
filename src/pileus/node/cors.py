"""Cross-origin requests: which pages of which sites a browser lets speak to the cloud (fetch.spec.whatwg.org).

Off unless the operator names origins. The answers are those of OpenStack's own middleware: a preflight is always 200,
and what is not allowed shows in the headers that are missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from pileus.kernel.faults import Invalid

ANY = "*"
MAX_AGE_S = 3600
METHODS = ("OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "PATCH")
SENT = (  # what a page may send
    "accept", "accept-language", "cache-control", "content-language", "content-type", "expires",
    "last-modified", "if-match", "if-none-match", "openstack-api-version", "pragma", "range",
    "x-auth-token", "x-openstack-nova-api-version", "x-openstack-request-id", "x-service-token",
    "x-subject-token",
)  # fmt: skip
SHOWN = (  # what of the answer a page may read
    "Content-Disposition", "Content-Range", "ETag", "Link", "Location", "OpenStack-API-Version",
    "X-Auth-Token", "X-Compute-Request-Id", "X-OpenStack-Nova-API-Version",
    "X-OpenStack-Request-ID", "X-Subject-Token",
)  # fmt: skip
Headers = list[tuple[bytes, bytes]]


def cross_origin(app: Any, origins: Iterable[str]) -> Any:
    """The application, open to pages of these origins (`https://HOST[:PORT]`, or `*`). Raises Invalid."""
    allowed = frozenset(_checked(origin) for origin in origins)
    return CrossOrigin(app, allowed) if allowed else app


def _checked(origin: str) -> str:
    parts = urlsplit(origin)
    if origin != ANY and (parts.scheme not in ("http", "https") or not parts.netloc or parts.path):
        raise Invalid(f"{origin!r} is not an origin; https://dashboard.example.org or * would be.")
    return origin


class CrossOrigin:
    """ASGI: answers preflights, and adds to the answers of other requests what a browser asks for."""

    def __init__(self, app: Any, allowed: frozenset[str]) -> None:
        self.app, self.allowed = app, allowed

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        asked = _asked(scope)
        if "origin" not in asked:
            await self.app(scope, receive, send)
        elif scope["method"] == "OPTIONS" and "access-control-request-method" in asked:
            headers = [*self._preflight(asked), (b"content-length", b"0")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
        else:
            more = self._plain(asked["origin"])

            async def sent(message: dict[str, Any]) -> None:
                if message["type"] == "http.response.start":
                    message = {**message, "headers": [*message["headers"], *more]}
                await send(message)

            await self.app(scope, receive, sent)

    def _admits(self, origin: str) -> Headers:
        """The origin by its name, never `*`: a browser sends no credentials to that."""
        if origin not in self.allowed and ANY not in self.allowed:
            return []
        return _named(
            {
                "access-control-allow-origin": origin,
                "access-control-allow-credentials": "true",
                "vary": "Origin",
            }
        )

    def _plain(self, origin: str) -> Headers:
        found = self._admits(origin)
        return found and found + _named({"access-control-expose-headers": ",".join(SHOWN)})

    def _preflight(self, asked: Mapping[str, str]) -> Headers:
        method = asked["access-control-request-method"]
        wanted = asked.get("access-control-request-headers", "")
        names = [name.strip() for name in wanted.split(",") if name.strip()]
        if method not in METHODS or any(name.lower() not in SENT for name in names):
            return []
        found = self._admits(asked["origin"])
        more = {"access-control-allow-methods": method, "access-control-max-age": str(MAX_AGE_S)}
        if names:
            more["access-control-allow-headers"] = ",".join(names)
        return found and found + _named(more)


def _asked(scope: Mapping[str, Any]) -> dict[str, str]:
    """The headers of an HTTP request; of anything else none."""
    if scope["type"] != "http":
        return {}
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _named(headers: Mapping[str, str]) -> Headers:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]

"""Other services' own APIs, asked from inside as the caller: for Nova's old names of what is theirs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pileus.kernel.faults import Bug, Unavailable
from pileus.kernel.query import Query
from pileus.kernel.resources import Context, Operation, Resource, Service
from pileus.kernel.versions import UNVERSIONED

_PARAM = re.compile(r"{(\w+)}")


async def ask(ctx: Context, service_type: str, method: str, url: str, body: Any = None) -> Any:
    """The answer's body, at that API's lowest version; `url` is below its endpoint. Raises what it refuses with."""
    service = next((s for s in ctx.runtime.services if s.type == service_type), None)
    if service is None:
        raise Unavailable(f"The {service_type} service is not enabled in this cloud.")
    parts = urlsplit(url)
    path = service.prefix + service.api + parts.path
    resource, op, params = _operation(service, method, path)
    at, query = UNVERSIONED, Query(parts.query)
    inner = Context(ctx.runtime, service, ctx.caller, at, query, ctx.request_id, ctx.root, {})
    inner.method, inner.path, inner.document = method, path, body
    found = await resource.call(inner, op, params, b"", None)
    return msgspec.json.decode(found if isinstance(found, bytes) else msgspec.json.encode(found))


def _operation(
    service: Service, method: str, path: str
) -> tuple[Resource[Any], Operation, Mapping[str, str]]:
    for resource, op in service.operations():
        pattern = _PARAM.sub(r"(?P<\1>[^/]+)", op.path)
        if op.method == method and (m := re.fullmatch(pattern, path)):
            return resource, op, m.groupdict()
    raise Bug(f"{service.type} does not serve {method} {path}")

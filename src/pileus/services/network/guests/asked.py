"""Network's own API, asked from inside as a caller: for other services' old names of what is network's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pileus.kernel.auth import Caller
from pileus.kernel.faults import Bug
from pileus.kernel.query import Query
from pileus.kernel.resources import Context, Operation, Resource, Service
from pileus.kernel.runtime import Runtime
from pileus.kernel.versions import UNVERSIONED

_PARAM = re.compile(r"{(\w+)}")


async def ask(runtime: Runtime, caller: Caller, method: str, url: str, body: Any) -> Any:
    """The answer's body. `url` is below `/v2.0`. Raises what is refused."""
    service = next(s for s in runtime.services if s.type == "network")
    parts = urlsplit(url)
    path = service.prefix + service.api + parts.path
    resource, op, params = _operation(service, method, path)
    ctx = Context(
        runtime, service, caller, UNVERSIONED, Query(parts.query), "", "", {}, method, path
    )
    ctx.document = body
    found = await resource.call(ctx, op, params, b"", None)
    return msgspec.json.decode(found) if isinstance(found, bytes) else found


def _operation(
    service: Service, method: str, path: str
) -> tuple[Resource[Any], Operation, Mapping[str, str]]:
    for resource, op in service.operations():
        pattern = _PARAM.sub(r"(?P<\1>[^/]+)", op.path)
        if op.method == method and (m := re.fullmatch(pattern, path)):
            return resource, op, m.groupdict()
    raise Bug(f"network does not serve {method} {path}")

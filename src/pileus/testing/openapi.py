"""OpenAPI documents out of the declarations: `make openapi` writes one for each service.

A document describes the service's highest microversion. Every error is a `4XX` in the service's dialect, and a list
takes what its `Listing` declares; both are what the code does, as it is read from the same places.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from pileus.kernel.query import Listing
from pileus.kernel.resources import PUBLIC, Answer, Operation, Resource, Service
from pileus.kernel.schema import REFUSE, Body, absent
from pileus.kernel.versions import NO_VERSION, Version, spelled, version
from pileus.node.control import find_services

JSON = "application/json"
ANYTHING = "*/*"
TEXT = {"type": "string"}
_PARAM = re.compile(r"{(\w+)}")
_TYPES = {bool: "boolean", int: "integer", str: "string"}
Document = dict[str, Any]


def document(service: Service) -> Document:
    """The whole service at its highest microversion."""
    high = version(service.versions.high) if service.versions else NO_VERSION
    paths: dict[str, Document] = {}
    schemas: Document = {}
    for resource, op in service.operations():
        if op.exists(high):
            known = paths.setdefault(op.path or "/", {})
            entry = known.setdefault(op.method.lower(), _entry(service, resource, op))
            entry["responses"] |= dict(_successes(op))
            _add_body(entry, op, schemas, high)
    return {
        "openapi": "3.1.0",
        "info": {"title": service.type, "version": spelled(high)},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"}
            },
        },
    }


def _entry(service: Service, resource: Resource[Any], op: Operation) -> Document:
    """What operations have in common that differ by the action in the body."""
    return {
        "operationId": f"{op.method} {op.path}",
        "security": [] if op.rule == PUBLIC else [{"token": []}],
        "parameters": list(_parameters(service, resource, op)),
        "responses": {
            "4XX": {"description": "Refused.", "content": {service.dialect.content_type: {}}}
        },
    }


def _successes(op: Operation) -> Iterator[tuple[str, Document]]:
    """An `Answer` names status and type itself; anything else is JSON, or nothing."""
    returned = get_type_hints(op.call).get("return")
    if returned is type(None):
        yield str(op.status or 204), {"description": "Done."}
    elif returned is Answer or (returned is Any and not op.status):
        if not op.status:
            yield "204", {"description": "Done."}
        for status in [str(op.status)] if op.status else ["2XX", "3XX"]:
            yield status, {"description": "Done.", "content": {ANYTHING: {}}}
    else:
        yield str(op.status or 200), {"description": "Done.", "content": {JSON: {}}}


def _parameters(service: Service, resource: Resource[Any], op: Operation) -> Iterator[Document]:
    for name in _PARAM.findall(op.path):
        yield {"name": name, "in": "path", "required": True, "schema": TEXT}
    if op.method == "GET" and not op.record_param:
        for name, schema in _query(resource.listing).items():
            yield {"name": name, "in": "query", "schema": schema}
    if service.versions is not None:
        spoken = f"{service.versions.names[0]} {service.versions.high}"
        schema = {"type": "string", "enum": [spoken]}
        where = {"name": "OpenStack-API-Version", "in": "header", "required": True}
        yield {**where, "schema": schema}


def _query(listing: Listing) -> dict[str, Document]:
    if not listing.filters and not listing.sorts:
        return {}
    found: dict[str, Document] = {
        name: {"type": _TYPES[filter.kind]} for name, filter in listing.filters.items()
    }
    found["limit"] = {"type": "integer", "minimum": 0, "maximum": 999_999_999}
    found["marker"] = TEXT
    if listing.sorts:
        found["sort_key"] = {"type": "string", "enum": sorted(listing.sorts)}
        found["sort_dir"] = {"type": "string", "enum": ["asc", "desc"]}
    return found


def _add_body(entry: Document, op: Operation, schemas: Document, at: Version) -> None:
    if op.stream_param:
        content = {ANYTHING: {"schema": {"type": "string", "format": "binary"}}}
        entry["requestBody"] = {"content": content}
    elif op.body is not None or op.action:
        empty: Document = {"required": True, "content": {JSON: {"schema": {"oneOf": []}}}}
        body = entry.setdefault("requestBody", empty)
        body["content"][JSON]["schema"]["oneOf"].append(_shape(op, schemas, at))


def _shape(op: Operation, schemas: Document, at: Version) -> Document:
    """What the whole body looks like."""
    if op.body is None:
        return _under(op.action, {})
    inner = _schema(op.body, schemas, at)
    if op.action:
        return _under(op.action, inner) if op.body.root else inner
    one = _under(op.body.root, inner, op.body.beside) if op.body.root else inner
    if not op.many:
        return one
    return {"anyOf": [one, _under(op.body.plural, {"type": "array", "items": inner})]}


def _under(key: str, inner: Document, beside: tuple[str, ...] = ()) -> Document:
    return {
        "type": "object",
        "required": [key],
        "properties": {key: inner, **{name: {} for name in beside}},
        "additionalProperties": False,
    }


def _schema(kind: type[Body], schemas: Document, at: Version) -> Document:
    """A reference to the body's schema, which joins `schemas` with all that it refers to."""
    module = ".".join(kind.__module__.split(".")[-2:])
    where = f"#/components/schemas/{module}.{{name}}"
    (reference,), parts = msgspec.json.schema_components([kind], ref_template=where)
    own = parts[kind.__name__]
    for _, name in absent(kind, at):
        own["properties"].pop(name)
    own["additionalProperties"] = kind.unknown is not REFUSE
    prefix = where.rpartition("/")[2]
    schemas |= {prefix.format(name=name): part for name, part in parts.items()}
    return reference


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for service in find_services():
        path = folder / f"{service.type}.json"
        path.write_text(json.dumps(document(service), indent=1))
        print(f"wrote {path}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

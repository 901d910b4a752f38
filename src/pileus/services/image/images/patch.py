"""Image PATCH: JSON patch in two dialects, of which only flat paths and three verbs are taken.

`application/openstack-images-v2.0-json-patch` names the verb by the key that holds the path (and adding what is there
is a conflict); `...-v2.1-json-patch` is RFC 6902's way.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from pileus.kernel.faults import Conflict, Forbidden, Invalid, Unsupported

from .. import attributes
from ..record import IMPORTING, QUEUED, Image

MEDIA_TYPES = (
    "application/openstack-images-v2.0-json-patch",
    "application/openstack-images-v2.1-json-patch",
)
VERBS = ("add", "remove", "replace")
_ADJACENT = re.compile(r"/\s*/")
_BAD_ESCAPE = re.compile(r"~(?![01])")


@dataclass(frozen=True)
class Change:
    verb: str
    name: str
    value: Any
    strict: bool  # v2.0: `add` is for what isn't there
    at: str = ""  # the place in the list that is changed


def dialect(content_type: str) -> bool:
    """Whether a media type is the v2.0 dialect. Raises Unsupported for one that is neither."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind not in MEDIA_TYPES:
        allowed = ", ".join(MEDIA_TYPES)
        raise Unsupported(
            f"Image PATCH expects Content-Type one of: {allowed}", headers={"accept-patch": allowed}
        )
    return kind == MEDIA_TYPES[0]


def changes(document: Any, strict: bool) -> list[Change]:
    """The changes that a body asks for, each allowed by itself. Raises Invalid, Forbidden."""
    if not isinstance(document, list):
        raise Invalid("Request body must be a JSON array of operation objects.")
    return [_change(one, strict) for one in document]


def _change(raw: Any, strict: bool) -> Change:
    if not isinstance(raw, dict):
        raise Invalid("Operations must be JSON objects.")
    verb, path = _verb_and_path(raw, strict)
    parts = _parts(path)
    name = parts[0]
    if len(parts) != (2 if name == "locations" and verb != "replace" else 1):
        raise Invalid(f"Invalid JSON pointer for this resource: '/{'/'.join(parts)}'")
    if name == "locations":
        if verb != "remove" and "value" not in raw:
            raise _valueless(verb)
        return Change(verb, name, raw.get("value"), strict, parts[-1])
    attributes.check_name(name)
    if verb == "remove":
        return Change(verb, name, None, strict)
    if "value" not in raw:
        raise _valueless(verb)
    attributes.check(name, raw["value"])
    return Change(verb, name, raw["value"], strict)


def _valueless(verb: str) -> Invalid:
    return Invalid(f'Operation "{verb}" requires a member named "value".')


def _verb_and_path(raw: dict[str, Any], strict: bool) -> tuple[str, Any]:
    if strict:
        verbs = [v for v in VERBS if v in raw]
        if len(verbs) != 1:
            raise Invalid(
                "Operation objects must contain exactly one member named "
                '"add", "remove", or "replace".'
            )
        return verbs[0], raw[verbs[0]]
    verb = raw.get("op")
    if verb not in VERBS:
        raise Invalid(
            f"Invalid operation: `{verb}`. It must be one of the following: {', '.join(VERBS)}."
        )
    if "path" not in raw:
        raise Invalid("Unable to find 'path' in JSON Schema change")
    return verb, raw["path"]


def _parts(pointer: Any) -> list[str]:
    """A JSON pointer's parts, unescaped. Raises Invalid."""
    if not isinstance(pointer, str) or not pointer.startswith("/"):
        raise Invalid(f'Pointer `{pointer}` does not start with "/".')
    if _ADJACENT.search(pointer) or not pointer[1:].strip():
        raise Invalid(f'Pointer `{pointer}` contains adjacent "/" or no name.')
    if pointer.endswith("/"):
        raise Invalid(f'Pointer `{pointer}` end with "/".')
    if _BAD_ESCAPE.search(pointer):
        raise Invalid(f'Pointer `{pointer}` contains "~" not part of a recognized escape sequence.')
    parts = pointer[1:].split("/")
    return [p.replace("~1", "/").replace("~0", "~").strip() for p in parts]


def applied(image: Image, asked: list[Change]) -> dict[str, Any]:
    """What the changes make of the image: its changed fields. Raises Conflict, Forbidden, TooLarge."""
    fields: dict[str, Any] = {}
    properties = dict(image.properties)
    for one in asked:
        if one.name == "locations":
            continue  # see there
        if one.name in attributes.SETTABLE:
            fields[one.name] = _attribute(image, one)
        else:
            _property(properties, one)
    if properties != image.properties:
        fields["properties"] = properties
    attributes.check_numbers(fields.get("tags", ()), properties)
    return fields


def _attribute(image: Image, change: Change) -> Any:
    name, value = change.name, change.value
    if change.verb == "remove":
        raise Forbidden(f"Property {name} may not be removed.")
    if change.verb == "add" and change.strict:
        raise Conflict(f"Property {name} already present.")
    fixed = name in ("disk_format", "container_format") and image.status not in (QUEUED, IMPORTING)
    if fixed and value != getattr(image, name):
        raise Forbidden(f"Attribute {name} can be only replaced for a queued image.")
    if name == "tags":
        return attributes.unique(value)
    return value or "" if name == "owner" else value


def _property(properties: dict[str, str], change: Change) -> None:
    there = change.name in properties
    if change.verb != "add" and not there:
        raise Conflict(f"Property {change.name} does not exist.")
    if change.verb == "add" and there and change.strict:
        raise Conflict(f"Property {change.name} already present.")
    if change.verb == "remove":
        del properties[change.name]
    else:
        properties[change.name] = change.value

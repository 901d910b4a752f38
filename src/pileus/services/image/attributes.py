"""What an image may be given: the attributes' types and limits, reserved names, properties and tags."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from pileus.kernel.faults import Forbidden, Invalid, TooLarge

from .record import CONTAINER_FORMATS, DISK_FORMATS, VISIBILITIES

READ_ONLY = frozenset(
    (
        "created_at",
        "updated_at",
        "status",
        "checksum",
        "size",
        "virtual_size",
        "direct_url",
        "self",
        "file",
        "schema",
        "stores",
        "id",
        "os_hash_algo",
        "os_hash_value",
    )
)
RESERVED = frozenset(("location", "locations", "deleted", "deleted_at"))
SETTABLE = (
    "name",
    "visibility",
    "protected",
    "os_hidden",
    "owner",
    "container_format",
    "disk_format",
    "min_ram",
    "min_disk",
    "tags",
)
LIMIT = 128  # properties, tags and members of one image, each
_NAME = 255
_VALUE = 65_535
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.I)
_MAX = (1 << 31) - 1


def _wrong(name: str, value: object, why: str) -> Invalid:
    return Invalid(f"Provided object does not match schema 'image': {value!r} {why} ({name}).")


def _text(name: str, value: object) -> None:
    if value is not None and not isinstance(value, str):
        raise _wrong(name, value, "is not of type 'null', 'string'")
    if isinstance(value, str) and len(value) > _NAME:
        raise _wrong(name, value[:40] + "...", f"is longer than {_NAME} characters")


def _flag(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise _wrong(name, value, "is not of type 'boolean'")


def _count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(name, value, "is not of type 'integer'")
    if not 0 <= value <= _MAX:
        raise Invalid(f"Invalid value {value} for {name}: it must be between 0 and {_MAX}.")


def _among(allowed: Sequence[str], *, null: bool) -> Callable[[str, object], None]:
    def check(name: str, value: object) -> None:
        if not (value in allowed if isinstance(value, str) else null and value is None):
            shown = [None, *allowed] if null else list(allowed)
            raise _wrong(name, value, f"is not one of {shown}")

    return check


def _tags(name: str, value: object) -> None:
    if not isinstance(value, list):
        raise _wrong(name, value, "is not of type 'array'")
    for one in value:
        if not isinstance(one, str):
            raise _wrong(name, one, "is not of type 'string'")
        _text(name, one)


_CHECKS: dict[str, Callable[[str, object], None]] = {
    "name": _text,
    "owner": _text,
    "visibility": _among(VISIBILITIES, null=False),
    "protected": _flag,
    "os_hidden": _flag,
    "container_format": _among(CONTAINER_FORMATS, null=True),
    "disk_format": _among(DISK_FORMATS, null=True),
    "min_ram": _count,
    "min_disk": _count,
    "tags": _tags,
}


def check(name: str, value: object) -> None:
    """One attribute or property. Raises Invalid."""
    if name in _CHECKS:
        _CHECKS[name](name, value)
        return
    if not isinstance(value, str):
        raise _wrong(name, value, "is not of type 'string'")
    if len(value) > _VALUE:
        raise Invalid(f"The value of property {name} has {len(value)} characters; {_VALUE} fit.")


def check_name(name: str) -> None:
    """A name that a caller wants to set. Raises Forbidden for one that is not his to set, Invalid."""
    if name in READ_ONLY:
        raise Forbidden(f"Attribute '{name}' is read-only.")
    if name in RESERVED or name.startswith("os_glance_"):
        raise Forbidden(f"Attribute '{name}' is reserved.")
    if len(name) > _NAME:
        raise Invalid("Custom property should not be greater than 255 characters.")


def check_id(id: object) -> str:
    """Raises Invalid."""
    if not isinstance(id, str) or not _UUID.fullmatch(id):
        raise _wrong("id", id, "does not match the pattern of a UUID")
    return id


def check_numbers(tags: Sequence[str], properties: dict[str, Any]) -> None:
    """Raises TooLarge for more than an image may have."""
    if len(tags) > LIMIT:
        raise TooLarge(f"The limit has been exceeded on the number of allowed image tags: {LIMIT}")
    if len(properties) > LIMIT:
        raise TooLarge(
            f"The limit has been exceeded on the number of allowed image properties: "
            f"Attempted: {len(properties)}, Maximum: {LIMIT}"
        )


def unique(tags: Sequence[str]) -> list[str]:
    return sorted(set(tags))

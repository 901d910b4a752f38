"""How placement words what it answers: the headers of version 1.15, error codes, and checks of query strings."""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection
from email.utils import formatdate
from typing import Any

from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.resources import Answer, Context
from pileus.kernel.world import seconds_of

CONCURRENT_UPDATE = "placement.concurrent_update"
INVENTORY_IN_USE = "placement.inventory.inuse"
PROVIDER_IN_USE = "placement.resource_provider.inuse"
PROVIDER_HAS_CHILDREN = "placement.resource_provider.cannot_delete_parent"
DUPLICATE_NAME = "placement.duplicate_name"
MISSING_VALUE = "placement.query.missing_value"
BAD_VALUE = "placement.query.bad_value"
DUPLICATE_KEY = "placement.query.duplicate_key"
PROVIDER_NOT_FOUND = "placement.resource_provider.not_found"

_CUSTOM = re.compile(r"CUSTOM_[A-Z0-9_]+")
_NAME = re.compile(r"[A-Z0-9_]+")


def answer(
    ctx: Context, body: Any = None, status: int = 0, *, changed_at: str = "", location: str = ""
) -> Answer:
    """An answer with `Last-Modified` and `Cache-Control` where the version has them. `location` is a path."""
    headers = {"location": ctx.root + location} if location else {}
    if ctx.version >= (1, 15):
        clock = ctx.runtime.world.clock
        at = seconds_of(changed_at) if changed_at else clock.time()
        headers |= {"last-modified": formatdate(at, usegmt=True), "cache-control": "no-cache"}
    return Answer(body, status=status, headers=headers)


def concurrent(message: str) -> Conflict:
    """The 409 after which a client reads the generation again and retries."""
    return Conflict(message, code=CONCURRENT_UPDATE)


def only(ctx: Context, *known: str) -> None:
    """Raises Invalid if the query string has a key that is not known."""
    for key, _ in ctx.query.pairs:
        if key not in known:
            raise Invalid(
                "Invalid query string parameters: Additional properties are not allowed "
                f"('{key}' was unexpected)"
            )


def as_uuid(text: str, where: str = "JSON does not validate") -> str:
    """A UUID in its canonical spelling. Raises Invalid; `where` says in whose words."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise Invalid(f"{where}: '{text}' is not a 'uuid'") from None


def consumer_uuid(text: str) -> str:
    """A UUID in its canonical spelling. Raises Invalid."""
    try:
        return as_uuid(text)
    except Invalid:
        raise Invalid(f"Malformed consumer_uuid: '{text}' is not a UUID.") from None


def is_custom(name: str) -> bool:
    """Whether a trait's or resource class's name is one that users may make."""
    return len(name) <= 255 and _CUSTOM.fullmatch(name) is not None


def class_names(names: Collection[str]) -> None:
    """Raises Invalid for a key that can't be a resource class."""
    for name in names:
        if not _NAME.fullmatch(name):
            raise Invalid(f"JSON does not validate: '{name}' does not match '^[A-Z0-9_]+$'")

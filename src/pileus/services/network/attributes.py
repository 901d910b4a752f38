"""Request bodies the way this API checks them, and the checks that several nouns share."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Self, cast, get_type_hints

import msgspec
from msgspec import UNSET, UnsetType

from pileus.kernel.auth import Caller
from pileus.kernel.faults import Invalid
from pileus.kernel.schema import Body, names_of
from pileus.kernel.versions import NO_VERSION, Version

NAME_LENGTH = 255
_WHERE = re.compile(r"(.*) - at `\$\.?(.*)`", re.S)
_REQUIRED = re.compile(r"Object missing required field `(.*?)`")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`")
_KEYWORDS = ("project_id", "project_name", "user_id", "user_name")
_ANYBODY = Caller(project_id="p", project_name="p", user_id="u", user_name="u")
_NOT_IN_LABELS = re.compile(r"[^0-9a-zA-Z-]+")
_LABEL = re.compile(r"(?!-)[0-9a-zA-Z_-]{1,63}(?<!-)\Z")


class Attributes(Body):
    """A body of this API. `fixed`: attributes that exist but cannot be set by this verb.

    `defaults`: what an attribute is worth when absent; on create, saying just that needs no right of its own.
    """

    fixed: ClassVar[frozenset[str]] = frozenset()
    creates: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def take(cls, document: Any, at: Version = NO_VERSION) -> Self:
        """Checks one object (without its root). Raises Invalid in upstream's words."""
        if not isinstance(document, dict):
            raise Invalid(f"Invalid input for {cls.root}. Reason: it must be an object.")
        document = one_project(document)
        known = names_of(cls)
        unknown = [k for k in document if k not in known]
        for key in unknown:
            if key in cls.fixed and cls.creates:
                raise Invalid(f"Attribute '{key}' not allowed in POST")
            if key in cls.fixed:
                raise Invalid(f"Cannot update read-only attribute {key}")
        if unknown:
            raise Invalid(f"Unrecognized attribute(s) '{', '.join(sorted(unknown))}'")
        for name in ("name", "description"):
            if name in known and isinstance(given := document.get(name), str):
                text(given, name)
        try:
            return msgspec.convert(document, cls, strict=False)
        except msgspec.ValidationError as error:
            raise Invalid(_explain(str(error))) from None


def changes_of(made_of: type[Attributes], *constant: str) -> type[Attributes]:
    """The body that changes what another makes: each attribute may be left out, and `constant` ones must be."""
    fields: list[Any] = []
    kept = {*constant, "project_id"}
    hints = get_type_hints(made_of)
    for f in msgspec.structs.fields(made_of):
        if f.name not in kept:
            named = msgspec.field(name=f.encode_name, default=UNSET)
            fields.append((f.name, hints[f.name] | UnsetType, named))
    fixed = made_of.fixed | kept | {"tenant_id"}
    more = {"root": made_of.root, "creates": False, "fixed": fixed}
    name = made_of.__name__.replace("Create", "Update")
    made = msgspec.defstruct(name, fields, bases=(Attributes,), namespace=more, kw_only=True)
    return cast(type[Attributes], made)


def one_project(document: Mapping[str, Any]) -> dict[str, Any]:
    """`tenant_id` is the old name of `project_id`. Raises Invalid if both are given and differ."""
    found = dict(document)
    if "tenant_id" in found:
        tenant = found.pop("tenant_id")
        if found.setdefault("project_id", tenant) != tenant:
            raise Invalid("'project_id' and 'tenant_id' do not match")
    return found


def _explain(text: str) -> str:
    where, what = "", text
    if m := _WHERE.fullmatch(text):
        what, where = m[1], m[2]
    if (m := _REQUIRED.fullmatch(what)) and not where:
        return f"Failed to parse request. Required attribute '{m[1]}' not specified"
    if (m := _UNKNOWN.fullmatch(what)) and not where:
        return f"Unrecognized attribute(s) '{m[1]}'"
    return f"Invalid input for {where or 'body'}. Reason: {what}."


def text(value: str, name: str, longest: int = NAME_LENGTH) -> str:
    """Raises Invalid for a text that is too long."""
    if len(value) > longest:
        raise Invalid(
            f"Invalid input for {name}. Reason: '{value[:40]}...' exceeds maximum length of {longest}."
        )
    return value


def domain_name(value: str, name: str) -> str:
    """A DNS name of labels, or "". Raises Invalid."""
    if not _is_domain(value):
        raise Invalid(f"Invalid input for {name}. Reason: '{value[:60]}' not a valid PQDN or FQDN.")
    return value


def _is_domain(value: str) -> bool:
    labels = value.rstrip(".").split(".") if value else []
    return len(value) <= 255 and all(_LABEL.match(label) for label in labels)


def zone_of(domain: str, caller: Caller) -> str:
    """A `dns_domain` with what its keywords stand for when this caller names something in it; "" if that is none."""
    for keyword in _KEYWORDS:
        label = _NOT_IN_LABELS.sub("-", getattr(caller, keyword))[:63].strip("-")
        domain = domain.replace(f"<{keyword}>", label)
    return domain if _is_domain(domain) else ""


def network_domain(value: str) -> str:
    """As `domain_name`, but labels may be keywords, as in `<project_id>.example.org.`. Raises Invalid."""
    return value if zone_of(value, _ANYBODY) else domain_name(value, "dns_domain")


def printable(value: str, name: str) -> str:
    """A text without control characters: such values reach configuration. Raises Invalid."""
    if any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise Invalid(f"Invalid input for {name}. Reason: '{value!r}' contains control characters.")
    return text(value, name)

"""Bodies and views: msgspec Structs, and fields that exist only since or until a microversion.

A body says what happens to unknown keys (refuse, keep, ignore) and whether text is coerced as that API's own schema
does. A field typed `X | UnsetType` with default UNSET tells absent from null.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from functools import cache
from typing import Any, ClassVar, Generic, Self, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct

from .faults import Invalid
from .versions import NO_VERSION, Version, version

S = TypeVar("S", bound=Struct)
B = TypeVar("B", bound="Body")


class Extra(Enum):
    """What becomes of keys that the body does not declare."""

    REFUSE = "refuse"
    KEEP = "keep"
    IGNORE = "ignore"


REFUSE, KEEP, IGNORE = Extra.REFUSE, Extra.KEEP, Extra.IGNORE


def since(text: str, until: str = "") -> Meta:
    """Marks a field (typed `X | UnsetType`, default UNSET) that exists from one version, to before another."""
    extra: dict[str, Any] = {"since": version(text)}
    if until:
        extra["until"] = version(until)
    return Meta(extra=extra)


def until(text: str) -> Meta:
    """Marks a field that exists before a version only."""
    return Meta(extra={"since": NO_VERSION, "until": version(text)})


_NEVER: Version = (1 << 30, 0)


@cache
def versioned(kind: type[Struct]) -> tuple[tuple[str, str, Version, Version], ...]:
    """(attribute, JSON name, since, until) of each marked field."""
    found = []
    for f in msgspec.inspect.type_info(kind).fields:  # type: ignore[attr-defined]
        marked = f.type if isinstance(f.type, msgspec.inspect.Metadata) else None
        extra = (marked.extra or {}) if marked else {}
        if "since" in extra:
            found.append((f.name, f.encode_name, extra["since"], extra.get("until", _NEVER)))
    return tuple(found)


@cache
def boundaries(kind: type[Struct]) -> tuple[Version, ...]:
    """The versions at which this view or body changes."""
    return tuple(
        sorted(
            {v for _, _, low, high in versioned(kind) for v in (low, high)} - {NO_VERSION, _NEVER}
        )
    )


@cache
def absent(kind: type[Struct], at: Version) -> tuple[tuple[str, str], ...]:
    """(attribute, JSON name) of the fields that do not exist at this version."""
    return tuple((name, json) for name, json, low, high in versioned(kind) if not low <= at < high)


def trim(view: S, at: Version) -> S:
    """Takes from a full view what does not exist at this version."""
    for name, _ in absent(type(view), at):
        setattr(view, name, UNSET)
    return view


class Body(Struct, kw_only=True):
    """A request body. `root`: the key it stands under ("" for none); `plural`: the key of a list of them.

    `beside`: other keys that may stand next to the root; the operation reads them from `ctx.document`.
    """

    root: ClassVar[str] = ""
    plural: ClassVar[str] = ""
    beside: ClassVar[tuple[str, ...]] = ()
    unknown: ClassVar[Extra] = REFUSE
    lax: ClassVar[bool] = True

    @classmethod
    def take(cls, document: Any, at: Version = NO_VERSION) -> Self:
        """Checks one object (without its root). Raises Invalid. Kept unknown keys are in `extras_of(body)`."""
        if not isinstance(document, dict):
            raise Invalid(
                f"Invalid input for field/attribute {cls.root or 'body'}. {_short(document)} is not of type 'object'"
            )
        known = names_of(cls)
        hidden = {json for _, json in absent(cls, at)}
        unknown = [k for k in document if k not in known or k in hidden]
        if unknown:
            if cls.unknown is REFUSE:
                listed = ", ".join(f"'{k}'" for k in unknown)
                verb = "was" if len(unknown) == 1 else "were"
                raise Invalid(
                    f"Invalid input for field/attribute {cls.root or 'body'}. "
                    f"Additional properties are not allowed ({listed} {verb} unexpected)"
                )
            document = {k: v for k, v in document.items() if k not in unknown}
        try:
            body = msgspec.convert(document, cls, strict=not cls.lax)
        except msgspec.ValidationError as e:
            raise Invalid(explain(str(e))) from None
        _refuse_hidden(body, at)
        return body

    def given(self) -> dict[str, Any]:
        """Attribute -> value of the fields that the caller sent."""
        return {f: v for f in self.__struct_fields__ if (v := getattr(self, f)) is not UNSET}


class Bulk(Generic[B]):
    """What an operation gets whose body may be one object or a list of them."""

    def __init__(self, items: list[B], raw: list[dict[str, Any]], single: bool) -> None:
        self.items, self.raw, self.single = items, raw, single


@cache
def names_of(cls: type[Struct]) -> frozenset[str]:
    """The JSON names of a Struct's fields."""
    return frozenset(f.encode_name for f in msgspec.structs.fields(cls))


def extras_of(cls: type[Body], document: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of an unwrapped document that the body does not declare."""
    known = names_of(cls)
    return {k: v for k, v in document.items() if k not in known}


def parse(raw: bytes) -> Any:
    """JSON, without the NULs and the long integers that databases cannot store. Raises Invalid."""
    if b"\\u0000" in raw and _NUL.search(raw):
        raise Invalid("Strings may not contain NUL characters.")
    try:
        document = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Invalid("Malformed request body: it is not valid JSON.") from None
    if _LONG.search(raw):
        _refuse_long(document)
    return document


def _refuse_long(value: Any) -> None:
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise Invalid(f"Integers must fit 64 bits; {_short(value)} does not.")
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        _refuse_long(item)


def unwrap(cls: type[Body], document: Any) -> Any:
    """What stands under the body's root key."""
    if not isinstance(document, dict):
        raise Invalid("Malformed request body: it must be a JSON object.")
    if not cls.root:
        return document
    if cls.root not in document:
        raise Invalid(
            f"Invalid input for field/attribute body. '{cls.root}' is a required property"
        )
    others = ", ".join(f"'{k}'" for k in document if k != cls.root and k not in cls.beside)
    if cls.unknown is REFUSE and others:
        raise Invalid(f"Additional properties are not allowed ({others} was unexpected)")
    return document[cls.root]


def bulk(cls: type[B], document: Any, at: Version = NO_VERSION) -> Bulk[B]:
    """One object under `root`, or a list under `plural`. Raises Invalid."""
    if isinstance(document, dict) and cls.plural and cls.plural in document:
        items = document[cls.plural]
        if not isinstance(items, list) or not items:
            raise Invalid(
                f"Unable to find '{cls.plural}' in request body: it must be a list of at least one object."
            )
        root = cls.root
        items = [i[root] if isinstance(i, dict) and i.keys() == {root} else i for i in items]
        return Bulk([cls.take(i, at) for i in items], items, single=False)
    inner = unwrap(cls, document)
    return Bulk([cls.take(inner, at)], [inner], single=True)


def _refuse_hidden(value: Any, at: Version) -> None:
    """Nested objects may not use fields of another version either."""
    for f in value.__struct_fields__:
        inner = getattr(value, f)
        for item in inner if isinstance(inner, list) else (inner,):
            if isinstance(item, Struct):
                for name, json in absent(type(item), at):
                    if getattr(item, name) is not UNSET:
                        raise Invalid(
                            f"Additional properties are not allowed ('{json}' was unexpected)"
                        )
                _refuse_hidden(item, at)


_LONG = re.compile(rb"[:,\[]\s*-?\d{19}")
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
_UNKNOWN = re.compile(r"Object contains unknown field `(.*?)`(?: - at `\$\.?(.*)`)?")
_MISSING = re.compile(r"Object missing required field `(.*?)`(?: - at `\$\.?(.*)`)?")
_OTHER = re.compile(r"(.*) - at `\$\.?(.*)`", re.S)


def explain(text: str) -> str:
    """msgspec's text in the words of jsonschema, which clients match on."""
    if m := _UNKNOWN.fullmatch(text):
        where, what = m[2], f"Additional properties are not allowed ('{m[1]}' was unexpected)"
    elif m := _MISSING.fullmatch(text):
        where, what = m[2], f"'{m[1]}' is a required property"
    elif m := _OTHER.fullmatch(text):
        where, what = m[2], m[1]
    else:
        return text
    return f"Invalid input for field/attribute {where or 'body'}. {what}"


def _short(value: object) -> str:
    return text if len(text := repr(value)) < 80 else text[:77] + "..."

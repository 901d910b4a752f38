"""The body of POST /v3/auth/tokens: how somebody proves who he is, and where he wants to go.

Each method's part stands under the method's own name and is read by that method (see `auth_methods`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import msgspec

from pileus.kernel.faults import Invalid
from pileus.kernel.schema import IGNORE, Body, Extra, explain

from .discreet import Discreet

P = TypeVar("P", bound=msgspec.Struct)


class DomainRef(msgspec.Struct):
    id: str = ""
    name: str = ""


class UserRef(msgspec.Struct):
    id: str = ""
    name: str = ""
    domain: DomainRef | None = None


class ProjectRef(msgspec.Struct):
    id: str = ""
    name: str = ""
    domain: DomainRef | None = None


class TrustRef(msgspec.Struct):
    id: str


class SystemRef(msgspec.Struct):
    all: bool = False


class Scope(msgspec.Struct):
    """At most one is set."""

    project: ProjectRef | None = None
    domain: DomainRef | None = None
    system: SystemRef | None = None
    trust: TrustRef | None = msgspec.field(default=None, name="OS-TRUST:trust")
    unscoped: dict[str, Any] | None = None


class Authenticate(Discreet, Body, kw_only=True):
    """`identity` has `methods` and a part for each; `scope` is an object, or the text "unscoped"."""

    root: ClassVar[str] = "auth"
    unknown: ClassVar[Extra] = IGNORE
    lax: ClassVar[bool] = False
    identity: dict[str, Any]
    scope: Scope | str | None = None


class _Methods(msgspec.Struct):
    methods: list[str]


def methods_of(identity: Mapping[str, Any]) -> list[str]:
    """The methods named, each once: naming one often costs no more (OSSA-2014-013). Raises Invalid."""
    named = _convert(dict(identity), _Methods, "identity").methods
    if not named:
        raise Invalid("Invalid input for field 'identity/methods': it must name a method.")
    return list(dict.fromkeys(named))


def part_of(identity: Mapping[str, Any], method: str, kind: type[P]) -> P:
    """What a method is given. Raises Invalid."""
    if method not in identity:
        raise expected(method, "identity")
    return _convert(identity[method], kind, f"identity/{method}")


def expected(name: str, where: str) -> Invalid:
    """What is said of what is missing."""
    return Invalid(
        f"Expecting to find {name} in {where}. The server could not comply with the request since "
        "it is either malformed or otherwise incorrect."
    )


def _convert(document: Any, kind: type[P], where: str) -> P:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as e:
        raise Invalid(f"{explain(str(e))} (in {where})") from None

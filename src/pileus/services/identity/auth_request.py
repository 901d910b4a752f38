"""The body of POST /v3/auth/tokens: how somebody proves who he is, and where he wants to go; and whom and what it names.

Each method's part stands under the method's own name and is read by that method (see `auth_methods`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import msgspec

from pileus.kernel.faults import Invalid
from pileus.kernel.schema import IGNORE, Body, Extra, explain
from pileus.kernel.store import Store

from .tree import PROJECTS, Project, named
from .users import USERS, User
from .wire import Discreet

P = TypeVar("P", bound=msgspec.Struct)


class DomainRef(msgspec.Struct):
    id: str = ""
    name: str = ""


class Ref(msgspec.Struct):
    """A user or project, by id or by name and domain."""

    id: str = ""
    name: str = ""
    domain: DomainRef | None = None


class TrustRef(msgspec.Struct):
    id: str


class SystemRef(msgspec.Struct):
    all: bool = False


class Scope(msgspec.Struct):
    """At most one is set."""

    project: Ref | None = None
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


async def find_user(store: Store, given: Ref) -> User | None:
    """Raises Invalid if it is not said which user."""
    if given.id:
        return await USERS.find(store, given.id)
    home = await _home(store, given, "user")
    return await USERS.one(store, domain_id=home.id, name_key=given.name.lower()) if home else None


async def find_project(store: Store, given: Ref) -> Project | None:
    """Raises Invalid if it is not said which project."""
    if given.id:
        return await PROJECTS.find(store, given.id)
    home = await _home(store, given, "project")
    return await named(store, given.name, home.id) if home else None


async def find_domain(store: Store, given: DomainRef) -> Project | None:
    if given.id:
        found = await PROJECTS.find(store, given.id)
    else:
        found = await named(store, given.name, "") if given.name else None
    return found if found is not None and found.is_domain else None


async def _home(store: Store, given: Ref, noun: str) -> Project | None:
    """The domain in which it has its name. Raises Invalid."""
    if not given.name or given.domain is None:
        raise Invalid(
            f"Expecting to find domain in {noun}. A {noun} is named by id, or by name and domain."
        )
    return await find_domain(store, given.domain)

"""What a method of authentication is, and what it proves.

What a method adds to a token is said by its `Proof`; nothing else asks which method it was.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from pileus.kernel.auth import NOT_AUTHENTICATED
from pileus.kernel.faults import Unauthenticated
from pileus.kernel.resources import Context

from .claims import Claims
from .users import User

if TYPE_CHECKING:
    from .authentication import Authentication

P = TypeVar("P", bound=msgspec.Struct)


@dataclass(frozen=True)
class Proof:
    """Who somebody proved to be.

    `methods` are what it counts as. `fields` are what the proof itself writes into the claims; if a scope is among
    them, no other can be asked for. `parent` is the token he came with, whose end and audit chain go on. `began_us` is
    when what can be revoked began to be looked at (0: nothing was): what is revoked from then on ends his token too.
    """

    user: User
    methods: tuple[str, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    parent: Claims | None = None
    began_us: int = 0

    @property
    def is_bound(self) -> bool:
        return "scope" in self.fields


@dataclass(frozen=True)
class Method(Generic[P]):
    """`part`: what stands under the method's name. `prove` raises Unauthenticated for whatever is wrong with it."""

    name: str
    part: type[P]
    prove: Callable[[Authentication, Context, P], Awaitable[Proof]]


def refused(why: str) -> Unauthenticated:
    """The one answer to whatever is wrong; why goes to the log."""
    return Unauthenticated(NOT_AUTHENTICATED, internal=why)

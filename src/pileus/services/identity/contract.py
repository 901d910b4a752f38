"""What other services may ask of identity. Tokens are `pileus.kernel.auth.TOKENS`, which identity keeps too."""

from __future__ import annotations

from typing import Protocol

import msgspec

from pileus.kernel.contracts import Contract

EVERYBODY = ""  # in whose name registered limits stand


class ProjectInfo(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    domain_id: str
    parent_id: str = ""
    enabled: bool = True


class Identity(Protocol):
    async def project(self, project_id: str) -> ProjectInfo | None:
        """The project, or None."""

    async def region(self) -> str:
        """The region in whose name this cloud's services stand in the catalog."""

    async def limits(self, service_type: str) -> dict[str, dict[str, int]]:
        """Unified limits of that service: a project's id (EVERYBODY: the registered ones) -> resource -> limit."""

    async def admin_project(self) -> ProjectInfo:
        """The project of the first start, which owns the public network and the first image."""


class Secrets(Protocol):
    """What a service must not keep in clear. Rows have it in a field `sealed`, which rotation seals anew."""

    async def seal(self, content: bytes) -> str:
        """Encrypted with the newest key for credentials."""

    async def open(self, sealed: str) -> bytes:
        """Raises Conflict if its key is lost."""

    async def ticket(self, right: str, name: str, good_s: int) -> str:
        """A word for a URL: whoever has it has that right to what is named so, without a token, for so many seconds."""

    async def redeem(self, ticket: str, right: str) -> str:
        """The name in it. Raises NotFound for a ticket that is forged, to another right or too old."""


IDENTITY = Contract("identity", Identity)  # type: ignore[type-abstract]
SECRETS = Contract("identity.secrets", Secrets)  # type: ignore[type-abstract]

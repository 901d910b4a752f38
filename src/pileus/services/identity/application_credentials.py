"""Application credentials: https://docs.openstack.org/api-ref/identity/v3/#application-credentials"""

from __future__ import annotations

from typing import Any

from pileus.kernel.store import Record, Unique

from .wire import NounTable


class ApplicationCredential(Record, kw_only=True, frozen=True):
    """Narrows its user to one project and some of the roles held there. `expires_at` "" means never."""

    user_id: str
    project_id: str
    name: str
    description: str | None = None
    secret_hash: str = ""
    role_ids: list[str] = []
    unrestricted: bool = False
    expires_at: str = ""
    extra: dict[str, Any] = {}


def _taken(c: ApplicationCredential) -> str:
    return (
        "Conflict occurred attempting to store application_credential - "
        f"Duplicate entry found with name {c.name}."
    )


APPLICATION_CREDENTIALS = NounTable(
    "identity_application_credentials",
    ApplicationCredential,
    columns=("user_id", "project_id", "name"),
    unique=(Unique(("user_id", "name"), _taken),),
    indexes=(("project_id",),),
    noun="application credential",
)

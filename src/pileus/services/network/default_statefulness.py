"""Whether new security groups keep track of connections where nobody says it, of a project or of all (API reference:
security-groups-default-statefulness).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel.query import Filter
from pileus.kernel.resources import Context
from pileus.kernel.store import Reader, Unique

from .attributes import Attributes
from .plain import Plain
from .resource import COLUMNS, MANAGER, Noun, Nouns, kept_by, listing

_NOUN = "security_groups_default_statefulness"


class Statefulness(Noun, kw_only=True, frozen=True):
    """`project_id` "" is for whoever has none of its own."""

    stateful: bool = True


STATEFULNESS = Nouns[Statefulness](
    "network_default_statefulness",
    Statefulness,
    columns=(*COLUMNS, "stateful"),
    unique=(
        Unique(
            ("project_id",),
            lambda s: (
                "A security group default statefulness setting already exists for project "
                f"'{s.project_id or 'system-wide'}'."
            ),
            "SecurityGroupDefaultStatefulnessAlreadyExists",
        ),
    ),
    noun="Security group default statefulness",
).worded(
    "SecurityGroupDefaultStatefulnessNotFound",
    "Security group default statefulness {id} could not be found.",
)


async def stateful_by_default(db: Reader, project_id: str) -> bool:
    """What a new group of the project is to be."""
    found = {
        s.project_id: s.stateful for s in await STATEFULNESS.all(db, project_id=["", project_id])
    }
    return found.get(project_id, found.get("", True))


class CreateStatefulness(Attributes):
    root: ClassVar[str] = _NOUN
    fixed = frozenset({"id"})

    project_id: str | UnsetType | None = UNSET
    stateful: bool = True


class UpdateStatefulness(Attributes):
    root: ClassVar[str] = _NOUN
    creates = False
    fixed = frozenset({"id", "project_id", "tenant_id"})

    stateful: bool | UnsetType = UNSET


class Statefulnesses(
    Plain[Statefulness],
    path="/security-groups-default-statefulness",
    create=CreateStatefulness,
    update=UpdateStatefulness,
):
    table = STATEFULNESS
    noun = plural = _NOUN
    id_param = "statefulness_id"
    see = f"get_{_NOUN}"
    rules = kept_by(MANAGER, _NOUN)
    listing = listing((), False, stateful=Filter(kind=bool))

    async def wanted(self, ctx: Context, body: Attributes, raw: Mapping[str, Any]) -> Statefulness:
        """One of no project is for all of them."""
        if isinstance(body, CreateStatefulness) and body.project_id is None:
            ctx.require(f"create_{_NOUN}", {"project_id": ""})
            return await self._new(ctx, "", {"stateful": body.stateful})
        return await super().wanted(ctx, body, raw)

    def view(self, ctx: Context, record: Statefulness) -> dict[str, Any]:
        return {
            "id": record.id,
            "project_id": record.project_id or None,
            "stateful": record.stateful,
        }

"""The volume type as it is kept: what its volumes ask of a back end."""

from __future__ import annotations

import msgspec

from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.resources import Context
from pileus.kernel.store import Many, Page, Reader, Record, Table, Unique

DEFAULT = "__DEFAULT__"


class Encryption(msgspec.Struct, frozen=True, kw_only=True):
    encryption_id: str
    provider: str
    control_location: str = "front-end"
    cipher: str | None = None
    key_size: int | None = None


class VolumeType(Record, kw_only=True, frozen=True):
    """`projects` may use it where it is not public."""

    name: str
    description: str | None = None
    is_public: bool = True
    extra_specs: dict[str, str] = {}
    qos_specs_id: str | None = None
    projects: tuple[str, ...] = ()
    encryption: Encryption | None = None

    def serves(self, project_id: str, is_admin: bool) -> bool:
        return self.is_public or is_admin or project_id in self.projects

    def wants(self, name: str) -> bool:
        """Whether an extra spec says yes, as in `multiattach: <is> True`."""
        return self.extra_specs.get(name, "").lower() == "<is> true"


VOLUME_TYPES = Table(
    "block_storage_volume_types",
    VolumeType,
    columns=("name", "is_public", "qos_specs_id"),
    unique=(Unique(("name",), lambda t: f"Volume Type {t.name} already exists."),),
    many=(
        Many("projects", lambda t: t.projects),
        Many("extra_specs", lambda t: [f"{k}={v}" for k, v in t.extra_specs.items()]),
    ),
    noun="Volume type",
)


class DefaultType(Record, kw_only=True, frozen=True):
    """A project's own default; its id is the project's."""

    volume_type_id: str


DEFAULT_TYPES = Table("block_storage_default_types", DefaultType, columns=("volume_type_id",))


async def type_named(ctx: Context, asked: str) -> VolumeType:
    """By id or name, of those that the caller may use. Raises NotFound."""
    store = ctx.runtime.store
    found = await VOLUME_TYPES.find(store, asked) or await VOLUME_TYPES.one(store, name=asked)
    if found is None or not found.serves(ctx.caller.project_id, ctx.caller.is_admin):
        raise NotFound(f"Volume type {asked} could not be found.")
    return found


async def default_type(db: Reader, project_id: str) -> VolumeType:
    """The project's default, or everybody's. Raises Invalid where an administrator deleted it."""
    own = await DEFAULT_TYPES.find(db, project_id)
    if own is not None and (found := await VOLUME_TYPES.find(db, own.volume_type_id)):
        return found
    general = await VOLUME_TYPES.one(db, name=DEFAULT)
    if general is None:
        raise Invalid(f"There is no volume type {DEFAULT}: name one with volume_type.")
    return general


async def names(db: Reader) -> dict[str, str]:
    """Every type's name by id."""
    rows = await VOLUME_TYPES.page(db, Page(limit=100_000), select=("id", "name"))
    return {r[0]: r[1] for r in rows}

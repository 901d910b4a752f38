"""What stands beside a volume type: its extra specs, who may use it, and how its volumes are encrypted.

https://docs.openstack.org/api-ref/block-storage/v3/#volume-types-types
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import Conflict, Invalid, NotFound
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import KEEP, Body, Extra

from . import checks
from .volume_type import DEFAULT, Encryption, VolumeType
from .volume_types import PATH, OfType, change, refuse_in_use, specs_for

_SPECS = "volume_extension:types_extra_specs:"
_ENCRYPTION = "volume_extension:volume_type_encryption:"
_ACCESS = "volume_extension:volume_type_access"
_ALL, _ONE = PATH + "/extra_specs", PATH + "/extra_specs/{key}"


class AddSpecs(Body):
    extra_specs: dict[str, Any]


class PutSpec(Body):
    unknown: ClassVar[Extra] = KEEP


class ProjectBody(Body):
    project: Annotated[str, Meta(min_length=1, max_length=255)]


class AddProject(ProjectBody):
    root: ClassVar[str] = "addProjectAccess"


class RemoveProject(ProjectBody):
    root: ClassVar[str] = "removeProjectAccess"


class EncryptionBody(Body):
    root: ClassVar[str] = "encryption"
    provider: Annotated[str, Meta(min_length=1, max_length=255)] | UnsetType = UNSET
    control_location: Literal["front-end", "back-end"] | UnsetType = UNSET
    cipher: str | UnsetType | None = UNSET
    key_size: int | str | UnsetType | None = UNSET


class TypeExtraSpecs(OfType):
    @operation("GET", _ALL, _SPECS + "index")
    async def index(self, ctx: Context, kind: VolumeType) -> dict[str, Any]:
        return {"extra_specs": specs_for(ctx, kind)}

    @operation("POST", _ALL, _SPECS + "create", status=200)
    async def create(self, ctx: Context, kind: VolumeType, body: AddSpecs) -> dict[str, Any]:
        await self._change(ctx, kind, kind.extra_specs | _specs(body.extra_specs))
        return {"extra_specs": body.extra_specs}

    @operation("GET", _ONE, _SPECS + "show")
    async def show(self, ctx: Context, kind: VolumeType, key: str) -> dict[str, Any]:
        return {key: _value(specs_for(ctx, kind), kind, key)}

    @operation("PUT", _ONE, _SPECS + "update")
    async def update(
        self, ctx: Context, kind: VolumeType, key: str, body: PutSpec
    ) -> dict[str, Any]:
        given: dict[str, Any] = ctx.document
        if list(given) != [key]:
            raise Invalid("Request body and URI mismatch")
        await self._change(ctx, kind, kind.extra_specs | _specs(given))
        return given

    @operation("DELETE", _ONE, _SPECS + "delete", status=202)
    async def delete(self, ctx: Context, kind: VolumeType, key: str) -> None:
        _value(kind.extra_specs, kind, key)
        await self._change(ctx, kind, {k: v for k, v in kind.extra_specs.items() if k != key})

    async def _change(self, ctx: Context, kind: VolumeType, specs: dict[str, str]) -> None:
        await refuse_in_use(ctx, kind, "the extra specs")
        await change(ctx, kind, extra_specs=specs)


def _specs(given: dict[str, Any]) -> dict[str, str]:
    if not given:
        raise Invalid("extra_specs must have at least one key.")
    return checks.metadata(given, "extra_specs")


def _value(specs: dict[str, str], kind: VolumeType, key: str) -> str:
    if key not in specs:
        raise NotFound(f"Volume Type {kind.id} has no extra specs with key {key}.")
    return specs[key]


class TypeAccess(OfType):
    @operation("GET", PATH + "/os-volume-type-access", _ACCESS + ":get_all_for_type")
    async def index(self, ctx: Context, kind: VolumeType) -> dict[str, Any]:
        if kind.is_public:
            raise NotFound("Access list not available for public volume types.")
        rows = [{"volume_type_id": kind.id, "project_id": id} for id in kind.projects]
        return {"volume_type_access": rows}

    @operation(
        "POST",
        PATH + "/action",
        _ACCESS + ":addProjectAccess",
        action="addProjectAccess",
        status=202,
    )
    async def add(self, ctx: Context, kind: VolumeType, body: AddProject) -> None:
        _refuse_public(kind)
        if body.project in kind.projects:
            raise Conflict(
                f"Volume type access for {kind.id} / {body.project} combination already exists."
            )
        await change(ctx, kind, projects=(*kind.projects, body.project))

    @operation(
        "POST",
        PATH + "/action",
        _ACCESS + ":removeProjectAccess",
        action="removeProjectAccess",
        status=202,
    )
    async def remove(self, ctx: Context, kind: VolumeType, body: RemoveProject) -> None:
        _refuse_public(kind)
        if body.project not in kind.projects:
            raise NotFound(
                f"Volume type access not found for {kind.id} / {body.project} combination."
            )
        await change(ctx, kind, projects=tuple(p for p in kind.projects if p != body.project))


def _refuse_public(kind: VolumeType) -> None:
    if kind.is_public:
        raise Conflict("Type access modification is not applicable to public volume type.")


class TypeEncryption(OfType):
    @operation("GET", PATH + "/encryption", _ENCRYPTION + "get")
    async def index(self, ctx: Context, kind: VolumeType) -> dict[str, Any]:
        return self._view(kind)

    @operation("GET", PATH + "/encryption/{key}", _ENCRYPTION + "get")
    async def show(self, ctx: Context, kind: VolumeType, key: str) -> dict[str, Any]:
        found = self._view(kind)
        if key not in found:
            raise self._missing(kind)
        return {key: found[key]}

    @operation("POST", PATH + "/encryption", _ENCRYPTION + "create", status=200)
    async def create(self, ctx: Context, kind: VolumeType, body: EncryptionBody) -> dict[str, Any]:
        if kind.encryption is not None:
            raise Invalid(f"Volume type encryption for type {kind.id} already exists.")
        if kind.name == DEFAULT or body.provider is UNSET:
            raise Invalid("A provider is needed, and the default type stays as it is.")
        await refuse_in_use(ctx, kind, "the encryption")
        empty = Encryption(encryption_id=ctx.runtime.world.new_id(), provider="")
        kind = await change(ctx, kind, encryption=_with(empty, body))
        kept = msgspec.to_builtins(kind.encryption)
        return {"encryption": {**kept, "volume_type_id": kind.id}}

    @operation("PUT", PATH + "/encryption/{encryption_id}", _ENCRYPTION + "update")
    async def update(
        self, ctx: Context, kind: VolumeType, encryption_id: str, body: EncryptionBody
    ) -> dict[str, Any]:
        await refuse_in_use(ctx, kind, "the encryption")
        await change(ctx, kind, encryption=_with(self._there(kind), body))
        return {"encryption": ctx.document["encryption"]}

    @operation("DELETE", PATH + "/encryption/{encryption_id}", _ENCRYPTION + "delete", status=202)
    async def delete(self, ctx: Context, kind: VolumeType, encryption_id: str) -> None:
        self._there(kind)
        await refuse_in_use(ctx, kind, "the encryption")
        await change(ctx, kind, encryption=None)

    def _there(self, kind: VolumeType) -> Encryption:
        """The type's; there is one, whatever a path calls it."""
        if kind.encryption is None:
            raise self._missing(kind)
        return kind.encryption

    def _missing(self, kind: VolumeType) -> NotFound:
        return NotFound(f"Volume type encryption for type {kind.id} does not exist.")

    def _view(self, kind: VolumeType) -> dict[str, Any]:
        if kind.encryption is None:
            return {}
        return {
            **msgspec.to_builtins(kind.encryption),
            "volume_type_id": kind.id,
            "created_at": checks.moment(kind.created_at),
            "updated_at": checks.moment(kind.updated_at),
            "deleted_at": None,
            "deleted": False,
        }


def _with(old: Encryption, body: EncryptionBody) -> Encryption:
    changes = body.given()
    if changes.get("key_size") is not None:
        changes["key_size"] = checks.size_of(changes["key_size"], "key_size")
    return msgspec.structs.replace(old, **changes)

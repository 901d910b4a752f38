"""The image as it is stored, who may see it, and what it costs."""

from __future__ import annotations

from typing import Any

import msgspec

from pileus.kernel.auth import Caller
from pileus.kernel.quota import Quota
from pileus.kernel.store import Column, Many, Match, Record, Table

QUEUED, SAVING, ACTIVE, DEACTIVATED = "queued", "saving", "active", "deactivated"
UPLOADING, IMPORTING = "uploading", "importing"
STORE = "local"  # the one store there is, by the id that clients may name
VISIBILITIES = ("community", "public", "private", "shared")
MEMBER_STATUSES = ("pending", "accepted", "rejected")
DISK_FORMATS = (
    "ami",
    "ari",
    "aki",
    "vhd",
    "vmdk",
    "raw",
    "qcow2",
    "vdi",
    "iso",
    "vhdx",
    "ploop",
)
CONTAINER_FORMATS = ("ami", "ari", "aki", "bare", "ovf", "ova", "docker", "compressed")
_MIB = 1 << 20
ADMIN_OR_OWNER = "rule:context_is_admin or (role:member and project_id:%(project_id)s)"
SEEN = (
    "project_id:%(project_id)s or project_id:%(member_id)s or 'community':%(visibility)s"
    " or 'public':%(visibility)s or 'shared':%(visibility)s"
)


class Membership(msgspec.Struct, frozen=True, kw_only=True):
    """A project with which the image is shared."""

    status: str = "pending"
    created_at: str
    updated_at: str


class ImportTask(msgspec.Struct, frozen=True, kw_only=True):
    """An import that was asked for, as `/tasks` of the image shows it."""

    id: str
    request_id: str
    user_id: str
    owner: str
    status: str
    input: dict[str, Any]
    created_at: str
    updated_at: str


class Image(Record, kw_only=True, frozen=True):
    """`owner` is a project's id, "" for nobody. Sizes in bytes; None before there are bytes.

    `uploader` is the control that receives bytes right now, `uploading_at` its last sign of life. `found_format` and `unsafe` are what an inspection of the
    bytes found, whatever `disk_format` says.
    """

    name: str | None = None
    owner: str
    status: str = QUEUED
    visibility: str = "shared"
    protected: bool = False
    os_hidden: bool = False
    disk_format: str | None = None
    container_format: str | None = None
    min_disk: int = 0
    min_ram: int = 0
    size: int | None = None
    virtual_size: int | None = None
    checksum: str = ""
    sha512: str = ""
    tags: list[str] = []
    properties: dict[str, str] = {}
    members: dict[str, Membership] = {}
    imports: list[ImportTask] = []
    uploader: str = ""
    uploading_at: str = ""
    found_format: str = ""
    unsafe: str = ""

    @property
    def has_bytes(self) -> bool:
        return self.status in (ACTIVE, DEACTIVATED)


def _mebibytes(image: Image) -> int:
    return -(-(image.size or 0) // _MIB) if image.has_bytes else 0


def _staged(image: Image) -> int:
    return -(-(image.size or 0) // _MIB) if image.status == UPLOADING else 0


def _owner(image: Image) -> str:
    return image.owner


IMAGES = Table(
    "image_images",
    Image,
    columns=(
        "name",
        "owner",
        "status",
        "visibility",
        "protected",
        "os_hidden",
        "disk_format",
        "container_format",
        "min_disk",
        "min_ram",
        "checksum",
        Column("os_hash_value", lambda i: i.sha512),
        Column("size", lambda i: -1 if i.size is None else i.size, int),
        Column("virtual_size", lambda i: -1 if i.virtual_size is None else i.virtual_size, int),
        "uploader",
    ),
    indexes=(("owner", "created_at", "id"), ("visibility", "created_at", "id"), ("uploader",)),
    many=(
        Many("tags", lambda i: i.tags),
        Many("properties", lambda i: [f"{k}={v}" for k, v in i.properties.items()]),
        Many("members", lambda i: [f"{m.status}:{p}" for p, m in i.members.items()]),
    ),
    quotas=(
        Quota("image", "image_size_total", of=_mebibytes, project=_owner),
        Quota("image", "image_stage_total", of=_staged, project=_owner),
        Quota("image", "image_count_total", project=_owner),
        Quota("image", "image_count_uploading", of=lambda i: int(bool(i.uploader)), project=_owner),
    ),
    tombstone_s=7 * 86_400,  # an id must not come back as another image while it is remembered
    noun="Image",
)


def target(caller: Caller, image: Image) -> dict[str, object]:
    """What policy may ask of an image. `member_id` is the caller's project if the image is shared with it."""
    is_member = caller.project_id in image.members
    return {
        "project_id": image.owner,
        "owner": image.owner,
        "visibility": image.visibility,
        "member_id": caller.project_id if is_member else "",
    }


def visible(caller: Caller, image: Image) -> bool:
    """Whether the image exists for the caller; what he may do with it is for policy to say."""
    if caller.is_admin or not image.owner or image.visibility in ("public", "community"):
        return True
    mine = bool(caller.project_id) and caller.project_id == image.owner
    return mine or (image.visibility == "shared" and caller.project_id in image.members)


def scopes_of(
    caller: Caller, visibility: str = "", status: str = "accepted"
) -> list[dict[str, Any]]:
    """Which images the caller finds: his own, public ones, those shared with him, and, if asked for, the community's.

    An administrator finds everything but other people's community images, which he has to ask for, too.
    """
    me = caller.project_id
    own: list[dict[str, Any]] = [{"owner": me}] if me else []
    if caller.is_admin:
        rest: list[dict[str, Any]] = [{"visibility": Match("ne", "community")}]
        return [{}] if visibility else own + rest
    found = [*own, {"visibility": "public"}]
    if visibility:
        found.append({"visibility": "community"})
    if me:
        statuses = MEMBER_STATUSES if status == "all" else (status,)
        members = Match("any", [f"{s}:{me}" for s in statuses])
        found.append({"visibility": "shared", "members": members})
    return found

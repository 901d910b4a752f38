"""The image as it is stored, who may see it, and what it costs."""

from __future__ import annotations

from typing import Any

import msgspec

from pileus.kernel.auth import Caller
from pileus.kernel.quota import Quota
from pileus.kernel.store import Column, Many, Match, Record, Table

QUEUED, SAVING, ACTIVE, DEACTIVATED = "queued", "saving", "active", "deactivated"
UPLOADING, IMPORTING = "uploading", "importing"
STORE = "local"  # the default store, unless settings say otherwise
WEB = "web"  # the store that is other people's servers: read only
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


class Location(msgspec.Struct, frozen=True, kw_only=True):
    """One place of the bytes. `metadata` is what a client noted of it, besides the store's name."""

    url: str
    store: str
    metadata: dict[str, Any] = {}


def in_store(image_id: str, store: str) -> Location:
    """Where a store of ours has an image: its folders are nobody's business."""
    return Location(url=f"store://{store}/{image_id}", store=store)


class Image(Record, kw_only=True, frozen=True):
    """`owner` is a project's id, "" for nobody. Sizes in bytes; None before there are bytes.

    `uploader` is the control that receives bytes right now, `uploading_at` its last sign of life. `found_format` and
    `unsafe` are what an inspection of the bytes found, whatever `disk_format` says. `sha512` is the digest by
    `hash_algo`. `importing_to` and `failed_import` are the stores of the last import that wait, or did not take it.
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
    hash_algo: str = "sha512"
    tags: list[str] = []
    properties: dict[str, str] = {}
    members: dict[str, Membership] = {}
    locations: list[Location] = []
    importing_to: list[str] | None = None
    failed_import: list[str] | None = None
    uploader: str = ""
    uploading_at: str = ""
    found_format: str = ""
    unsafe: str = ""

    @property
    def has_bytes(self) -> bool:
        return self.status in (ACTIVE, DEACTIVATED)

    @property
    def places(self) -> list[Location]:
        """Where the bytes are; an image of before there were several stores is in the default one."""
        return self.locations or ([in_store(self.id, STORE)] if self.has_bytes else [])

    @property
    def stores(self) -> list[str]:
        return [place.store for place in self.places]


def _mebibytes(image: Image) -> int:
    return -(-(image.size or 0) // _MIB) * len(image.places) if image.has_bytes else 0


def _staged(image: Image) -> int:
    staged = image.status in (UPLOADING, IMPORTING)
    return -(-(image.size or 0) // _MIB) if staged else 0


def _uploading(image: Image) -> int:
    return int(image.status in (SAVING, UPLOADING, IMPORTING) or bool(image.importing_to))


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
    indexes=(
        ("owner", "created_at", "id"),
        ("visibility", "created_at", "id"),
        ("os_hidden", "created_at", "id"),  # a page of a list ends with its last image
        ("uploader",),
    ),
    many=(
        Many("tags", lambda i: i.tags),
        Many("properties", lambda i: [f"{k}={v}" for k, v in i.properties.items()]),
        Many("members", lambda i: [f"{m.status}:{p}" for p, m in i.members.items()]),
    ),
    quotas=(
        Quota("image", "image_size_total", of=_mebibytes, project=_owner),
        Quota("image", "image_stage_total", of=_staged, project=_owner),
        Quota("image", "image_count_total", project=_owner),
        Quota("image", "image_count_uploading", of=_uploading, project=_owner),
    ),
    tombstone_s=7 * 86_400,  # an id must not come back as another image while it is remembered
    noun="Image",
)


def seconds(stamp: str) -> str:
    """Glance spells times without fractions."""
    return stamp[:19] + "Z"


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

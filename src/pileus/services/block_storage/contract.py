"""What other services may ask of block storage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from pileus.kernel.auth import Caller
from pileus.kernel.contracts import Contract

from .driver import Export

__all__ = [
    "VOLUMES",
    "AttachmentInfo",
    "Export",
    "NewVolume",
    "SnapshotInfo",
    "VolumeInfo",
    "Volumes",
]


class VolumeInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes in GiB. `image_metadata` is what its image said of guests."""

    id: str
    name: str
    status: str
    size: int
    project_id: str
    zone: str
    host: str
    is_bootable: bool = False
    is_multiattach: bool = False
    is_encrypted: bool = False
    image_metadata: dict[str, str] = {}
    migration_status: str = ""
    attachments: list[AttachmentInfo] = []


class SnapshotInfo(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    status: str
    size: int
    volume_id: str
    project_id: str


class AttachmentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """`status` is reserved, attaching or attached; `device` is as the guest's owner knows it."""

    id: str
    volume_id: str
    server_id: str
    status: str
    mode: str = "rw"
    device: str = ""


class NewVolume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume to be made for somebody: blank, or of one of the sources. `size` 0 is the source's."""

    id: str
    size: int = 0
    name: str = ""
    image_id: str = ""
    snapshot_id: str = ""
    volume_id: str = ""
    volume_type: str = ""
    zone: str = ""


class Volumes(Protocol):
    async def volume(self, caller: Caller, volume_id: str) -> VolumeInfo:
        """The volume, if the caller may see it. Raises NotFound."""

    async def snapshot(self, caller: Caller, snapshot_id: str) -> SnapshotInfo:
        """Raises NotFound."""

    async def check(self, caller: Caller, wanted: Sequence[NewVolume]) -> None:
        """Whether all of them could be made for the caller. Raises as `create` does."""

    async def create(self, caller: Caller, wanted: NewVolume) -> None:
        """Begins it as the caller; one with that id stays. See `state`. Raises Invalid, NotFound, OverQuota."""

    async def state(self, volume_id: str) -> tuple[str, str]:
        """Its status, and why it is `error`. ("", "") where there is none."""

    async def remove(self, volume_id: str) -> None:
        """Begins the delete, once nothing is attached. One that is not there is gone. Raises Invalid."""

    async def reserve(
        self, caller: Caller, volume_id: str, attachment_id: str, server_id: str, mode: str
    ) -> None:
        """The volume is for that server; asked again it is so already. `mode`: rw or ro.

        Raises NotFound, Invalid where it may not be attached (again).
        """

    async def connect(self, attachment_id: str, host: str) -> Export:
        """Serves it to a host, as large as it is now; one that had it before keeps it until `disconnect`.

        Raises NotFound, Invalid.
        """

    async def disconnect(self, attachment_id: str) -> None:
        """Serves it to nobody: it is reserved, and whoever had it is out. Raises NotFound."""

    async def passphrase(self, attachment_id: str) -> str:
        """What opens an encrypted volume, "" of another: whoever plugs it needs it. Raises NotFound."""

    async def complete(self, attachment_id: str, device: str) -> None:
        """The guest has it. Raises NotFound."""

    async def detaching(self, attachment_id: str, is_so: bool) -> None:
        """The guest that has it is about to let go, or does not after all. Of any other nothing changes."""

    async def detach(self, attachment_id: str) -> None:
        """The guest has it no longer: it is served no more. An unknown one is detached."""

    async def attachments(self, server_id: str) -> list[AttachmentInfo]:
        """Those of a server, in the order in which they were made."""

    async def take_snapshot(
        self, caller: Caller, volume_id: str, snapshot_id: str, name: str
    ) -> None:
        """Takes a snapshot of a volume, attached or not, and returns when it is there. Raises as the API does."""

    async def reimage(self, caller: Caller, volume_id: str, image_id: str) -> None:
        """Begins to write an image over a volume that is served to nobody. See `state`. Raises NotFound, Invalid."""

    async def drop_snapshot(self, snapshot_id: str) -> None:
        """Begins the delete of one just taken, which nothing was made of. One that is not there is gone."""


VOLUMES = Contract("volumes", Volumes)  # type: ignore[type-abstract]

"""What other services may ask of image."""

from __future__ import annotations

from typing import Protocol

import msgspec

from pileus.kernel.auth import Caller
from pileus.kernel.contracts import Contract


class ImageInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Sizes in bytes but `min_disk` (GiB) and `min_ram` (MiB). `sha512` is hexadecimal, "" before upload.

    `unsafe` says why nobody may open the bytes, "" if somebody may; `found_format` is what they were found to be.
    """

    id: str
    name: str
    status: str
    visibility: str
    owner: str
    disk_format: str
    container_format: str
    size: int
    virtual_size: int
    min_disk: int
    min_ram: int
    sha512: str
    properties: dict[str, str] = {}
    unsafe: str = ""
    found_format: str = ""
    created_at: str = ""
    updated_at: str = ""


class ImageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which images of those that a caller finds; the newest first. Empty fields ask for nothing."""

    limit: int
    marker: str = ""
    name: str = ""
    statuses: list[str] = []
    properties: dict[str, str] = {}
    changed_since: str = ""
    min_disk: int | None = None
    min_ram: int | None = None


class NewImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image that another service is going to fill. `shared_with`: a project that may see it too."""

    id: str
    name: str
    properties: dict[str, str] = {}
    min_disk: int = 0
    min_ram: int = 0
    shared_with: str = ""


class Images(Protocol):
    async def image(self, caller: Caller, image_id: str) -> ImageInfo:
        """The image, if the caller may see it. Raises NotFound."""

    async def listed(self, caller: Caller, wanted: ImageQuery) -> list[ImageInfo]:
        """Raises Forbidden, NotFound for a marker that the caller does not see."""

    async def describe(
        self, caller: Caller, image_id: str, properties: dict[str, str]
    ) -> ImageInfo:
        """The image has these properties and no others. Raises NotFound, Forbidden, Invalid, TooLarge."""

    async def remove(self, caller: Caller, image_id: str) -> None:
        """Raises NotFound, and Forbidden where it is not his or protected."""

    async def ticket(self, image_id: str) -> str:
        """A path under the cloud's URL that gives the bytes to whoever has it, for ten minutes. Raises NotFound."""

    async def reserve(self, caller: Caller, wanted: NewImage) -> None:
        """An image without bytes, of the caller's project; one that is there already stays.

        Raises Forbidden, OverQuota.
        """

    async def awaits(self, image_id: str, disk_format: str, container_format: str = "bare") -> str:
        """A path under the cloud's URL that takes the bytes, of that form, for ten minutes. "" if it has them.

        Raises NotFound.
        """

    async def leave_empty(self, image_id: str) -> None:
        """It is active without bytes: its properties say it all. Raises NotFound."""

    async def discard(self, image_id: str) -> None:
        """The image goes with its bytes, unless it is protected. One that is not there is gone."""

    async def made_from(self, project_id: str, properties: dict[str, str]) -> list[str]:
        """The ids of the project's images with these properties, the oldest first."""


IMAGES = Contract("image", Images)  # type: ignore[type-abstract]

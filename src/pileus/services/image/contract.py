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


class Images(Protocol):
    async def image(self, caller: Caller, image_id: str) -> ImageInfo:
        """The image, if the caller may see it. Raises NotFound."""

    async def ticket(self, image_id: str) -> str:
        """A path under the cloud's URL that gives the bytes to whoever has it, for ten minutes. Raises NotFound."""


IMAGES = Contract("image", Images)  # type: ignore[type-abstract]

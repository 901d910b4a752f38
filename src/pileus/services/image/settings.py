"""What an operator may set for images."""

from __future__ import annotations

import msgspec


class ImageSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`size_limit`: bytes of one image (upstream's own default, 1 TiB): a disk must not fill up by one mistake.

    `require_image_format_match`: refuse an upload whose bytes are not what its disk_format says; off, because clients
    upload what they like and consumers inspect before use.
    `first_image`: the file that becomes the public image `pileus-test` on the first start; "" takes
    `test-image.qcow2` of the state folder, and a file that isn't there yet is waited for.
    """

    size_limit: int = 1 << 40
    require_image_format_match: bool = False
    first_image: str = ""

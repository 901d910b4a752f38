"""What an operator may set for images."""

from __future__ import annotations

import msgspec


class ImageSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`size_limit`: bytes of one image (upstream's own default, 1 TiB): a disk must not fill up by one mistake.

    `require_image_format_match`: refuse an upload whose bytes are not what its disk_format says; off, because clients
    upload what they like and consumers inspect before use.
    `first_image`: the file that becomes the public image `pileus-test` on the first start; "" takes
    `test-image.qcow2` of the state folder, and a file that isn't there yet is waited for.
    `stores`: names of folders that keep images, the default one first; `NAME=/path` puts one on a disk of its own.
    `import_methods`: those that are offered.
    `trusted_origins`: `http://HOST:PORT` of servers from which images may be fetched though they are private.
    `show_multiple_locations`: images show where their bytes are, and their owners may set it; off as upstream, since
    a web server may give other bytes tomorrow.
    `property_protections`: the path of a file in upstream's format that says which roles may do what with properties.
    `cache_limit`: bytes that the cache is pruned to (upstream's default, 10 GiB).
    """

    size_limit: int = 1 << 40
    require_image_format_match: bool = False
    first_image: str = ""
    stores: str = "local"
    import_methods: str = "glance-direct,web-download,copy-image,glance-download"
    trusted_origins: str = ""
    show_multiple_locations: bool = False
    property_protections: str = ""
    cache_limit: int = 10 << 30


def words(value: str) -> tuple[str, ...]:
    """What a setting lists, separated by commas."""
    return tuple(w for w in (word.strip() for word in value.split(",")) if w)

"""Disk image files: what they truly are, whether they are safe to open, and a cache of them.

An image is inspected before anything else touches it. QEMU's own probing is never used: a format is
named or refused. The rules follow the advisories on image formats (CVE-2015-5163, CVE-2022-47951,
CVE-2024-32498): no backing file, no external data file, no feature we do not know, no size that
cannot be true, no file that is two formats.
"""

from __future__ import annotations

import re
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from pileus.kernel.faults import Invalid

HEAD = 64 * 1024  # every check looks at these bytes and at the last sector only,
VHDX_HEAD = 4 << 20  # but of a VHDX, which keeps what it is further in
SIZE_LIMIT = 1 << 46  # 64 TiB: a virtual size past it is a lie or an attack

_QCOW2_DIRTY, _QCOW2_DATA_FILE = 0, 2
_QCOW2_KNOWN = 1 << _QCOW2_DIRTY | 1 << 3 | 1 << 4  # lazy refcounts, compression type, subclusters
_QCOW2_DATA_FILE_EXTENSION = 0x44415441
_VHDX_REGIONS = 192 << 10
_VHDX_METADATA = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e").bytes_le
_VHDX_PARAMETERS = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b").bytes_le
_VHDX_SIZE = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8").bytes_le
_VMDK_TYPES = ("monolithicSparse", "streamOptimized")

# Glance's disk_format -> what the file must be found to be. Glance's own word for a VHD is `vhd`.
_MEANS = {
    "raw": ("raw", "iso"),
    "ami": ("raw",),
    "aki": ("raw",),
    "ari": ("raw",),
    "iso": ("iso",),
    "ploop": (),
}


@dataclass(frozen=True)
class ImageFacts:
    """What a file is.

    `virtual_size` in bytes as a guest sees it; `unsafe` says why not to open it.
    """

    format: str
    virtual_size: int
    unsafe: str | None = None
    partitions: str = ""  # `gpt` or `mbr` where a raw image has such a table


def inspect(path: Path) -> ImageFacts:
    """The facts of a file, from its header and last sector; never raises for bad contents."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        head = file.read(HEAD)
        head += file.read(needed(head) - HEAD)
        return inspect_bytes(head, size, _tail(file, size))


def needed(head: bytes) -> int:
    """How much of a file that begins so an inspection looks at."""
    return VHDX_HEAD if _LOOKS["vhdx"](head, b"") else HEAD


def inspect_bytes(head: bytes, size: int, tail: bytes = b"") -> ImageFacts:
    """The facts of an image of `size` bytes from its head (`needed` of it) and, if at hand, its last 512."""
    names = [name for name, looks in _LOOKS.items() if looks(head, tail)]
    if len(names) > 1:
        return ImageFacts(names[0], 0, f"it is {' and '.join(names)} at once")
    if not names:
        return ImageFacts("raw", size, partitions=_partitions(head))
    try:
        return _READS.get(names[0], _unreadable(names[0]))(head, size)
    except struct.error:
        return ImageFacts(names[0], 0, f"its {names[0]} header is cut short")


def require(facts: ImageFacts, disk_format: str) -> None:
    """Raise Invalid unless the image is what it is said to be, and safe."""
    if facts.format not in _MEANS.get(disk_format, (disk_format,)):
        raise Invalid(
            f"Image is said to be {disk_format} and is {facts.format}; "
            "its disk_format must name what it is."
        )
    if facts.unsafe:
        raise Invalid(f"Image of format {facts.format} may not be used: {facts.unsafe}.")


def _tail(file: BinaryIO, size: int) -> bytes:
    file.seek(max(0, size - 512))
    return file.read(512)


def _text_descriptor(head: bytes) -> bool:
    return head[:512].lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"# Disk DescriptorFile")


# The footer of a fixed VHD may follow any disk, so it counts only where nothing else is found at
# the head.
_LOOKS: dict[str, Callable[[bytes, bytes], bool]] = {
    "qcow2": lambda head, tail: head[:4] == b"QFI\xfb",
    "vmdk": lambda head, tail: head[:4] in (b"KDMV", b"COWD") or _text_descriptor(head),
    "vdi": lambda head, tail: head[0x40:0x44] == b"\x7f\x10\xda\xbe",
    "vhd": lambda head, tail: head[:8] == b"conectix" or tail[:8] == b"conectix",
    "vhdx": lambda head, tail: head[:8] == b"vhdxfile",
    "qed": lambda head, tail: head[:4] == b"QED\0",
    "luks": lambda head, tail: head[:6] == b"LUKS\xba\xbe",
    "parallels": lambda head, tail: head[:16] in (b"WithoutFreeSpace", b"WithouFreSpacExt"),
    "bochs": lambda head, tail: head[:24] == b"Bochs Virtual HD Image\0\0",
    "cloop": lambda head, tail: b"#V2.0 Format\nmodprobe cloop" in head[:256],
    "dmg": lambda head, tail: tail[:4] == b"koly",
    "iso": lambda head, tail: head[32769:32774] == b"CD001",
}


def _partitions(head: bytes) -> str:
    if head[512:520] == b"EFI PART":
        return "gpt"
    return "mbr" if head[510:512] == b"\x55\xaa" else ""


def _unreadable(name: str) -> Callable[[bytes, int], ImageFacts]:
    return lambda head, size: ImageFacts(name, 0, "this format cannot be inspected")


def _sized(name: str, virtual_size: int, unsafe: str | None) -> ImageFacts:
    if unsafe is None and not 0 < virtual_size <= SIZE_LIMIT:
        unsafe = f"its virtual size of {virtual_size} bytes is not between 1 and {SIZE_LIMIT}"
    return ImageFacts(name, virtual_size, unsafe)


def _qcow2(head: bytes, size: int) -> ImageFacts:
    version, backing, _, cluster_bits, virtual, encrypted, l1_entries, l1_offset = (
        struct.unpack_from(">IQIIQIIQ", head, 4)
    )
    refcount_offset, refcount_clusters = struct.unpack_from(">QI", head, 48)
    if version not in (2, 3):
        return ImageFacts("qcow2", 0, f"its version is {version}, not 2 or 3")
    unsafe = None
    if backing:
        unsafe = "it has a backing file"
    elif encrypted:
        unsafe = "it is encrypted"
    elif not 9 <= cluster_bits <= 21:
        unsafe = f"its clusters are 2^{cluster_bits} bytes"
    elif l1_entries > (32 << 20) // 8 or refcount_clusters << cluster_bits > 8 << 20:
        unsafe = "its tables are absurdly large"
    elif l1_offset > size or refcount_offset > size:
        unsafe = "its tables lie outside the file"
    elif version == 3:
        unsafe = _qcow2_features(head)
    return _sized("qcow2", virtual, unsafe)


def _qcow2_features(head: bytes) -> str | None:
    (incompatible,) = struct.unpack_from(">Q", head, 72)
    (at,) = struct.unpack_from(">I", head, 100)
    if incompatible >> _QCOW2_DATA_FILE & 1:
        return "it has an external data file"
    if incompatible & ~_QCOW2_KNOWN:
        return f"it needs unknown or unsafe features ({incompatible & ~_QCOW2_KNOWN:#x})"
    while at + 8 <= len(head):
        kind, length = struct.unpack_from(">II", head, at)
        if kind == 0:
            return None
        if kind == _QCOW2_DATA_FILE_EXTENSION:
            return "it names an external data file"
        at += 8 + (length + 7 & ~7)
    return "its header extensions do not end"


def _vmdk(head: bytes, size: int) -> ImageFacts:
    if head[:4] != b"KDMV":
        return ImageFacts("vmdk", 0, "only a sparse VMDK in one file can be used")
    (sectors,) = struct.unpack_from("<Q", head, 12)
    start, length = struct.unpack_from("<QQ", head, 28)
    descriptor = head[start * 512 : min(start + length, HEAD // 512) * 512]
    text = descriptor.split(b"\0", 1)[0].decode("latin-1")
    kind = re.search(r'^createType="([^"]*)"', text, re.MULTILINE)
    extents = re.findall(r"^(?:RW|RDONLY|NOACCESS)\s", text, re.MULTILINE)
    unsafe = None
    if not kind or kind[1] not in _VMDK_TYPES:
        unsafe = f"its type is {kind[1] if kind else 'not given'}, not {' or '.join(_VMDK_TYPES)}"
    elif len(extents) != 1:
        unsafe = f"it has {len(extents)} extents, not 1"
    elif not re.search(r"^parentCID=ffffffff\s*$", text, re.MULTILINE | re.IGNORECASE):
        unsafe = "it has a parent"
    return _sized("vmdk", sectors * 512, unsafe)


def _vdi(head: bytes, size: int) -> ImageFacts:
    (kind,) = struct.unpack_from("<I", head, 0x4C)
    (virtual,) = struct.unpack_from("<Q", head, 0x170)
    return _sized("vdi", virtual, None if kind in (1, 2) else f"its type {kind} has a parent")


def _vhd(head: bytes, size: int) -> ImageFacts:
    if head[:8] != b"conectix":
        return _sized("vhd", size - 512, None)  # fixed: the disk itself, then the footer
    (virtual,) = struct.unpack_from(">Q", head, 48)
    (kind,) = struct.unpack_from(">I", head, 60)
    return _sized("vhd", virtual, None if kind in (2, 3) else f"its type {kind} has a parent")


def _vhdx(head: bytes, size: int) -> ImageFacts:
    (regions,) = struct.unpack_from("<I", head, _VHDX_REGIONS + 8)
    at = _found(head, _VHDX_REGIONS + 16, regions, _VHDX_METADATA, "<Q")
    if at is None or head[at : at + 8] != b"metadata":
        return ImageFacts("vhdx", 0, "its metadata are not where they should be")
    (items,) = struct.unpack_from("<H", head, at + 10)
    parameters = _found(head, at + 32, items, _VHDX_PARAMETERS, "<I")
    length = _found(head, at + 32, items, _VHDX_SIZE, "<I")
    if parameters is None or length is None:
        return ImageFacts("vhdx", 0, "it does not say how large it is")
    (flags,) = struct.unpack_from("<I", head, at + parameters + 4)
    (virtual,) = struct.unpack_from("<Q", head, at + length)
    return _sized("vhdx", virtual, "it has a parent" if flags & 2 else None)


def _found(head: bytes, table: int, count: int, id: bytes, form: str) -> int | None:
    """Where the entry with that id leads; no table has more than 2,047."""
    for at in range(table, table + 32 * min(count, 2047), 32):
        if head[at : at + 16] == id:
            return int(struct.unpack_from(form, head, at + 16)[0])
    return None


_READS: dict[str, Callable[[bytes, int], ImageFacts]] = {
    "qcow2": _qcow2,
    "vmdk": _vmdk,
    "vdi": _vdi,
    "vhd": _vhd,
    "vhdx": _vhdx,
    "iso": lambda head, size: ImageFacts("iso", size),
}

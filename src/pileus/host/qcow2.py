"""A qcow2 file in which nothing is written yet: what `qemu-img create` makes of one, without a process and with holes.

Four parts, each of whole clusters: header, table of reference counts, one block of those, first-level table.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

_BITS = 16
_CLUSTER = 1 << _BITS
_SPAN = _CLUSTER * _CLUSTER // 8  # bytes of a disk behind one entry of the first-level table
_HEADER = struct.Struct(">4sIQIIQIIQQIIQQQQII")
_BACKING_FORMAT = 0xE2792ACA


def lay_over(path: Path, behind: str, format: str, size: int) -> None:
    """Make a file that is there a disk of `size` bytes that differs in nothing from `behind`.

    That is seen from the folder where it will be opened. Nothing is flushed.
    """
    entries = -(-size // _SPAN)
    level_1 = -(-entries * 8 // _CLUSTER)  # clusters
    name, kind = behind.encode(), format.encode()
    extensions = struct.pack(">II", _BACKING_FORMAT, len(kind)) + kind.ljust(8, b"\0") + bytes(8)
    header = _HEADER.pack(
        b"QFI\xfb",
        3,
        _HEADER.size + len(extensions),
        len(name),
        _BITS,
        size,
        0,  # not encrypted
        entries,
        3 * _CLUSTER,
        _CLUSTER,
        1,
        0,  # no snapshots
        0,
        0,  # no features
        0,
        0,
        4,  # counts of 16 bits
        _HEADER.size,
    )
    with path.open("r+b") as file:
        file.write(header + extensions + name)
        os.pwrite(file.fileno(), struct.pack(">Q", 2 * _CLUSTER), _CLUSTER)
        os.pwrite(file.fileno(), struct.pack(">H", 1) * (3 + level_1), 2 * _CLUSTER)
        file.truncate((3 + level_1) * _CLUSTER)

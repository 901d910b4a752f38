"""A QED file in which nothing is written yet.

Of QEMU's formats that lie over another file it is the one whose tables are in the kernel's hands when a write is
answered: a process that is killed takes nothing with it, and a write that needs no room costs no flush. Two parts,
each of whole clusters: header and first-level table. See QEMU's docs/interop/qed_spec.rst.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

_CLUSTER = 1 << 16
_TABLE = 2  # clusters of a table: the least with which a disk may have 16 TiB, for every layer keeps some in memory
_HEADER = struct.Struct("<4sIIIQQQQQII")
_HAS_BACKING, _IS_RAW = 1, 4


def lay_over(path: Path, behind: str, format: str, size: int) -> None:
    """Make a file that is there a disk of `size` bytes that differs in nothing from `behind`.

    That is seen from the folder where it will be opened. Nothing is flushed.
    """
    name = behind.encode()
    header = _HEADER.pack(
        b"QED\0",
        _CLUSTER,
        _TABLE,
        1,  # the header's own cluster
        _HAS_BACKING | (_IS_RAW if format == "raw" else 0),
        0,
        0,
        _CLUSTER,
        size,
        _HEADER.size,
        len(name),
    )
    with path.open("r+b") as file:
        file.write(header + name)
        os.truncate(file.fileno(), (1 + _TABLE) * _CLUSTER)

"""The files that become the first images: what was built for tests, a blank disk for the fake driver else."""

from __future__ import annotations

import struct
from pathlib import Path

from pileus.host import caches

_NAME, _ROOT_NAME = "test-image.qcow2", "test-root.tar.gz"
_CLUSTER = 1 << 16
_VIRTUAL_BYTES = 16 << 20


def place(state: Path, driver: str) -> None:
    """Puts files where the image service looks, unless something is there. Links: they are not copied."""
    if driver != "container":
        _link(state / _NAME, caches.testimage())
    if not (state / _NAME).exists() and driver == "fake":
        (state / _NAME).write_bytes(blank_qcow2())
    if "container" in driver:
        _link(state / _ROOT_NAME, caches.testroot())


def _link(path: Path, built: Path) -> None:
    if path.exists():
        return
    path.unlink(missing_ok=True)  # a link to a cache that was cleared
    if built.exists():
        path.symlink_to(built)


def blank_qcow2() -> bytes:
    """A valid empty qcow2 of 16 MiB: header, refcount table, refcount block, L1 table, a cluster each."""
    header = struct.pack(
        ">4sIQIIQIIQQIIQQQQII",
        b"QFI\xfb",
        3,
        0,
        0,
        16,  # cluster bits
        _VIRTUAL_BYTES,
        0,
        1,  # L1 entries
        3 * _CLUSTER,
        1 * _CLUSTER,
        1,  # refcount table clusters
        0,
        0,
        0,
        0,
        0,
        4,  # refcount order: 16 bits
        104,
    )
    table = struct.pack(">Q", 2 * _CLUSTER)
    counts = struct.pack(">4H", 1, 1, 1, 1)
    parts = (header, table, counts, b"")
    return b"".join(p.ljust(_CLUSTER, b"\0") for p in parts)

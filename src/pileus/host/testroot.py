"""A small root file system for containers, made in seconds from Debian packages.

BusyBox, Dropbear, and an init that fetches its ssh keys and says when it is up; users root and
`cirros`. What is written for it lies in `testroot_tree/`.
"""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pileus.host import files
from pileus.host.process import run

# Fetched and unpacked, never installed; and what is taken of each.
_CONTENTS = {
    "busybox-static": ("bin/busybox",),
    "dropbear-bin": ("usr/sbin/dropbear",),
    "libtomcrypt1": ("libtomcrypt.so.1",),
    "libtommath1": ("libtommath.so.1",),
    "libgmp10": ("libgmp.so.10",),
    "libcrypt1": ("libcrypt.so.1",),
    "zlib1g": ("libz.so.1",),
    "libc6": ("libc.so.6", "ld-linux-x86-64.so.2"),
}
_FOLDERS = (
    "bin",
    "dev",
    "etc/dropbear",
    "home",
    "lib",
    "lib64",
    "mnt",
    "proc",
    "root",
    "run",
    "sbin",
    "sys",
    "tmp",
    "usr",
    "var/log",
)
_TREE = Path(__file__).with_name("testroot_tree")


async def build(destination: Path) -> Path:
    """Make the archive unless the same recipe made the one that is there.

    Raises ProcessFailed when a package cannot be fetched.
    """
    stamp = destination.with_name(destination.name + ".recipe")
    recipe = recipe_hash()
    if not _is_built(destination, stamp, recipe):
        with tempfile.TemporaryDirectory(prefix="testroot.", dir=destination.parent) as folder:
            part = destination.with_name(destination.name + files.PART)
            await _cook(Path(folder), part)
            files.settle(part, destination)
        files.write_atomically(stamp, recipe.encode(), 0o644)
    return destination


def _is_built(destination: Path, stamp: Path, recipe: str) -> bool:
    destination.parent.mkdir(parents=True, exist_ok=True)
    return destination.exists() and stamp.exists() and stamp.read_text() == recipe


def recipe_hash() -> str:
    """What the archive depends on: this module and the tree of files beside it."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(_TREE.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(_TREE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


async def _cook(folder: Path, target: Path) -> None:
    os.chmod(folder, 0o777)  # apt fetches as a user of its own
    await run(["apt-get", "download", "-qq", *_CONTENTS], cwd=folder, timeout_s=600)
    unpacked = folder / "x"
    for deb in fnmatch.filter(os.listdir(folder), "*.deb"):
        await run(["dpkg-deb", "-x", deb, str(unpacked)], cwd=folder, timeout_s=120)
    applets = (await run([str(unpacked / "bin/busybox"), "--list"])).decode().split()
    await asyncio.to_thread(_archive, target, unpacked, applets)


def _archive(target: Path, unpacked: Path, applets: list[str]) -> None:
    """Everything is root's; what differs says so in the names of `etc/passwd` only."""
    with tarfile.open(target, "w:gz", compresslevel=1) as out:
        for folder in _FOLDERS:
            _add(out, folder, tarfile.DIRTYPE, mode=0o1777 if folder == "tmp" else 0o755)
        for wanted in (name for names in _CONTENTS.values() for name in names):
            name, source = _found(unpacked, wanted)
            _add(out, name, tarfile.REGTYPE, source.read_bytes())
        loader = "ld-linux-x86-64.so.2"
        _add(out, f"lib64/{loader}", tarfile.SYMTYPE, link=f"/lib/{loader}")
        for applet in applets:
            if applet not in ("busybox", "init"):
                _add(out, f"bin/{applet}", tarfile.SYMTYPE, link="busybox")
        for path in _own():
            mode = 0o755 if path.read_bytes().startswith(b"#!") else 0o644
            _add(out, str(path.relative_to(_TREE)), tarfile.REGTYPE, path.read_bytes(), mode=mode)


def _own() -> Iterator[Path]:
    return (path for path in sorted(_TREE.rglob("*")) if path.is_file())


def _found(unpacked: Path, wanted: str) -> tuple[str, Path]:
    """Where it goes, and where it is: programs by their path, libraries anywhere."""
    if "/" in wanted:
        return f"bin/{Path(wanted).name}", unpacked / wanted
    return f"lib/{wanted}", next(unpacked.rglob(wanted)).resolve()


def _add(
    out: tarfile.TarFile,
    name: str,
    kind: bytes,
    data: bytes = b"",
    *,
    link: str = "",
    mode: int = 0o755,
) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.size, member.linkname, member.mode = kind, len(data), link, mode
    out.addfile(member, io.BytesIO(data))

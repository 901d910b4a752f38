"""The files that volumes are made of, and chains of them as QEMU is told of them."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pileus.host import files, luks, qed, uploads
from pileus.host.process import Limits, ProcessFailed, as_user, run
from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.world import World

from .record import GIB, Chain, Layer

FOLDER = "layers"
LONGEST = (1 << 44) - 4096  # bytes: ext4 has no longer file; volumes have this room to grow in
DEEPEST = 200  # layers of a chain, each of them an open file of every daemon that serves it
# Glance's names of formats that a volume can be sent in, and what qemu-img makes of each.
FORMATS = {
    "raw": "raw",
    "qcow2": "qcow2",
    "vmdk": "vmdk",
    "vdi": "vdi",
    "vhd": "vpc",
    "vhdx": "vhdx",
}
_UP = "../.."  # commands and daemons work in the folder of a volume
_HOURS_S = 6 * 3600
_COPYING = Limits(cpu_s=_HOURS_S)


class Layers:
    """The files in `state_dir/layers`. `owner` is the user that daemons run as, None for our own."""

    def __init__(self, state_dir: Path, owner: int | None, world: World) -> None:
        self._state_dir, self.owner, self._world = state_dir, owner, world
        self.folder = state_dir / FOLDER

    @property
    def prefix(self) -> list[str]:
        """What stands before a command that reads what guests wrote."""
        return [] if self.owner is None else as_user(self.owner)

    def path(self, layer: Layer) -> Path:
        return self._state_dir / layer.name

    def new(self, format: str) -> Layer:
        """An empty file that others cannot open."""
        layer = Layer(f"{FOLDER}/{self._world.new_hex()}", format)
        self.path(layer).touch(0o600, exist_ok=False)
        self.give(self.path(layer))
        return layer

    def give(self, path: Path) -> None:
        """To the user that daemons run as."""
        if self.owner is not None:
            os.chown(path, self.owner, self.owner)

    def remove(self, layers: Iterable[Layer]) -> None:
        """Images stay: another volume of one may follow."""
        for layer in layers:
            if layer.name.startswith(f"{FOLDER}/"):
                self.path(layer).unlink(missing_ok=True)

    def stretch(self, layer: Layer) -> None:
        """A raw file has room to grow under an export: there is nothing behind its end."""
        os.truncate(self.path(layer), LONGEST)
        self.settle(layer)

    def settle(self, layer: Layer) -> None:
        files.sync_file(self.path(layer))
        files.sync_folder(self.folder)

    def lay_over(self, layer: Layer, behind: Layer) -> None:
        """Make it a QED that differs in nothing from what is behind it."""
        qed.lay_over(self.path(layer), _seen_from(behind), behind.format, LONGEST)
        self.settle(layer)

    async def encrypt(
        self, layer: Layer, size: int, passphrase: str, image: Layer | None, cwd: Path
    ) -> int:
        """Make it a LUKS1 container for `size` bytes, with the image in it; how long its header is."""
        header = await asyncio.to_thread(luks.header, passphrase, self._world.random)
        with self.path(layer).open("r+b") as file:
            file.write(header)
            file.truncate(luks.HEADER + size)
        if image is not None:
            into = f"driver=luks,key-secret=key,file.driver=file,file.filename={_seen_from(layer)}"
            with luks.secret(passphrase, self.owner) as secret:
                words = ["convert", *secret, "-n", "--target-image-opts", f"-f{image.format}"]
                await self._run([*words, _seen_from(image), into], cwd)
        return luks.HEADER

    async def fill(self, layer: Layer, url: str) -> None:
        """With the bytes at a URL; zeros are holes."""
        await uploads.fetch(url, self.path(layer))

    async def convert(
        self, chain: Chain, size: int, disk_format: str, path: Path, cwd: Path
    ) -> None:
        """Write what a guest sees to a file of that format. Raises Invalid for one that is none."""
        if disk_format not in FORMATS:
            raise Invalid(f"Format {disk_format!r} is none of {', '.join(FORMATS)}.")
        source = {"driver": "raw", "size": size, "file": described(chain, is_read_only=True)}
        words = ["convert", f"-O{FORMATS[disk_format]}"]
        if disk_format == "vmdk":
            words.append("-osubformat=streamOptimized")
        target = f"{_UP}/{path.relative_to(self._state_dir)}"
        await self._run([*words, f"json:{json.dumps(source)}", target], cwd)

    async def _run(self, words: list[str], cwd: Path) -> None:
        command = [*self.prefix, "qemu-img", *words]
        await run(command, limits=_COPYING, timeout_s=_HOURS_S, cwd=cwd)


def described(chain: Chain, *, is_read_only: bool, aio: str = "threads") -> dict[str, Any]:
    """The chain as a block node of QEMU's: every file named and its format told, nothing is looked for.

    `aio`: who reads and writes the files, threads of QEMU's or `io_uring`.
    """
    layer, *behind = chain
    node: dict[str, Any] = {
        "driver": layer.format,
        "node-name": layer.node,
        "read-only": is_read_only,
        "discard": "unmap",
        "file": {"driver": "file", "filename": _seen_from(layer), "discard": "unmap", "aio": aio},
    }
    if behind:
        node["backing"] = described(tuple(behind), is_read_only=True, aio=aio)
    return node


def _seen_from(layer: Layer) -> str:
    return f"{_UP}/{layer.name}"


def check_depth(chain: Chain) -> None:
    """Raises Conflict."""
    if len(chain) >= DEEPEST:
        text = (
            f"The volume stands on {len(chain)} snapshots and copies, and no more can be made of it"
        )
        raise Conflict(f"{text}; a backup of it, restored, stands on nothing.")


def check_size(size_gib: int) -> None:
    """Raises Invalid."""
    if not 0 < size_gib <= LONGEST // GIB:
        raise Invalid(f"A volume of {size_gib} GiB cannot be; 1 to {LONGEST // GIB} can.")


@contextmanager
def room_for(what: str) -> Iterator[None]:
    """Raises Conflict where there is no room, or where a command of ours failed."""
    try:
        yield
    except OSError as reason:
        if reason.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Conflict(f"No room on this host for {what}.", internal=repr(reason)) from None
    except ProcessFailed as failed:
        lacks = "No space left" in failed.reason
        text = f"No room on this host for {what}." if lacks else f"This host cannot make {what}."
        raise Conflict(text, internal=failed.reason) from failed

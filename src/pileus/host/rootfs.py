"""Root file systems of containers: unpacked once from an image, shared by all, packed into a new one."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from pileus.host import caged_tar, files
from pileus.host.image_cache import CachedImage, ImageCache
from pileus.host.images import ImageFacts
from pileus.host.process import Limits, ProcessFailed, run
from pileus.kernel.faults import Conflict, Invalid, Unavailable

FIRST_ID = 0x70000000  # the host's user for a container's root: beyond those that systemd gives out
IDS = caged_tar.IDS
_RIGHTS = "-all,+chown,+dac_override,+fowner,+fsetid,+sys_chroot"
_LIMITS = Limits(cpu_s=1800)
_PATIENCE_S = 3600
_TREE, _NOTE = "tree", "command.json"


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What a container runs when nobody says otherwise. Empty `args`: the tree's own init."""

    args: list[str] = []
    env: list[str] = []
    cwd: str = "/"
    uid: int = 0
    gid: int = 0


class RootCache(ImageCache):
    """An image of this cache is a folder: the tree, and what it says is to be run."""

    def tree(self, image: CachedImage) -> Path:
        return self.path(image) / _TREE

    def command(self, image: CachedImage) -> Command:
        return msgspec.json.decode((self.path(image) / _NOTE).read_bytes(), type=Command)

    async def _shape(self, part: Path, facts: ImageFacts) -> None:
        """Raises Invalid for what is no archive of a root file system."""
        folder = part.with_name(f"{part.name}.{_TREE}{files.PART}")
        (folder / _TREE).mkdir(parents=True)
        try:
            room = shutil.disk_usage(self.folder).free // 2  # the other half stays the guests'
            try:
                said = await _caged("unpack", part, folder / _TREE, room)
            except ProcessFailed as failed:
                raise _refusal("The image cannot be unpacked", failed, Invalid) from failed
            (folder / _NOTE).write_bytes(said)
            await run(["sync", "-f", str(folder)])
            os.unlink(part)
            os.rename(folder, part)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


async def pack(tree: Path, command: Command, archive: Path, room: int) -> None:
    """An image of the tree, in at most `room` bytes. Raises Conflict where it has no room."""
    try:
        await _caged("pack", archive, tree, room, msgspec.json.encode(command).decode())
    except ProcessFailed as failed:
        raise _refusal("The file system cannot be copied", failed, Conflict) from failed


async def _caged(verb: str, archive: Path, tree: Path, size: int, command: str = "{}") -> bytes:
    cage = ["setpriv", "--no-new-privs", f"--bounding-set={_RIGHTS}", "--inh-caps=-all"]
    script: Sequence[str] = (sys.executable, "-I", str(Path(caged_tar.__file__)), verb)
    words = (str(archive), str(tree), str(FIRST_ID), str(size), command)
    return await run([*cage, *script, *words], limits=_LIMITS, timeout_s=_PATIENCE_S)


def _refusal(
    what: str, failed: ProcessFailed, kind: type[Invalid] | type[Conflict]
) -> Invalid | Conflict | Unavailable:
    """The cage's own sentence is for the user; anything else is ours."""
    if failed.returncode == caged_tar.REFUSED:
        return kind(f"{what}: {failed.reason.partition(': ')[2]}.")
    return Unavailable(f"{what}.", internal=failed.reason)

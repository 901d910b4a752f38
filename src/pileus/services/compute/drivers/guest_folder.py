"""The folder of one QEMU guest on its host, whose files say all there is to know after a crash.

`spec.json` comes first and says who asked for the guest; `made` comes last. What lies between is
either whole or named `.part`, so making a guest again goes on where it was left.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec

from pileus.host import files
from pileus.host.image_cache import CachedImage
from pileus.host.process import Limits, as_user, run
from pileus.host.qemu import Disk
from pileus.host.qemu_memory import Layout
from pileus.services.compute.driver import GuestSpec, ImageSource

CONSOLE_KEPT = 512 * 1024  # bytes that stay when the console is cut
CONSOLE_LIMIT = 1024 * 1024  # bytes it may have before that
_GONE = ".gone-"  # the folder of a destroyed guest, until its files are unlinked
_BLOCK = 4096
_COLLAPSE_RANGE = 0x08
_DISKS = ("disk.qcow2", "ephemeral.raw", "swap.raw", "config.iso")
_GIB = 1 << 30
_QEMU_IMG = Limits(cpu_s=120)


class GuestFolder:
    """Files of a guest. `owner` is the user that QEMU runs as, None for our own."""

    def __init__(self, guests: Path, guest_id: str, owner: int | None) -> None:
        self.path = guests / guest_id
        self.guest_id = guest_id
        self._owner = owner

    @property
    def is_made(self) -> bool:
        return (self.path / "made").exists()

    @property
    def disk(self) -> Path:
        return self.path / "disk.qcow2"

    @property
    def disk_before(self) -> Path:
        """What it was before a resize that nobody has confirmed."""
        return self.disk.with_stem("before")

    @property
    def console_log(self) -> Path:
        return self.path / "console.log"

    @property
    def vnc_socket(self) -> Path:
        return self.path / "run/vnc.sock"

    @property
    def serial_socket(self) -> Path:
        return self.path / "serial.sock"

    def read_spec(self) -> GuestSpec | None:
        """Who asked for the guest; None when the folder is younger than that."""
        try:
            return msgspec.json.decode((self.path / "spec.json").read_bytes(), type=GuestSpec)
        except FileNotFoundError:
            return None

    def write_spec(self, spec: GuestSpec) -> None:
        files.write_atomically(self.path / "spec.json", msgspec.json.encode(spec))

    def create(self, spec: GuestSpec) -> None:
        """The folder, the spec in it, the console's file and a place where QEMU may write."""
        self.path.mkdir(exist_ok=True)
        self.path.chmod(0o711)
        self.write_spec(spec)
        run_folder = self.path / "run"
        run_folder.mkdir(exist_ok=True)
        run_folder.chmod(0o700)
        console = self.console_log
        console.touch(0o600)
        for path in (run_folder, console):
            self.give(path)

    @property
    def memory(self) -> Path:
        """The memory of a suspended guest."""
        return self.path / "memory.state"

    def read_layout(self) -> Layout | None:
        """Where a suspended guest's devices were; None for one that is not suspended."""
        try:
            return msgspec.json.decode((self.path / "layout.json").read_bytes(), type=Layout)
        except FileNotFoundError:
            return None

    def lay_aside(self, layout: Layout) -> None:
        """The memory is there in full: from here on the guest is suspended."""
        files.write_atomically(self.path / "layout.json", msgspec.json.encode(layout))

    def drop_memory(self) -> None:
        """The guest goes on, or starts anew: its old memory would not fit its disks any more."""
        (self.path / "layout.json").unlink(missing_ok=True)
        files.sync_folder(self.path)
        self.memory.unlink(missing_ok=True)

    def finish(self) -> None:
        files.write_atomically(self.path / "made", b"")

    async def make_disks(self, spec: GuestSpec, base: CachedImage | None, images: Path) -> None:
        """Every disk of the spec that is not there yet."""
        if base:
            size = max(spec.root_gib * _GIB, base.virtual_size)
            path, kind = self._behind(base, images)
            await self._make("disk.qcow2", ["-f", "qcow2", "-b", path, "-F", kind], size)
        elif spec.root_gib:
            await self._make("disk.qcow2", ["-f", "qcow2"], spec.root_gib * _GIB)
        if spec.ephemeral_gib:
            fill = ["mke2fs", "-q", "-L", "ephemeral0"]
            await self._once("ephemeral.raw", lambda part: [*fill, part], spec.ephemeral_gib * _GIB)
        if spec.swap_mib:
            await self._once("swap.raw", lambda part: ["mkswap", part], spec.swap_mib << 20)
        if spec.config_drive:
            await self._make_config_drive(spec.metadata)

    def disks(self, spec: GuestSpec, base: CachedImage | None, images: Path) -> tuple[Disk, ...]:
        """The disks as QEMU is told of them, named from the folder, in the order the guest sees."""
        found = []
        if base or spec.root_gib:
            behind = self._behind(base, images) if base else None
            found.append(Disk("disk.qcow2", "qcow2", behind))
        if spec.ephemeral_gib:
            found.append(Disk("ephemeral.raw", "raw", serial="ephemeral0"))
        if spec.swap_mib:
            found.append(Disk("swap.raw", "raw", serial="swap"))
        if spec.config_drive:
            found.append(Disk("config.iso", "raw", is_read_only=True, serial="config-2"))
        return tuple(found)

    def forget_disks(self) -> None:
        """All but the console's log: the disks are about to be made anew."""
        for name in ("rescue.json", "rescue.qcow2", *_DISKS):
            (self.path / name).unlink(missing_ok=True)

    async def make_rescue(self, image: ImageSource, base: CachedImage, images: Path) -> None:
        """A fresh disk of that image; from here on the guest starts from it."""
        self.drop_rescue()
        path, kind = self._behind(base, images)
        await self._make("rescue.qcow2", ["-f", "qcow2", "-b", path, "-F", kind], base.virtual_size)
        files.write_atomically(self.path / "rescue.json", msgspec.json.encode(image))

    def read_rescue(self) -> ImageSource | None:
        """The image that a rescued guest was started from."""
        try:
            return msgspec.json.decode((self.path / "rescue.json").read_bytes(), type=ImageSource)
        except FileNotFoundError:
            return None

    def rescue_disk(self, base: CachedImage, images: Path) -> Disk:
        return Disk("rescue.qcow2", "qcow2", self._behind(base, images))

    def drop_rescue(self) -> None:
        (self.path / "rescue.json").unlink(missing_ok=True)
        (self.path / "rescue.qcow2").unlink(missing_ok=True)

    def _behind(self, base: CachedImage, images: Path) -> tuple[str, str]:
        """The image as seen from the folder, and its format."""
        return os.path.relpath(images / base.name, self.path), base.format

    async def _make(self, name: str, options: list[str], size: int) -> None:
        def command(part: str) -> list[str]:
            return ["qemu-img", "create", "-q", *options, part, str(size)]

        await self._once(name, command)

    async def _make_config_drive(self, contents: dict[str, str]) -> None:
        with tempfile.TemporaryDirectory(prefix="config", suffix=files.PART, dir=self.path) as tree:
            await asyncio.to_thread(_lay_out, Path(tree), contents)
            options = ["-quiet", "-J", "-r", "-V", "config-2", "-publisher", "Pileus"]
            await self._once("config.iso", lambda part: ["genisoimage", *options, "-o", part, tree])

    async def _once(self, name: str, command: Callable[[str], list[str]], size: int = 0) -> None:
        """Make the file by a command unless it is there; it gets its name when it is whole.

        `size`: of what the command finds, all zeros.
        """
        path = self.path / name
        if path.exists():
            return
        part = f"{name}{files.PART}"
        self.begin(self.path / part)
        os.truncate(self.path / part, size)
        await run(command(part), limits=_QEMU_IMG, cwd=self.path)
        files.sync_file(self.path / part)
        files.settle(self.path / part, path)

    def as_owner(self) -> list[str]:
        """What stands before a command that reads what QEMU wrote: a disk's head may name any file."""
        return [] if self._owner is None else as_user(self._owner)

    def begin(self, part: Path) -> None:
        """An empty file that others cannot open before there is anything in it; one they had open is not it."""
        part.unlink(missing_ok=True)
        part.touch(0o600, exist_ok=False)
        self.give(part)

    def give(self, path: Path) -> None:
        """To the user that QEMU runs as."""
        if self._owner is not None:
            os.chown(path, self._owner, self._owner)

    def remove(self) -> None:
        """Delete everything; the name goes first, so a crash leaves only what `clear` deletes."""
        gone = self.path.with_name(f"{_GONE}{self.guest_id}")
        if self.path.exists():
            shutil.rmtree(gone, ignore_errors=True)
            self.path.rename(gone)
            files.sync_folder(gone.parent)
        if gone.exists():
            shutil.rmtree(gone)

    def console(self) -> str:
        """What is kept of the serial console. The file belongs to QEMU, so no link is followed."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(self.console_log, flags)
        except FileNotFoundError:
            return ""
        with os.fdopen(descriptor, "rb") as log:
            log.seek(max(0, os.fstat(descriptor).st_size - CONSOLE_LIMIT))
            return log.read(CONSOLE_LIMIT).decode(errors="replace").replace("\r\n", "\n")

    def trim_logs(self) -> None:
        """Cut the heads of the console and of QEMU's own words, while QEMU appends to them."""
        for log in (self.console_log, self.path / "qemu.log"):
            _trim(log)


def clear(guests: Path) -> None:
    """Delete the folders of guests destroyed by a process that did not live to finish it."""
    for gone in guests.glob(f"{_GONE}*"):
        shutil.rmtree(gone)


def _trim(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        size = os.fstat(descriptor).st_size
        if size > CONSOLE_LIMIT:
            _cut_head(descriptor, (size - CONSOLE_KEPT) // _BLOCK * _BLOCK)
    finally:
        os.close(descriptor)


def _lay_out(tree: Path, contents: dict[str, str]) -> None:
    for name, text in contents.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _cut_head(descriptor: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.c_int(_COLLAPSE_RANGE), ctypes.c_long(0), ctypes.c_long(length))
    if libc.fallocate(ctypes.c_int(descriptor), *arguments) == 0:
        return
    if ctypes.get_errno() not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
        raise OSError(ctypes.get_errno(), "Cannot cut the head of a console log")
    # This file system cannot; the few bytes that QEMU writes between these two calls are lost.
    tail = os.pread(descriptor, CONSOLE_KEPT, length)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, tail, 0)

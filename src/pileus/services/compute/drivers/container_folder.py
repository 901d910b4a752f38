"""What a container has on its host: a folder that says all there is to know after a crash, and mounts.

    disk.ext4             the disk: as large as the flavor's, and no file of the guest is elsewhere
      upper/ work/        what it changed of its image's tree
      console.log etc/ config/
    rescue.json, .ext4    the same of another image, while it is rescued
    snapshot-<id>.tar     a copy of the tree, until it is sent

Mounts stand in a folder that the user who is a container's root may pass through, and nobody else.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from uuid import UUID

import msgspec

from pileus.host import files, mounts
from pileus.host.process import ProcessFailed
from pileus.host.rootfs import FIRST_ID
from pileus.kernel.faults import Conflict, Invalid
from pileus.services.compute.driver import GuestSpec, ImageSource
from pileus.services.compute.drivers.guest_folder import GuestFolder

_GIB = 1 << 30
_CONFIG_AT = (
    "/var/lib/cloud/seed/config_drive"  # where cloud-init looks for a drive that is a folder
)
_OWN_AT = "/mnt"  # the guest's own tree, while it is rescued
Bind = tuple[Path, str, str]


class ContainerFolder(GuestFolder):
    """Files and mounts of a guest. `places` is the folder of all guests' mounts."""

    def __init__(self, guests: Path, guest_id: str, places: Path) -> None:
        super().__init__(guests, guest_id, None)
        self._place = places / guest_id
        self._patterns = guests.with_name("empty")  # file systems, by size

    @property
    def disk(self) -> Path:
        return self.path / "disk.ext4"

    @property
    def console_log(self) -> Path:
        return self.disk_at / "console.log"

    @property
    def disk_at(self) -> Path:
        return self._place / "disk"

    @property
    def rescue_at(self) -> Path:
        return self._place / "rescue-disk"

    @property
    def tree(self) -> Path:
        """The guest's own, as it stands."""
        return self._place / "tree"

    @property
    def rescue_tree(self) -> Path:
        return self._place / "rescue"

    def create(self, spec: GuestSpec) -> None:
        """The disk of a guest that never was whole is made anew: it may not have been flushed."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        if not self.is_made:
            self.forget_disks()

    def finish(self) -> None:
        files.sync_file(self.disk)
        super().finish()

    async def make_disk(self, spec: GuestSpec) -> None:
        """Raises Conflict where it cannot be made."""
        if not self.disk.exists():
            await self._make_file_system(self.disk, spec)

    def mount(self, spec: GuestSpec, lower: Path) -> Path:
        """The guest's tree over that of its image; what it is told about itself is written anew."""
        self.mount_disk()
        mounts.mount_over(lower, self.disk_at, self.tree)
        self._write_etc(spec)
        return self.tree

    def mount_disk(self) -> None:
        """Nothing where there is none yet."""
        self._place.mkdir(parents=True, exist_ok=True)
        for passed in (self._place.parent.parent, self._place.parent, self._place):
            os.chown(passed, 0, FIRST_ID)
            passed.chmod(0o710)
        if self.disk.exists():
            mounts.mount_file(self.disk, self.disk_at)

    def open_console(self) -> None:
        """Its programs may open again what they write to, as `/dev/stdout`, whoever they are."""
        self.console_log.touch()
        os.chown(self.console_log, FIRST_ID, FIRST_ID)
        self.console_log.chmod(0o622)

    def unmount(self) -> None:
        for at in (self.rescue_tree, self.rescue_at, self.tree, self.disk_at):
            mounts.unmount(at)
        if self._place.exists():
            self._place.rmdir()

    def remove(self) -> None:
        self.unmount()
        super().remove()

    def binds(self, spec: GuestSpec) -> list[Bind]:
        """What the container finds in its tree that is not of its image."""
        etc = self.disk_at / "etc"
        found = [(etc / name, f"/etc/{name}", "rw") for name in os.listdir(etc)]
        if spec.config_drive:
            found.append((self.disk_at / "config", _CONFIG_AT, "ro"))
        if self.read_rescue():
            found.append((self.tree, _OWN_AT, "rw"))
        return found

    async def make_rescue_disk(self, image: ImageSource, spec: GuestSpec) -> None:
        """From here on the guest starts from another image, with its own tree behind it."""
        self.drop_rescue()
        await self._make_file_system(self._rescue_disk, spec)
        files.write_atomically(self.path / "rescue.json", msgspec.json.encode(image))

    def mount_rescue(self, lower: Path) -> Path:
        mounts.mount_file(self._rescue_disk, self.rescue_at)
        mounts.mount_over(lower, self.rescue_at, self.rescue_tree)
        return self.rescue_tree

    @property
    def _rescue_disk(self) -> Path:
        return self.path / "rescue.ext4"

    def drop_rescue(self) -> None:
        mounts.unmount(self.rescue_tree)
        mounts.unmount(self.rescue_at)
        (self.path / "rescue.json").unlink(missing_ok=True)
        mounts.remove(self._rescue_disk)

    def forget_disks(self) -> None:
        """The disk is about to be made anew."""
        self.drop_rescue()
        self.unmount()
        mounts.remove(self.disk)

    def snapshot(self, name: str) -> Path:
        """Where a copy lies once it is whole. Raises Invalid for a name that could lead elsewhere."""
        try:
            return self.path / f"snapshot-{UUID(name)}.tar"
        except ValueError:
            raise Invalid(f"Snapshot name {name!r} is not a UUID.") from None

    @property
    def is_being_copied(self) -> bool:
        return any(self.path.glob(f"snapshot-*{files.PART}"))

    async def _make_file_system(self, disk: Path, spec: GuestSpec) -> None:
        """A guest without a size of its own has a GiB."""
        gib = spec.root_gib or 1
        part = disk.with_name(disk.name + files.PART)
        try:
            await mounts.make(part, gib * _GIB, self._patterns / f"{gib}.ext4")
        except (ProcessFailed, OSError) as failed:
            raise Conflict(
                f"The disk of guest {spec.id} cannot be made.", internal=str(failed)
            ) from failed
        await asyncio.to_thread(part.rename, disk)

    def _write_etc(self, spec: GuestSpec) -> None:
        """On the guest's disk, so that nothing of what it writes is outside of it."""
        addresses = [a.partition("/")[0] for nic in spec.nics for a in nic.addresses]
        servers = dict.fromkeys(server for nic in spec.nics for server in nic.nameservers)
        texts = {
            "hostname": f"{spec.hostname}\n",
            "hosts": "127.0.0.1 localhost\n::1 localhost\n"
            + "".join(f"{address} {spec.hostname}\n" for address in addresses[:1]),
            "resolv.conf": "".join(f"nameserver {server}\n" for server in servers),
        }
        _lay_out(self.disk_at / "etc", texts)
        if spec.config_drive:
            _lay_out(self.disk_at / "config", spec.metadata)


def _lay_out(folder: Path, texts: dict[str, str]) -> None:
    """Files that are the container's root's, and no others."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        os.chown(path, FIRST_ID, FIRST_ID)

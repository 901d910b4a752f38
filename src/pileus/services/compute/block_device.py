"""A server's volumes, as it keeps them. https://docs.openstack.org/nova/latest/user/block-device-mapping.html"""

from __future__ import annotations

from collections.abc import Iterable
from string import ascii_lowercase

import msgspec

from pileus.kernel.faults import Conflict

NOT_BOOTED = -1
_LETTERS = [*ascii_lowercase, *(a + b for a in ascii_lowercase for b in ascii_lowercase)]


class BlockDevice(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A volume that the server has or is to have; one made for it has its id before it is there.

    `source_type` and `source_id` say what it is made of: `volume` is one that was there. `size` in GiB, 0 until
    it is known. `boot_index` 0 is the disk that the server starts from, `NOT_BOOTED` one that it never tries.
    """

    volume_id: str
    attachment_id: str
    source_type: str = "volume"
    source_id: str = ""
    size: int = 0
    volume_type: str = ""
    device_name: str = ""
    boot_index: int = NOT_BOOTED
    tag: str = ""
    delete_on_termination: bool = False
    disk_bus: str = ""
    device_type: str = ""
    guest_format: str = ""

    @property
    def is_root(self) -> bool:
        return self.boot_index == 0

    @property
    def is_made_for_it(self) -> bool:
        return self.source_type != "volume"


def root_of(devices: Iterable[BlockDevice]) -> BlockDevice | None:
    """The volume that a server starts from; None where that is a disk of its host."""
    return next((device for device in devices if device.is_root), None)


def in_order(devices: Iterable[BlockDevice]) -> list[BlockDevice]:
    """As a guest finds them: those that it may start from first."""
    return sorted(devices, key=lambda d: (d.boot_index < 0, d.boot_index))


def free_name(taken: Iterable[str]) -> str:
    """The first device after those that are `taken`. Raises Conflict."""
    known = set(taken)
    for letters in _LETTERS:
        if (name := f"/dev/vd{letters}") not in known:
            return name
    raise Conflict(f"All {len(_LETTERS)} device names of the server are taken.")

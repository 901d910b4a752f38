"""A volume as a guest is given it, and what becomes of all that a guest has."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from pileus.host.rbd import RbdImage
from pileus.kernel.faults import Invalid, NotFound


class PluggedVolume(msgspec.Struct, frozen=True, kw_only=True):
    """A volume as its back end serves it: `path` is an NBD socket of this host, else it is `address`:`port` by TLS.

    `secret` is the key of `user` there. With `rbd` it is an image that QEMU opens. With a `passphrase` it is a LUKS
    container, which `size` counts with its header. `known_as` and `turn` are the driver's own: in the place of which
    volume a guest that runs has it ("": its own), and on which of two sides the guest's device has its connection.
    """

    volume_id: str
    name: str
    size: int
    path: str = ""
    address: str = ""
    port: int = 0
    user: str = ""
    secret: str = ""
    passphrase: str = ""
    is_read_only: bool = False
    rbd: RbdImage | None = None
    known_as: str = ""
    turn: int = 0

    @property
    def device(self) -> str:
        """What the guest knows it by."""
        return self.known_as or self.volume_id


Plugged = tuple[PluggedVolume, ...]


def check_volume(volume: PluggedVolume) -> None:
    """Raise Invalid for a volume that nobody could reach."""
    if not re.fullmatch(r"[0-9a-f-]{36}", volume.volume_id) or volume.size < 1:
        raise Invalid(f"Volume {volume.volume_id!r} of {volume.size} bytes cannot be plugged.")
    served = volume.path or (volume.address and volume.port and volume.secret)
    if not served and volume.rbd is None:
        raise Invalid(f"Volume {volume.volume_id} has neither a socket nor an address with a key.")


def plugged(volumes: Plugged, volume: PluggedVolume) -> Plugged:
    """With that volume, in its old place and by its old name if it had one."""
    by_id = {v.volume_id: v for v in volumes}
    (volume,) = carried(volumes, (volume,))
    if volume.volume_id not in by_id:
        names, name = {v.device: v.volume_id for v in volumes}, volume.volume_id
        while name in names:  # what has its name leaves another free
            name = names[name]
        volume = _known(volume, name, 0)
    return tuple((by_id | {volume.volume_id: volume}).values())


def unplugged(volumes: Plugged, volume_id: str) -> Plugged:
    return tuple(volume for volume in volumes if volume.volume_id != volume_id)


def swapped(volumes: Plugged, volume_id: str, other: PluggedVolume) -> Plugged:
    """With the other in that volume's place; one that is there already stays in its own. Raises NotFound."""
    by_id = {v.volume_id: v for v in volumes}
    if other.volume_id in by_id:
        return plugged(volumes, other)
    if (old := by_id.get(volume_id)) is None:
        raise NotFound(f"The guest does not have volume {volume_id}.")
    other = _known(other, old.device, 1 - old.turn)
    return tuple(other if v is old else v for v in volumes)


def carried(known: Iterable[PluggedVolume], volumes: Plugged) -> Plugged:
    """By the names by which a guest that runs knows them."""
    by_id = {v.volume_id: v for v in known}
    return tuple(
        _known(v, old.device, old.turn) if (old := by_id.get(v.volume_id)) else v for v in volumes
    )


def afresh(volumes: Plugged) -> Plugged:
    """By their own names, as a guest that starts finds them."""
    return tuple(_known(v, v.volume_id, 0) for v in volumes)


def _known(volume: PluggedVolume, name: str, turn: int) -> PluggedVolume:
    return replace(volume, known_as="" if name == volume.volume_id else name, turn=turn)

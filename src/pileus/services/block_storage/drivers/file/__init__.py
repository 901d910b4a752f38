"""Volumes as files of a local or shared disk, served by one qemu-storage-daemon each.

    layers/<hex>            what was written: a raw file, or a QED of what differs from the layer behind it
    images/                 fetched images, which volumes stand on
    volumes/<id>/           volume.json, see `record`; and its daemon's folder while it is exported

A volume is a chain of layers. Only the first is written; a snapshot or a copy gets a new one laid over it, so neither
waits for bytes, and a layer is deleted with the last chain that has it. What a guest wrote is the kernel's when it is
answered, and outlives the daemon: of a raw file all of it, of a QED its tables too. Those of a qcow2, which volumes of
earlier versions have, are the daemon's until a flush, so they are exported writing through: slower to write, as safe.
"""

from .driver import FileVolumeDriver

__all__ = ["FileVolumeDriver"]

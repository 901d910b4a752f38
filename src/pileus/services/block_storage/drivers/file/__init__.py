"""Volumes as files of a local or shared disk, served by one qemu-storage-daemon each.

    layers/<hex>            what was written: a raw file, or a qcow2 of what differs from the layer behind it
    images/                 fetched images, which volumes stand on
    volumes/<id>/           volume.json, see `record`; and its daemon's folder while it is exported

A volume is a chain of layers. Only the first is written; a snapshot or a copy gets a new one laid over it, so neither
waits for bytes, and a layer is deleted with the last chain that has it. A blank volume is one raw file: what a guest
wrote is the kernel's at once and outlives the daemon. Of a qcow2 that holds only for what was flushed, so those are
exported writing through: slower to write, and as safe.
"""

from .driver import FileVolumeDriver

__all__ = ["FileVolumeDriver"]

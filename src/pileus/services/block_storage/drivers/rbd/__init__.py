"""Volumes as images of a Ceph pool, which guests open themselves: this host is on nobody's way to its data.

    volume-<id>    with a snapshot `snapshot-<id>` for each of the volume's
    image-<id>     an image, and what volumes made of it are clones of
    part-<id>      half a volume or image: renamed when it is whole
    exports        an object that says who has which volume

All of it lies in the pool's namespace of this host's name, and nothing of it on this machine: a host of that name on
another machine goes on with it. Copies are clones, and what they were made of goes to the trash until they are gone.
"""

from .driver import RbdVolumeDriver

__all__ = ["RbdVolumeDriver"]

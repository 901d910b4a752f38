"""What a first start makes: the flavors that every client expects."""

from __future__ import annotations

from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Page
from pileus.services.compute.flavors import FLAVORS, Flavor

# id, name, MiB of memory, vCPUs, GiB of disk; the last two are for test images.
_FIRST = (
    ("1", "m1.tiny", 512, 1, 1),
    ("2", "m1.small", 2048, 1, 20),
    ("3", "m1.medium", 4096, 2, 40),
    ("4", "m1.large", 8192, 4, 80),
    ("5", "m1.xlarge", 16_384, 8, 160),
    ("42", "m1.nano", 128, 1, 1),
    ("84", "m1.micro", 192, 1, 1),
)


async def bootstrap(runtime: Runtime) -> None:
    """Flavors, once: an administrator who deletes them all finds them again, one who keeps any does not."""
    async with runtime.store.tx() as tx:
        if await FLAVORS.count(tx, Page()):
            return
        for id, name, ram, vcpus, disk in _FIRST:
            await FLAVORS.insert(tx, Flavor(id=id, name=name, ram=ram, vcpus=vcpus, disk=disk))

"""What a first start makes: the volume type that volumes have to which nobody gave one."""

from __future__ import annotations

from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Page

from .volume_type import DEFAULT, VOLUME_TYPES, VolumeType


async def bootstrap(runtime: Runtime) -> None:
    """Once: an administrator who renames it keeps that."""
    async with runtime.store.tx() as tx:
        if not await VOLUME_TYPES.count(tx, Page()):
            first = VolumeType(
                id=runtime.world.new_id(), name=DEFAULT, description="Default Volume Type"
            )
            await VOLUME_TYPES.insert(tx, first)

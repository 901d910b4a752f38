"""What control asks of a host that keeps volumes, and what that host asks of control."""

from __future__ import annotations

from typing import Protocol

from pileus.kernel.contracts import Contract

from .driver import Export, Limits, Volume, VolumeSpec


class VolumeHost(Protocol):
    """Kept by each host's agent: the driver's verbs, see `VolumeDriver`. URLs are paths under the cloud's."""

    async def create(self, spec: VolumeSpec) -> Volume: ...
    async def delete(self, volume_id: str) -> None: ...
    async def extend(self, volume_id: str, size_gib: int) -> Volume: ...
    async def snapshot(self, volume_id: str, snapshot_id: str) -> None: ...
    async def delete_snapshot(self, volume_id: str, snapshot_id: str) -> None: ...
    async def revert(self, volume_id: str, snapshot_id: str) -> Volume: ...
    async def export(
        self,
        volume_id: str,
        attachment_id: str,
        is_read_only: bool,
        limits: Limits,
        is_remote: bool = False,
    ) -> Export: ...
    async def export_target(
        self, volume_id: str, attachment_id: str, is_read_only: bool, limits: Limits
    ) -> Export: ...
    async def withdraw(self, volume_id: str, attachment_id: str) -> None: ...
    async def send(self, volume_id: str, snapshot_id: str, disk_format: str, url: str) -> int: ...
    async def receive(self, volume_id: str, url: str, size: int) -> None: ...
    async def hand_over(self, volume_id: str, to: Export) -> None: ...
    async def stay(self, volume_id: str) -> bool: ...
    async def volumes(self) -> list[Volume]: ...


class VolumeControl(Protocol):
    """Kept by control; hosts call it."""

    async def keep(self, host: str, ids: list[str]) -> list[str]:
        """Those of a host's volumes that somebody stands for, so that the others go."""


VOLUME_HOST = Contract("volume_host", VolumeHost)  # type: ignore[type-abstract]
VOLUME_CONTROL = Contract("volume_control", VolumeControl)  # type: ignore[type-abstract]

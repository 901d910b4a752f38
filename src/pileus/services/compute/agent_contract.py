"""What control asks of a compute host, and what a compute host tells control."""

from __future__ import annotations

from typing import Protocol

import msgspec

from pileus.kernel.contracts import Contract
from pileus.services.compute.driver import (
    Diagnostics,
    Guest,
    GuestSpec,
    ImageSource,
    Inventory,
    Nic,
    Parcel,
    PluggedVolume,
    Progress,
)


class ComputeHost(Protocol):
    """Kept by each host's agent. Every call may be repeated."""

    async def spawn(self, spec: GuestSpec) -> Guest:
        """Makes the guest and runs it; one that is there is answered as found."""

    async def destroy(self, guest_id: str) -> None:
        """An unknown guest is a destroyed one."""

    async def start_guest(self, guest_id: str) -> Guest: ...
    async def stop_guest(self, guest_id: str, timeout_s: float) -> Guest: ...
    async def reboot(self, guest_id: str, hard: bool) -> Guest: ...
    async def pause(self, guest_id: str) -> Guest: ...
    async def unpause(self, guest_id: str) -> Guest: ...
    async def suspend(self, guest_id: str) -> Guest: ...
    async def resume(self, guest_id: str) -> Guest: ...
    async def inject_nmi(self, guest_id: str) -> None: ...
    async def set_password(self, guest_id: str, user: str, password: str) -> None: ...
    async def diagnostics(self, guest_id: str) -> Diagnostics: ...
    async def rebuild(self, spec: GuestSpec, run: bool) -> Guest:
        """Makes the disks anew."""

    async def rescue(self, guest_id: str, image: ImageSource) -> Guest:
        """Starts the guest from another disk."""

    async def unrescue(self, guest_id: str, run: bool) -> Guest: ...
    async def resize(self, spec: GuestSpec, timeout_s: float, run: bool) -> Guest:
        """Gives the guest other sizes, and keeps what it was."""

    async def confirm_resize(self, guest_id: str) -> None: ...
    async def revert_resize(self, guest_id: str, run: bool) -> Guest: ...
    async def lend(self, guest_id: str) -> Parcel:
        """Lets another host have what the guest is made of."""

    async def withdraw(self, guest_id: str) -> None: ...
    async def receive(self, spec: GuestSpec, parcel: Parcel) -> Guest:
        """Makes the guest, off, out of what another host lends."""

    async def expect(self, spec: GuestSpec, parcel: Parcel) -> Parcel:
        """Makes a guest that waits to be sent; what the sender needs to know."""

    async def send(self, guest_id: str, there: Parcel) -> float:
        """Moves the guest to where it is expected; for how many seconds it stands still by then."""

    async def abandon(self, guest_id: str) -> None: ...

    async def hurry(self, guest_id: str) -> None: ...
    async def progress(self, guest_id: str) -> Progress: ...
    async def stay(self, guest_id: str, run: bool) -> Guest:
        """Nothing came of the sending: the guest is here as it was."""

    async def arrive(self, guest_id: str, run: bool) -> Guest:
        """The guest is here now, and goes on."""

    async def snapshot(self, guest_id: str, name: str) -> str:
        """Copies the root disk; the copy's format."""

    async def send_snapshot(self, guest_id: str, name: str, path: str) -> None:
        """Sends the copy to a path under the cloud's URL."""

    async def drop_snapshot(self, guest_id: str, name: str) -> None: ...
    async def plug(self, guest_id: str, nic: Nic) -> Guest: ...
    async def unplug(self, guest_id: str, port_id: str) -> Guest: ...
    async def plug_volume(self, guest_id: str, volume: PluggedVolume) -> Guest:
        """Gives the guest a volume, or as much of it as there is now."""

    async def unplug_volume(self, guest_id: str, volume_id: str) -> Guest: ...
    async def swap_volume(self, guest_id: str, volume_id: str, other: PluggedVolume) -> Guest:
        """Copies a volume over another while the guest uses it, and gives it that one in its place."""

    async def console_log(self, guest_id: str, lines: int | None) -> str: ...
    async def open_console(self, guest_id: str, kind: str, path: str) -> None:
        """Calls control at a path under the cloud's URL, and carries the guest's screen or serial line to it."""

    async def guests(self) -> list[Guest]: ...
    async def inventory(self) -> Inventory: ...
    async def uptime(self) -> str:
        """Since when the machine runs and how busy it is, as `uptime` says it."""


class Orders(msgspec.Struct, frozen=True, kw_only=True):
    """What a host that joined is to do: `keep` these guests and no others, `start` those.

    `changing`: may be rescued or resized; of all others that was given up while the host was away (None: not known).
    """

    keep: list[str]
    start: list[str]
    changing: list[str] | None = None


class ComputeControl(Protocol):
    """Kept by control; hosts call it."""

    async def joined(self, host: str, inventory: Inventory, powers: dict[str, int]) -> Orders:
        """A host's agent has started and found these guests, with their power states: some 5,000 fit in a message."""

    async def power(self, host: str, guest: Guest) -> None:
        """A guest's power changed and no verb did it."""

    async def unknown(self, host: str, guest_ids: list[str]) -> list[str]:
        """Those of a host's guests that no server stands for, so that they go."""


COMPUTE_HOST = Contract("compute_host", ComputeHost)  # type: ignore[type-abstract]
COMPUTE_CONTROL = Contract("compute_control", ComputeControl)  # type: ignore[type-abstract]

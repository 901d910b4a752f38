"""The moves of a back end whose guests stay on the host where they were made."""

from __future__ import annotations

from pileus.kernel.faults import Conflict
from pileus.services.compute.driver import Guest, GuestSpec, Parcel, Progress


def _stays(guest_id: str) -> Conflict:
    return Conflict(
        f"Guest {guest_id} cannot go from host to host; shelving and unshelving it makes it anew elsewhere."
    )


class Settled:
    """Part of a `ComputeDriver`."""

    async def lend(self, guest_id: str) -> Parcel:
        raise _stays(guest_id)

    async def withdraw(self, guest_id: str) -> None:
        """It was never lent."""

    async def receive(self, spec: GuestSpec, parcel: Parcel) -> Guest:
        raise _stays(spec.id)

    async def expect(self, spec: GuestSpec, parcel: Parcel) -> Parcel:
        raise _stays(spec.id)

    async def send(self, guest_id: str, there: Parcel) -> float:
        raise _stays(guest_id)

    async def abandon(self, guest_id: str) -> None:
        """It was never being sent."""

    async def hurry(self, guest_id: str) -> None:
        raise _stays(guest_id)

    async def progress(self, guest_id: str) -> Progress:
        return Progress()

    async def arrive(self, guest_id: str, run: bool) -> Guest:
        raise _stays(guest_id)

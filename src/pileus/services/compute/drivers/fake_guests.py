"""Guests that are a few fields in memory: what their consoles show, and the journal that keeps them over a restart."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from pileus.host import files
from pileus.services.compute.driver import RUNNING, GuestSpec

BOOTS_KEPT = 10  # boots shown on a console; a real one is a ring of bytes
JOURNAL_SLACK = 4 << 20  # bytes

_BOOT_LOG = """\
[    0.000000] Linux version 6.1.0-fake (pileus)
[    0.000000] Memory: {ram}M, CPUs: {vcpus}
{nics}[    0.{n:06d}] Run /sbin/init as init process
cirros-ds '{source}' found
{name} is up: guest {id}

login as 'cirros' user. default password: 'gocubsgo'. use 'sudo' for root.
{name} login: """


class FakeGuest(msgspec.Struct, kw_only=True):
    spec: GuestSpec
    power_state: int = RUNNING
    boots: int = 1
    before: GuestSpec | None = None  # what it was before a resize
    snapshots: dict[str, bytes] = {}
    rescued_by: str = ""  # the image it was started from instead of its disk
    words: list[str] = []  # what happened since the last boot and shows on the console

    def spec_with(self, **changes: object) -> GuestSpec:
        return msgspec.structs.replace(self.spec, **changes)

    def boot(self) -> None:
        self.boots += 1
        self.words = []

    @property
    def console(self) -> str:
        """What the serial console would say: one boot after the other, the last few of them."""
        spec = self.spec
        nics = "".join(
            f"[    0.0{n:05d}] eth{n}: {nic.mac} mtu {nic.mtu}\n" for n, nic in enumerate(spec.nics)
        )
        source = "configdrive" if spec.config_drive else "ec2"
        boots = range(max(1, self.boots - BOOTS_KEPT + 1), self.boots + 1)
        shown = "\n".join(
            _BOOT_LOG.format(
                n=n,
                id=spec.id,
                name=spec.name,
                ram=spec.ram_mib,
                vcpus=spec.vcpus,
                nics=nics,
                source=source,
            )
            for n in boots
        )
        rescued = [f"rescued by image {self.rescued_by}"] if self.rescued_by else []
        return "\n".join([shown, *rescued, *self.words[-BOOTS_KEPT:]])


class Journal:
    """Changes of guests, each `(id, guest or nothing)` behind its length.

    A torn last one is dropped.
    """

    _encode = msgspec.msgpack.Encoder().encode
    _decode = msgspec.msgpack.Decoder(tuple[str, FakeGuest | None]).decode

    def __init__(self, path: Path) -> None:
        self._path = path
        self.is_open = False
        self._size = self._floor = 0

    @property
    def is_long(self) -> bool:
        """It grew so far past the last rewrite that writing it again is cheap."""
        return self._size > 4 * self._floor + JOURNAL_SLACK

    def open(self) -> dict[str, FakeGuest]:
        """The guests as last written."""
        guests: dict[str, FakeGuest] = {}
        data = self._path.read_bytes() if self._path.exists() else b""
        at = 0
        while at + 4 <= len(data):
            end = at + 4 + int.from_bytes(data[at : at + 4], "big")
            if end > len(data):
                break
            guest_id, guest = self._decode(data[at + 4 : end])
            if guest is None:
                guests.pop(guest_id, None)
            else:
                guests[guest_id] = guest
            at = end
        self._size, self.is_open = len(data), True
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if at < len(data):
            self.rewrite(guests)
        return guests

    def rewrite(self, guests: dict[str, FakeGuest]) -> None:
        data = b"".join(self._record(guest_id, guest) for guest_id, guest in guests.items())
        files.write_atomically(self._path, data)
        self._size = self._floor = len(data)

    def append(self, guest_id: str, guest: FakeGuest | None) -> None:
        """The file is not kept open: thousands of hosts in one process would use up its descriptors."""
        descriptor = os.open(
            self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            self._size += os.write(descriptor, self._record(guest_id, guest))
        finally:
            os.close(descriptor)

    def close(self) -> None:
        self.is_open = False

    def _record(self, guest_id: str, guest: FakeGuest | None) -> bytes:
        body = self._encode((guest_id, guest))
        return len(body).to_bytes(4, "big") + body

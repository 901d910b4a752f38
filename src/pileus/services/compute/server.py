"""A server as it is kept. https://docs.openstack.org/api-ref/compute/#servers-servers"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from pileus.kernel.quota import Quota
from pileus.kernel.store import Column, Many, Record, Table
from pileus.services.compute.block_device import BlockDevice, root_of
from pileus.services.compute.driver import CONTAINER_FORMAT
from pileus.services.network.contract import NicInfo, NicRequest

TOMBSTONE_S = 7 * 24 * 3600  # usage reports and `changes-since` look back this far
KEPT = "soft-delete"  # the state of what was deleted and may be restored
MESSAGE_LIMIT = 255  # characters of a fault that users see


class FlavorCopy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The flavor as it was when the server was made."""

    id: str
    name: str
    vcpus: int
    ram: int  # MiB
    disk: int  # GiB
    ephemeral: int = 0
    swap: int = 0
    extra_specs: dict[str, str] = {}


class ImageCopy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the host needs to know about the image; or what is known of the volume that a server starts from.

    `id` is "" where no image was named.
    """

    id: str
    disk_format: str
    sha512: str
    size: int
    container_format: str = "bare"
    min_ram: int = 0  # MiB
    min_disk: int = 0  # GiB
    properties: dict[str, str] = {}
    is_volume: bool = False

    @property
    def is_for_containers(self) -> bool:
        return self.container_format == CONTAINER_FORMAT


class FaultCopy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why the server is in ERROR: `message` for users, `details` for administrators."""

    code: int
    created: str
    message: str
    details: str = ""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An image that is being made of the root disk. `keep`: how many backups of that type stay.

    `of_volumes`: the snapshots that it names instead, by volume, where that disk is one.
    """

    image_id: str
    name: str = ""
    metadata: dict[str, str] = {}
    backup_type: str = ""
    keep: int = 0
    of_volumes: dict[str, str] = {}


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """A resize or a move to another host, under way or waiting to be confirmed or reverted.

    `id` is its migration's, and holds the room of before. `decided` is the verb that has begun to end it: half
    confirmed it can't be reverted, nor the other way round. `target` is "" as long as no place was found.
    `volumes`: what it had before or, while it runs on its way, as its other host is served them.
    """

    id: str
    flavor: FlavorCopy  # what the server had before
    was_off: bool
    decided: str = ""
    source: str = ""
    target: str = ""
    zone: str = ""  # the source's
    volumes: list[BlockDevice] = []

    @property
    def is_elsewhere(self) -> bool:
        """It goes to another host, or came from one."""
        return self.target not in ("", self.source)

    def other(self, host: str) -> str:
        """Where else something of the server is, if it is on `host`; "" if nowhere."""
        if not self.is_elsewhere:
            return ""
        return self.source if host == self.target else self.target


class Server(Record, kw_only=True, frozen=True):
    """`zone` is where it is, `pinned_zone` where it was asked to be; `requested_host` likewise."""

    project_id: str
    user_id: str
    name: str
    hostname: str
    flavor: FlavorCopy
    image: ImageCopy | None = None
    vm_state: str = "building"
    task_state: str = ""
    power_state: int = 0
    host: str = ""
    zone: str = ""
    pinned_zone: str = ""
    requested_host: str = ""
    description: str | None = None
    key_name: str = ""
    public_key: str = ""
    key_type: str = "ssh"
    metadata: dict[str, str] = {}
    tags: list[str] = []
    user_data: str = ""  # base64, as sent
    config_drive: bool = False
    networks: list[NicRequest] = []
    security_groups: list[str] = []
    nics: list[NicInfo] = []
    volumes: list[BlockDevice] = []
    asked_ephemeral: int | None = None  # GiB, less than its flavor has
    asked_swap: int | None = None  # MiB
    access_ipv4: str = ""
    access_ipv6: str = ""
    disk_config: str = "MANUAL"
    reservation_id: str = ""
    launch_index: int = 0
    launched_at: str = ""
    terminated_at: str = ""
    locked_by: str = ""  # "owner" or "admin"
    locked_reason: str | None = None
    group: str = ""  # the server group it is a member of
    scheduler_hints: dict[str, Any] = {}
    password: str = ""  # as the guest posted it, encrypted with the key pair
    fault: FaultCopy | None = None
    move: Move | None = None
    shelved_image: str = ""  # of the root disk, while it is shelved
    kept_since: str = ""  # when it was shelved, or deleted to be restored
    snapshot: Snapshot | None = None  # only as a saga wants it

    @property
    def counts(self) -> int:
        """Once, in quotas; not at all where it was deleted and is only kept."""
        return int(self.vm_state != KEPT)

    @property
    def is_on_volume(self) -> bool:
        """Its root disk is a volume, not a disk of its host."""
        return root_of(self.volumes) is not None

    @property
    def root_device(self) -> str:
        root = root_of(self.volumes)
        return root.device_name if root else "/dev/vda"

    @property
    def ephemeral_gib(self) -> int:
        had = self.flavor.ephemeral
        return had if self.asked_ephemeral is None else min(self.asked_ephemeral, had)

    @property
    def swap_mib(self) -> int:
        return (
            self.flavor.swap if self.asked_swap is None else min(self.asked_swap, self.flavor.swap)
        )

    def addresses(self, version: int) -> str:
        """Every address of that version between spaces: a regular expression finds one."""
        found = [
            address
            for nic in self.nics
            for ip in nic.fixed_ips
            if ip.version == version
            for address in (ip.ip_address, nic.floating_ips.get(ip.ip_address, ""))
            if address
        ]
        return f" {' '.join(found)} " if found else ""


def host_id(project_id: str, host: str) -> str:
    """A host's name that means nothing outside the project."""
    return hashlib.sha224(f"{project_id}{host}".encode()).hexdigest() if host else ""


SERVERS = Table(
    "compute_servers",
    Server,
    columns=(
        "project_id",
        "user_id",
        "name",
        "hostname",
        "vm_state",
        "task_state",
        "power_state",
        "host",
        Column("other_host", lambda s: s.move.other(s.host) if s.move else ""),
        "zone",
        "description",
        "key_name",
        "reservation_id",
        "launched_at",
        "terminated_at",
        "launch_index",
        "config_drive",
        "access_ipv4",
        "access_ipv6",
        "disk_config",
        Column("flavor_id", lambda s: s.flavor.id),
        Column("image_id", lambda s: s.image.id if s.image else ""),
        Column("locked", lambda s: int(bool(s.locked_by)), int),
        Column("changed_at", lambda s: s.deleted_at or s.updated_at or s.created_at),
        Column("addresses4", lambda s: s.addresses(4)),
        Column("addresses6", lambda s: s.addresses(6)),
    ),
    indexes=(
        ("project_id", "created_at", "id"),
        ("project_id", "vm_state", "created_at", "id"),
        ("host",),
        ("other_host",),
        ("created_at", "id"),
    ),
    history=(("project_id", "changed_at"), ("changed_at",)),
    many=(Many("tags", lambda s: s.tags),),
    quotas=(
        Quota("compute", "instances", default=10, of=lambda s: s.counts),
        Quota("compute", "cores", default=20, of=lambda s: s.counts * s.flavor.vcpus),
        Quota("compute", "ram", default=51_200, of=lambda s: s.counts * s.flavor.ram),
    ),
    tombstone_s=TOMBSTONE_S,
    noun="Instance",
)

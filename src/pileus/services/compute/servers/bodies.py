"""What clients send about servers."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType, field

from pileus.kernel.schema import Body, since, until
from pileus.services.compute.checks import Flag, Name, Positive

USER_DATA_LIMIT = 65_535  # characters of base64


class AskedNetwork(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    uuid: str | UnsetType = UNSET
    port: str | UnsetType | None = UNSET
    fixed_ip: str | UnsetType | None = UNSET
    tag: Annotated[str | UnsetType, since("2.32")] = UNSET


class AskedGroup(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: Name | UnsetType = UNSET


class OldDisk(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One entry of `block_device_mapping`. Absent and null are alike in it."""

    device_name: str | None = None
    virtual_name: str | None = None
    volume_id: str | None = None
    snapshot_id: str | None = None
    volume_size: int | str | None = None
    delete_on_termination: Flag = False
    no_device: Any = None
    connection_info: str | None = None


class AskedDisk(OldDisk, kw_only=True, forbid_unknown_fields=True):
    """One entry of `block_device_mapping_v2`."""

    source_type: str | None = None
    destination_type: str | None = None
    uuid: str | None = None
    image_id: str | None = None
    boot_index: int | str | None = None
    guest_format: str | None = None
    device_type: str | None = None
    disk_bus: str | None = None
    tag: Annotated[str | UnsetType, since("2.32")] = UNSET
    volume_type: Annotated[str | UnsetType | None, since("2.67")] = UNSET


class CreateServer(Body):
    root: ClassVar[str] = "server"
    beside: ClassVar[tuple[str, ...]] = ("os:scheduler_hints", "OS-SCH-HNT:scheduler_hints")
    name: Name
    flavorRef: str | int
    imageRef: str = ""
    adminPass: str | UnsetType = UNSET
    metadata: dict[str, str] = {}
    networks: list[AskedNetwork] | str | UnsetType = UNSET
    disk_config: str = field(default="", name="OS-DCF:diskConfig")
    accessIPv4: str | None = ""
    accessIPv6: str | None = ""
    availability_zone: Name | UnsetType = UNSET
    block_device_mapping: list[OldDisk] = []
    block_device_mapping_v2: list[AskedDisk] = []
    config_drive: Flag = False
    key_name: Name | UnsetType = UNSET
    min_count: Positive | UnsetType = UNSET
    max_count: Positive | UnsetType = UNSET
    return_reservation_id: Flag = False
    security_groups: list[AskedGroup] | UnsetType = UNSET
    user_data: Annotated[str, Meta(max_length=USER_DATA_LIMIT)] | None = None
    personality: Annotated[list[Any] | UnsetType, until("2.57")] = UNSET
    description: Annotated[str | UnsetType | None, since("2.19")] = UNSET
    tags: Annotated[list[str] | UnsetType, since("2.52")] = UNSET
    trusted_image_certificates: Annotated[list[str] | UnsetType | None, since("2.63")] = UNSET
    host: Annotated[str | UnsetType, since("2.74")] = UNSET
    hypervisor_hostname: Annotated[str | UnsetType, since("2.74")] = UNSET
    hostname: Annotated[str | UnsetType, since("2.90")] = UNSET


class DescribedServer(Body, kw_only=True):
    """What an update may say, and a rebuild besides what it is of."""

    name: Name | UnsetType = UNSET
    disk_config: str | UnsetType = field(default=UNSET, name="OS-DCF:diskConfig")
    accessIPv4: str | UnsetType | None = UNSET
    accessIPv6: str | UnsetType | None = UNSET
    description: Annotated[str | UnsetType | None, since("2.19")] = UNSET
    hostname: Annotated[str | UnsetType, since("2.90")] = UNSET


class UpdateServer(DescribedServer):
    root: ClassVar[str] = "server"
    pinned_availability_zone: Annotated[str | UnsetType | None, since("2.104")] = UNSET


class RebootServer(Body):
    root: ClassVar[str] = "reboot"
    type: str


class ResetState(Body):
    root: ClassVar[str] = "os-resetState"
    state: str


class ConsoleOutput(Body):
    root: ClassVar[str] = "os-getConsoleOutput"
    length: int | str | None = None


class LockServer(Body):
    root: ClassVar[str] = "lock"
    locked_reason: Annotated[
        Annotated[str, Meta(min_length=1, max_length=255)] | UnsetType, since("2.73")
    ] = UNSET


class AddGroup(Body):
    root: ClassVar[str] = "addSecurityGroup"
    name: Name


class RemoveGroup(Body):
    root: ClassVar[str] = "removeSecurityGroup"
    name: Name

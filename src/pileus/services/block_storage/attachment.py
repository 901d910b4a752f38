"""The attachment as it is kept: that a volume is for a server, or a host, and how it gets there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pileus.host.iscsi_target import LUN
from pileus.kernel.store import Page, Reader, Record, Table

from .driver import Export

RESERVED, ATTACHING, ATTACHED, DETACHING = "reserved", "attaching", "attached", "detaching"
HAD = (ATTACHED, DETACHING)  # by a guest


class Attachment(Record, kw_only=True, frozen=True):
    """`connector` is what the other side said of itself; `export` is there once it may connect, and with its
    keys in `sealed`, as `identity`'s SECRETS sealed it.
    """

    volume_id: str
    project_id: str
    server_id: str = ""
    status: str = RESERVED
    mode: str = "null"
    connector: dict[str, Any] = {}
    export: Export | None = None
    sealed: str = ""
    device: str | None = None
    host_name: str | None = None
    attached_at: str = ""
    is_used: bool = False  # by a server of the compute service, which alone may end it


def connection_info(volume_id: str, export: Export, is_encrypted: bool) -> dict[str, Any]:
    """As `os-brick` would read it."""
    data = {k: v for k, v in msgspec.to_builtins(export).items() if v not in ("", 0, None)}
    if image := data.pop("rbd", None):
        data = _as_rbd(image)
    elif data.pop("is_iscsi", False):
        data = _as_iscsi(export)
    return {
        "driver_volume_type": "nbd",
        **data,
        "volume_id": volume_id,
        "attachment_id": export.attachment_id,
        "access_mode": "ro" if export.is_read_only else "rw",
        "encrypted": is_encrypted,
        "qos_specs": None,
        "discard": True,
    }


def _as_iscsi(export: Export) -> dict[str, Any]:
    address = f"[{export.address}]" if ":" in export.address else export.address
    return {
        "driver_volume_type": "iscsi",
        "target_discovered": False,
        "target_portal": f"{address}:{export.port}",
        "target_iqn": export.name,
        "target_lun": LUN,
        "auth_method": "CHAP",
        "auth_username": export.attachment_id,
        "auth_password": export.secret,
    }


def _as_rbd(image: dict[str, Any]) -> dict[str, Any]:
    """The key opens the whole pool, and is for hosts only."""
    addresses = [address.rpartition(":") for address in image["monitors"]]
    return {
        "driver_volume_type": "rbd",
        "name": f"{image['pool']}/{image['namespace']}/{image['image']}",
        "hosts": [host for host, _, _ in addresses],
        "ports": [port for _, _, port in addresses],
        "cluster_name": "ceph",
        "auth_enabled": True,
        "auth_username": image["user"],
        "secret_type": "ceph",
        "secret_uuid": None,
        "keyring": None,
    }


ATTACHMENTS = Table(
    "block_storage_attachments",
    Attachment,
    columns=("volume_id", "project_id", "server_id", "status"),
    indexes=(("volume_id",), ("server_id",), ("project_id", "created_at", "id")),
    noun="Volume attachment",
)


async def of_volume(db: Reader, volume_id: str) -> list[Attachment]:
    return await ATTACHMENTS.all(db, volume_id=volume_id)


async def of_volumes(db: Reader, ids: Sequence[str]) -> Mapping[str, list[Attachment]]:
    """The attachments of several volumes, by volume."""
    found: dict[str, list[Attachment]] = {id: [] for id in ids}
    if ids:
        page = Page({"volume_id": list(ids)}, (("created_at", False), ("id", False)), limit=100_000)
        for one in await ATTACHMENTS.list(db, page):
            found[one.volume_id].append(one)
    return found

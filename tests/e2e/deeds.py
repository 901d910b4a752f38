"""Everything that can be asked of a server: the statuses in which it makes sense, and the requests that ask for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]  # a server as the API shows it
Request = tuple[str, str, object]  # method, path under compute's, body
VERSION = "2.90"
MICROVERSION = {
    "X-OpenStack-Nova-API-Version": VERSION,
    "OpenStack-API-Version": f"compute {VERSION}",
}


@dataclass
class Things:
    """What the requests name. `flavors` have disks of one size; `hosts`: the id of each host's compute service."""

    image: str
    flavors: tuple[str, str]
    network: str
    hosts: dict[str, str] = field(default_factory=dict)
    ports: dict[str, list[str]] = field(default_factory=dict)  # of each server
    volumes: list[str] = field(default_factory=list)  # that nobody has


Ask = Callable[[Row, Things], list[Request]]  # nothing where it can't be asked for


@dataclass(frozen=True)
class Deed:
    """`refused`: answers, besides 404 and 409, which are no fault: those of one who was overtaken."""

    name: str
    statuses: frozenset[str]
    asks: Ask
    refused: frozenset[int] = frozenset()


def _deed(name: str, statuses: str, asks: Ask | None = None, *refused: int) -> Deed:
    return Deed(name, frozenset(statuses.split()), asks or _act(name), frozenset(refused))


def _act(verb: str, body: object = None) -> Ask:
    return lambda row, things: [_action(row, verb, body)]


def _action(row: Row, verb: str, body: object = None) -> Request:
    return "POST", f"/servers/{row['id']}/action", {verb: body}


def _resize(row: Row, things: Things) -> list[Request]:
    """To the other flavor. A host that has no room for both sends it to another."""
    small, large = things.flavors
    is_small = row["flavor"]["vcpus"] == 1
    return [_action(row, "resize", {"flavorRef": large if is_small else small})]


def _rebuild(row: Row, things: Things) -> list[Request]:
    return [_action(row, "rebuild", {"imageRef": things.image})]


def _evacuate(row: Row, things: Things) -> list[Request]:
    """Its host is said to be lost meanwhile, and is not."""
    host = row["OS-EXT-SRV-ATTR:host"]
    if host not in things.hosts:
        return []
    service = f"/os-services/{things.hosts[host]}"
    return [
        ("PUT", service, {"forced_down": True}),
        _action(row, "evacuate", {}),
        ("PUT", service, {"forced_down": False}),
    ]


def _attach(row: Row, things: Things) -> list[Request]:
    body = {"interfaceAttachment": {"net_id": things.network}}
    return [("POST", f"/servers/{row['id']}/os-interface", body)]


def _detach(row: Row, things: Things) -> list[Request]:
    """The last one; the first stays."""
    ports = things.ports.get(row["id"], [])[1:]
    return [("DELETE", f"/servers/{row['id']}/os-interface/{port}", None) for port in ports[-1:]]


def _attach_volume(row: Row, things: Things) -> list[Request]:
    """One of those that are free: another server may be first."""
    free = sorted(things.volumes)
    chosen = free[int(row["id"][:8], 16) % len(free) :][:1] if free else []
    path = f"/servers/{row['id']}/os-volume_attachments"
    return [("POST", path, {"volumeAttachment": {"volumeId": id}}) for id in chosen]


def _detach_volume(row: Row, things: Things) -> list[Request]:
    path = f"/servers/{row['id']}/os-volume_attachments"
    return [("DELETE", f"{path}/{id}", None) for id in volumes_of(row)[:1]]


def _volume_grown(row: Row, things: Things) -> list[Request]:
    """Its host is told of the volume's size, whatever that is."""
    told = [
        {"name": "volume-extended", "server_uuid": row["id"], "tag": id} for id in volumes_of(row)
    ]
    return [("POST", "/os-server-external-events", {"events": told})] if told else []


def volumes_of(row: Row) -> list[str]:
    return [one["id"] for one in row["os-extended-volumes:volumes_attached"]]


def _delete(row: Row, things: Things) -> list[Request]:
    return [("DELETE", f"/servers/{row['id']}", None)]


_BACKUP = {"name": "kills-backup", "backup_type": "daily", "rotation": 1}
_LIVE = {"host": None, "block_migration": "auto"}
_TAKES_VOLUMES = "ACTIVE SHUTOFF PAUSED VERIFY_RESIZE SHELVED SHELVED_OFFLOADED"
DELETE, FORCE_DELETE, EVACUATE = "delete", "forceDelete", "evacuate"
DEEDS = (
    _deed("os-start", "SHUTOFF"),
    _deed("os-stop", "ACTIVE ERROR"),
    _deed("reboot", "ACTIVE", _act("reboot", {"type": "SOFT"})),
    _deed("hard reboot", "ACTIVE SHUTOFF PAUSED ERROR", _act("reboot", {"type": "HARD"})),
    _deed("pause", "ACTIVE"),
    _deed("unpause", "PAUSED"),
    _deed("suspend", "ACTIVE"),
    _deed("resume", "SUSPENDED"),
    _deed("rebuild", "ACTIVE SHUTOFF ERROR", _rebuild),
    _deed("rescue", "ACTIVE SHUTOFF", _act("rescue", {})),
    _deed("unrescue", "RESCUE"),
    _deed("resize", "ACTIVE SHUTOFF", _resize, 400),
    _deed("migrate", "ACTIVE SHUTOFF", None, 400),
    _deed("confirmResize", "VERIFY_RESIZE"),
    _deed("revertResize", "VERIFY_RESIZE"),
    _deed("os-migrateLive", "ACTIVE PAUSED", _act("os-migrateLive", _LIVE), 400),
    _deed(EVACUATE, "ACTIVE SHUTOFF ERROR", _evacuate, 400),
    _deed("shelve", "ACTIVE SHUTOFF PAUSED SUSPENDED"),
    _deed("shelveOffload", "SHELVED"),
    _deed("unshelve", "SHELVED SHELVED_OFFLOADED"),
    _deed("createImage", "ACTIVE SHUTOFF PAUSED", _act("createImage", {"name": "kills-image"})),
    _deed("createBackup", "ACTIVE SHUTOFF SUSPENDED", _act("createBackup", _BACKUP)),
    _deed("attach an interface", "ACTIVE SHUTOFF PAUSED", _attach, 500),
    _deed("detach an interface", "ACTIVE SHUTOFF PAUSED", _detach),
    _deed("attach a volume", _TAKES_VOLUMES, _attach_volume, 400),
    _deed("detach a volume", _TAKES_VOLUMES, _detach_volume, 400),
    _deed("a volume has grown", "ACTIVE SHUTOFF SUSPENDED RESCUE", _volume_grown),
    _deed("changePassword", "ACTIVE", _act("changePassword", {"adminPass": "once"})),
    _deed("restore", "SOFT_DELETED"),
    _deed(DELETE, "ACTIVE SHUTOFF PAUSED RESCUE VERIFY_RESIZE SHELVED_OFFLOADED ERROR", _delete),
    _deed(FORCE_DELETE, "SUSPENDED SHELVED SOFT_DELETED ACTIVE", None),
)

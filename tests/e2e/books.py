"""The books of a cloud compared: what each API says of the servers, what lies on disk, what pretended hosts hold.

Like the sweep of machines it imports nothing of Pileus: the APIs are asked over HTTP, files are read as they are.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

Get = Callable[[str, str], Awaitable[Any]]  # a service's type, a path: the decoded answer
Row = dict[str, Any]
Guests = dict[tuple[str, str], Row]  # host and id of the server
_OVER = ("finished", "confirmed", "reverted", "completed", "done", "failed", "cancelled", "error")
_HOST, _POWER = "OS-EXT-SRV-ATTR:host", "OS-EXT-STS:power_state"
_RESIZED, _SHELVED = "VERIFY_RESIZE", ("SHELVED", "SHELVED_OFFLOADED")
STABLE = ("ACTIVE", "SHUTOFF", "PAUSED", "SUSPENDED", "RESCUE", _RESIZED, *_SHELVED, "ERROR")
STABLE += ("SOFT_DELETED",)


@dataclass
class Told:
    """One reading of every API."""

    servers: dict[str, Row]
    ports: list[Row]
    images: list[Row]
    migrations: list[Row]
    providers: dict[str, dict[str, Any]]  # name of the host -> consumer -> resources
    limits: Row  # of a project that has all servers
    volumes: list[Row]
    wrong: list[str]  # what `pileus status` says

    @property
    def ports_of(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for port in sorted(self.ports, key=lambda port: str(port["created_at"])):
            if port["device_owner"].startswith("compute:"):
                found[port["device_id"]].append(port["id"])
        return found


async def read(get: Get) -> Told:
    providers = {}
    for row in (await get("placement", "/resource_providers"))["resource_providers"]:
        held = await get("placement", f"/resource_providers/{row['uuid']}/allocations")
        providers[row["name"]] = {id: one["resources"] for id, one in held["allocations"].items()}
    return Told(
        servers=await servers(get),
        ports=(await get("network", "/v2.0/ports"))["ports"],
        images=(await get("image", "/v2/images?limit=1000"))["images"],
        migrations=(await get("compute", "/os-migrations?limit=1000"))["migrations"],
        providers=providers,
        limits=(await get("compute", "/limits"))["limits"]["absolute"],
        volumes=(await get("block-storage", "/volumes/detail?all_tenants=1"))["volumes"],
        wrong=(await get("", "/status"))["wrong"],
    )


async def servers(get: Get) -> dict[str, Row]:
    """Those of all projects; what was deleted and is kept as well."""
    path = "/servers/detail?all_tenants=1&limit=1000"
    rows = (await get("compute", path))["servers"]
    rows += (await get("compute", path + "&status=SOFT_DELETED"))["servers"]
    return {row["id"]: row for row in rows}


def differences(told: Told) -> list[str]:
    """What one API says and another does not."""
    return [
        *(f"status: {text}" for text in told.wrong),
        *_states(told),
        *_allocations(told),
        *_ports(told),
        *_images(told),
        *_volumes(told),
        *_usage(told),
    ]


def _states(told: Told) -> list[str]:
    found = []
    for id, row in told.servers.items():
        if row["status"] not in STABLE:
            found.append(f"server {id} is {row['status']}")
        if row["status"] == "ERROR" and not row.get("fault", {}).get("message"):
            found.append(f"server {id} is in ERROR and does not say why")
    for row in told.migrations:
        waits = told.servers.get(row["instance_uuid"], {}).get("status") == _RESIZED
        over = row["status"] in _OVER and (row["status"] != "finished" or waits)
        if not over:
            found.append(f"migration {row['uuid']} of {row['instance_uuid']} is {row['status']}")
    return found


def _allocations(told: Told) -> list[str]:
    """Each server's room is at its host; that of before a resize is its migration's."""
    wanted: dict[str, tuple[str, Any]] = {}
    for id, row in told.servers.items():
        if row[_HOST]:
            wanted[id] = row[_HOST], _room(row["flavor"])
    for move in told.migrations:
        resized = told.servers.get(move["instance_uuid"], {}).get("status") == _RESIZED
        if resized and move["status"] == "finished":
            wanted[move["uuid"]] = move["source_compute"], None
    held = [(id, host, room) for host, some in told.providers.items() for id, room in some.items()]
    found = [
        f"allocation of {id} on {host} for nothing" for id, host, _ in held if id not in wanted
    ]
    for id, (host, room) in wanted.items():
        mine = [(at, what) for consumer, at, what in held if consumer == id]
        if [at for at, _ in mine] != [host] or (room and mine[0][1] != room):
            found.append(f"{id} is on {host} with {room}, and allocated {mine}")
    return found


def _room(flavor: Row) -> dict[str, int]:
    disk = flavor["disk"] + flavor["ephemeral"] + math.ceil((flavor["swap"] or 0) / 1024)
    room = {"VCPU": flavor["vcpus"], "MEMORY_MB": flavor["ram"], "DISK_GB": disk}
    return {name: amount for name, amount in room.items() if amount}


def _ports(told: Told) -> list[str]:
    """Each belongs to a server that shows its addresses, and is bound to the server's host."""
    found, shown = [], Counter[str]()
    for port in told.ports:
        if not port["device_owner"].startswith("compute:"):
            continue
        server = told.servers.get(port["device_id"])
        if server is None:
            found.append(f"port {port['id']} is left of server {port['device_id']}")
            continue
        host = server[_HOST] or ""
        if port["binding:host_id"] != host:
            where, what = port["binding:host_id"], f"{server['status']} server {server['id']}"
            text = f"port {port['id']} is bound to {where!r}, its {what} to {host!r}"
            found.append(text)
        if any("migrating_to" in port[key] for key in port if key == "binding:profile"):
            found.append(f"port {port['id']} is still moving: {port['binding:profile']}")
        shown[server["id"]] += len(port["fixed_ips"])
    for id, row in told.servers.items():
        addresses = sum(len(some) for some in row["addresses"].values())
        if addresses != shown[id]:
            found.append(f"server {id} shows {addresses} addresses, its ports have {shown[id]}")
    return found


def _images(told: Told) -> list[str]:
    """None is half; a shelved server has one of its disk, any other none."""
    found = [
        f"image {i['id']} ({i['name']}) is {i['status']}"
        for i in told.images
        if i["status"] != "active"
    ]
    kept = Counter(i["instance_uuid"] for i in told.images if i["name"].endswith("-shelved"))
    for id in kept.keys() | told.servers.keys():
        wanted = told.servers.get(id, {}).get("status") in _SHELVED
        if kept[id] != wanted and told.servers.get(id, {}).get("status") != "SOFT_DELETED":
            status = told.servers.get(id, {}).get("status", "gone")
            found.append(f"server {id} is {status} and has {kept[id]} images of a shelved disk")
    return found


def volumes_of(server: Row) -> set[str]:
    return {one["id"] for one in server["os-extended-volumes:volumes_attached"]}


def _volumes(told: Told) -> list[str]:
    """Each is as its servers say, by one attachment; what no server has is available."""
    found = []
    owners: dict[str, list[str]] = defaultdict(list)
    for id, row in told.servers.items():
        for volume in volumes_of(row):
            owners[volume].append(id)
    for volume in told.volumes:
        had = owners.pop(volume["id"], [])
        said = [one["server_id"] for one in volume["attachments"]]
        away = [id for id in had if not told.servers[id][_HOST]]
        statuses = ("in-use", "reserved") if away else ("in-use",) if had else ("available",)
        if volume["status"] not in statuses or (not away and said != had):
            text = f"volume {volume['id']} is {volume['status']} for {said}"
            found.append(f"{text}, servers that have it: {had}")
    return found + [f"volume {id} of {some} is gone" for id, some in owners.items()]


def _usage(told: Told) -> list[str]:
    rows = [row for row in told.servers.values() if row["status"] != "SOFT_DELETED"]
    wanted = {
        "totalInstancesUsed": len(rows),
        "totalCoresUsed": sum(row["flavor"]["vcpus"] for row in rows),
        "totalRAMUsed": sum(row["flavor"]["ram"] for row in rows),
    }
    return [
        f"{name} is {told.limits[name]}, counted {n}"
        for name, n in wanted.items()
        if told.limits.get(name, n) != n
    ]


# What lies on disk


def files(state: Path, told: Told) -> list[str]:
    """The bytes of images in control's folder: those that are active, whole, and no others."""
    folder = state / "images"
    there = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    wanted = {i["id"]: i["size"] for i in told.images if i["status"] == "active"}
    found = [
        f"image {id}: {there.get(id)} bytes on disk, {wanted.get(id)} as image says"
        for id in there.keys() | wanted.keys()
        if there.get(id) != wanted.get(id)
    ]
    found += [f"half a file {path}" for path in (folder / "incoming").iterdir()]
    return found + [f"half a file {path}" for path in state.rglob("*.part")]


def pretended(hosts: Path) -> Guests:
    """What fake hosts run, out of the journals in which it outlives their process."""
    found: Guests = {}
    for journal in hosts.glob("*/compute/guests.journal"):
        host, data, at = journal.parts[-3], journal.read_bytes(), 0
        while at + 4 <= len(data):
            end = at + 4 + int.from_bytes(data[at : at + 4], "big")
            id, guest = msgspec.msgpack.decode(data[at + 4 : end])
            found.pop((host, id), None)
            if guest is not None:
                found[host, id] = guest
            at = end
    return found


def strange_guests(guests: Guests, told: Told) -> list[str]:
    """Each server has its guest on its host, as its status says, and after a move one that waits where it was."""
    found = []
    wanted = {(row[_HOST], id): row for id, row in told.servers.items() if row[_HOST]}
    waiting = {
        (move["source_compute"], move["instance_uuid"])
        for move in told.migrations
        if move["status"] == "finished"
        and (move["source_compute"], move["instance_uuid"]) not in wanted
    }
    for host, id in guests.keys() - wanted.keys() - waiting:
        found.append(f"guest {id} on {host} has no server there")
    for host, id in (waiting | wanted.keys()) - guests.keys():
        if (host, id) in waiting or wanted[host, id]["status"] != "ERROR":
            found.append(f"guest {id} is not on {host}")
    for key in guests.keys() & wanted.keys():
        found += [
            f"guest {key[1]} on {key[0]}: {text}"
            for text in _unlike(guests[key], wanted[key], told)
        ]
    return found


def _unlike(guest: Row, server: Row, told: Told) -> list[str]:
    spec, flavor, status = guest["spec"], server["flavor"], server["status"]
    ports = {nic["port_id"] for nic in spec.get("nics", ())}
    elsewhere = any(
        move["instance_uuid"] == server["id"]
        and move["status"] == "finished"
        and move["source_compute"] != move["dest_compute"]
        for move in told.migrations
    )
    pairs = {
        "power state": (guest["power_state"], server[_POWER]),
        "size": ((spec["vcpus"], spec["ram_mib"]), (flavor["vcpus"], flavor["ram"])),
        "volumes": ({v["volume_id"] for v in spec.get("volumes", ())}, volumes_of(server)),
        "network cards": (ports, set(told.ports_of.get(server["id"], []))),
        "rescued": (bool(guest["rescued_by"]), status == "RESCUE"),
        "half resized": (bool(guest["before"]), status == _RESIZED and not elsewhere),
        "snapshots left": (len(guest["snapshots"]), 0),
    }
    return [f"{what} {it} is not {api}" for what, (it, api) in pairs.items() if it != api]

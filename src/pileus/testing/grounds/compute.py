"""Servers, for generated tests: a network, an image, and the requests that begin each saga."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from pileus.services.compute.servers.volume_sagas import PLACES
from pileus.services.compute.settings import settings_of
from pileus.testing.cloud import Cloud
from pileus.testing.grounds import Ground, Scenario

_RESIZE = {"resize": {"flavorRef": "84"}}
_MIGRATE = {"migrate": None}
_LIVE = {"os-migrateLive": {"host": None, "block_migration": "auto"}}
SERVERS = "/compute/v2.1/servers"
_VOLUMES = "/volume/v3/volumes"
FLAVOR = "42"
VERSION = "compute 2.87"


async def ready(cloud: Cloud, name: str = "ground") -> Ground:
    """A project with a network and a subnet, in which a server has been; a public image."""
    ground = Ground(cloud, await cloud.project(name))
    made = await ground.ask("POST", "/network/v2.0/networks", {"network": {"name": name}})
    ground.ids["network"] = made.json["network"]["id"]
    subnet = {"network_id": ground.ids["network"], "cidr": "10.9.0.0/22", "ip_version": 4}
    await ground.ask("POST", "/network/v2.0/subnets", {"subnet": subnet})
    ground.ids["image"] = await _image(cloud)
    await clean(ground, await booted(ground))  # what the first server makes for good is there now
    return ground


async def _image(cloud: Cloud) -> str:
    body = {"name": "ground", "disk_format": "raw", "container_format": "bare"}
    made = await cloud.admin.post("/image/v2/images", {**body, "visibility": "public"})
    id = str(made.json["id"])
    bytes_ = {"content-type": "application/octet-stream"}
    put = await cloud.admin.request(
        "PUT", f"/image/v2/images/{id}/file", raw=b"x" * 1024, headers=bytes_
    )
    if put.status != 204:
        raise AssertionError(put)
    return id


async def create(ground: Ground, id: str = "", **more: Any) -> str:
    """Begins a server on the ground's network; its id."""
    body = {
        "name": "ground",
        "imageRef": ground.ids["image"],
        "flavorRef": FLAVOR,
        "networks": [{"uuid": ground.ids["network"]}],
    }
    reply = await ground.ask("POST", SERVERS, {"server": body | more})
    return str(reply.json["server"]["id"])


async def create_on_volumes(ground: Ground, id: str = "") -> str:
    """Begins a server that starts from a volume and has another, both made for it and gone with it."""
    image = {"source_type": "image", "uuid": ground.ids["image"], "boot_index": 0}
    made = {"destination_type": "volume", "volume_size": 1, "delete_on_termination": True}
    disks = [image | made, {"source_type": "blank"} | made]
    return await create(ground, imageRef="", block_device_mapping_v2=disks)


async def booted(ground: Ground) -> str:
    """A server that runs."""
    id = await create(ground)
    await ground.cloud.settle()
    return id


async def booted_on_volumes(ground: Ground) -> str:
    id = await create_on_volumes(ground)
    await ground.cloud.settle()
    return id


async def stopped(ground: Ground) -> str:
    return await _after(ground, {"os-stop": None})


async def paused(ground: Ground) -> str:
    return await _after(ground, {"pause": None})


async def suspended(ground: Ground) -> str:
    return await _after(ground, {"suspend": None})


async def rescued(ground: Ground) -> str:
    return await _after(ground, {"rescue": {}})


async def rebuild(ground: Ground, id: str) -> str:
    return await act(ground, id, {"rebuild": {"imageRef": ground.ids["image"]}})


async def resized(ground: Ground) -> str:
    return await _after(ground, _RESIZE)


async def as_administrator(ground: Ground, id: str, action: Any) -> str:
    url = f"{SERVERS}/{id}/action"
    reply = await ground.cloud.admin.post(url, action, openstack_api_version=VERSION)
    if reply.status >= 300:
        raise AssertionError(f"{action}: {reply}")
    return id


async def lost(ground: Ground) -> str:
    """A server whose host is said to be down."""
    id = await booted(ground)
    shown = (await ground.cloud.admin.get(f"{SERVERS}/{id}")).json["server"]
    await _force_down(ground, shown["OS-EXT-SRV-ATTR:host"], down=True)
    return id


async def found_again(ground: Ground, id: str) -> None:
    """Every host is up, and the server is deleted."""
    hypervisors = await ground.cloud.admin.get("/compute/v2.1/os-hypervisors")
    for host in hypervisors.json["hypervisors"]:
        await _force_down(ground, host["hypervisor_hostname"], down=False)
    await clean(ground, id)


async def _force_down(ground: Ground, host: str, *, down: bool) -> None:
    url, body = "/compute/v2.1/os-services/force-down", {"host": host, "binary": "nova-compute"}
    reply = await ground.cloud.admin.put(
        url, {**body, "forced_down": down}, openstack_api_version="compute 2.11"
    )
    if reply.status != 200:
        raise AssertionError(f"{host}: {reply}")


async def _after(ground: Ground, *actions: Any) -> str:
    """A server to which that has been done."""
    id = await booted(ground)
    for action in actions:
        await act(ground, id, action)
        await ground.cloud.settle()
    return id


@contextmanager
def set_to(ground: Ground, **changes: int) -> Iterator[None]:
    """The cloud's settings are otherwise for a while."""
    runtime = ground.cloud.runtime
    before = settings_of(runtime)
    runtime.settings["compute"] = msgspec.structs.replace(before, **changes)
    try:
        yield
    finally:
        runtime.settings["compute"] = before


async def shelved(ground: Ground) -> str:
    """It is on its host still."""
    with set_to(ground, shelved_offload_s=-1):
        return await _after(ground, {"shelve": None})


async def offloaded(ground: Ground) -> str:
    return await _after(ground, {"shelve": None})


async def soft_delete(ground: Ground, id: str) -> str:
    with set_to(ground, reclaim_s=1000):
        return await delete(ground, id)


async def soft_deleted(ground: Ground) -> str:
    id = await soft_delete(ground, await booted(ground))
    await ground.cloud.settle()
    return id


async def offload(ground: Ground, id: str) -> str:
    action = {"shelveOffload": None}
    reply = await ground.cloud.admin.post(f"{SERVERS}/{id}/action", action)
    if reply.status != 202:
        raise AssertionError(reply)
    return id


async def nothing(ground: Ground) -> str:
    return ""


async def act(ground: Ground, id: str, action: Any) -> str:
    await ground.ask("POST", f"{SERVERS}/{id}/action", action, openstack_api_version=VERSION)
    return id


async def delete(ground: Ground, id: str) -> str:
    await ground.ask("DELETE", f"{SERVERS}/{id}")
    return id


async def clean(ground: Ground, id: str) -> None:
    """Deletes the server, if there is one still."""
    if (await ground.member.get(f"{SERVERS}/{id}")).status == 200:
        await delete(ground, id)
        await ground.cloud.settle()


async def plug(ground: Ground, id: str) -> str:
    body = {"interfaceAttachment": {"net_id": ground.ids["network"]}}
    await ground.ask("POST", f"{SERVERS}/{id}/os-interface", body)
    return id


async def unplug(ground: Ground, id: str) -> str:
    found = await ground.ask("GET", f"{SERVERS}/{id}/os-interface")
    port = found.json["interfaceAttachments"][0]["port_id"]
    await ground.ask("DELETE", f"{SERVERS}/{id}/os-interface/{port}")
    return id


async def with_disk(ground: Ground) -> str:
    """A server, and a volume for it."""
    id = await booted(ground)
    made = await ground.ask("POST", _VOLUMES, {"volume": {"size": 1}})
    ground.ids[f"volume of {id}"] = made.json["volume"]["id"]
    await ground.cloud.settle()
    return id


async def attach(ground: Ground, id: str) -> str:
    body = {"volumeAttachment": {"volumeId": ground.ids[f"volume of {id}"]}}
    await ground.ask("POST", f"{SERVERS}/{id}/os-volume_attachments", body)
    return id


async def attached(ground: Ground) -> str:
    id = await attach(ground, await with_disk(ground))
    await ground.cloud.settle()
    return id


async def detach(ground: Ground, id: str) -> str:
    volume = ground.ids[f"volume of {id}"]
    await ground.ask("DELETE", f"{SERVERS}/{id}/os-volume_attachments/{volume}")
    return id


async def with_two(ground: Ground) -> str:
    """A server with a volume that block storage says it moves, and another to take its place."""
    id = await attached(ground)
    made = await ground.ask("POST", _VOLUMES, {"volume": {"size": 1}})
    ground.ids[f"other of {id}"] = made.json["volume"]["id"]
    await ground.cloud.settle()
    url = f"{_VOLUMES}/{ground.ids[f'volume of {id}']}/action"
    said = await ground.cloud.admin.post(
        url, {"os-reset_status": {"migration_status": "migrating"}}
    )
    if said.status != 202:
        raise AssertionError(said)
    return id


async def swap(ground: Ground, id: str) -> str:
    url = f"{SERVERS}/{id}/os-volume_attachments/{ground.ids[f'volume of {id}']}"
    body = {"volumeAttachment": {"volumeId": ground.ids[f"other of {id}"]}}
    reply = await ground.cloud.admin.put(url, body)
    if reply.status != 202:
        raise AssertionError(reply)
    return id


async def no_two(ground: Ground, id: str) -> None:
    await no_disk(ground, id)
    await ground.ask("DELETE", f"{_VOLUMES}/{ground.ids.pop(f'other of {id}')}")
    await ground.cloud.settle()


async def follow(ground: Ground, id: str) -> str:
    ground.cloud.runtime.reconcilers.hint(PLACES, id)
    await ground.cloud.runtime.reconcilers.settled()
    return id


async def extend(ground: Ground, id: str) -> str:
    event = {"name": "volume-extended", "server_uuid": id, "tag": ground.ids[f"volume of {id}"]}
    told = await ground.cloud.admin.post(
        "/compute/v2.1/os-server-external-events",
        {"events": [event]},
        openstack_api_version=VERSION,
    )
    if told.status != 200:
        raise AssertionError(told)
    await ground.cloud.runtime.reconcilers.settled()
    return id


async def no_disk(ground: Ground, id: str) -> None:
    """Deletes the server, and its volume."""
    await clean(ground, id)
    await ground.ask("DELETE", f"{_VOLUMES}/{ground.ids.pop(f'volume of {id}')}")
    await ground.cloud.settle()


async def no_images(ground: Ground, id: str) -> None:
    """Deletes what images the project has, and the server."""
    found = await ground.ask("GET", "/image/v2/images?visibility=private")
    for image in found.json["images"]:
        await ground.ask("DELETE", f"/image/v2/images/{image['id']}")
    await clean(ground, id)


_BACKUP = {"name": "ground", "backup_type": "daily", "rotation": 1}


def _action(action: Any) -> Any:
    async def begin(ground: Ground, id: str) -> str:
        return await act(ground, id, action)

    return begin


def _admins(action: Any) -> Any:
    async def begin(ground: Ground, id: str) -> str:
        return await as_administrator(ground, id, action)

    return begin


SCENARIOS = {
    "compute_servers.create": Scenario(nothing, create_on_volumes, clean),
    "compute_servers.delete": Scenario(booted_on_volumes, delete, clean, destroys=True),
    "compute_servers.start": Scenario(stopped, _action({"os-start": None}), clean),
    "compute_servers.stop": Scenario(booted, _action({"os-stop": None}), clean),
    "compute_servers.pause": Scenario(booted, _action({"pause": None}), clean),
    "compute_servers.unpause": Scenario(paused, _action({"unpause": None}), clean),
    "compute_servers.suspend": Scenario(booted, _action({"suspend": None}), clean),
    "compute_servers.resume": Scenario(suspended, _action({"resume": None}), clean),
    "compute_servers.rebuild": Scenario(booted, rebuild, clean),
    "compute_servers.rescue": Scenario(booted, _action({"rescue": {}}), clean),
    "compute_servers.unrescue": Scenario(rescued, _action({"unrescue": None}), clean),
    "compute_servers.resize": Scenario(booted, _action(_RESIZE), clean),
    "compute_servers.migrate": Scenario(booted, _admins(_MIGRATE), clean),
    "compute_servers.os-migrateLive": Scenario(booted, _admins(_LIVE), clean, destroys=True),
    "compute_servers.evacuate": Scenario(
        lost, _admins({"evacuate": {}}), found_again, destroys=True
    ),
    "compute_servers.confirmResize": Scenario(
        resized, _action({"confirmResize": None}), clean, destroys=True
    ),
    "compute_servers.revertResize": Scenario(
        resized, _action({"revertResize": None}), clean, destroys=True
    ),
    "compute_servers.shelve": Scenario(booted, _action({"shelve": None}), no_images),
    "compute_servers.shelveOffload": Scenario(shelved, offload, no_images),
    "compute_servers.unshelve": Scenario(
        offloaded, _action({"unshelve": None}), no_images, destroys=True
    ),
    "compute_servers.soft delete": Scenario(booted, soft_delete, clean),
    "compute_servers.restore": Scenario(soft_deleted, _action({"restore": None}), clean),
    "compute_servers.createImage": Scenario(
        booted, _action({"createImage": {"name": "ground"}}), no_images
    ),
    "compute_servers.createBackup": Scenario(booted, _action({"createBackup": _BACKUP}), no_images),
    "compute_servers.reboot": Scenario(booted, _action({"reboot": {"type": "SOFT"}}), clean),
    "compute_servers.hard reboot": Scenario(booted, _action({"reboot": {"type": "HARD"}}), clean),
    "compute_servers.attach_interface": Scenario(booted, plug, clean),
    "compute_servers.detach_interface": Scenario(booted, unplug, clean, destroys=True),
    "compute_servers.attach_volume": Scenario(with_disk, attach, no_disk),
    "compute_servers.detach_volume": Scenario(attached, detach, no_disk, destroys=True),
    "compute_servers.swap_volume": Scenario(with_two, swap, no_two, destroys=True),
    "compute_servers.extend_volume": Scenario(attached, extend, no_disk),
    "compute_servers.follow_volume": Scenario(attached, follow, no_disk),
}

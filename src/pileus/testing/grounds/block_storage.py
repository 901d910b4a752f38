"""Volumes, for generated tests: the requests that begin each saga."""

from __future__ import annotations

from typing import Any

from pileus.testing.cloud import Cloud
from pileus.testing.grounds import Ground, Scenario
from pileus.testing.grounds.compute import _image

BASE = "/volume/v3"
VOLUMES = f"{BASE}/volumes"
_AT = "volume 3.71"


async def ready(cloud: Cloud) -> Ground:
    """A project in which a volume has been, two volume types and a public image."""
    ground = Ground(cloud, await cloud.project("ground-volumes"))
    ground.ids["image"] = await _image(cloud)
    for name in ("one", "other"):
        body = {"volume_type": {"name": f"ground-{name}"}}
        made = await cloud.admin.post(f"{BASE}/types", body)
        ground.ids[name] = made.json["volume_type"]["id"]
    id = await create(ground, imageRef=ground.ids["image"])  # what the first makes for good
    await cloud.settle()
    await migrate(ground, id)
    await cloud.settle()
    await clean(ground, id)
    return ground


async def ask(ground: Ground, method: str, path: str, body: Any = None) -> Any:
    reply = await ground.ask(method, BASE + path, body, openstack_api_version=_AT)
    return reply.json if reply.body else None


async def command(ground: Ground, path: str, body: Any) -> Any:
    """What an administrator asks."""
    reply = await ground.cloud.admin.post(BASE + path, body, openstack_api_version=_AT)
    if reply.status >= 300:
        raise AssertionError(f"{path} {body}: {reply}")
    return reply.json if reply.body else None


async def nothing(ground: Ground) -> str:
    return ""


async def create(ground: Ground, id: str = "", **more: Any) -> str:
    body = {"volume": {"size": 1, "volume_type": ground.ids["one"], **more}}
    return str((await ask(ground, "POST", "/volumes", body))["volume"]["id"])


async def volume(ground: Ground) -> str:
    """One that is there."""
    id = await create(ground)
    await ground.cloud.settle()
    return id


async def act(ground: Ground, id: str, body: Any) -> str:
    await ask(ground, "POST", f"/volumes/{id}/action", body)
    return id


async def delete(ground: Ground, id: str) -> str:
    await ask(ground, "DELETE", f"/volumes/{id}?cascade=true")
    return id


async def extend(ground: Ground, id: str) -> str:
    return await act(ground, id, {"os-extend": {"new_size": 2}})


async def retype(ground: Ground, id: str) -> str:
    return await act(ground, id, {"os-retype": {"new_type": ground.ids["other"]}})


async def reimage(ground: Ground, id: str) -> str:
    return await act(ground, id, {"os-reimage": {"image_id": ground.ids["image"]}})


async def upload(ground: Ground, id: str) -> str:
    body = {"os-volume_upload_image": {"image_name": "ground-of-volume"}}
    return await act(ground, id, body)


async def migrate(ground: Ground, id: str) -> str:
    await command(ground, f"/volumes/{id}/action", {"os-migrate_volume": {"host": None}})
    return id


async def in_use(ground: Ground) -> str:
    """One that a guest of somebody else's has."""
    id = await volume(ground)
    body = {"attachment": {"volume_uuid": id, "connector": {"host": "fake-1"}}}
    made = (await ask(ground, "POST", "/attachments", body))["attachment"]["id"]
    await command(ground, f"/attachments/{made}/action", {"os-complete": None})
    ground.ids[f"attachment of {id}"] = made
    return id


async def clean_used(ground: Ground, id: str) -> None:
    await ask(ground, "DELETE", f"/attachments/{ground.ids.pop(f'attachment of {id}')}")
    await clean(ground, id)


async def with_snapshot(ground: Ground) -> str:
    id = await volume(ground)
    await take(ground, id)
    await ground.cloud.settle()
    return id


async def revert(ground: Ground, id: str) -> str:
    newest = (await ask(ground, "GET", f"/snapshots?volume_id={id}"))["snapshots"][0]["id"]
    return await act(ground, id, {"revert": {"snapshot_id": newest}})


async def unmanaged(ground: Ground) -> str:
    """The place of a volume, and its name there, which nobody manages."""
    id = await volume(ground)
    url = f"{VOLUMES}/{id}"
    shown = (await ground.cloud.admin.get(url)).json["volume"]
    await command(ground, f"/volumes/{id}/action", {"os-unmanage": {}})
    ground.ids["place"], ground.ids["name"] = shown["os-vol-host-attr:host"], id
    return ""


async def manage(ground: Ground, id: str) -> str:
    ref = {"source-name": ground.ids["name"]}
    body = {"volume": {"host": ground.ids["place"], "ref": ref}}
    return str((await command(ground, "/manageable_volumes", body))["volume"]["id"])


async def clean(ground: Ground, id: str) -> None:
    """Deletes the volume with its snapshots, images made of it, and what was said of it."""
    admin = ground.cloud.admin
    shown = await admin.get(f"{VOLUMES}/{id}")
    if id and shown.status == 200:
        status = shown.json["volume"]["status"]
        if status != "available" and not status.startswith("error"):
            await command(ground, f"/volumes/{id}/action", {"os-reset_status": {"status": "error"}})
        if (await admin.delete(f"{VOLUMES}/{id}?cascade=true")).status != 202:
            raise AssertionError(f"{id} stays: {shown}")
    await ground.cloud.settle()
    images = (await ground.member.get("/image/v2/images?name=ground-of-volume")).json["images"]
    for image in images:
        await ground.ask("DELETE", f"/image/v2/images/{image['id']}")
    at = {"openstack_api_version": _AT}
    found = await admin.get(f"{BASE}/messages?all_tenants=1", **at)
    for message in found.json["messages"]:
        await admin.delete(f"{BASE}/messages/{message['id']}", **at)


async def clean_managed(ground: Ground, id: str) -> None:
    """One that was not taken over is taken over, and deleted."""
    await clean(ground, id)
    url = f"{BASE}/manageable_volumes?host={ground.ids['place'].replace('#', '%23')}"
    reply = await ground.cloud.admin.get(url, openstack_api_version=_AT)
    for one in reply.json["manageable-volumes"]:
        if one["safe_to_manage"]:
            again = await manage(ground, "")
            await ground.cloud.settle()
            await clean(ground, again)


# Snapshots


async def take(ground: Ground, id: str) -> str:
    body = {"snapshot": {"volume_id": id, "name": "ground"}}
    return str((await ask(ground, "POST", "/snapshots", body))["snapshot"]["id"])


async def a_volume_for_snapshots(ground: Ground) -> str:
    ground.ids["volume"] = await volume(ground)
    return ""


async def take_of_it(ground: Ground, id: str) -> str:
    return await take(ground, ground.ids["volume"])


async def snapshot(ground: Ground) -> str:
    await a_volume_for_snapshots(ground)
    id = await take_of_it(ground, "")
    await ground.cloud.settle()
    return id


async def delete_snapshot(ground: Ground, id: str) -> str:
    await ask(ground, "DELETE", f"/snapshots/{id}")
    return id


async def clean_snapshot(ground: Ground, id: str) -> None:
    await clean(ground, ground.ids["volume"])


# Backups


async def back_up(ground: Ground, id: str) -> str:
    body = {"backup": {"volume_id": ground.ids["volume"], "name": "ground"}}
    return str((await ask(ground, "POST", "/backups", body))["backup"]["id"])


async def backup(ground: Ground) -> str:
    await a_volume_for_snapshots(ground)
    id = await back_up(ground, "")
    await ground.cloud.settle()
    return id


async def restore(ground: Ground, id: str) -> str:
    body = {"restore": {"volume_id": ground.ids["volume"]}}
    await ask(ground, "POST", f"/backups/{id}/restore", body)
    return id


async def delete_backup(ground: Ground, id: str) -> str:
    await ask(ground, "DELETE", f"/backups/{id}")
    return id


async def clean_backup(ground: Ground, id: str) -> None:
    for one in (await ask(ground, "GET", "/backups"))["backups"]:
        await delete_backup(ground, one["id"])
    await clean(ground, ground.ids["volume"])


# Groups


async def group(ground: Ground) -> str:
    """With a volume in it."""
    kind = await ground.cloud.admin.post(
        f"{BASE}/group_types",
        {"group_type": {"name": f"ground-{ground.cloud.runtime.world.new_hex()}"}},
        openstack_api_version=_AT,
    )
    ground.ids["group_type"] = kind.json["group_type"]["id"]
    body = {"group_type": ground.ids["group_type"], "volume_types": [ground.ids["one"]]}
    made = await ask(ground, "POST", "/groups", {"group": body})
    ground.ids["group"] = made["group"]["id"]
    ground.ids["volume"] = await create(ground, group_id=ground.ids["group"])
    await ground.cloud.settle()
    return ground.ids["group"]


async def delete_group(ground: Ground, id: str) -> str:
    await ask(ground, "POST", f"/groups/{id}/action", {"delete": {"delete-volumes": True}})
    return id


async def clean_group(ground: Ground, id: str) -> None:
    for one in (await ask(ground, "GET", "/group_snapshots"))["group_snapshots"]:
        await ask(ground, "DELETE", f"/group_snapshots/{one['id']}")
    await ground.cloud.settle()
    for one in (await ask(ground, "GET", "/groups"))["groups"]:
        await delete_group(ground, one["id"])
    await ground.cloud.settle()
    url = f"{BASE}/group_types/{ground.ids['group_type']}"
    await ground.cloud.admin.delete(url, openstack_api_version=_AT)


async def a_group_for_snapshots(ground: Ground) -> str:
    await group(ground)
    return ""


async def take_group(ground: Ground, id: str) -> str:
    body = {"group_snapshot": {"group_id": ground.ids["group"]}}
    made = await ask(ground, "POST", "/group_snapshots", body)
    return str(made["group_snapshot"]["id"])


async def group_snapshot(ground: Ground) -> str:
    await group(ground)
    id = await take_group(ground, "")
    await ground.cloud.settle()
    return id


async def drop_group_snapshot(ground: Ground, id: str) -> str:
    await ask(ground, "DELETE", f"/group_snapshots/{id}")
    return id


_G = "block_storage_group"
_V, _S, _B = "block_storage_volumes.", "block_storage_snapshots.", "block_storage_backups."
SCENARIOS = {
    _V + "create": Scenario(nothing, create, clean),
    _V + "delete": Scenario(volume, delete, clean, destroys=True),
    _V + "extend": Scenario(volume, extend, clean, destroys=True),
    _V + "retype": Scenario(volume, retype, clean),
    _V + "reimage": Scenario(volume, reimage, clean, destroys=True),
    _V + "upload": Scenario(volume, upload, clean),
    _V + "migrate": Scenario(volume, migrate, clean, destroys=True),
    _V + "relocate": Scenario(in_use, migrate, clean_used, destroys=True),
    _V + "revert": Scenario(with_snapshot, revert, clean, destroys=True),
    _V + "manage": Scenario(unmanaged, manage, clean_managed, destroys=True),
    _S + "create": Scenario(a_volume_for_snapshots, take_of_it, clean_snapshot),
    _S + "delete": Scenario(snapshot, delete_snapshot, clean_snapshot, destroys=True),
    _G + "s.delete": Scenario(group, delete_group, clean_group, destroys=True),
    _G + "_snapshots.create": Scenario(a_group_for_snapshots, take_group, clean_group),
    _G + "_snapshots.delete": Scenario(
        group_snapshot, drop_group_snapshot, clean_group, destroys=True
    ),
    _B + "create": Scenario(a_volume_for_snapshots, back_up, clean_backup),
    _B + "restore": Scenario(backup, restore, clean_backup, destroys=True),
    _B + "delete": Scenario(backup, delete_backup, clean_backup, destroys=True),
}

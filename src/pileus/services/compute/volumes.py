"""Volumes and their snapshots by Nova's old names: block storage keeps them, and its rules hold. Gone from 2.36 on.

https://docs.openstack.org/api-ref/compute/#volume-extension-os-volumes-os-snapshots-deprecated
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar
from urllib.parse import urlencode

from msgspec import UNSET, UnsetType

from pileus.kernel.faults import NotFound
from pileus.kernel.resources import Answer, Context, Resource, operation
from pileus.kernel.schema import Body
from pileus.services.compute import checks
from pileus.services.compute.asked import ask
from pileus.services.compute.flavors import FLAVORS
from pileus.services.compute.security_groups import END
from pileus.services.compute.servers.operations import MEMBER, READER

View = Callable[[dict[str, Any]], dict[str, Any]]
_SERVICE, _RULE = "block-storage", "os_compute_api:os-volumes:"
_OF_SNAPSHOTS = _RULE + "snapshots:"
_VOLUMES, _VOLUME = "/os-volumes", "/os-volumes/{volume_id}"
_SNAPSHOTS, _SNAPSHOT = "/os-snapshots", "/os-snapshots/{snapshot_id}"
_RULES = {"list": READER, "detail": READER, "show": READER, "create": MEMBER, "delete": MEMBER}


class CreateVolume(Body):
    root: ClassVar[str] = "volume"
    size: checks.Positive
    display_name: str | UnsetType = UNSET
    display_description: str | UnsetType = UNSET
    volume_type: str | UnsetType = UNSET
    availability_zone: str | UnsetType = UNSET
    snapshot_id: str | UnsetType = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET


class CreateSnapshot(Body):
    root: ClassVar[str] = "snapshot"
    volume_id: str
    display_name: str | UnsetType = UNSET
    display_description: str | UnsetType = UNSET
    force: checks.Flag | UnsetType = UNSET


async def _listed(ctx: Context, noun: str, view: View) -> dict[str, Any]:
    """A slice of the project's; of a query nothing else counts, and a 0 says nothing."""
    kept = [(k, v) for k, v in ctx.query.pairs if k in ("limit", "offset") and v.strip("0")]
    answer = await ask(ctx, _SERVICE, "GET", f"/{noun}s/detail?{urlencode(kept)}")
    return {f"{noun}s": [view(one) for one in answer[f"{noun}s"]]}


async def _ask(ctx: Context, method: str, noun: str, id: str) -> Any:
    """Of one of them. Raises NotFound."""
    if not checks.is_uuid(id):
        raise NotFound(f"{noun.capitalize()} {id} could not be found.")
    return await ask(ctx, _SERVICE, method, f"/{noun}s/{id}")


def _described(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": found["id"],
        "status": found["status"],
        "size": found["size"],
        "createdAt": found["created_at"],
        "displayName": found["name"],
        "displayDescription": found["description"],
    }


def _volume(volume: dict[str, Any]) -> dict[str, Any]:
    """Of servers that have it the first; an empty object stands for none."""
    attached: list[dict[str, Any]] = [
        {"id": volume["id"], "volumeId": volume["id"], "serverId": a["server_id"]}
        | ({"device": a["device"]} if a["device"] else {})
        for a in volume["attachments"]
        if a["server_id"]
    ]
    return _described(volume) | {
        "availabilityZone": volume["availability_zone"],
        "volumeType": volume["volume_type"],
        "snapshotId": volume["snapshot_id"],
        "metadata": volume["metadata"],
        "attachments": attached[:1] or [{}],
    }


def _snapshot(snapshot: dict[str, Any]) -> dict[str, Any]:
    return _described(snapshot) | {"volumeId": snapshot["volume_id"]}


class Volumes(Resource[Any]):
    table = FLAVORS  # it names no record of ours
    rules: ClassVar[Mapping[str, str]] = {_RULE + k: v for k, v in _RULES.items()}

    @operation("GET", _VOLUMES, _RULE + "list", until=END)
    @operation("GET", _VOLUMES + "/detail", _RULE + "detail", until=END)
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await _listed(ctx, "volume", _volume)

    @operation("GET", _VOLUME, _RULE + "show", until=END)
    async def show(self, ctx: Context, volume_id: str) -> dict[str, Any]:
        return {"volume": _volume((await _ask(ctx, "GET", "volume", volume_id))["volume"])}

    @operation("POST", _VOLUMES, _RULE + "create", status=200, until=END)
    async def create(self, ctx: Context, body: CreateVolume) -> Answer:
        made = await ask(ctx, _SERVICE, "POST", "/volumes", {"volume": body.given()})
        volume = _volume(made["volume"])
        return Answer({"volume": volume}, headers={"location": f"{ctx.url}/{volume['id']}"})

    @operation("DELETE", _VOLUME, _RULE + "delete", status=202, until=END)
    async def delete(self, ctx: Context, volume_id: str) -> None:
        await _ask(ctx, "DELETE", "volume", volume_id)


class Snapshots(Resource[Any]):
    table = FLAVORS  # it names no record of ours
    rules: ClassVar[Mapping[str, str]] = {_OF_SNAPSHOTS + k: v for k, v in _RULES.items()}

    @operation("GET", _SNAPSHOTS, _OF_SNAPSHOTS + "list", until=END)
    @operation("GET", _SNAPSHOTS + "/detail", _OF_SNAPSHOTS + "detail", until=END)
    async def index(self, ctx: Context) -> dict[str, Any]:
        return await _listed(ctx, "snapshot", _snapshot)

    @operation("GET", _SNAPSHOT, _OF_SNAPSHOTS + "show", until=END)
    async def show(self, ctx: Context, snapshot_id: str) -> dict[str, Any]:
        found = await _ask(ctx, "GET", "snapshot", snapshot_id)
        return {"snapshot": _snapshot(found["snapshot"])}

    @operation("POST", _SNAPSHOTS, _OF_SNAPSHOTS + "create", status=200, until=END)
    async def create(self, ctx: Context, body: CreateSnapshot) -> dict[str, Any]:
        made = await ask(ctx, _SERVICE, "POST", "/snapshots", {"snapshot": body.given()})
        return {"snapshot": _snapshot(made["snapshot"])}

    @operation("DELETE", _SNAPSHOT, _OF_SNAPSHOTS + "delete", status=202, until=END)
    async def delete(self, ctx: Context, snapshot_id: str) -> None:
        await _ask(ctx, "DELETE", "snapshot", snapshot_id)

"""What network, storage and bare metal tell compute about servers; and snapshots of volumes that a guest helps with.

https://docs.openstack.org/api-ref/compute/#create-external-events-os-server-external-events
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pileus.kernel.faults import Invalid
from pileus.kernel.resources import Answer, Context, Resource, operation
from pileus.kernel.schema import Body
from pileus.kernel.store import Page
from pileus.services.compute import checks, instance_actions
from pileus.services.compute.server import SERVERS, Server
from pileus.services.compute.servers.addresses import look_again
from pileus.services.compute.servers.volume_sagas import SIZES

_EVENTS = "os_compute_api:os-server-external-events:create"
_ASSISTED = "os_compute_api:os-assisted-volume-snapshots:"
_SERVICES = "rule:service_or_admin"
# The version that brought each event.
_NAMES = {
    "network-changed": (2, 1),
    "network-vif-plugged": (2, 1),
    "network-vif-unplugged": (2, 1),
    "network-vif-deleted": (2, 1),
    "volume-extended": (2, 51),
    "power-update": (2, 76),
    "accelerator-request-bound": (2, 82),
    "volume-reimaged": (2, 93),
}
_NEED_A_TAG = frozenset(("volume-extended", "power-update", "accelerator-request-bound"))
_POWERS = {"POWER_ON": "start", "POWER_OFF": "stop"}
Word = Annotated[str, Meta(min_length=1)]


class AskedEvent(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    name: str
    server_uuid: str
    status: Literal["failed", "completed", "in-progress"] | UnsetType = UNSET
    tag: Annotated[str, Meta(max_length=255)] | UnsetType = UNSET


class CreateEvents(Body):
    events: Annotated[list[AskedEvent], Meta(min_length=1)]


class SnapshotInfo(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    snapshot_id: Word
    type: Literal["qcow2"]
    new_file: Word
    id: Word | UnsetType = UNSET


class CreateSnapshot(Body):
    root: ClassVar[str] = "snapshot"
    volume_id: Word
    create_info: SnapshotInfo


class ServerExternalEvents(Resource[Server]):
    table = SERVERS
    rules: ClassVar[Mapping[str, str]] = {_EVENTS: _SERVICES}

    @operation("POST", "/os-server-external-events", _EVENTS, status=200)
    async def create(self, ctx: Context, body: CreateEvents) -> Answer:
        """200 where all were taken, else 207; each says which it is."""
        for event in body.events:
            _check(ctx, event)
        page = Page({"id": [e.server_uuid for e in body.events]}, limit=len(body.events))
        servers = {s.id: s for s in await SERVERS.list(ctx.runtime.store, page)}
        codes = [_code(event, servers.get(event.server_uuid)) for event in body.events]
        taken = [e for e, code in zip(body.events, codes, strict=True) if code == 200]
        await _record(ctx, taken, servers)
        changed = {e.server_uuid for e in taken if e.name.startswith("network-")}
        await look_again(ctx.runtime, sorted(changed), wait=True)
        for event in taken:
            if event.name == "volume-extended":
                ctx.runtime.reconcilers.hint(SIZES, event.server_uuid)
        shown = [
            {
                **msgspec.to_builtins(event),
                "status": "completed" if code == 200 else "failed",
                "code": code,
            }
            for event, code in zip(body.events, codes, strict=True)
        ]
        return Answer({"events": shown}, 200 if len(taken) == len(codes) else 207)


def _check(ctx: Context, event: AskedEvent) -> None:
    known = [name for name, since in _NAMES.items() if ctx.version >= since]
    if event.name not in known:
        raise checks.wrong("events/name", event.name, f"{event.name!r} is not one of {known}")
    if not checks.is_uuid(event.server_uuid):
        raise checks.wrong(
            "events/server_uuid", event.server_uuid, f"{event.server_uuid!r} is not a 'uuid'"
        )


def _code(event: AskedEvent, server: Server | None) -> int:
    if server is None:
        return 404
    if event.name in _NEED_A_TAG and event.tag is UNSET:
        return 400
    return 200 if server.host else 422


async def _record(ctx: Context, taken: list[AskedEvent], servers: dict[str, Server]) -> None:
    """What users wait for shows among the server's actions."""
    async with ctx.runtime.store.tx() as tx:
        for event in taken:
            verb = _POWERS.get(str(event.tag), "")
            if verb and event.name == "power-update":
                await instance_actions.record(tx, ctx, servers[event.server_uuid], verb)


class AssistedVolumeSnapshots(Resource[Server]):
    """For volumes that are files of their guests' hosts. Here their own hosts serve them, and take snapshots alone."""

    table = SERVERS
    rules: ClassVar[Mapping[str, str]] = {
        _ASSISTED + "create": _SERVICES,
        _ASSISTED + "delete": _SERVICES,
    }

    @operation("POST", "/os-assisted-volume-snapshots", _ASSISTED + "create", status=200)
    async def create(self, ctx: Context, body: CreateSnapshot) -> None:
        raise _needs_none(body.volume_id)

    @operation(
        "DELETE", "/os-assisted-volume-snapshots/{snapshot_id}", _ASSISTED + "delete", status=204
    )
    async def delete(self, ctx: Context, snapshot_id: str) -> None:
        checks.known_only(ctx, ("delete_info",), since=(2, 75))
        try:
            info = msgspec.json.decode(ctx.query.get("delete_info"), type=dict[str, Any])
        except msgspec.DecodeError:
            raise Invalid("delete_info must be a JSON object that has a volume_id.") from None
        if not isinstance(info.get("volume_id"), str):
            raise Invalid("delete_info must have a volume_id.")
        raise _needs_none(info["volume_id"])


def _needs_none(volume_id: str) -> Invalid:
    return Invalid(
        f"No volume Block Device Mapping with id {volume_id} needs a hypervisor for its snapshots: "
        "block storage takes them of attached volumes, too."
    )

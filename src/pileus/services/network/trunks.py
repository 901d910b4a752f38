"""Trunks (API reference: trunk-networking)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType

from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Page, Tx

from .attributes import Attributes, changes_of
from .checks import LAST_VLAN
from .network import NETWORKS, Network
from .plain import Plain
from .port import ACTIVE, DOWN, PORTS, Port, port_target
from .ports.operations import Ports
from .refusals import bad_input, missing, port_in_use
from .resource import OWNER, READER, hold, kept_by, listing, projected, standard
from .trunk import SUBPORT, TRUNKS, VLAN, SubPort, Trunk, trunk_over
from .wiring import wake_for_ports

_FIXED = frozenset({"id", "status", "created_at", "updated_at", "revision_number", "tags"})
INHERIT = "inherit"


class SubPortRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    port_id: str
    segmentation_type: str = ""
    segmentation_id: int = 0


class CreateTrunk(Attributes):
    root: ClassVar[str] = "trunk"
    plural: ClassVar[str] = "trunks"
    fixed = _FIXED

    port_id: str
    name: str = ""
    description: str = ""
    admin_state_up: bool = True
    sub_ports: list[SubPortRequest] | None = None
    project_id: str | UnsetType = UNSET


class AddedPorts(Attributes):
    root: ClassVar[str] = ""
    creates = False

    sub_ports: list[SubPortRequest]


class RemovedPort(msgspec.Struct, frozen=True, kw_only=True):
    port_id: str


class RemovedPorts(Attributes):
    root: ClassVar[str] = ""
    creates = False

    sub_ports: list[RemovedPort]


class Trunks(
    Plain[Trunk],
    path="/trunks",
    create=CreateTrunk,
    update=changes_of(CreateTrunk, "port_id", "sub_ports"),
):
    table = TRUNKS
    noun = "trunk"
    plural = "trunks"
    id_param = "trunk_id"
    see = "get_trunk"
    rules = kept_by(OWNER, "trunk", tagged=True) | {
        "get_subports": READER,
        "add_subports": OWNER,
        "remove_subports": OWNER,
    }
    listing = listing(("port_id",), admin_state_up=Filter(kind=bool))

    async def rendered(self, ctx: Context, records: Sequence[Trunk]) -> list[dict[str, Any]]:
        """A trunk is as active as its parent."""
        page = Page({"id": [t.port_id for t in records], "status": ACTIVE}, limit=1 << 30)
        rows = await PORTS.page(ctx.runtime.store, page, select=("id",)) if records else []
        active = {row[0] for row in rows}
        found = []
        for t in records:
            view = standard(t) | {
                "port_id": t.port_id,
                "admin_state_up": t.admin_state_up,
                "status": ACTIVE if t.port_id in active and t.admin_state_up else DOWN,
                "sub_ports": t.sub_ports,
            }
            found.append(projected(ctx, view))
        return found

    async def checked(
        self, ctx: Context, given: dict[str, Any], old: Trunk | None
    ) -> dict[str, Any]:
        if old is None:
            asked = given.get("sub_ports", [])
            _check_tags(asked)
            _check_differ([s.segmentation_id for s in asked if s.segmentation_type == VLAN])
            parent = await _own_port(ctx, given["port_id"])
            given["sub_ports"] = await self._asked(ctx, asked, parent)
            _check_differ([s.segmentation_id for s in given["sub_ports"]])
        return given

    async def _asked(
        self, ctx: Context, given: Sequence[SubPortRequest], parent: Port
    ) -> list[SubPort]:
        """Raises Invalid, NotFound, Conflict."""
        found = []
        largest = (await NETWORKS.get(ctx.runtime.store, parent.network_id)).mtu
        for sub in given:
            port = await _own_port(ctx, sub.port_id)
            network = await NETWORKS.get(ctx.runtime.store, port.network_id)
            tag = _tag(sub, network)
            if network.mtu > largest:
                raise Conflict(
                    f"MTU {network.mtu} of subport {port.id} cannot be greater than MTU {largest} of its "
                    "trunk.",
                    code="SubPortMtuGreaterThanTrunkPortMtu",
                )
            found.append(SubPort(port_id=port.id, segmentation_id=tag))
        return found

    async def enter(self, tx: Tx, new: Trunk, old: Trunk | None) -> Trunk:
        if old is None:
            parent = await PORTS.get(tx, new.port_id)
            await hold(tx, "networks", parent.network_id)
            if await trunk_over(tx, parent.id) is not None:
                raise _carried(parent.id)
            await _take(tx, parent, new.id, new.sub_ports)
        return new

    async def leave(self, tx: Tx, record: Trunk) -> None:
        _enabled(record)
        await _release(tx, [s.port_id for s in record.sub_ports])

    async def changed(self, ctx: Context, *records: Trunk) -> None:
        ids = {i for t in records for i in (t.port_id, *(s.port_id for s in t.sub_ports))}
        await wake_for_ports(ctx.runtime, *await PORTS.all(ctx.runtime.store, id=sorted(ids)))

    @operation("GET", "/trunks/{trunk_id}/get_subports", "get_subports")
    async def subports(self, ctx: Context, trunk: Trunk) -> Any:
        return {"sub_ports": trunk.sub_ports}

    @operation("PUT", "/trunks/{trunk_id}/add_subports", "add_subports")
    async def add(self, ctx: Context, trunk: Trunk, body: AddedPorts) -> Any:
        parent = await PORTS.get(ctx.runtime.store, trunk.port_id)
        _check_tags(body.sub_ports)
        asked = await self._asked(ctx, body.sub_ports, parent)
        async with ctx.runtime.store.tx() as tx:
            trunk = await TRUNKS.get(tx, trunk.id)
            _enabled(trunk)
            await _take(tx, await PORTS.get(tx, trunk.port_id), trunk.id, asked)
            used = [s.segmentation_id for s in trunk.sub_ports]
            for sub in asked:
                if sub.segmentation_id in used:
                    raise Conflict(
                        f"segmentation_type {VLAN} and segmentation_id {sub.segmentation_id} "
                        f"already in use on trunk {trunk.id}.",
                        code="DuplicateSubPort",
                    )
                used.append(sub.segmentation_id)
            trunk = await TRUNKS.revise(tx, trunk, sub_ports=[*trunk.sub_ports, *asked])
        await self.changed(ctx, trunk)
        return (await self.rendered(ctx, [trunk]))[0]

    @operation("PUT", "/trunks/{trunk_id}/remove_subports", "remove_subports")
    async def remove(self, ctx: Context, trunk: Trunk, body: RemovedPorts) -> Any:
        gone = [s.port_id for s in body.sub_ports]
        async with ctx.runtime.store.tx() as tx:
            before = await TRUNKS.get(tx, trunk.id)
            _enabled(before)
            for id in gone:
                if all(s.port_id != id for s in before.sub_ports):
                    raise missing(
                        "SubPortNotFound",
                        f"SubPort {id[:64]} on trunk {trunk.id} could not be found.",
                    )
            await _release(tx, gone)
            left = [s for s in before.sub_ports if s.port_id not in gone]
            trunk = await TRUNKS.revise(tx, before, sub_ports=left)
        await self.changed(ctx, before)
        return (await self.rendered(ctx, [trunk]))[0]


def _check_tags(subs: Sequence[SubPortRequest]) -> None:
    """What can be said of them before anybody looks at their ports. Raises Invalid."""
    for sub in subs:
        kind = sub.segmentation_type
        if kind not in (VLAN, INHERIT):
            raise bad_input(
                f"segmentation_type '{kind[:20]}' is not supported; use {VLAN} or {INHERIT}"
            )
        if kind == VLAN and not 1 <= sub.segmentation_id <= LAST_VLAN:
            raise bad_input(
                f"Invalid segmentation ID {sub.segmentation_id}: a VLAN has a number from 1 to "
                f"{LAST_VLAN}"
            )


def _check_differ(tags: Sequence[int]) -> None:
    if len(set(tags)) != len(tags):
        raise bad_input("segmentation_id values of sub_ports must differ")


def _tag(sub: SubPortRequest, network: Network) -> int:
    """The VLAN by which the guest has the network. Raises Invalid."""
    if sub.segmentation_type == VLAN:
        return sub.segmentation_id
    if network.network_type != VLAN or network.more_segments:
        raise bad_input(
            f"segmentation_type {INHERIT} is for networks that are one VLAN, and {network.id} "
            f"is of type {network.network_type}: name a VLAN"
        )
    return network.segmentation_id


def _enabled(trunk: Trunk) -> None:
    if not trunk.admin_state_up:
        raise Conflict(f"Trunk {trunk.id} is currently disabled.", code="TrunkDisabled")


def _carried(port_id: str) -> Conflict:
    return Conflict(f"Port {port_id} is in use by another trunk.", code="TrunkPortInUse")


async def _own_port(ctx: Context, id: str) -> Port:
    """A port that the caller may change. Raises NotFound, Forbidden."""
    if not id:
        raise Invalid("Invalid input for port_id. Reason: it must not be empty.")
    port = await Ports().visible(ctx, id)
    ctx.require("update_port", port_target(port))
    return port


async def _take(tx: Tx, parent: Port, trunk_id: str, subs: Sequence[SubPort]) -> None:
    """These ports are the trunk's, on its host. Raises Conflict for one that is used otherwise."""
    for sub in subs:
        port = await PORTS.get(tx, sub.port_id)
        if await trunk_over(tx, port.id) is not None:
            raise _carried(port.id)
        if port.id == parent.id or await TRUNKS.one(tx, port_id=port.id) is not None:
            raise Conflict(
                f"Port {port.id} is currently in use and is not eligible for use as a parent port.",
                code="ParentPortInUse",
            )
        if port.device_id or port.host:
            raise port_in_use(port.id, port.network_id, port.device_id)
        await PORTS.revise(tx, port, device_owner=SUBPORT, host=parent.host, status=DOWN)


async def _release(tx: Tx, port_ids: Sequence[str]) -> None:
    for id in port_ids:
        port = await PORTS.find(tx, id)
        if port is not None:
            await PORTS.revise(tx, port, device_owner="", host="", status=DOWN)

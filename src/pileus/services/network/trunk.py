"""What a trunk is: a port that carries other ports' frames, told apart by VLAN tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from pileus.kernel.quota import Quota
from pileus.kernel.store import Many, Page, Reader, Tx, Unique

from .port import DOWN, PORTS, Port
from .resource import COLUMNS, TAGS, Noun, Nouns

SUBPORT = "trunk:subport"  # the device owner of what a trunk carries
VLAN = "vlan"


class SubPort(msgspec.Struct, frozen=True, kw_only=True):
    port_id: str
    segmentation_type: str = VLAN
    segmentation_id: int = 0


class Trunk(Noun, kw_only=True, frozen=True):
    port_id: str
    admin_state_up: bool = True
    sub_ports: list[SubPort] = []


TRUNKS = Nouns[Trunk](
    "network_trunks",
    Trunk,
    columns=(*COLUMNS, "port_id", "admin_state_up"),
    unique=(
        Unique(
            ("port_id",),
            lambda t: (
                f"Port {t.port_id} is currently in use and is not eligible for use as a parent port."
            ),
            "ParentPortInUse",
        ),
    ),
    many=(TAGS, Many("sub_ports", lambda t: [s.port_id for s in t.sub_ports])),
    quotas=(Quota("network", "trunk", default=-1),),
    indexes=(("port_id",), ("project_id", "created_at", "id")),
    noun="Trunk",
).worded("TrunkNotFound", "Trunk {id} could not be found.")


async def trunk_over(db: Reader, port_id: str) -> Trunk | None:
    """The trunk that carries the port."""
    return await TRUNKS.one(db, sub_ports=[port_id])


async def carry(tx: Tx, parent: Port) -> list[Port]:
    """What a trunk carries is where its parent is. Gives the subports."""
    trunk = await TRUNKS.one(tx, port_id=parent.id)
    moved = []
    for sub in trunk.sub_ports if trunk is not None else ():
        port = await PORTS.find(tx, sub.port_id)
        if port is not None and port.host != parent.host:
            moved.append(await PORTS.revise(tx, port, host=parent.host, status=DOWN))
    return moved


async def trunk_details(db: Reader, port_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What the trunks over these ports carry, by the parent's id."""
    first = await TRUNKS.page(db, Page(sorts=(("id", False),), limit=1), select=("id",))
    if not port_ids or not first:  # few clouds have any, and all ports ask
        return {}
    trunks = await TRUNKS.all(db, port_id=list(port_ids))
    carried = sorted({s.port_id for t in trunks for s in t.sub_ports})
    macs = {p.id: p.mac_address for p in await PORTS.all(db, id=carried)} if carried else {}
    return {
        t.port_id: {
            "trunk_id": t.id,
            "sub_ports": [
                {**msgspec.structs.asdict(s), "mac_address": macs.get(s.port_id)}
                for s in t.sub_ports
            ],
        }
        for t in trunks
    }

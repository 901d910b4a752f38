"""What a volume may do in a second: the QoS specs of its type, as the back end takes them."""

from __future__ import annotations

from collections.abc import Mapping

from pileus.kernel.store import Reader, Record, Table, Unique

from .driver import Limits
from .volume_type import VOLUME_TYPES


class QosSpec(Record, kw_only=True, frozen=True):
    name: str
    consumer: str = "back-end"
    specs: dict[str, str] = {}


QOS_SPECS = Table(
    "block_storage_qos_specs",
    QosSpec,
    columns=("name",),
    unique=(Unique(("name",), lambda q: f"QoS specs {q.name} already exists."),),
    noun="QoS specs",
)


async def limits_of(db: Reader, volume_type_id: str) -> Limits:
    """Without limit where the type names none."""
    kind = await VOLUME_TYPES.find(db, volume_type_id)
    found = await QOS_SPECS.find(db, kind.qos_specs_id) if kind and kind.qos_specs_id else None
    return as_limits(found.specs) if found else Limits()


def as_limits(specs: Mapping[str, str]) -> Limits:
    """The keys that are known, with whole numbers."""
    known = {n: int(v) for n in Limits.__struct_fields__ if (v := specs.get(n, "")).isdecimal()}
    return Limits(**known)

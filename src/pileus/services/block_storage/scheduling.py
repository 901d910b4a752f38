"""Which pool a volume goes to. Pure: no I/O.

A pool is passed over for what a volume type asks and it has not, or for want of room; among those left the emptiest wins.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pileus.kernel.faults import NoCapacity, Unavailable

OVERSUBSCRIBED = 20.0  # thin volumes promised for each real GiB
DOWN = "down"
_SCOPE = "capabilities:"


@dataclass(frozen=True)
class Pool:
    """A pool as its host last described it. `promised_gib`: the sizes of its volumes, added up."""

    host: str
    name: str
    total_gib: int
    free_gib: int
    promised_gib: int
    storage_protocol: str
    zone: str
    backend_name: str = ""  # as an operator named it, else its host's
    is_thin: bool = True
    why_not: str = ""  # down, disabled or frozen
    is_starting: bool = False  # one that is down may soon be back

    @property
    def place(self) -> str:
        """As Cinder names it."""
        return f"{self.back_end}#{self.name}"

    @property
    def back_end(self) -> str:
        """As a service is named: each back end has one pool, of its own name."""
        return f"{self.host}@{self.name}"

    def is_at(self, place: str) -> bool:
        """Whether it is what a host's name, a back end's or a pool's means."""
        return place in (self.host, self.back_end, self.place)

    @property
    def room_gib(self) -> float:
        ratio = OVERSUBSCRIBED if self.is_thin else 1.0
        return self.total_gib * ratio - self.promised_gib

    @property
    def capabilities(self) -> dict[str, object]:
        """What extra specs may ask for."""
        return {
            "volume_backend_name": self.backend_name or self.host,
            "vendor_name": "Pileus",
            "driver_version": "1.0",
            "storage_protocol": self.storage_protocol,
            "pool_name": self.name,
            "multiattach": True,
            "thin_provisioning_support": self.is_thin,
            "thick_provisioning_support": not self.is_thin,
            "replication_enabled": False,
            "QoS_support": True,
            "consistent_group_snapshot_enabled": False,
            "online_extend_support": True,
        }


@dataclass(frozen=True)
class Wanted:
    """What a volume asks of its pool. `only`: the place that it must be at; `never`: where it may not be; "" is none."""

    size: int
    extra_specs: Mapping[str, str]
    zone: str = ""
    only: str = ""
    never: str = ""


def choose(pools: Sequence[Pool], wanted: Wanted) -> Pool:
    """Raises NoCapacity, which says of each pool why it is not the one; Unavailable where one that starts will do."""
    refused = {pool.place: why for pool in pools if (why := why_not(pool, wanted))}
    fit = [pool for pool in pools if pool.place not in refused]
    if fit:
        return max(fit, key=lambda p: (p.room_gib, p.place))
    reasons = "; ".join(f"{place}: {why}" for place, why in sorted(refused.items()))
    back = [replace(p, why_not="") for p in pools if p.why_not == DOWN and p.is_starting]
    kind = NoCapacity if all(why_not(pool, wanted) for pool in back) else Unavailable
    raise kind(f"No valid backend was found. {reasons or 'There is no host for volumes'}.")


def why_not(pool: Pool, wanted: Wanted) -> str:
    """Why the volume may not go there, "" if it may."""
    if pool.why_not:
        return pool.why_not
    if wanted.only and not pool.is_at(wanted.only):
        return f"not {wanted.only}, which is asked for"
    if pool.is_at(wanted.never):
        return f"{wanted.never} is ruled out"
    if wanted.zone and pool.zone != wanted.zone:
        return f"in zone {pool.zone}, not {wanted.zone}"
    lacking = _lacking(pool.capabilities, wanted.extra_specs)
    if lacking:
        return lacking
    if wanted.size > pool.room_gib:
        return f"room for {pool.room_gib:.0f} GiB, not {wanted.size}"
    return ""


def _lacking(has: Mapping[str, object], asked: Mapping[str, str]) -> str:
    for key, value in sorted(asked.items()):
        name = key.removeprefix(_SCOPE)
        if ":" in name:
            continue  # another scope: not the scheduler's
        if name not in has:
            return f"no capability {name}"
        if not _meets(str(has[name]), value):
            return f"{name} is {has[name]}, not {value}"
    return ""


def _meets(has: str, asked: str) -> bool:
    """`<is> True`, `<in> text`, `<or> a <or> b`, numbers compared with `>=` and the like, or the very text."""
    words = asked.split(maxsplit=1)
    op, rest = (words[0], words[1]) if len(words) == 2 else ("", asked)
    match op:
        case "<is>":
            return has.lower() == rest.strip().lower()
        case "<in>":
            return rest.strip() in has
        case "<or>":
            return has in [one.strip() for one in rest.split("<or>")]
        case "=" | "==" | ">=" | "<=" | "!=" if re.fullmatch(r"[\d.]+", has):
            number, limit = float(has), float(rest)
            return {
                "=": number >= limit,
                "==": number == limit,
                ">=": number >= limit,
                "<=": number <= limit,
                "!=": number != limit,
            }[op]
    return has.lower() == asked.strip().lower()

"""Which hosts may have a server, and which of those is best: pure functions, a filter or weigher each.

Placement says where there is room, traits and nested providers included; what it does not know is asked here. A
filter's answer is a few words, then what is particular to the host in brackets, so that many hosts can be told as one.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

from pileus.services.compute import server_groups
from pileus.services.compute.driver import CONTAINER_TRAIT
from pileus.services.compute.nodes import Place
from pileus.services.compute.server import Server
from pileus.services.compute.server_groups import ServerGroup


@dataclass(frozen=True)
class Ask:
    """What is asked of a host. `apart`, `beside` (None: anywhere) and `near` are the scheduler hints'; `wired`: the hosts
    that its ports' networks lead to (None: all).
    """

    server: Server
    group: ServerGroup | None = None
    leaving: str = ""
    apart: frozenset[str] = frozenset()
    beside: frozenset[str] | None = None
    near: IPv4Network | IPv6Network | None = None
    wired: Collection[str] | None = None

    @property
    def seats(self) -> Counter[str]:
        """How many others of its group each host has."""
        return server_groups.seats_of(self.group, self.server.id) if self.group else Counter()

    @property
    def likes_company(self) -> bool:
        return self.group is not None and self.group.policy == "soft-affinity"


@dataclass(frozen=True)
class Seat:
    """A host that has room, and the part of it that is free, by resource class."""

    place: Place
    room: Mapping[str, float]


Filter = Callable[[Ask, Place], str]
Weigher = Callable[[Ask, Seat], float]


# Filters: why a host may not have the server, or ""


def not_the_one_it_leaves(ask: Ask, place: Place) -> str:
    return "the server is leaving it" if place.node.host == ask.leaving else ""


def serving(ask: Ask, place: Place) -> str:
    return place.why_not


def the_host_asked_for(ask: Ask, place: Place) -> str:
    wanted = ask.server.requested_host
    return f"another host was asked for ({wanted})" if wanted not in ("", place.node.host) else ""


def in_its_zone(ask: Ask, place: Place) -> str:
    wanted = ask.server.pinned_zone
    return f"in another zone ({place.zone}, not {wanted})" if wanted not in ("", place.zone) else ""


def open_to_its_project(ask: Ask, place: Place) -> str:
    """An aggregate's `filter_tenant_id`, or several that begin so, keep its hosts for those projects."""
    kept = [
        value.split(",")
        for aggregate in place.aggregates
        for key, value in aggregate.metadata.items()
        if key.startswith("filter_tenant_id")
    ]
    own = ask.server.project_id
    if not kept or any(own == project.strip() for some in kept for project in some):
        return ""
    return "kept for other projects"


def of_the_aggregates_its_flavor_names(ask: Ask, place: Place) -> str:
    said = {k: {a.metadata[k] for a in place.aggregates if k in a.metadata} for k in _keys(place)}
    return _unmet(ask, "aggregate_instance_extra_specs:", said)


def _keys(place: Place) -> set[str]:
    return {key for aggregate in place.aggregates for key in aggregate.metadata}


def as_capable_as_its_flavor_asks(ask: Ask, place: Place) -> str:
    has = place.node.inventory
    said = {
        "hypervisor_type": {has.hypervisor_type},
        "hypervisor_version": {str(has.hypervisor_version)},
        "cpu_info:arch": {has.cpu_arch},
        "vcpus_total": {str(has.vcpus)},
    }
    return _unmet(ask, "capabilities:", said)


def _unmet(ask: Ask, scope: str, said: Mapping[str, set[str]]) -> str:
    for key, wanted in ask.server.flavor.extra_specs.items():
        name = key.removeprefix(scope)
        if name != key and not any(meets(value, wanted) for value in said.get(name, ())):
            return f"{name} is not {wanted}, as the flavor asks"
    return ""


def made_for_its_image(ask: Ask, place: Place) -> str:
    """The processor and the hypervisor that an image names."""
    says = ask.server.image.properties if ask.server.image else {}
    has = place.node.inventory
    arch = says.get("hw_architecture") or says.get("architecture") or ""
    if arch and _arch(arch) != _arch(has.cpu_arch):
        return f"the image is for {arch} ({has.cpu_arch} here)"
    kind = (says.get("img_hv_type") or says.get("hypervisor_type") or "").lower()
    own = has.hypervisor_type.lower()
    runs = (*_RUNS.get(own, (own,)), *(("lxc",) if CONTAINER_TRAIT in has.traits else ()))
    if kind and kind not in runs:
        return f"the image is for hypervisor {kind} ({own} here)"
    return ""


def of_the_kind_its_image_is(ask: Ask, place: Place) -> str:
    """Containers are made of root file systems, virtual machines of disks."""
    image, has = ask.server.image, place.node.inventory
    if image is None:
        return ""
    if image.is_for_containers:
        return "" if CONTAINER_TRAIT in has.traits else "it runs no containers"
    return "it runs containers only" if has.hypervisor_type == "LXC" else ""


def as_its_group_wants(ask: Ask, place: Place) -> str:
    if ask.group is None:
        return ""
    return server_groups.why_not(ask.group, ask.server.id, place.node.host)


def apart_from_others(ask: Ask, place: Place) -> str:
    return "a server to be apart from is on it" if place.node.host in ask.apart else ""


def beside_others(ask: Ask, place: Place) -> str:
    if ask.beside is None or place.node.host in ask.beside:
        return ""
    return "the servers to be beside are elsewhere"


def near_an_address(ask: Ask, place: Place) -> str:
    if ask.near is None:
        return ""
    address = place.beat.address if place.beat else ""
    if address and ip_address(address) in ask.near:
        return ""
    return f"not in {ask.near} ({address or 'no address known'})"


def wired_to_its_networks(ask: Ask, place: Place) -> str:
    is_wired = ask.wired is None or place.node.host in ask.wired
    return "" if is_wired else "not on a segment of each port's network, or without a card for it"


FILTERS: tuple[Filter, ...] = (
    not_the_one_it_leaves,
    serving,
    the_host_asked_for,
    in_its_zone,
    open_to_its_project,
    of_the_aggregates_its_flavor_names,
    as_capable_as_its_flavor_asks,
    made_for_its_image,
    of_the_kind_its_image_is,
    as_its_group_wants,
    apart_from_others,
    beside_others,
    near_an_address,
    wired_to_its_networks,
)


def why_not(ask: Ask, place: Place) -> str:
    """The first reason why the host may not have the server, "" if it may."""
    for one in FILTERS:
        if why := one(ask, place):
            return why
    return ""


# Weighers: how much a host is liked


def free_memory(ask: Ask, seat: Seat) -> float:
    return seat.room.get("MEMORY_MB", 0.0)


def free_processors(ask: Ask, seat: Seat) -> float:
    return seat.room.get("VCPU", 0.0)


def free_disk(ask: Ask, seat: Seat) -> float:
    return seat.room.get("DISK_GB", 0.0)


def company(ask: Ask, seat: Seat) -> float:
    """Of its group, where a soft policy likes to be together or apart."""
    liking = {"soft-affinity": 1.0, "soft-anti-affinity": -1.0}
    return ask.seats[seat.place.node.host] * liking.get(ask.group.policy if ask.group else "", 0.0)


WEIGHERS: tuple[tuple[Weigher, float], ...] = (
    (free_memory, 1.0),
    (free_processors, 1.0),
    (free_disk, 1.0),
)
_COMPANY = 100.0  # more than all room together


def ranked(ask: Ask, seats: Sequence[Seat], *, stack: bool) -> list[Seat]:
    """The best first; what weighs alike stays in order. `stack` likes the fullest."""
    sign = -1.0 if stack else 1.0

    def weight(seat: Seat) -> float:
        room = sign * sum(factor * weigh(ask, seat) for weigh, factor in WEIGHERS)
        return room + _COMPANY * company(ask, seat)

    return sorted(seats, key=weight, reverse=True)


# What extra specs say of values: https://docs.openstack.org/nova/latest/admin/scheduling.html


def meets(value: str, wanted: str) -> bool:
    """Whether a value is as `<operator> operand` asks; without an operator it must be equal."""
    words = wanted.split()
    word = words[0] if words else ""
    if word == "<or>":
        return value in words[1::2]
    if word == "<in>":
        return all(one in value for one in words[1::2])
    if word in _ON_TEXT and len(words) > 1:
        return _ON_TEXT[word](value, words[1])
    if word in _ON_NUMBERS and len(words) > 1:
        try:
            return _ON_NUMBERS[word](float(value), float(words[1]))
        except ValueError:
            return False
    return value == wanted


_Compare = Callable[[Any, Any], bool]
_ON_TEXT: dict[str, _Compare] = {
    "s==": operator.eq,
    "s!=": operator.ne,
    "s<": operator.lt,
    "s<=": operator.le,
    "s>": operator.gt,
    "s>=": operator.ge,
}
_ON_NUMBERS: dict[str, _Compare] = {
    "=": operator.ge,  # as Nova has it
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
}
_RUNS = {"qemu": ("qemu", "kvm"), "fake": ("fake", "qemu", "kvm")}  # the fake pretends


def _arch(name: str) -> str:
    return {"amd64": "x86_64", "x86-64": "x86_64", "arm64": "aarch64"}.get(
        name.lower(), name.lower()
    )

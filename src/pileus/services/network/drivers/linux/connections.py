"""Connections that began under rules which no longer hold: they are forgotten, the others go on
untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pileus.host.conntrack import Flow
from pileus.services.network.driver import GroupSpec, PortSpec, RouterSpec
from pileus.services.network.drivers.linux.plan import Plan
from pileus.services.network.permission import permits

Unwanted = Callable[[Flow], bool]
Place = tuple[int, str]  # conntrack zone, address


@dataclass
class Judgement:
    """Which of the bridged connections are to go: all of `gone` places, the forbidden ones of
    `ports`.
    """

    groups: Mapping[str, GroupSpec] = field(default_factory=dict)
    ports: dict[Place, PortSpec] = field(default_factory=dict)
    gone: set[Place] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.ports or self.gone)

    def unwanted(self, flow: Flow) -> bool:
        sender, receiver = (flow.zone, flow.source), (flow.zone, flow.target)
        if sender in self.gone or receiver in self.gone:
            return True
        return self._forbids(sender, "egress", flow.target, flow) or self._forbids(
            receiver, "ingress", flow.source, flow
        )

    def _forbids(self, place: Place, direction: str, peer: str, flow: Flow) -> bool:
        port = self.ports.get(place)
        if port is None:
            return False
        return not permits(port, self.groups, direction, peer, flow.protocol, flow.number)


def judge(old: Plan | None, new: Plan) -> Judgement:
    """After a restart every connection is looked at; later only those of ports whose groups
    changed.
    """
    judgement = Judgement(groups=new.groups)
    changed = _changed(old.groups, new.groups) if old else set()
    for id, port in new.guests.items():
        before = old.guests.get(id) if old else None
        if before and _worn(before) == _worn(port) and changed.isdisjoint(port.groups):
            continue
        zone = new.segments[port.network_id].zone
        judgement.ports.update({(zone, fixed.ip): port for fixed in port.fixed_ips})
    for id, port in old.guests.items() if old else ():
        if id not in new.guests and old:
            zone = old.segments[port.network_id].zone
            judgement.gone |= {(zone, fixed.ip) for fixed in port.fixed_ips}
    judgement.gone -= judgement.ports.keys()
    return judgement


def _worn(port: PortSpec) -> object:
    return port.security, port.admin_up, port.groups


def _changed(old: Mapping[str, GroupSpec], new: Mapping[str, GroupSpec]) -> set[str]:
    """The groups that no longer decide as they did: by their rules, or by the members of those they name."""
    moved = {id for id in old.keys() | new.keys() if _members(old, id) != _members(new, id)}
    return {
        id
        for id in old.keys() | new.keys()
        if id not in old
        or id not in new
        or old[id].rules != new[id].rules
        or any(r.remote_group in moved for r in new[id].rules)
    }


def _members(groups: Mapping[str, GroupSpec], id: str) -> tuple[str, ...] | None:
    return groups[id].members if id in groups else None


def lost_floating(old: RouterSpec | None, new: RouterSpec) -> Unwanted | None:
    """What a router still translates for floating addresses that have moved or gone; None if none
    has.
    """
    kept = {(f.floating_ip, f.fixed_ip) for f in new.floating_ips}
    before = {(f.floating_ip, f.fixed_ip) for f in old.floating_ips} if old else set()
    ended = set(old.forwardings) - set(new.forwardings) if old else set()
    lost = (before - kept) | {(f.floating_ip, f.fixed_ip) for f in ended}
    if not lost:
        return None

    def unwanted(flow: Flow) -> bool:
        inward = (flow.target, flow.answers_from)
        return inward in lost or (flow.answers_to, flow.source) in lost

    return unwanted

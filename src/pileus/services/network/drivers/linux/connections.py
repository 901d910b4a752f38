"""Connections that began under rules which no longer hold: they are forgotten, the others go on
untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pileus.host.conntrack import Flow
from pileus.services.network.driver import GroupSpec, PortSpec, RouterSpec
from pileus.services.network.drivers.linux.plan import Place, Plan
from pileus.services.network.permission import permits

Unwanted = Callable[[Flow], bool]


@dataclass
class Judgement:
    """Which of the bridged connections are to go: all of `gone` places, and what is now forbidden of ports
    that are judged `anew` or wear a `narrowed` group.
    """

    plan: Plan
    narrowed: set[str]
    anew: set[str]
    gone: set[Place]

    @property
    def places(self) -> set[Place]:
        """All that such connections may lead from or to."""
        return {at for at, port in self.plan.places.items() if self._is_asked(port)} | self.gone

    def _is_asked(self, port: PortSpec) -> bool:
        return port.id in self.anew or not self.narrowed.isdisjoint(port.groups)

    def unwanted(self, flow: Flow) -> bool:
        sender, receiver = (flow.zone, flow.source), (flow.zone, flow.target)
        if sender in self.gone or receiver in self.gone:
            return True
        return self._forbids(sender, "egress", flow.target, flow) or self._forbids(
            receiver, "ingress", flow.source, flow
        )

    def _forbids(self, place: Place, direction: str, peer: str, flow: Flow) -> bool:
        port = self.plan.places.get(place)
        if port is None or not self._is_asked(port):
            return False
        return not permits(port, self.plan.groups, direction, peer, flow.protocol, flow.number)


def judge(old: Plan | None, new: Plan) -> Judgement:
    """After a restart every connection is looked at; later only those of ports that let pass less."""
    if old is None:
        return Judgement(new, set(), set(new.guests), set())
    anew = {
        id
        for id, port in new.guests.items()
        if (before := old.guests.get(id)) is not port
        and (before is None or _worn(before) != _worn(port))
    }
    gone = old.places.keys() - new.places.keys()
    return Judgement(new, _narrowed(old.groups, new.groups), anew, gone)


def _worn(port: PortSpec) -> object:
    return port.security, port.admin_up, port.groups


def _narrowed(old: Mapping[str, GroupSpec], new: Mapping[str, GroupSpec]) -> set[str]:
    """The groups that may forbid what they permitted: they lost rules, or members of those they name."""
    gone = GroupSpec(id="")
    altered = {id: new.get(id, gone) for id, group in old.items() if new.get(id) != group}
    shrunk = {id for id, now in altered.items() if not set(old[id].members) <= set(now.members)}
    poorer = {id for id, now in altered.items() if not set(old[id].rules) <= set(now.rules)}
    naming = {id for id, g in old.items() if not shrunk.isdisjoint(r.remote_group for r in g.rules)}
    return poorer | naming


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

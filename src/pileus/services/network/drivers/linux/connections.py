"""Connections that began under rules which no longer hold: they are forgotten, the others go on
untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from ipaddress import ip_address, ip_network

from pileus.host.conntrack import Flow
from pileus.services.network.addressing import Block
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
    def places(self) -> set[Place] | None:
        """All that such connections may lead from or to; None: too many to name."""
        found = {at for at, port in self.plan.places.items() if self._is_asked(port)} | self.gone
        for zone, blocks in self._paired.items():
            if any(block.num_addresses > 1 for block, _ in blocks):
                return None
            found |= {(zone, str(block.network_address)) for block, _ in blocks}
        return found

    @cached_property
    def _paired(self) -> dict[int, list[tuple[Block, PortSpec]]]:
        """By zone, where the asked ports may be besides their own addresses."""
        found: dict[int, list[tuple[Block, PortSpec]]] = {}
        for (zone, cidr), ports in self.plan.pairs.items():
            if asked := [(ip_network(cidr), p) for p in ports if self._is_asked(p)]:
                found.setdefault(zone, []).extend(asked)
        return found

    @cached_property
    def _elsewhere(self) -> set[Place]:
        """The addresses of other hosts' guests, in the zones of which that matters."""
        remote = {
            s.zone: s.network.remote_ports
            for s in self.plan.segments.values()
            if s.zone in self._paired
        }
        return {(zone, ip) for zone, ports in remote.items() for p in ports for ip in p.ips}

    def _at(self, place: Place) -> list[PortSpec]:
        """Whose address that is; or, if no guest's own, who may have it."""
        own = self.plan.places.get(place)
        if own is not None:
            return [own] if self._is_asked(own) else []
        zone, address = place
        if not address or zone not in self._paired or place in self._elsewhere:
            return []
        return [port for block, port in self._paired[zone] if ip_address(address) in block]

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
        """One that is forgotten though another port has the address begins anew, by that one's rules."""
        return not all(
            permits(port, self.plan.groups, direction, peer, flow.protocol, flow.number)
            for port in self._at(place)
        )


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
    ended = (old.places.keys() | old.pairs.keys()) - (new.places.keys() | new.pairs.keys())
    gone = {(zone, address) for zone, address in ended if "/" not in address}
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

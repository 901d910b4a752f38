"""Rate limits in bytes: what is beyond waits, and only what finds the queue full is dropped.

What goes to a guest waits at its tap. What it sends goes aside first, through a device of the port's
own, and waits there; so does what a router forwards, at one device for all its limits. On a kernel
without these queues `filters` and `routers` drop what is beyond, as they do with limits in packets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pileus.host.netlink import Netlink
from pileus.host.netlink_wire import Refused
from pileus.kernel.faults import Unavailable
from pileus.services.network.driver import PortSpec, tap_name
from pileus.services.network.drivers.linux.names import Names

_MTU = 1500  # of a device that keeps to none
Rates = Mapping[int, tuple[int, int]]


def want_port_rates(link: Netlink, names: Names, port: PortSpec) -> None:
    """In both directions, or none."""
    tap, aside = tap_name(port.id), names.limiter(port.id)
    link.want_rates(tap, port_rates(port, "ingress"))
    alias = names.alias("limiter", port.id)
    want_rates_aside(link, aside, port_rates(port, "egress"), (tap,), incoming=True, alias=alias)


def want_rates_aside(
    link: Netlink,
    aside: str,
    rates: Rates,
    devices: Iterable[str],
    *,
    incoming: bool,
    alias: str = "",
) -> None:
    """All that comes in by these devices, or leaves by them, goes through another at these rates."""
    present = link.link(aside) is not None
    if rates:
        if not present:
            link.add_plain(aside, mtu=_MTU)
        link.want(aside, mtu=_MTU, alias=alias)
        link.want_rates(aside, rates)
    for device in devices:
        link.want_aside(device, aside if rates else "", incoming=incoming)
    if present and not rates:
        link.delete(aside)


def can_queue(link: Netlink, name: str) -> bool:
    """Has the kernel what this takes? Tried on a device of its own."""
    link.delete(name)
    try:
        want_rates_aside(link, name, {1: (1, 1)}, (name,), incoming=True)
    except (Unavailable, Refused):
        return False
    finally:
        link.delete(name)
    return True


def port_rates(port: PortSpec, direction: str) -> Rates:
    found = [(n.rate, n.burst) for n in port.limits if n.direction == direction and not n.packets]
    return dict(enumerate(found[:1], 1))

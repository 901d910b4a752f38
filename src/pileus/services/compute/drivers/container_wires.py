"""The network cards of containers: each the far end of a pair that stands where the port's tap was.

The network agent makes a tap for every port, puts it on the port's bridge and watches it by its
name; a container cannot open one. While it runs, a pair of the same name, bridge and alias stands
there. The kernel takes as long to remove a device as to start the container, so the tap only gives
way at first. Everything here is a job for the thread of `Namespaces`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from pileus.host.netlink import Link, Netlink, add_tap
from pileus.host.netns import sysctl
from pileus.kernel.faults import Conflict
from pileus.services.compute.driver import Nic


def require(nics: Sequence[Nic]) -> None:
    """Raises Conflict where the network has not made what a card needs."""
    with closing(Netlink()) as link:
        for nic in nics:
            _port(link, nic)


def plug(nic: Nic, namespace: Path, card: str) -> None:
    """A pair takes the tap's place; its far end is `card` in the container's namespace."""
    with closing(Netlink()) as link:
        seen, coming, going = _port(link, nic), _beside("new", nic), _beside("old", nic)
        link.delete_all((coming, going))  # of a try that failed
        link.add_veth(
            coming, peer=card, namespace=namespace, mac=nic.mac, mtu=nic.mtu, alias=seen.alias
        )
        link.take_after(coming, nic.device)
        link.rename(nic.device, going)
        link.rename(coming, nic.device)
        _stand_in(link, nic, seen)


def drop(nics: Sequence[Nic]) -> None:
    """The taps that gave way."""
    with closing(Netlink()) as link:
        link.delete_all(_beside("old", nic) for nic in nics)


def unplug(nic: Nic) -> None:
    """The tap comes back; where the port is gone already nothing does."""
    with closing(Netlink()) as link:
        seen, going = link.link(nic.device), _beside("old", nic)
        link.delete(going)
        if seen is not None and seen.kind == "veth":
            link.rename(nic.device, going)
            add_tap(nic.device, owner=None)
            link.take_after(nic.device, going)
            _stand_in(link, nic, seen)
            link.delete(going)


def dress(nic: Nic, card: str) -> None:
    """In the container's namespace: the card's addresses, and the routes by it."""
    with closing(Netlink()) as link:
        link.want("lo", mtu=65536)
        link.want(card, mtu=nic.mtu)
        link.want_addresses(card, set(nic.addresses))
        for route in nic.routes:
            link.add_route(route.destination, route.nexthop, card)


def cards() -> dict[str, str]:
    """By MAC address, the cards of the calling thread's namespace."""
    with closing(Netlink()) as link:
        return {found.mac: name for name, found in link.links().items() if name != "lo"}


def free_card(taken: Sequence[str]) -> str:
    """`eth0`, or the first of its kind that is not taken."""
    return next(name for n in range(len(taken) + 1) if (name := f"eth{n}") not in taken)


def _beside(which: str, nic: Nic) -> str:
    """Where a device waits; should it be left there, the network agent knows it by its alias."""
    return which + nic.device[3:]


def _port(link: Netlink, nic: Nic) -> Link:
    seen = link.link(nic.device)
    if seen is None:
        raise Conflict(f"Tap device {nic.device} does not exist; the network must make it first.")
    return seen


def _stand_in(link: Netlink, nic: Nic, seen: Link) -> None:
    """What the device of before was to its bridge."""
    if Path("/proc/sys/net/ipv6/conf", nic.device).exists():
        sysctl(f"net/ipv6/conf/{nic.device}/disable_ipv6", 1)
    bridge, alias = link.name(seen.master), seen.alias
    link.want(nic.device, mtu=nic.mtu, master=bridge, alias=alias, up=seen.up)

"""Who of a private network's ports may reach an isolated one or one of a community: sets of senders.

A frame bears its sender's MAC, which spoofing keeps true on every host; a packet that a router brings
back to the network it came from is known by its address.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b

from pileus.host import nftables as nft
from pileus.host.ruleset import Fragment
from pileus.services.network.driver import NetworkSpec, PortSpec, is_narrowed, meets

_SETS = {"va_": "ether_addr", "vb4_": "ipv4_addr", "vb6_": "ipv6_addr"}


def _names(network_id: str, part: str) -> list[str]:
    digest = blake2b(f"{network_id} {part}".encode(), digest_size=12).hexdigest()
    return [nft.name(kind, digest) for kind in _SETS]


def listening(port: PortSpec) -> list[str]:
    """What is asked of all that comes to the port."""
    if not is_narrowed(port.pvlan):
        return []
    allowed, barred_ipv4, barred_ipv6 = _names(port.network_id, port.pvlan)
    return [
        f"ether saddr != @{allowed} drop",
        f"ip saddr @{barred_ipv4} drop",
        f"ip6 saddr @{barred_ipv6} drop",
    ]


def senders(network: NetworkSpec, guests: Sequence[PortSpec], own: Iterable[str]) -> Fragment:
    """`own`: the MACs of this host's routers and of its service, whom everybody meets."""
    known = [(r.pvlan, [r.mac, *r.other_macs], r.ips) for r in network.remote_ports]
    for port in guests:
        macs = [port.mac, *(p.mac for p in port.allowed_address_pairs if p.mac)]
        known.append((port.pvlan, macs, tuple(f.ip for f in port.fixed_ips)))
    known.append(("", list(own), ()))
    sets: dict[str, str] = {}
    elements: dict[str, frozenset[str]] = {}
    for part in sorted({p.pvlan for p in guests if is_narrowed(p.pvlan)}):
        names = _names(network.id, part)
        sets |= {name: f"type {kind};" for name, kind in zip(names, _SETS.values(), strict=True)}
        macs = [m for sender, some, _ in known if meets(sender, part) for m in some]
        barred = [ip for sender, _, ips in known if not meets(sender, part) for ip in ips]
        elements[names[0]] = frozenset(map(nft.mac, macs))
        elements[names[1]] = frozenset(nft.block(ip) for ip in barred if ":" not in ip)
        elements[names[2]] = frozenset(nft.block(ip) for ip in barred if ":" in ip)
    return Fragment(sets=sets, elements=elements)

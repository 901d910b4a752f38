"""What may pass the bridges: anti-spoofing, security groups, and nothing else.

Two tables in the namespace of the bridges. The inet one sees bridged packets through br_netfilter:
it tracks connections, each network in a zone of its own (tenants' addresses overlap), and marks
packets of established ones. The bridge one decides. A frame passes `spoofing` as it enters from a
device of ours, `outbound` for the security groups of its sender and `inbound` for those of its
receiver. A device of ours without rules passes nothing, so the order is always: rules first, then
the device joins its bridge. Frames for the host itself are dropped.

What all ports share is written once; what is a port's own are elements of sets. Chains of its own
it has only for what a set cannot hold: nft asks for every chain there is before each change. Most
frames are a guest's, of a connection that is known: they come first, and are looked up least.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from hashlib import blake2b
from ipaddress import IPv6Address, ip_network

from pileus.host import nftables as nft
from pileus.host.ruleset import Fragment, Table
from pileus.services.network.addressing import compact
from pileus.services.network.checks import WITH_PORTS, protocol_number
from pileus.services.network.driver import (
    METADATA_IPV4,
    METADATA_IPV6,
    GroupSpec,
    Limit,
    PortSpec,
    RuleSpec,
    tap_name,
)
from pileus.services.network.drivers.linux.pvlan import listening

_ESTABLISHED = "0x10000000"
ACCEPTED, DROPPED = "ACCEPT", "DROP"
_CHAINS = {"ingress": "gi_", "egress": "go_"}
_DECIDING = {"ingress": "inbound_of", "egress": "outbound_of"}
_OWN_CHAINS = {  # of a port, by the map that leads to them
    "sent_of": "qe_",
    "received_of": "qi_",
    "prefixes_of": "p_",
    "targets_of": "t_",
    "inbound_of": "i_",
    "outbound_of": "o_",
}
_NEIGHBOURS = "{ 133, 135, 136, 143 }"  # router and neighbour solicitation, advertisement, MLDv2
_INWARD_NEIGHBOURS = "{ 130, 131, 132, 134, 135, 136, 143 }"
_ADDRESSLESS = "{ 131, 133, 135, 143 }"  # what is said before one has an address
_TARGET = "@th,64,128"  # what a neighbour advertisement claims


def bridge_table(name: str) -> Table:
    """Decides on frames.

    `ours` are all our bridges' devices; `trusted` those that are not guests', of them `beyond` those that lead to other
    hosts; `unshaped` guests' that track connections, and whose frames nothing but a verdict awaits.
    """
    known = f"meta mark & {_ESTABLISHED} == {_ESTABLISHED}"
    return Table(
        family="bridge",
        name=name,
        sets={
            **dict.fromkeys(("ours", "trusted", "beyond", "secured", "free"), "type ifname;"),
            **dict.fromkeys(("unshaped", "stateless"), "type ifname;"),
            **dict.fromkeys(("local_only", "moved_here", "speakers"), "type ifname . ether_addr;"),
            "speakers_ipv4": "type ifname . ether_addr . ipv4_addr;",
            "speakers_ipv6": "type ifname . ether_addr . ipv6_addr;",
            "askers_ipv4": "type ifname . ether_addr . ipv4_addr;",
            "askers_ipv6": "type ifname . ether_addr . ipv6_addr;",
            "targets": f"typeof iifname . {_TARGET};",
            "service_of": "type ifname : ether_addr;",
            **dict.fromkeys(_OWN_CHAINS, "type ifname : verdict;"),
        },
        chains={
            "spoofing": (
                "type filter hook prerouting priority -300; policy accept;",
                "iifname @secured goto secured",
                "iifname @beyond iifname . ether saddr @local_only drop",
                "iifname @beyond iifname . ether saddr @moved_here drop",
                "iifname @trusted accept",
                "iifname @free goto free",
                "iifname @ours drop",
            ),
            "to_host": ("type filter hook input priority 0; policy accept;", "iifname @ours drop"),
            "from_host": (
                "type filter hook output priority 0; policy accept;",
                "oifname @ours drop",
            ),
            "outbound": (
                "type filter hook forward priority 100; policy accept;",
                f"{known} iifname @unshaped accept",
                "iifname @trusted accept",
                "iifname vmap @sent_of",
                "meta protocol arp accept",
                f"icmpv6 type {_NEIGHBOURS} accept",
                "udp sport 68 udp dport 67 accept",
                "udp sport 546 udp dport 547 accept",
                f"{known} iifname != @stateless accept",
                "iifname vmap @outbound_of",
                "iifname @ours drop",
            ),
            "inbound": (
                "type filter hook forward priority 110; policy accept;",
                f"{known} oifname @unshaped accept",
                "oifname @beyond oifname . ether saddr @local_only drop",
                "oifname @trusted accept",
                "oifname vmap @received_of",
                "meta protocol arp accept",
                f"icmpv6 type {_INWARD_NEIGHBOURS} accept",
                "udp sport 67 udp dport 68 accept",
                "udp sport 547 udp dport 546 accept",
                f"{known} oifname != @stateless accept",
                "oifname vmap @inbound_of",
                "oifname @ours drop",
            ),
        },
    )


def tracking_table(name: str) -> Table:
    """Tracks the connections of bridged packets; `zone_of` maps each bridge to its zone.

    The machine's own translation rules (ours for the external networks, a container engine's) see
    bridged packets too. Translating each to its own address first settles the matter before they
    are asked.
    """
    return Table(
        family="inet",
        name=name,
        sets={"zone_of": "typeof meta iifname : ct zone;", "bridges": "type ifname;"},
        chains={
            "zones": (
                "type filter hook prerouting priority raw; policy accept;",
                "ct zone set meta iifname map @zone_of",
            ),
            "as_addressed": (
                "type nat hook prerouting priority -110; policy accept;",
                "iifname @bridges dnat ip to ip daddr",
                "iifname @bridges dnat ip6 to ip6 daddr",
            ),
            "as_sent": (
                "type nat hook postrouting priority 90; policy accept;",
                "oifname @bridges snat ip to ip saddr",
                "oifname @bridges snat ip6 to ip6 saddr",
            ),
            "marks": (
                "type filter hook forward priority 0; policy accept;",
                "iifname != @bridges accept",
                "ct state invalid drop",
                f"ct state established,related meta mark set {_ESTABLISHED} accept",
                "meta mark set 0x0 accept",
            ),
        },
    )


# What guests may send: `secured` ports as who they are, `free` ones as anybody. The metadata addresses
# lead to this host's service whichever router the guest meant, as itself only: the service knows a
# guest by its address, so without port security too.
_ASKS_IPV4 = f"ip daddr {METADATA_IPV4} goto asks_ipv4"
_ASKS_IPV6 = f"ip6 daddr {METADATA_IPV6} tcp dport 80 goto asks_ipv6"
_IN_TAG_TOO = "meta protocol arp"  # else nft asks for an EtherType, which a guest's own tag is
_ANY_SPEAKER = "iifname . ether saddr @speakers"
EVERY_PORT = Fragment(
    chains={
        "free": (_ASKS_IPV4, _ASKS_IPV6, "accept"),
        "secured": (
            "meta protocol vmap { ip : goto says_ipv4, ip6 : goto says_ipv6, arp : goto says_arp }",
            "drop",
        ),
        "asks_ipv4": (
            "iifname . ether saddr . ip saddr @askers_ipv4 "
            "ether daddr set iifname map @service_of accept",
            "drop",
        ),
        "asks_ipv6": ("iifname . ether saddr . ip6 saddr @askers_ipv6 accept", "drop"),
        "says_arp": (
            f"{_IN_TAG_TOO} iifname . ether saddr . arp saddr ip @speakers_ipv4 "
            "iifname . arp saddr ether . arp saddr ip @speakers_ipv4 accept",
            f"{_IN_TAG_TOO} arp saddr ip 0.0.0.0 {_ANY_SPEAKER} "
            "iifname . arp saddr ether @speakers accept",
            "iifname vmap @prefixes_of",
            "drop",
        ),
        "says_ipv4": (
            _ASKS_IPV4,
            f"ip saddr 0.0.0.0 udp sport 68 udp dport 67 {_ANY_SPEAKER} accept",
            "udp sport 67 udp dport 68 drop",
            "iifname . ether saddr . ip saddr @speakers_ipv4 accept",
            "iifname vmap @prefixes_of",
            "drop",
        ),
        "says_ipv6": (
            _ASKS_IPV6,
            f"ip6 saddr :: icmpv6 type {_ADDRESSLESS} {_ANY_SPEAKER} accept",
            "udp sport 547 udp dport 546 drop",
            "icmpv6 type 134 drop",
            f"icmpv6 type 136 iifname . {_TARGET} @targets goto as_itself_ipv6",
            "icmpv6 type 136 iifname vmap @targets_of",
            "icmpv6 type 136 drop",
            "goto as_itself_ipv6",
        ),
        "as_itself_ipv6": (
            "iifname . ether saddr . ip6 saddr @speakers_ipv6 accept",
            "iifname vmap @prefixes_of",
            "drop",
        ),
    }
)


def bridge_zone(bridge: str, zone: int) -> Fragment:
    """In the tracking table: a network's zone."""
    device = nft.interface(bridge)
    return Fragment(
        elements={
            "zone_of": frozenset({f"{device} : {nft.number(zone, 65535)}"}),
            "bridges": frozenset({device}),
        }
    )


def trusted_devices(
    devices: Iterable[str], across: str, service_mac: str, router_macs: Iterable[str]
) -> Fragment:
    """A network's devices that are no guest's. The service answers on every host: never `across`. A router is on one:
    who speaks as one of ours from elsewhere is its last host, which has not heard yet.
    """
    quoted = frozenset(nft.interface(device) for device in devices)
    elements = {"ours": quoted, "trusted": quoted}
    if across:
        beyond = nft.interface(across)
        elements["beyond"] = frozenset({beyond})
        elements["local_only"] = frozenset({f"{beyond} . {nft.mac(service_mac)}"})
        elements["moved_here"] = frozenset(f"{beyond} . {nft.mac(m)}" for m in router_macs)
    return Fragment(elements=elements)


def port_filter(
    port: PortSpec,
    groups: Mapping[str, GroupSpec],
    service_mac: str,
    log_group: int,
    *,
    queues: bool = True,
) -> Fragment:
    """A guest's port: who it may be, what it may send and what may reach it."""
    device, queued = nft.interface(tap_name(port.id)), queues and not port.parent
    verdicts: dict[str, str] = {}
    own = {"sent_of": _shaping(port, "egress", queued)}
    own["received_of"] = _shaping(port, "ingress", queued)
    own["prefixes_of"], own["targets_of"] = _prefixes(port)
    for direction, map_name in _DECIDING.items():
        verdicts[map_name] = _verdict(direction, port, groups)
        own[map_name] = _with_log(direction, port, groups, log_group) if port.logs else []
    chains = {}
    for map_name, lines in own.items():
        if lines:
            chain = nft.name(_OWN_CHAINS[map_name], port.id)
            chains[chain], verdicts[map_name] = tuple(lines), f"jump {chain}"
    elements = {name: {f"{device} : {text}"} for name, text in verdicts.items() if text}
    for name, items in _identity(port).items():
        elements[name] = {f"{device} . {item}" for item in items}
    kind = "secured" if port.security else "free"
    elements |= {"ours": {device}, kind: {device}}
    elements["service_of"] = {f"{device} : {nft.mac(service_mac)}"}
    if port.stateless:
        elements["stateless"] = {device}
    elif not own["sent_of"] and not own["received_of"]:
        elements["unshaped"] = {device}
    return Fragment(
        chains=chains, elements={name: frozenset(items) for name, items in elements.items()}
    )


def _identity(port: PortSpec) -> dict[str, list[str]]:
    """Who it may be: elements of sets, each to come after its device."""
    mac, own = nft.mac(port.mac), [nft.block(fixed.ip) for fixed in port.fixed_ips]
    askers = {
        "askers_ipv4": [f"{mac} . {ip}" for ip in own if ":" not in ip],
        "askers_ipv6": [f"{mac} . {link_local(port.mac)}"],
    }
    if not port.security:
        return askers
    pairs = [(nft.mac(m), b) for m, b in identities(port)]
    single = [(m, b) for m, b in pairs if "/" not in b]
    return {
        **askers,
        "speakers": [m for m, _ in pairs],
        "speakers_ipv4": [f"{m} . {b}" for m, b in single if ":" not in b],
        "speakers_ipv6": [f"{m} . {b}" for m, b in single if ":" in b],
        "targets": [nft.address_hex(b) for _, b in single if ":" in b],
    }


def _prefixes(port: PortSpec) -> tuple[list[str], list[str]]:
    """The pairs that are more than an address: who it may be, and what it may claim to be."""
    sources, targets = [], []
    for mac, block in identities(port) if port.security else ():
        if "/" not in block:
            continue
        sender = f"ether saddr {nft.mac(mac)}"
        if ":" in block:
            sources.append(f"{sender} ip6 saddr {block} accept")
            targets.append(f"{_TARGET} {_range(block)} goto as_itself_ipv6")
        else:
            sources.append(f"{sender} ip saddr {block} accept")
            sources.append(
                f"{_IN_TAG_TOO} {sender} arp saddr ether {mac} arp saddr ip {block} accept"
            )
    return sources, targets


def _shaping(port: PortSpec, direction: str, queues: bool) -> list[str]:
    """Whom it hears; the rate limits one way, but for those that have queues; and, on what it sends, its mark."""
    marks, heard = [], listening(port) if direction == "ingress" else []
    if direction == "egress" and port.dscp >= 0:
        mark = nft.number(port.dscp, 63)
        marks = [f"ip dscp set {mark}", f"ip6 dscp set {mark}"]
    limits = [n for n in port.limits if n.direction == direction and (n.packets or not queues)]
    return [*heard, *map(over, limits), *marks]


def over(limit: Limit) -> str:
    """The words that drop what is beyond a limit."""
    if limit.packets:
        rate, burst = f"{nft.number(limit.rate)}/second", f"{nft.number(limit.burst)} packets"
    else:
        rate, burst = f"{limit.rate:d} bytes/second", f"{nft.number(limit.burst)} bytes"
    return f"limit rate over {rate} burst {burst} drop"


def silenced_port(port: PortSpec) -> Fragment:
    """A port that is administratively down: known, and mute."""
    return Fragment(elements={"ours": frozenset({nft.interface(tap_name(port.id))})})


def group_filter(group: GroupSpec, known_groups: Container[str]) -> Fragment:
    """A security group's rules, shared by all its ports, and its members as sets."""
    chains: dict[str, tuple[str, ...]] = {}
    for direction, prefix in _CHAINS.items():
        chains[nft.name(prefix, group.id)] = tuple(_lines(group, direction, known_groups))
    members = {4: nft.name("m4_", group.id), 6: nft.name("m6_", group.id)}
    blocks = collapsed(group.members)
    kind = " flags interval;" if any("/" in b for b in blocks) else ""
    return Fragment(
        chains=chains,
        sets={members[4]: f"type ipv4_addr;{kind}", members[6]: f"type ipv6_addr;{kind}"},
        elements={
            name: frozenset(b for b in blocks if (":" in b) == (version == 6))
            for version, name in members.items()
        },
    )


def _lines(group: GroupSpec, direction: str, known_groups: Container[str]) -> Iterable[str]:
    """The rules one way, each once. Raises Invalid."""
    rules = [r for r in group.rules if r.direction == direction]
    known = [r for r in rules if not r.remote_group or r.remote_group in known_groups]
    return dict.fromkeys(map(rule_text, known))


def collapsed(members: Iterable[str]) -> list[str]:
    """As nft's words. Prefixes may overlap, a set's intervals may not."""
    plain = [m for m in members if "/" not in m]
    prefixes = compact([ip_network(m) for m in members if "/" in m])
    if prefixes:
        prefixes = compact([*prefixes, *(ip_network(m) for m in plain)])
        plain = []
    return [nft.block(m) for m in (*plain, *map(str, prefixes))]


def rule_text(rule: RuleSpec) -> str:
    """One rule as nft's words. Raises Invalid rather than write it loosely."""
    is_v4 = rule.ethertype == "IPv4"
    family, version = ("ip", "4") if is_v4 else ("ip6", "6")
    end = "saddr" if rule.direction == "ingress" else "daddr"
    words = [f"meta protocol {family}"]
    if rule.cidr:
        words.append(f"{family} {end} {nft.block(rule.cidr)}")
    if rule.remote_group:
        words.append(f"{family} {end} @{nft.name(f'm{version}_', rule.remote_group)}")
    protocol = protocol_number(rule.protocol)
    if protocol == 1 and not is_v4:
        protocol = 58  # Neutron reads icmp in an IPv6 rule as ICMPv6
    if protocol is not None:
        words.append(f"meta l4proto {nft.number(protocol, 255)}")
    words += _narrowed(rule, protocol)
    return " ".join([*words, "accept"])


def _narrowed(rule: RuleSpec, protocol: int | None) -> list[str]:
    if rule.port_min is None:
        return []
    if protocol in WITH_PORTS:
        high = rule.port_min if rule.port_max is None else rule.port_max
        return [f"th dport {nft.span(rule.port_min, high)}"]
    icmp = {1: "icmp", 58: "icmpv6"}.get(protocol or 0)
    if icmp is None:
        return []
    words = [f"{icmp} type {nft.number(rule.port_min, 255)}"]
    if rule.port_max is not None:
        words.append(f"{icmp} code {nft.number(rule.port_max, 255)}")
    return words


def _verdict(direction: str, port: PortSpec, groups: Mapping[str, GroupSpec]) -> str:
    """What decides on a port's packets, shared with all that wear the same; "" if nothing lets any pass."""
    if not port.security:
        return "accept"
    worn = [id for id in port.groups if id in groups]
    return f"jump {_deciding_chain(direction, worn)}" if worn else ""


def _deciding_chain(direction: str, worn: Sequence[str]) -> str:
    if len(worn) == 1:
        return nft.name(_CHAINS[direction], worn[0])
    digest = blake2b(" ".join(worn).encode(), digest_size=16).hexdigest()
    return nft.name(_CHAINS[direction], digest)


def worn_together(worn: Sequence[str]) -> Fragment:
    """The rules of several groups, for all ports that wear just these."""
    return Fragment(
        chains={
            _deciding_chain(direction, worn): tuple(
                f"jump {_deciding_chain(direction, [id])}" for id in worn
            )
            for direction in _CHAINS
        }
    )


def _with_log(
    direction: str, port: PortSpec, groups: Mapping[str, GroupSpec], log_group: int
) -> list[str]:
    """The rules of its groups; those whose packets are logged written out, with a note before each."""
    if not port.security:
        return []
    lines = []
    for id in port.groups:
        if id not in groups:
            continue
        if not any(log.accepted and log.group in ("", id) for log in port.logs):
            lines.append(f"jump {_deciding_chain(direction, [id])}")
            continue
        note = logged(ACCEPTED, port.id, log_group)
        for rule in _lines(groups[id], direction, groups):
            lines += [f"{rule.removesuffix('accept')}{note}", rule]
    if any(log.dropped for log in port.logs):
        lines.append(logged(DROPPED, port.id, log_group))
    return lines


def logged(decision: str, port_id: str, log_group: int) -> str:
    """The words that write a packet down; floods are not worth more than this."""
    mark = nft.name("p", port_id)
    return (
        f'limit rate 100/second burst 25 packets log prefix "{decision} {mark}" group {log_group:d}'
    )


def _range(block: str) -> str:
    """A CIDR's addresses as numbers, for a raw comparison."""
    network = ip_network(block)
    return f"{hex(int(network.network_address))}-{hex(int(network.broadcast_address))}"


def identities(port: PortSpec) -> list[tuple[str, str]]:
    """The (MAC, address or CIDR) pairs that the port may send from."""
    pairs = [(port.mac, nft.block(fixed.ip)) for fixed in port.fixed_ips]
    pairs += [(p.mac or port.mac, nft.block(p.cidr)) for p in port.allowed_address_pairs]
    macs = dict.fromkeys([port.mac, *(m for m, _ in pairs)])
    pairs += [(m, link_local(m)) for m in macs]
    return list(dict.fromkeys(pairs))


def link_local(mac: str) -> str:
    """The IPv6 link-local address that belongs to a MAC (EUI-64): the only one that a guest may
    use.
    """
    octets = bytes.fromhex(mac.replace(":", ""))
    tail = bytes([octets[0] ^ 2]) + octets[1:3] + b"\xff\xfe" + octets[3:]
    address = IPv6Address(b"\xfe\x80" + bytes(6) + tail)
    return str(address)

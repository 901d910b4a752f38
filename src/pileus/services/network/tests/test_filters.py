"""Security group rules as words, and which connections end when they change. No kernel."""

from __future__ import annotations

import msgspec
import pytest

from pileus.host.conntrack import Flow
from pileus.kernel.faults import Invalid
from pileus.services.network.checks import unsound
from pileus.services.network.driver import (
    AddressPair,
    DhcpOption,
    GroupSpec,
    HostNetwork,
    Limit,
    LogSpec,
    PortSpec,
    RemotePort,
    RuleSpec,
)
from pileus.services.network.drivers.linux.connections import judge
from pileus.services.network.drivers.linux.filters import identities, link_local, rule_text
from pileus.services.network.drivers.linux.names import Names
from pileus.services.network.drivers.linux.plan import (
    Kept,
    Plan,
    bridge_fragments,
    plan_for,
    regrouped,
)
from pileus.services.network.drivers.linux.routers import translation
from pileus.testing.drivers.network import (
    CLOSED,
    DB,
    FROM_WEB,
    GROUPS,
    NET,
    OPEN,
    OTHER_NET,
    REMOTE,
    ROUTER,
    WEB,
    WEB_ONLY,
    document,
    floating,
    guest,
    network,
    public,
    router,
    uuid,
)


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (RuleSpec(direction="ingress"), "meta protocol ip accept"),
        (RuleSpec(direction="egress", ethertype="IPv6"), "meta protocol ip6 accept"),
        (
            RuleSpec(
                direction="ingress", protocol="tcp", port_min=22, port_max=22, cidr="10.0.0.9/8"
            ),
            None,
        ),
        (
            RuleSpec(
                direction="ingress", protocol="tcp", port_min=22, port_max=23, cidr="10.0.0.0/8"
            ),
            "meta protocol ip ip saddr 10.0.0.0/8 meta l4proto 6 th dport 22-23 accept",
        ),
        (
            RuleSpec(
                direction="egress", protocol="icmp", port_min=8, port_max=0, cidr="10.0.0.1/32"
            ),
            "meta protocol ip ip daddr 10.0.0.1 meta l4proto 1 icmp type 8 icmp code 0 accept",
        ),
        (
            RuleSpec(direction="ingress", ethertype="IPv6", protocol="icmp", port_min=128),
            "meta protocol ip6 meta l4proto 58 icmpv6 type 128 accept",
        ),
        (
            RuleSpec(direction="ingress", remote_group=OPEN, protocol="112"),
            "meta protocol ip ip saddr @m4_00030001_0003_4000_8000_000000000001"
            " meta l4proto 112 accept",
        ),
    ],
)
def test_a_rule_is_written_exactly_or_refused(rule: RuleSpec, words: str | None) -> None:
    group = GroupSpec(id=OPEN, rules=(rule,))
    refused = unsound(document(networks=(), ports=(), groups=(group,)))
    if words is None:
        assert OPEN in refused
    else:
        assert refused == {}
        assert rule_text(rule) == words


@pytest.mark.parametrize(
    "rule",
    [
        RuleSpec(direction="sideways"),
        RuleSpec(direction="ingress", protocol="tcp; drop"),
        RuleSpec(direction="ingress", protocol="256"),
        RuleSpec(direction="ingress", protocol="tcp", port_min=1, port_max=65536),
        RuleSpec(direction="ingress", protocol="tcp", port_min=1),
        RuleSpec(direction="ingress", protocol="icmp", port_min=256),
        RuleSpec(direction="ingress", port_min=1, port_max=2),
        RuleSpec(direction="ingress", cidr="fd00::/8"),
        RuleSpec(direction="ingress", cidr="10.0.0.0/8 accept"),
    ],
)
def test_a_rule_that_means_nothing_is_refused_with_its_group(rule: RuleSpec) -> None:
    group = GroupSpec(id=OPEN, rules=(rule,))
    assert OPEN in unsound(document(networks=(), ports=(), groups=(group,)))


def test_a_port_may_speak_from_its_addresses_its_pairs_and_its_link_local_one() -> None:
    pairs = (AddressPair(cidr="10.0.9.7/24"), AddressPair(cidr="10.0.0.5", mac="fa:16:3e:aa:aa:aa"))
    port = guest(WEB, "10.0.0.11", allowed_address_pairs=pairs)
    assert identities(port) == [
        (port.mac, "10.0.0.11"),
        (port.mac, "10.0.9.0/24"),
        ("fa:16:3e:aa:aa:aa", "10.0.0.5"),
        (port.mac, link_local(port.mac)),
        ("fa:16:3e:aa:aa:aa", "fe80::f816:3eff:feaa:aaaa"),
    ]


def test_names_fit_the_kernels_fifteen_characters() -> None:
    names = Names("pl9")
    made = [names.bridge(NET), names.vxlan(NET), names.gateway(uuid(4, 1)), names.interface(WEB)]
    assert all(len(name) <= 15 for name in made)
    for prefix in ("", "four", "Pl", "9a", "a-"):
        with pytest.raises(Invalid):
            Names(prefix)


def test_two_ids_with_one_device_name_do_not_both_pass() -> None:
    twin = guest(WEB[:11] + "03-4000-8000-000000000099", "10.0.0.12")
    errors = unsound(document(guest(WEB, "10.0.0.11"), twin))
    assert list(errors) == [twin.id]


def test_zones_are_kept_while_their_network_is_here() -> None:
    zones: dict[str, int] = {}
    second = network(id=OTHER_NET, segment=102)
    plan_for(document(networks=(network(), second)), zones)
    kept = zones[OTHER_NET]
    plan_for(document(networks=(second,), ports=()), zones)
    assert zones == {OTHER_NET: kept}
    plan_for(document(networks=(second, network())), zones)
    assert zones[OTHER_NET] == kept
    assert len(set(zones.values())) == 2


def test_only_connections_that_the_new_rules_forbid_end() -> None:
    zones: dict[str, int] = {}
    ports = (guest(WEB, "10.0.0.11"), guest(DB, "10.0.0.12"))
    old = plan_for(document(*ports), zones)
    ssh = RuleSpec(direction="ingress", protocol="tcp", port_min=22, port_max=22)
    closed = GroupSpec(id=CLOSED, rules=(*GROUPS[1].rules, ssh))
    tighter = (ports[0], guest(DB, "10.0.0.12", CLOSED))
    new = plan_for(document(*tighter, groups=(GROUPS[0], closed)), zones)
    judgement = judge(old, new)

    def flow(number: int, *, zone: int = zones[NET]) -> Flow:
        return Flow(zone, 6, "10.0.0.11", "10.0.0.12", number, "10.0.0.12", "10.0.0.11")

    assert judgement.unwanted(flow(80))
    assert not judgement.unwanted(flow(22))
    assert not judgement.unwanted(flow(80, zone=zones[NET] + 1))
    assert not judge(new, new).places
    wider = GroupSpec(id=CLOSED, rules=(*closed.rules, RuleSpec(direction="ingress")))
    looser = plan_for(document(*tighter, groups=(GROUPS[0], wider)), zones)
    assert not judge(new, looser).places, "what more may pass ends nothing"
    assert judge(looser, new).unwanted(flow(80))
    assert judge(new, plan_for(document(ports[0]), zones)).unwanted(flow(22))


def test_connections_to_an_allowed_pair_end_as_those_to_a_ports_own_address() -> None:
    ssh = RuleSpec(direction="ingress", protocol="tcp", port_min=22, port_max=22)
    remote = RemotePort(id=REMOTE, mac="fa:16:3e:00:00:31", ips=("10.0.0.31",), host="h2")

    def planned(pair: str, *rules: RuleSpec) -> Plan:
        pairs = (AddressPair(cidr=pair),) if pair else ()
        db = guest(DB, "10.0.0.12", CLOSED, allowed_address_pairs=pairs)
        groups = (GROUPS[0], GroupSpec(id=CLOSED, rules=rules))
        nets = (network(remote_ports=(remote,)),)
        return plan_for(document(guest(WEB, "10.0.0.11"), db, networks=nets, groups=groups), {})

    def to(target: str) -> Flow:
        return Flow(1, 6, "10.0.0.11", target, 22, target, "10.0.0.11")

    one = judge(planned("10.0.0.99/32", ssh), planned("10.0.0.99/32"))
    assert one.places == {(1, "10.0.0.12"), (1, "10.0.0.99")}
    assert one.unwanted(to("10.0.0.99")) and not one.unwanted(to("10.0.0.98"))
    many = judge(planned("10.0.0.0/24", ssh), planned("10.0.0.0/24"))
    assert many.places is None, "too many to name"
    assert many.unwanted(to("10.0.0.99")) and many.unwanted(to("10.0.0.12"))
    assert not many.unwanted(to("10.0.0.31")), "that is a guest's of another host"
    assert not judge(planned("10.0.0.99"), planned("10.0.0.99", ssh)).places
    gone = judge(planned("10.0.0.99", ssh), planned("", ssh))
    assert gone.places == {(1, "10.0.0.99")} and gone.unwanted(to("10.0.0.99"))


def test_who_leaves_a_group_loses_what_its_rules_let_him() -> None:
    ports = (guest(WEB, "10.0.0.11"), guest(DB, "10.0.0.12", FROM_WEB))
    known = {g.id: g for g in GROUPS}
    plans = []
    for members in ((), ("10.0.0.11",)):
        web = msgspec.structs.replace(known[WEB_ONLY], members=members)
        groups = (*(g for g in GROUPS if g.id != WEB_ONLY), web)
        plans.append(plan_for(document(*ports, groups=groups), {}))
    empty, full = plans
    ours = Flow(1, 6, "10.0.0.11", "10.0.0.12", 80, "10.0.0.12", "10.0.0.11")
    assert judge(full, empty).unwanted(ours)
    assert judge(full, empty).places == {(1, "10.0.0.12")}
    assert not judge(empty, full).places


def test_only_a_document_of_other_rules_and_nothing_else_is_no_reason_to_plan_anew() -> None:
    web = guest(WEB, "10.0.0.11", CLOSED)
    before = document(web)
    plan, rule = plan_for(before, {}), RuleSpec(direction="ingress", protocol="tcp")

    def with_rule(rule: RuleSpec, *ports: PortSpec) -> HostNetwork:
        closed = GroupSpec(id=CLOSED, rules=(rule,))
        return document(*ports, groups=(GROUPS[0], closed, *GROUPS[2:]), revision=2)

    found = regrouped(plan, before, with_rule(rule, web))
    assert found is not None
    fresh, names = plan_for(with_rule(rule, web), {}), Names("pl")
    assert bridge_fragments(found, names) == bridge_fragments(fresh, names)
    assert regrouped(plan, before, with_rule(RuleSpec(direction="up"), web)) is None
    assert regrouped(plan, before, with_rule(rule, web, guest(DB, "10.0.0.12"))) is None
    assert regrouped(plan, before, document(web, groups=GROUPS[:3])) is None
    logging = (LogSpec(id=uuid(7, 1), project_id="p", accepted=True),)
    logged = guest(WEB, "10.0.0.11", CLOSED, logs=logging)
    assert (
        regrouped(plan_for(document(logged), {}), document(logged), with_rule(rule, logged)) is None
    )


def test_options_and_groups_amiss_are_reported_without_taking_the_port() -> None:
    odd = guest(WEB, "10.0.0.11", dhcp_options=(DhcpOption(name="mtu", value="many"),))
    plan = plan_for(document(odd, guest(DB, "10.0.0.12", uuid(3, 99))), {})
    assert plan.guests.keys() == {WEB, DB}
    assert plan.errors.keys() == {WEB, DB}


def test_what_is_kept_from_one_plan_to_the_next_is_what_a_fresh_one_makes() -> None:
    log = LogSpec(id=uuid(7, 1), project_id="p", accepted=True)
    web = guest(WEB, "10.0.0.11")
    narrower = GroupSpec(id=OPEN, rules=GROUPS[0].rules[:1], members=("10.0.0.9",))
    naming = GroupSpec(id=FROM_WEB, rules=(RuleSpec(direction="ingress", remote_group=WEB_ONLY),))
    odd = msgspec.structs.replace(web, mac="no")
    steps = [
        document(guest(WEB, "10.0.0.11", groups=(OPEN, CLOSED)), guest(DB, "10.0.0.12", CLOSED)),
        document(web, guest(DB, "10.0.0.12", CLOSED)),
        document(msgspec.structs.replace(web, logs=(log,))),
        document(msgspec.structs.replace(web, logs=(log,)), groups=(narrower,)),
        document(web, groups=()),
        document(odd, guest(DB, "10.0.0.12", CLOSED)),
        document(web, groups=(*GROUPS[:2], naming)),
        document(web, groups=(*GROUPS[:3], naming)),
        document(web, networks=(network(mtu=1400),)),
    ]
    kept, zones, names = Kept(), dict[str, int](), Names("pl")
    for step in [*steps, *reversed(steps)]:
        ours, fresh = plan_for(step, zones, kept), plan_for(step, {})
        assert bridge_fragments(ours, names) == bridge_fragments(fresh, names)
        assert ours.errors == fresh.errors
    assert len(kept.before) + len(kept.now) < 40


def test_limits_in_bytes_are_of_the_rules_only_where_nothing_can_wait() -> None:
    limit = Limit(direction="egress", rate=1000, burst=20_000)
    own, carried = guest(WEB, "10.0.0.11", limits=(limit,)), guest(DB, "10.0.0.12", limits=(limit,))
    carried = msgspec.structs.replace(carried, parent=WEB, vlan=7)
    fip = msgspec.structs.replace(floating("172.24.4.10", "10.0.0.11"), limits=(limit,))
    networks = (network(), public())
    wanted = document(own, carried, networks=networks, routers=(router(fip),))
    words = "limit rate over 1000 bytes/second burst 20000 bytes drop"
    for queues, droppers in ((True, {DB}), (False, {WEB, DB})):
        plan = plan_for(wanted, {}, queues=queues)
        rules = bridge_fragments(plan, Names("pl"))
        assert {id for id in (WEB, DB) if words in str(rules[id])} == droppers
        passing = translation(plan.routings[ROUTER]).chains["passing"]
        assert (words in " ".join(passing)) is not queues
        assert ("meta priority set 1:2" in " ".join(passing)) is queues

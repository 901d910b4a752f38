"""How a document travels to a host, and what comes back."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

import pytest

from pileus.host.metadata import Request
from pileus.kernel.agents import CONTROL
from pileus.kernel.contracts import Contract
from pileus.kernel.faults import NotFound, Unavailable
from pileus.services.network import agent, control
from pileus.services.network.contract import GUEST_METADATA, GuestMetadata, MetadataReply
from pileus.services.network.driver import Observed, RuleSpec
from pileus.services.network.security_group import RULES
from pileus.services.network.security_groups.rules import drop_rule
from pileus.services.network.wiring import NETWORK_CONTROL
from pileus.testing.drivers.network import PUBLIC, document, floating, network, public, router

from .bench import Bench, run


def _agent(b: Bench) -> Any:
    return b.hosts._agents[0][1]


def test_a_large_document_comes_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "_PIECE", 100)

    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        for n in range(4):
            await b.boot("one", f"guest-{n}", network["id"])
        assert len(b.driver().applied.ports) == 4

    run(body)


def test_a_document_that_changes_between_pieces_is_fetched_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(control, "_PIECE", 100)

    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        await b.boot("one", "guest", network["id"])
        kept = b.control.runtime.agents.proxy(NETWORK_CONTROL, CONTROL)
        first = await kept.desired("fake-1", "", "", 0)
        assert len(first.data) == 100 < first.size
        b.control.runtime.agents._local["network_control", CONTROL].implementation._open.clear()
        await b.as_("one").put(f"/networks/{network['id']}", {"network": {"mtu": 1400}})
        second = await kept.desired("fake-1", "", first.digest, 100)
        assert second.digest != first.digest

    run(body)


def test_what_the_host_has_already_is_not_sent_again() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        await b.boot("one", "guest", network["id"])
        await b.settle()
        before, revision = b.driver().changes, b.driver().applied.revision
        for _ in range(3):
            await _agent(b).refresh()
        assert (b.driver().changes, b.driver().applied.revision) == (before, revision)
        piece = await b.control.runtime.agents.proxy(NETWORK_CONTROL, CONTROL).desired(
            "fake-1", _agent(b)._digest, "", 0
        )
        assert piece.data == b""

    run(body)


def test_a_host_that_starts_again_has_everything_again() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        await b.boot("one", "guest", network["id"])
        await b.hosts.stop()
        b.hosts._agents.clear()
        await b.hosts.start()
        assert [p.device_id for p in b.driver().applied.ports] == ["guest"]

    run(body)


def test_what_is_asked_of_a_host_that_still_starts_waits_until_it_has() -> None:
    async def body(b: Bench) -> None:
        young = agent.NetworkAgent(_agent(b).host)
        asked = asyncio.create_task(young.sync(["a port"]))
        await asyncio.sleep(0.01)
        assert not asked.done()
        await young.start()
        assert (await asked).ports == {}
        await young.stop()

    run(body)


def test_a_port_taken_down_is_reported_down() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _ = await api.network()
        nic = (await b.boot("one", "guest", network["id"]))[0]
        path = f"/ports/{nic.port_id}"
        assert (await api.get(path)).json["port"]["status"] == "ACTIVE"
        await api.put(path, {"port": {"admin_state_up": False}})
        await b.settle()
        assert (await api.get(path)).json["port"]["status"] == "DOWN"

    run(body)


class _Keeper:
    async def answer(
        self, port_id: str, method: str, path: str, body: bytes = b""
    ) -> MetadataReply:
        if path != "/openstack":
            raise NotFound(f"no {path}")
        body = f"{port_id} {method} {path}".encode()
        return MetadataReply(status=200, content_type="text/plain", body=body)


def test_metadata_is_asked_by_port_and_what_a_guest_says_of_itself_is_ignored() -> None:
    async def body(b: Bench) -> None:
        contract: Contract[GuestMetadata] = GUEST_METADATA
        await b.control.runtime.agents.serve(contract, _Keeper(), CONTROL)
        forged = {"x-instance-id": "other", "x-forwarded-for": "10.0.0.1"}
        status, kind, text = await _agent(b).metadata("port", Request("/openstack", forged))
        assert (status, kind, text) == (200, "text/plain", b"port GET /openstack")
        assert (await _agent(b).metadata("port", Request("/nothing")))[0] == 404

    run(body)


def test_agents_and_zones_are_listed() -> None:
    async def body(b: Bench) -> None:
        found = await b.admin.rows("/agents")
        kinds = {a["agent_type"] for a in found}
        assert {(a["host"], a["alive"]) for a in found} == {("fake-1", True)}
        assert kinds == {"Pileus network agent", "L3 agent"} and len(found) == 2
        assert [a["agent_type"] for a in await b.admin.rows("/agents?binary=pileus-host")] == [
            "Pileus network agent"
        ]
        one = await b.admin.get(f"/agents/{found[0]['id']}")
        assert one.json["agent"]["host"] == "fake-1"
        assert (await b.admin.get("/agents/nothing")).status == 404
        assert await b.as_("one").rows("/agents") == []
        assert (await b.as_("one").get(f"/agents/{found[0]['id']}")).status == 403
        assert await b.admin.rows("/agents?alive=false") == []
        zones = await b.as_("one").rows("/availability_zones")
        assert {z["resource"] for z in zones} == {"network", "router"}
        zones = await b.as_("one").rows("/availability_zones?resource=router&state=available")
        assert [z["resource"] for z in zones] == ["router"]

    run(body)


def test_a_rule_that_comes_and_goes_before_the_host_looks_again_is_gone() -> None:
    """Rules go ahead of the document; the host must not take the document of before for the present one."""

    async def body(b: Bench) -> None:
        api = b.as_("one")
        group = await api.make("security_group", name="web")
        network, _ = await api.network()
        await b.boot("one", "guest", network["id"], groups=["web"])
        await b.settle()

        def rules() -> list[RuleSpec]:
            (worn,) = (g for g in b.driver().applied.groups if g.id == group["id"])
            return [r for r in worn.rules if r.direction == "ingress"]

        ssh = RuleSpec(direction="ingress", protocol="tcp", port_min=22, port_max=22)
        egress = [r for g in b.driver().applied.groups for r in g.rules if r not in rules()]
        await _agent(b).regroup(group["id"], [*egress, ssh])
        assert rules() == [ssh], "in force at once"
        await _agent(b).refresh()
        assert rules() == [], "the cloud knows of none"

    run(body)


def test_a_new_rule_does_not_wait_for_the_hosts_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent, "_GATHER_S", 60.0)

    async def body(b: Bench) -> None:
        api = b.as_("one")
        group = await api.make("security_group", name="web")
        network, _ = await api.network()
        await b.boot("one", "guest", network["id"], groups=["web"])
        await b.settle()
        asked = {"security_group_id": group["id"], "direction": "ingress", "protocol": "icmp"}
        await api.make("security_group_rule", **asked)
        await b.control.runtime.reconcilers.settled()
        assert any(r.protocol for g in b.driver().applied.groups for r in g.rules)
        there = _agent(b)
        before = there._document
        await there.refresh()
        assert there._document is before, "the next look finds that this is all"

    run(body)


@pytest.mark.parametrize("worn", [[], ["web"], ["db"]], ids=["elsewhere", "itself", "here"])
def test_a_rule_that_is_the_first_to_name_a_group_brings_its_members(
    monkeypatch: pytest.MonkeyPatch, worn: list[str]
) -> None:
    """Also of a group that guests of the host wear: it has its rules already, and had no need of its members."""
    monkeypatch.setattr(agent, "_GATHER_S", 0.0)

    async def body(b: Bench) -> None:
        api = b.as_("one")
        groups = {name: await api.make("security_group", name=name) for name in ("web", "db")}
        network, _ = await api.network()
        named = groups[worn[0] if worn else "db"]["id"]
        port = await api.make("port", network_id=network["id"], security_groups=[named])
        for name in {"web", *worn}:
            await b.boot("one", name, network["id"], groups=[name])
        await b.settle()
        assert not any(g.members for g in b.driver().applied.groups)
        rule = {"security_group_id": groups["web"]["id"], "remote_group_id": named}
        await api.make("security_group_rule", direction="ingress", **rule)
        await b.control.runtime.reconcilers.settled()
        await _agent(b)._loop.settled()
        members = {g.id: g.members for g in b.driver().applied.groups}
        assert port["fixed_ips"][0]["ip_address"] in members[named]
        assert len(members[named]) == len(worn) + 1

    run(body)


def test_a_host_is_told_again_what_was_written_while_it_was_told() -> None:
    """By another control, whose own telling may have come before ours: the older must not stay."""

    async def body(b: Bench) -> None:
        api = b.as_("one")
        group = await api.make("security_group", name="web")
        network, _ = await api.network()
        await b.boot("one", "guest", network["id"], groups=["web"])
        await b.settle()
        asked = {"security_group_id": group["id"], "direction": "ingress", "protocol": "icmp"}
        rule = await api.make("security_group_rule", **asked)
        store, there = b.control.runtime.store, _agent(b)
        regroup = there.regroup

        async def meanwhile(group_id: str, rules: list[RuleSpec]) -> None:
            there.regroup = regroup
            async with store.tx() as tx:
                await drop_rule(tx, await RULES.get(tx, rule["id"]))
            await regroup(group_id, rules)

        there.regroup = meanwhile
        await control.tell_group(b.control.runtime, group["id"])
        assert not any(r.protocol for g in b.driver().applied.groups for r in g.rules)

    run(body)


def test_what_leads_out_by_a_network_that_could_not_be_made_does_not_work() -> None:
    gate = router(floating("172.24.4.10", "10.0.0.11"))
    assert gate.gateway is not None
    outer, inner, fip = gate.gateway.port_id, gate.interfaces[0].port_id, gate.floating_ips[0].id
    wanted = document(networks=(network(), public()), ports=(), routers=(gate,))
    seen = Observed(revision=1)
    assert agent._states(wanted, seen) == {inner: True, outer: True, fip: True}
    seen = Observed(revision=1, errors={PUBLIC: "another cloud has its addresses"})
    assert agent._states(wanted, seen) == {inner: True, outer: False, fip: False}


def test_routers_go_on_without_a_control_and_end_where_it_says_so() -> None:
    async def body(b: Bench) -> None:
        await b.as_("one").make("router")
        await b.settle()
        kept, clock = _agent(b), b.control.runtime.world.clock
        driver = kept.driver
        await kept.refresh()
        assert (driver.held_until, len(driver.held)) == (inf, 1), "nobody else could have it"
        known = b.control.runtime.agents._local["network_control", CONTROL].implementation

        async def fails(host: str, ends: bool) -> float:
            raise Unavailable("No.")

        async def ends(host: str, ends: bool) -> float:
            return -1.0

        known.tenure = fails
        await kept._stay("")
        assert driver.held_until == inf, "nor could it, whoever is away"
        kept._until = clock.monotonic() + 1
        await kept._stay("")
        assert driver.held_until > clock.monotonic() + 10
        known.tenure, kept._until = ends, clock.monotonic() + 1
        await kept._stay("")
        assert driver.held_until <= clock.monotonic() + 1

    run(body)

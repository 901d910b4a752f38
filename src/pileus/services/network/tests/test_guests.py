"""The contract with compute, down to what the fake hosts hold."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import pytest

from pileus.kernel.auth import Caller
from pileus.kernel.events import START, after
from pileus.kernel.faults import Conflict, Forbidden, Invalid, NotFound, OverQuota, Unavailable
from pileus.services.network.contract import GuestRef, NicRequest, SecurityGroupRule
from pileus.services.network.driver import HostNetwork, Observed
from pileus.testing.personas import closure

from .bench import Bench, Row, run


def _caller(project: str = "one", role: str = "member") -> Caller:
    return Caller(user_id="u", project_id=project, roles=closure(role), expires_at=2e10)


def _guest(id: str = "guest", host: str = "fake-1", project: str = "one") -> GuestRef:
    return GuestRef(id=id, name=f"Web {id}!", project_id=project, host=host)


def test_a_guest_gets_its_port_wired_and_takes_it_along() -> None:
    async def body(b: Bench) -> None:
        network, subnet = await b.as_("one").network()
        nics = await b.boot("one", "guest", network["id"])
        assert [(n.network_name, n.made, n.security_groups) for n in nics] == [
            ("net", True, ["default"])
        ]
        assert nics[0].fixed_ips[0].subnet_id == subnet["id"]
        port = (await b.admin.get(f"/ports/{nics[0].port_id}")).json["port"]
        assert port["device_owner"] == "compute:nova"
        assert (port["device_id"], port["binding:host_id"]) == ("guest", "fake-1")
        assert port["status"] == "ACTIVE"
        assert b.driver().port(port["id"]) is not None
        assert (await b.driver().lease(port["id"])).ip == nics[0].fixed_ips[0].ip_address
        assert await b.contract.guest_of(port["id"]) == "guest"
        await b.contract.detach("guest")
        await b.contract.detach("guest")
        await b.settle()
        assert b.driver().leftovers() == []
        assert await b.contract.nics(["guest"]) == {}
        assert (await b.as_("one").delete(f"/networks/{network['id']}")).status == 204

    run(body)


def test_asked_again_attach_gives_the_same_ports_and_follows_the_guest() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        requests = [NicRequest(network_id=network["id"])] * 2
        first = await b.contract.attach(_caller(), _guest(), requests, [])
        again = await b.contract.attach(_caller(), _guest(), requests, [])
        assert first == again
        assert len({n.port_id for n in first}) == 2
        await b.contract.plug("guest", "fake-1")
        moved = await b.contract.attach(_caller(), _guest(host="fake-2"), requests, [])
        assert [n.port_id for n in moved] == [n.port_id for n in first]
        await b.contract.plug("guest", "fake-2")
        await b.settle()
        assert len(b.driver("fake-2").applied.ports) == 2
        assert b.driver("fake-1").applied.ports == ()

    run(body, hosts=2)


def test_a_guest_on_its_way_is_wired_on_both_hosts_and_bound_on_one() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        (nic,) = await b.boot("one", "guest", network["id"])
        request = [NicRequest(port_id=nic.port_id)]

        async def wired() -> list[str]:
            await b.settle()
            return [h for h in ("fake-1", "fake-2") if b.driver(h).port(nic.port_id) is not None]

        async def bound() -> list[tuple[str, str]]:
            found = (await b.admin.get(f"/ports/{nic.port_id}/bindings")).json["bindings"]
            return [(r["host"], r["status"]) for r in found]

        first, second = ("fake-1", "ACTIVE"), ("fake-2", "ACTIVE")
        await b.contract.expect("guest", "fake-2")
        await b.contract.plug("guest", "fake-2")
        assert (await wired(), await bound()) == (
            ["fake-1", "fake-2"],
            [first, ("fake-2", "INACTIVE")],
        )
        await b.contract.expect("guest", "")
        assert (await wired(), await bound()) == (["fake-1"], [first])
        there = msgspec.structs.replace(_guest(host="fake-2"), also="fake-1")
        await b.contract.attach(_caller(), there, request, [])
        assert (await wired(), await bound()) == (
            ["fake-1", "fake-2"],
            [second, ("fake-1", "INACTIVE")],
        )
        await b.contract.expect("guest", "")
        assert (await wired(), await bound()) == (["fake-2"], [second])

    run(body, hosts=2)


def test_a_users_port_survives_its_guest() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _ = await api.network()
        port = await api.make("port", network_id=network["id"])
        nics = await b.boot("one", "guest", requests=[NicRequest(port_id=port["id"])])
        assert (nics[0].port_id, nics[0].made) == (port["id"], False)
        with pytest.raises(Conflict):
            await b.contract.resolve(_caller(), [NicRequest(port_id=port["id"])], [])
        await b.contract.detach("guest")
        await b.settle()
        left = (await api.get(f"/ports/{port['id']}")).json["port"]
        assert (left["device_id"], left["device_owner"], left["status"]) == ("", "", "DOWN")
        assert left["fixed_ips"] == port["fixed_ips"]

    run(body)


def test_no_request_means_the_projects_only_network() -> None:
    async def body(b: Bench) -> None:
        assert await b.contract.resolve(_caller(), None, []) == []
        network, _ = await b.as_("one").network()
        found = await b.contract.resolve(_caller(), None, ["default"])
        assert [r.network_id for r in found] == [network["id"]]
        await b.as_("one").network()
        with pytest.raises(Conflict):
            await b.contract.resolve(_caller(), None, [])

    run(body, hosts=0)


def test_wishes_are_judged_as_the_caller() -> None:
    async def body(b: Bench) -> None:
        resolve = b.contract.resolve
        foreign, _ = await b.as_("two").network()
        empty = await b.as_("one").make("network")
        network, _ = await b.as_("one").network()
        public = await b.as_("one").public()
        for request, error in (
            (NicRequest(network_id=foreign["id"]), NotFound),
            (NicRequest(network_id="nowhere"), NotFound),
            (NicRequest(port_id="nowhere"), NotFound),
            (NicRequest(network_id=public), Forbidden),
            (NicRequest(network_id=empty["id"]), Invalid),
            (NicRequest(network_id=network["id"], fixed_ip="10.9.9.9"), Invalid),
        ):
            with pytest.raises(error):
                await resolve(_caller(), [request], [])
        with pytest.raises(NotFound):
            await resolve(_caller(), [NicRequest(network_id=network["id"])], ["nowhere"])
        await b.admin.put("/quotas/one", {"quota": {"port": 1}})
        with pytest.raises(OverQuota):
            await resolve(_caller(), [NicRequest(network_id=network["id"])] * 2, [])
        asked = NicRequest(network_id=network["id"], fixed_ip="10.0.0.9")
        nics = await b.contract.attach(_caller(), _guest(), [asked], [])
        await b.settle()
        assert nics[0].fixed_ips[0].ip_address == "10.0.0.9"
        with pytest.raises(Conflict):
            await resolve(_caller(), [asked], [])

    run(body, hosts=0)


def test_plug_waits_for_a_host_that_answers() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        requests = [NicRequest(network_id=network["id"])]
        await b.contract.attach(_caller(), _guest(host="nowhere"), requests, [])
        with pytest.raises(Unavailable):
            await b.contract.plug("guest", "nowhere")
        await b.contract.plug("without ports", "nowhere")

    run(body)


def test_a_host_that_cannot_wire_a_port_says_which() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        await b.admin.put(f"/networks/{network['id']}", {"network": {"dns_domain": "fine."}})
        nics = await b.boot("one", "good", network["id"])
        b.driver().apply = _refusing(b.driver().apply)
        requests = [NicRequest(network_id=network["id"])]
        bad = await b.contract.attach(_caller(), _guest("bad"), requests, [])
        with pytest.raises(Unavailable) as refused:
            await b.contract.plug("bad", "fake-1")
        assert bad[0].port_id in refused.value.message
        await b.settle()
        assert (await b.as_("one").get(f"/ports/{nics[0].port_id}")).json["port"][
            "status"
        ] == "ACTIVE"
        assert (await b.as_("one").get(f"/ports/{bad[0].port_id}")).json["port"]["status"] == "DOWN"

    run(body)


_Apply = Callable[[HostNetwork], Awaitable[Observed]]


def _refusing(apply: _Apply) -> _Apply:
    """A driver that can wire all but the guest `bad`."""

    async def refuse(desired: HostNetwork) -> Observed:
        seen = await apply(desired)
        bad = {p.id for p in desired.ports if p.device_id == "bad"}
        ports = {id: up and id not in bad for id, up in seen.ports.items()}
        return msgspec.structs.replace(seen, ports=ports, errors=dict.fromkeys(bad, "no tap"))

    return refuse


def test_guests_reach_each_other_as_their_groups_say_across_hosts() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _ = await api.network()
        one = (await b.boot("one", "a", network["id"], host="fake-1"))[0]
        two = (await b.boot("one", "b", network["id"], host="fake-2"))[0]
        await b.settle()
        remote = b.driver("fake-1").applied.networks[0].remote_ports
        assert [(p.id, p.host, p.hostname) for p in remote] == [(two.port_id, "fake-2", "b")]
        ips = {n.fixed_ips[0].ip_address for n in (one, two)}
        for host in ("fake-1", "fake-2"):
            groups = b.driver(host).applied.groups
            assert {ip for g in groups for ip in g.members} == ips

    run(body, hosts=2)


def test_floating_ips_show_on_the_guest_and_their_changes_are_told() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _, _ = await api.routed()
        nic = (await b.boot("one", "guest", network["id"]))[0]
        public = await api.public()
        fip = await api.make("floatingip", floating_network_id=public, port_id=nic.port_id)
        seen = (await b.contract.nics(["guest", "other"]))["guest"][0]
        assert seen.floating_ips == {nic.fixed_ips[0].ip_address: fip["floating_ip_address"]}
        await api.put(f"/floatingips/{fip['id']}", {"floatingip": {"port_id": None}})
        assert (await b.contract.nics(["guest"]))["guest"][0].floating_ips == {}
        events = await after(b.control.runtime.store, START, 1000)
        told = [e for e in events if e.kind.startswith(("floatingip.", "port.update"))]
        assert {e.payload["device_id"] for e in told if e.kind.startswith("float")} == {"guest"}
        assert any(e.payload["status"] == "ACTIVE" for e in told if e.kind == "port.update.end")

    run(body)


def test_a_device_id_that_anybody_may_write_makes_no_guest() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        await b.boot("one", "guest", network["id"])
        foreign, _ = await b.as_("two").network()
        forged = await b.as_("two").make(
            "port", network_id=foreign["id"], device_id="guest", device_owner="compute:nova"
        )
        assert len((await b.contract.nics(["guest"]))["guest"]) == 1
        assert await b.contract.guest_of(forged["id"]) == ""

    run(body)


def test_security_groups_as_computes_own_api_sees_them() -> None:
    async def body(b: Bench) -> None:
        kept, caller = b.contract, _caller()
        assert [g.name for g in await kept.security_groups(caller)] == ["default"]
        web = await kept.create_security_group(caller, "web", "for the web")
        rule = SecurityGroupRule(
            id="", direction="ingress", ethertype="IPv4", protocol="tcp", port_min=22, port_max=22,
            remote_ip_prefix="0.0.0.0/0",
        )  # fmt: skip
        made = await kept.create_security_group_rule(caller, web.id, rule)
        assert (made.protocol, made.port_min) == ("tcp", 22)
        changed = await kept.update_security_group(caller, web.id, "www", "new")
        assert (changed.name, len(changed.rules)) == ("www", 3)
        with pytest.raises(NotFound):
            await kept.delete_security_group(_caller("two"), web.id)
        with pytest.raises(NotFound):
            await kept.delete_security_group_rule(_caller("two"), made.id)
        with pytest.raises(Forbidden):
            await kept.delete_security_group(_caller("one", "reader"), web.id)
        network, _ = await b.as_("one").network()
        await b.boot("one", "guest", network["id"], groups=["www"])
        assert (await kept.nics(["guest"]))["guest"][0].security_groups == ["www"]
        await kept.set_guest_group(caller, "guest", "default", True)
        await kept.set_guest_group(caller, "guest", web.id, False)
        assert (await kept.nics(["guest"]))["guest"][0].security_groups == ["default"]
        with pytest.raises(NotFound):
            await kept.set_guest_group(caller, "guest", "www", False)
        await kept.delete_security_group_rule(caller, made.id)
        await kept.delete_security_group(caller, web.id)

    run(body)


def test_thirty_guests_at_once_share_the_hosts_work() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        nics = await asyncio.gather(
            *(b.boot("one", f"guest-{n}", network["id"]) for n in range(30))
        )
        assert len({n[0].fixed_ips[0].ip_address for n in nics}) == 30
        await b.settle()
        assert len(b.driver().applied.ports) == 30
        await asyncio.gather(*(b.contract.detach(f"guest-{n}") for n in range(30)))
        await b.settle()
        assert b.driver().leftovers() == []

    run(body)


def test_a_new_address_of_a_group_reaches_the_hosts_that_let_it_in() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _ = await api.network()
        await b.boot("one", "guest", network["id"])
        other: Row = await api.make("port", network_id=network["id"])
        for _ in range(500):
            await asyncio.sleep(0.01)
            if len(b.driver().applied.groups[0].members) == 2:
                break
        assert other["fixed_ips"][0]["ip_address"] in b.driver().applied.groups[0].members

    run(body)


def test_a_new_port_that_no_guest_speaks_from_wakes_no_host() -> None:
    """A thousand of them would ask, each, where all members of their group are."""

    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _ = await api.network()
        await b.boot("one", "guest", network["id"])
        await b.settle()
        await asyncio.sleep(0.2)  # what the boot hinted is done
        agent = b.hosts._agents[0][1]
        before = agent._asked
        port = await api.make("port", network_id=network["id"])
        await b.control.runtime.store.sync()
        await asyncio.sleep(0.2)
        assert agent._asked == before
        await b.admin.put(f"/ports/{port['id']}", {"port": {"binding:host_id": "fake-1"}})
        await b.control.runtime.store.sync()
        for _ in range(100):
            await asyncio.sleep(0.05)
            if agent._asked > before:
                return
        raise AssertionError("the host of a bound port was not woken")

    run(body)

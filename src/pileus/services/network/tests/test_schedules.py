"""Which agent has which router and network, and moving routers by hand."""

from __future__ import annotations

from math import inf

from pileus.kernel.hosts import HOSTS, LEASE_S
from pileus.services.network.control import KeptControl
from pileus.services.network.routers.placement import (
    MARGIN_S,
    _looks,
    keep_placed,
    place_routers,
    tenure,
)

from .bench import Bench, Row, run, said


async def _routers_agents(b: Bench) -> dict[str, str]:
    found = await b.admin.rows("/agents?agent_type=l3%20agent")
    return {a["host"]: a["id"] for a in found}


async def _home(b: Bench, router: Row) -> list[str]:
    found = (await b.admin.get(f"/routers/{router['id']}/l3-agents")).json["agents"]
    return [a["host"] for a in found]


def test_a_router_taken_from_its_host_is_on_none_until_it_is_given_to_another() -> None:
    async def body(b: Bench) -> None:
        network, _, router = await b.as_("one").routed()
        (nic,) = await b.boot("one", "guest", network["id"])
        public = await b.as_("one").public()
        asked = {"floating_network_id": public, "port_id": nic.port_id}
        floating = await b.as_("one").make("floatingip", **asked)
        await b.settle()
        assert await _status(b, floating) == "ACTIVE"
        agents = await _routers_agents(b)
        assert sorted(agents) == ["fake-1", "fake-2"]
        (home,) = await _home(b, router)
        (other,) = set(agents) - {home}
        at_home, at_other = (f"/agents/{agents[h]}/l3-routers" for h in (home, other))
        assert [r["id"] for r in await _rows(b, at_home)] == [router["id"]]
        wish = {"router_id": router["id"]}
        assert said(await b.admin.post(at_other, wish)) == (409, "RouterHostedByL3Agent")
        there = await b.admin.post(at_home, wish)
        assert (there.status, there.json) == (201, None), "there already"
        wrong = await b.admin.delete(f"{at_other}/{router['id']}")
        assert said(wrong) == (409, "RouterNotHostedByL3Agent")

        assert (await b.admin.delete(f"{at_home}/{router['id']}")).status == 204
        await b.settle()
        await place_routers(b.control.runtime, "")
        await b.settle()
        assert await _home(b, router) == []
        await KeptControl(b.control.runtime).observed(home, [floating["id"]], [])
        await b.control.runtime.store.sync()
        assert await _status(b, floating) == "DOWN", "what it left tells of it late"
        assert b.driver(home).routers() == b.driver(other).routers() == []

        assert (await b.admin.post(at_other, wish)).status == 201
        await b.settle()
        assert await _home(b, router) == [other]
        assert [r.id for r in b.driver(other).routers()] == [router["id"]]
        assert b.driver(home).routers() == []
        legs = await b.admin.rows(f"/ports?device_id={router['id']}")
        assert {(p["binding:host_id"], p["status"]) for p in legs} == {(other, "ACTIVE")}
        assert await _status(b, floating) == "ACTIVE"

    run(body, hosts=2)


async def _ranks(b: Bench, router: Row) -> dict[str, tuple[str, int]]:
    found = (await b.admin.get(f"/routers/{router['id']}/l3-agents")).json["agents"]
    return {a["host"]: (a["ha_state"], a["ha_chassis_priority"]) for a in found}


async def _heard(b: Bench, host: str, ago_s: float) -> None:
    """The host was heard of so long ago; and routers are placed."""
    runtime = b.control.runtime
    async with runtime.store.tx() as tx:
        seen = {"seen_at": runtime.world.clock.time() - ago_s, "speaker": ""}
        await HOSTS.change(tx, await HOSTS.get(tx, host), **seen)
    await place_routers(runtime, "")
    await b.settle()


def test_a_highly_available_router_moves_to_its_standby_and_back() -> None:
    async def body(b: Bench) -> None:
        await b.as_("one").make("router", name="of the first host, which speaks for the others")
        router = await b.admin.make("router", ha=True, project_id="one")
        home, standby = (await _ranks(b, router)).keys()
        assert await _ranks(b, router) == {home: ("active", 2), standby: ("standby", 1)}
        await _heard(b, home, 2 * LEASE_S)
        assert await _ranks(b, router) == {home: ("standby", 2), standby: ("active", 1)}
        assert router["id"] in [r.id for r in b.driver(standby).routers()]
        await _heard(b, home, 0)
        assert await _ranks(b, router) == {home: ("active", 2), standby: ("standby", 1)}
        assert router["id"] in [r.id for r in b.driver(home).routers()]

        agents = await _routers_agents(b)
        (third,) = agents.keys() - {home, standby}
        of_third = f"/agents/{agents[third]}/l3-routers"
        one = f"{of_third}/{router['id']}"
        for priority, answer in (
            (40_000, (400, "InvalidHAChassisPriority")),
            (2, (409, "HAChassisPriorityAlreadyAssigned")),
        ):
            wish = {"router_id": router["id"], "ha_chassis_priority": priority}
            assert said(await b.admin.post(of_third, wish)) == answer
        refused = await b.admin.put(one, {"ha_chassis_priority": 9})
        assert said(refused) == (409, "RouterNotHostedByL3Agent")
        assert (await b.admin.post(of_third, {"router_id": router["id"]})).status == 201
        assert (await _ranks(b, router))[third] == ("standby", 0)
        assert (await b.admin.put(one, {"ha_chassis_priority": 9})).status == 200
        assert (await _ranks(b, router))[third] == ("active", 9)
        assert router["id"] in [r["id"] for r in await _rows(b, of_third)]
        assert (await b.admin.delete(one)).status == 204
        assert await _ranks(b, router) == {home: ("active", 2), standby: ("standby", 1)}

        plain = {"router": {"ha": False}}
        assert (await b.admin.put(f"/routers/{router['id']}", plain)).status == 200
        assert await _home(b, router) == [home]
        wish = {"router_id": router["id"], "ha_chassis_priority": 3}
        answer = said(await b.admin.post(of_third, wish))
        assert answer == (409, "RouterDoesntSupportScheduling")

    run(body, hosts=3)


async def _status(b: Bench, floating: Row) -> str:
    found = (await b.admin.get(f"/floatingips/{floating['id']}")).json["floatingip"]
    return str(found["status"])


async def _rows(b: Bench, path: str) -> list[Row]:
    reply = await b.admin.get(path)
    assert reply.status == 200, reply
    (found,) = reply.json.values()
    return list(found)


def test_dhcp_is_where_the_networks_guests_are_and_cannot_be_moved() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        path = f"/networks/{network['id']}/dhcp-agents"
        assert await _rows(b, path) == []
        await b.boot("one", "guest", network["id"], host="fake-2")
        (agent,) = await _rows(b, path)
        assert agent["host"] == "fake-2"
        served = f"/agents/{agent['id']}/dhcp-networks"
        assert [n["id"] for n in await _rows(b, served)] == [network["id"]]
        refused = await b.admin.post(served, {"network_id": network["id"]})
        assert said(refused) == (409, "NetworkNotMovable")
        assert said(await b.admin.delete(f"{served}/{network['id']}")) == (409, "NetworkNotMovable")
        assert (await b.as_("one").get(path)).status == 403

    run(body, hosts=2)


async def _silent(b: Bench, host: str) -> None:
    """The host was not heard of for two leases."""
    runtime = b.control.runtime
    async with runtime.store.tx() as tx:
        seen = {"seen_at": runtime.world.clock.time() - 2 * LEASE_S, "speaker": ""}
        await HOSTS.change(tx, await HOSTS.get(tx, host), **seen)


def test_a_host_has_its_routers_for_less_than_its_lease_and_for_ever_where_it_is_alone() -> None:
    async def body(b: Bench) -> None:
        runtime = b.control.runtime
        assert 0 < await tenure(runtime, "fake-2", False) <= LEASE_S - MARGIN_S
        await b.as_("one").make("router")
        router = await b.as_("one").make("router")
        assert await _home(b, router) == ["fake-2"]
        await _silent(b, "fake-1")
        assert await tenure(runtime, "fake-2", True) == inf
        await _heard(b, "fake-1", 0)
        await _heard(b, "fake-2", 2 * LEASE_S)
        assert await _home(b, router) == ["fake-2"], "it was told that it may keep it"
        assert await tenure(runtime, "fake-2", False) < 0, "and may not be told that it is not so"
        await place_routers(runtime, "")
        assert await _home(b, router) == ["fake-2"]
        assert await tenure(runtime, "fake-2", True) < 0
        await place_routers(runtime, "")
        assert await _home(b, router) == ["fake-1"]

    run(body, hosts=2)


def test_a_control_that_was_away_moves_no_router_before_it_has_listened_for_a_lease() -> None:
    async def body(b: Bench) -> None:
        runtime = b.control.runtime
        await b.as_("one").make("router")
        router = await b.as_("one").make("router")
        await _silent(b, "fake-2")
        now = runtime.world.clock.monotonic()
        for last, since in ((now - LEASE_S, now - 9 * LEASE_S), (now, now - LEASE_S / 2)):
            _looks[runtime.reconcilers] = last, since
            await keep_placed(runtime, "")
            assert await _home(b, router) == ["fake-2"]
        _looks[runtime.reconcilers] = now, now - LEASE_S
        await keep_placed(runtime, "")
        assert await _home(b, router) == ["fake-1"]

    run(body, hosts=2)

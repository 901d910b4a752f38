"""Lists of servers: filters, sorts, pages, tombstones."""

from __future__ import annotations

import asyncio

import pytest

from pileus.kernel.sqlite import SqliteStore
from pileus.services.compute.host_reports import HostReports
from pileus.services.compute.nodes import NODES
from pileus.services.compute.server import SERVERS as TABLE
from pileus.services.compute.tests.scene import Scene, Stage


async def _names(s: Scene, query: str, version: str = "2.1") -> list[str]:
    reply = await s.get(f"/servers?{query}", version)
    assert reply.status == 200, reply
    return [x["name"] for x in reply.json["servers"]]


def test_filters_find_what_they_say(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        first, second = await s.boot(name="alpha"), await s.boot(name="beta", flavorRef="84")
        await s.act(second, "os-stop")
        ip = (await s.server(first))["addresses"]["private"][0]["addr"]
        assert await _names(s, "name=^al") == ["alpha"]
        assert await _names(s, "name=a") == ["beta", "alpha"]
        assert await _names(s, "status=SHUTOFF") == ["beta"]
        assert await _names(s, "status=shutoff&status=ACTIVE") == ["beta", "alpha"]
        assert await _names(s, "status=VERIFY_RESIZE") == []
        assert await _names(s, "status=NONSENSE") == []
        assert (await s.get("/servers?status=NONSENSE", "2.38")).status == 400
        assert await _names(s, "flavor=84") == ["beta"]
        assert await _names(s, f"image={s.image}") == ["beta", "alpha"]
        assert await _names(s, f"ip=^{ip}$".replace(".", "%5C.")) == ["alpha"]
        assert await _names(s, "ip=10.7") == ["beta", "alpha"]
        assert await _names(s, "host=fake-1") == ["beta", "alpha"], "not a member's to ask"
        assert await _names(s, "sort_key=display_name&sort_dir=asc") == ["alpha", "beta"]
        assert (await s.get("/servers?metadata=x")).status == 400
        assert (await s.get("/servers?colour=x")).status == 200
        assert (await s.get("/servers?colour=x", "2.75")).status == 400
        assert (await s.get("/servers?sort_key=host")).status == 403
        assert (await s.get("/servers?sort_key=nonsense")).status == 400
        assert (await s.get("/servers?limit=-1")).status == 400
        assert await _names(s, "limit=0") == []
        await s.act(first, "lock")
        assert await _names(s, "locked=true", "2.73") == ["alpha"]

    stage.play(story)


def _sqlite(s: Scene) -> SqliteStore:
    assert isinstance(s.cloud.runtime.store, SqliteStore)
    return s.cloud.runtime.store


def _plans(store: SqliteStore) -> list[str]:
    """How SQLite finds the rows of each statement that it knows."""
    return [
        row[3]
        for sql in store.statements._known.values()
        for row in store._read.execute(f"EXPLAIN QUERY PLAN {sql.text}", [None] * len(sql.names))
    ]


@pytest.mark.sqlite
def test_a_host_that_joins_is_told_its_guests_without_a_look_at_those_of_others(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        store, reports = _sqlite(s), HostReports(s.cloud.runtime)
        node = await NODES.one(store, host="fake-1")
        powers = {x.id: x.power_state for x in await TABLE.all(store)}
        assert node is not None
        store.statements._known.clear()
        assert await reports.unknown("fake-1", ["a"]) == ["a"]
        host = (await TABLE.get(store, id)).host
        assert (id in (await reports.joined("fake-1", node.inventory, powers)).keep) is (
            host == "fake-1"
        )
        plans = [plan for plan in _plans(_sqlite(s)) if "compute_servers" in plan]
        assert any("live_compute_servers_host" in plan for plan in plans), plans
        assert [plan for plan in plans if plan.startswith("SCAN")] == []

    stage.play(story)


@pytest.mark.sqlite
def test_servers_of_one_status_are_found_in_the_order_of_an_index(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        _sqlite(s).statements._known.clear()
        assert await _names(s, "status=SHUTOFF&limit=5") == []
        plans = _plans(_sqlite(s))
        assert any("(project_id=? AND vm_state=?)" in plan for plan in plans), plans
        assert not any("TEMP B-TREE" in plan for plan in plans), plans

    stage.play(story)


def test_pages_follow_each_other_without_gap_or_overlap(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        await s.create(min_count=7)
        await s.cloud.settle()
        for path in ("/servers", "/servers/detail"):
            seen: list[str] = []
            url = f"http://cloud.test:5000/compute/v2.1{path}?limit=3"
            while url:
                page = (await s.member.get(url)).json
                seen += [x["id"] for x in page["servers"]]
                url = page.get("servers_links", [{"href": ""}])[0]["href"]
            everything = (await s.get(path)).json["servers"]
            assert seen == [x["id"] for x in everything] and len(seen) == 7
        assert (await s.get("/servers?marker=70a599e0-31e7-49b7-b260-868f441e862b")).status == 400

    stage.play(story)


def test_deleted_servers_show_to_those_who_may_ask(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        before = s.cloud.runtime.world.clock.now()
        id = await s.boot(name="gone")
        await s.delete(id)
        assert await _names(s, "deleted=true") == [], "ignored for members"
        since = (await s.get(f"/servers/detail?changes-since={before}")).json["servers"]
        assert [(x["id"], x["status"]) for x in since] == [(id, "DELETED")]
        assert (await s.get("/servers?changes-since=yesterday")).status == 400
        assert (await s.get("/servers?status=deleted")).status == 403
        admin = await s.get("/servers/detail?deleted=1&all_tenants=1", client=s.admin)
        assert id in [x["id"] for x in admin.json["servers"]]
        assert (await s.get(f"/servers/{id}")).status == 404

    stage.play(story)


def test_a_list_shows_each_caller_and_host_name_its_own_bytes(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        for _ in range(2):  # the second time from what is remembered
            mine = (await s.get("/servers/detail")).json["servers"][0]
            theirs = (await s.get("/servers/detail?all_tenants=1", client=s.admin)).json["servers"]
            same = next(x for x in theirs if x["id"] == id)
            assert "OS-EXT-SRV-ATTR:host" not in mine and same["OS-EXT-SRV-ATTR:host"]
            other = await s.member.get("/compute/v2.1/servers/detail", x_forwarded_host="c.example")
            assert other.json["servers"][0]["links"][0]["href"].startswith("http://c.example/")
            assert mine["links"][0]["href"].startswith("http://cloud.test:5000/")
        await s.act(id, "os-stop")
        assert (await s.get("/servers/detail")).json["servers"][0]["status"] == "SHUTOFF"

    stage.play(story)


def test_addresses_follow_the_network(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        (port,) = await s.ports(id)
        renamed = {"network": {"name": "blue"}}
        await s.member.put(f"/network/v2.0/networks/{s.network}", renamed)
        for _ in range(100):
            if "blue" in (await s.server(id))["addresses"]:
                break
            await asyncio.sleep(0.02)
        ips = (await s.get(f"/servers/{id}/ips")).json["addresses"]
        address = port["fixed_ips"][0]["ip_address"]
        assert ips == {"blue": [{"version": 4, "addr": address}]}
        assert (await s.get(f"/servers/{id}/ips/blue")).json == ips
        assert (await s.get(f"/servers/{id}/ips/private")).status == 404
        (interface,) = (await s.get(f"/servers/{id}/os-interface")).json["interfaceAttachments"]
        assert interface["port_id"] == port["id"] and interface["mac_addr"] == port["mac_address"]
        one = await s.get(f"/servers/{id}/os-interface/{port['id']}")
        assert one.json["interfaceAttachment"] == interface

    stage.play(story)


def test_a_users_port_survives_the_server(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        made = await s.member.post(
            "/network/v2.0/ports", {"port": {"network_id": s.network, "name": "mine"}}
        )
        port = made.json["port"]["id"]
        id = await s.boot(networks=[{"port": port}])
        assert (await s.create(networks=[{"port": port}])).status in (400, 409)
        await s.delete(id)
        left = (await s.member.get(f"/network/v2.0/ports/{port}")).json["port"]
        assert left["device_id"] == ""

    stage.play(story)


def test_usage_rows_equal_a_count(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        await s.create(min_count=3)
        await s.cloud.settle()
        rows = await TABLE.all(s.cloud.runtime.store, project_id=s.member.project_id)
        used = await s.used()
        assert used == {
            "Instances": len(rows),
            "Cores": sum(r.flavor.vcpus for r in rows),
            "RAM": sum(r.flavor.ram for r in rows),
        }

    stage.play(story)


def test_a_floating_address_shows_and_goes(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        (port,) = await s.ports(id)
        external = await s.member.get("/network/v2.0/networks?router:external=true")
        public = external.json["networks"][0]["id"]
        router = {"router": {"name": "r", "external_gateway_info": {"network_id": public}}}
        made = await s.member.post("/network/v2.0/routers", router)
        url = f"/network/v2.0/routers/{made.json['router']['id']}/add_router_interface"
        subnet = port["fixed_ips"][0]["subnet_id"]
        assert (await s.member.put(url, {"subnet_id": subnet})).status == 200
        body = {"floatingip": {"floating_network_id": public, "port_id": port["id"]}}
        fip = (await s.member.post("/network/v2.0/floatingips", body)).json["floatingip"]

        async def kinds(wanted: list[str]) -> list[dict[str, object]]:
            for _ in range(100):
                found = (await s.server(id))["addresses"]["private"]
                if [a["OS-EXT-IPS:type"] for a in found] == wanted:
                    return list(found)
                await asyncio.sleep(0.02)
            raise AssertionError(f"{found}")

        both = await kinds(["fixed", "floating"])
        assert both[1]["addr"] == fip["floating_ip_address"]
        public_ip = fip["floating_ip_address"].replace(".", "%5C.")
        assert await _names(s, f"ip=^{public_ip}$") == ["web"]
        await s.member.delete(f"/network/v2.0/floatingips/{fip['id']}")
        await kinds(["fixed"])

    stage.play(story)

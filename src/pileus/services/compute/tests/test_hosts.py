"""Compute hosts: what they report, what happens when they come back, and who may be placed where."""

from __future__ import annotations

import msgspec

from pileus.services.compute.driver import RUNNING, SHUTDOWN, GuestSpec
from pileus.services.compute.drivers.fake import FakeComputeDriver
from pileus.services.compute.settings import Settings
from pileus.services.compute.tests.scene import SERVERS, Scene, Stage
from pileus.testing.alone import in_loop
from pileus.testing.cloud import cloud

BASE = "/compute/v2.1"


async def _host_of(s: Scene, id: str) -> str:
    return str((await s.server(id, client=s.admin))["OS-EXT-SRV-ATTR:host"])


def test_services_and_hypervisors_are_the_hosts(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        services = (await s.get("/os-services", "2.69", s.admin)).json["services"]
        computes = [x for x in services if x["binary"] == "nova-compute"]
        assert sorted(x["host"] for x in computes) == sorted(s.agents())
        assert {(x["state"], x["status"], x["zone"]) for x in computes} == {
            ("up", "enabled", "nova")
        }
        assert {x["binary"] for x in services} >= {"nova-scheduler", "nova-conductor"}
        old = (await s.get("/os-services", "2.1", s.admin)).json["services"]
        assert all(isinstance(x["id"], int) and "forced_down" not in x for x in old)
        assert (await s.get("/os-services")).status == 403
        detail = (await s.get("/os-hypervisors/detail", "2.53", s.admin)).json["hypervisors"]
        assert {h["hypervisor_hostname"] for h in detail} == set(s.agents())
        assert detail[0]["vcpus"] == 64 and detail[0]["hypervisor_type"] == "fake"
        one = await s.get(f"/os-hypervisors/{detail[0]['id']}", "2.88", s.admin)
        assert "vcpus" not in one.json["hypervisor"] and " up " in one.json["hypervisor"]["uptime"]
        total = await s.get("/os-hypervisors/statistics", "2.87", s.admin)
        assert total.json["hypervisor_statistics"]["count"] == 2
        assert (await s.get("/os-hypervisors/statistics", "2.88", s.admin)).status != 200
        up = await s.get(f"/os-hypervisors/{detail[0]['id']}/uptime", "2.87", s.admin)
        assert " load average: " in up.json["hypervisor"]["uptime"]

    stage.play(story)


def test_a_disabled_host_gets_no_servers(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        first, second = sorted(s.agents())
        listed = (await s.get(f"/os-services?host={first}", "2.53", s.admin)).json["services"]
        url = f"{BASE}/os-services/{listed[0]['id']}"
        version = {"openstack_api_version": "compute 2.53"}
        off = {"status": "disabled", "disabled_reason": "repair"}
        reply = await s.admin.put(url, off, **version)
        assert reply.json["service"]["disabled_reason"] == "repair", reply
        try:
            for _ in range(3):
                id = await s.boot()
                assert await _host_of(s, id) == second
            wanted = await s.create("2.74", s.admin, host=first, networks="none")
            await s.cloud.settle()
            shown = await s.server(wanted.json["server"]["id"], client=s.admin)
            assert f"disabled: {first} (repair)" in shown["fault"]["details"]
            await s.admin.delete(f"{SERVERS}/{shown['id']}")
        finally:
            await s.admin.put(url, {"status": "enabled"}, **version)

    stage.play(story)


async def _told(s: Scene, host: str) -> tuple[list[str], list[str]]:
    """Of its provider, which has the hypervisor's UUID: what says that it is disabled, and its aggregates."""
    listed = (
        await s.get(f"/os-hypervisors?hypervisor_hostname_pattern={host}", "2.53", s.admin)
    ).json
    (hypervisor,) = [h for h in listed["hypervisors"] if h["hypervisor_hostname"] == host]
    url, version = f"/placement/resource_providers/{hypervisor['id']}", "placement 1.39"
    traits = (await s.admin.get(url + "/traits", openstack_api_version=version)).json["traits"]
    groups = (await s.admin.get(url + "/aggregates", openstack_api_version=version)).json
    return [t for t in traits if t == "COMPUTE_STATUS_DISABLED"], groups["aggregates"]


def test_placement_shows_which_hosts_are_disabled_and_in_which_aggregates(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        first, _ = sorted(s.agents())
        made = await s.admin.post(
            f"{BASE}/os-aggregates",
            {"aggregate": {"name": f"mirror-{s.member.project_id}"}},
            openstack_api_version="compute 2.41",
        )
        one = made.json["aggregate"]
        action = f"{BASE}/os-aggregates/{one['id']}/action"
        for verb, word in (("disable", ["COMPUTE_STATUS_DISABLED"]), ("enable", [])):
            body = {"host": first, "binary": "nova-compute"}
            assert (await s.admin.put(f"{BASE}/os-services/{verb}", body)).status == 200
            assert (await _told(s, first))[0] == word
        for act, there in (("add_host", True), ("remove_host", False)):
            assert (await s.admin.post(action, {act: {"host": first}})).status == 200
            assert (one["uuid"] in (await _told(s, first))[1]) is there
        assert (await s.admin.delete(f"{BASE}/os-aggregates/{one['id']}")).status == 200

    stage.play(story)


@in_loop
async def test_a_compute_service_is_deleted_with_its_provider_once_nothing_is_held_of_it() -> None:
    async with cloud() as c:
        version = {"openstack_api_version": "compute 2.53, placement 1.39"}
        listed = await c.admin.get(f"{BASE}/os-services?binary=nova-compute", **version)
        first, second = listed.json["services"]
        url = f"{BASE}/os-services/{first['id']}"
        there = (await c.admin.get("/placement/resource_providers", **version)).json
        ids = {p["name"]: p["uuid"] for p in there["resource_providers"]}
        held = {
            "allocations": {ids[first["host"]]: {"resources": {"VCPU": 1}}},
            "project_id": "p",
            "user_id": "u",
            "consumer_generation": None,
            "consumer_type": "INSTANCE",
        }
        consumer = f"/placement/allocations/{first['id']}"
        assert (await c.admin.put(consumer, held, **version)).status == 204
        assert (await c.admin.delete(url, **version)).status == 409
        assert (await c.admin.delete(consumer, **version)).status == 204
        assert (await c.admin.delete(url, **version)).status == 204
        left = (await c.admin.get("/placement/resource_providers", **version)).json
        assert [p["name"] for p in left["resource_providers"]] == [second["host"]]


def test_zones_come_from_aggregates(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        first, _ = sorted(s.agents())
        body = {"name": f"rack-{s.member.project_id}", "availability_zone": "east"}
        made = await s.admin.post(f"{BASE}/os-aggregates", {"aggregate": body})
        assert made.status == 200 and "hosts" not in made.json["aggregate"]
        url = f"{BASE}/os-aggregates/{made.json['aggregate']['id']}/action"
        assert (await s.admin.post(url, {"add_host": {"host": "nobody"}})).status == 404
        assert (await s.admin.post(url, {"add_host": {"host": first}})).status == 200
        assert (await s.admin.post(url, {"add_host": {"host": first}})).status == 409
        zones = (await s.get("/os-availability-zone")).json["availabilityZoneInfo"]
        assert [z["zoneName"] for z in zones] == ["east", "nova"]
        id = await s.boot(availability_zone="east")
        assert await _host_of(s, id) == first
        assert (await s.server(id))["OS-EXT-AZ:availability_zone"] == "east"
        assert (await s.server(id, "2.96"))["pinned_availability_zone"] == "east"
        assert (await s.admin.delete(url.removesuffix("/action"))).status == 400
        assert (await s.admin.post(url, {"remove_host": {"host": first}})).status == 200
        assert (await s.admin.delete(url.removesuffix("/action"))).status == 200

    stage.play(story)


def test_a_guest_that_powers_off_by_itself_is_seen(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        driver = s.agents()[await _host_of(s, id)].driver
        driver.happen(id, SHUTDOWN)  # type: ignore[attr-defined]
        await s.until(id, "SHUTOFF")
        driver.happen(id, RUNNING)  # type: ignore[attr-defined]
        await s.until(id, "ACTIVE")

    stage.play(story)


def test_a_host_that_comes_back_keeps_its_guests_and_drops_strangers(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        kept, lost = await s.boot(), await s.boot()
        agent = s.agents()[await _host_of(s, kept)]
        other = s.agents()[await _host_of(s, lost)]
        await other.driver.destroy(lost)
        stranger = GuestSpec(id="stranger", name="x", project_id="p", vcpus=1, ram_mib=1)
        await agent.driver.spawn(stranger)
        for one in {agent, other}:
            await one.start()
        assert kept in await s.guests() and "stranger" not in await s.guests()
        assert (await s.server(kept))["status"] == "ACTIVE"
        assert (await s.server(lost))["status"] == "SHUTOFF", "its guest is gone"
        for id in (kept, lost):
            assert (await s.delete(id)).status == 204

    stage.play(story)


def test_a_host_that_comes_back_takes_back_what_was_given_up_while_it_was_away(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        plain = [await s.boot() for _ in range(2)]
        rescued, resized = await s.boot(), await s.boot()
        await s.act(rescued, {"rescue": {}})
        await s.act(resized, {"resize": {"flavorRef": "84"}})
        for id, driver in zip(plain, [await _driver_of(s, id) for id in plain], strict=True):
            spec = driver._guests[id].spec
            assert spec.image is not None
            if id == plain[0]:
                await driver.rescue(id, spec.image)
            else:
                await driver.resize(msgspec.structs.replace(spec, ram_mib=192), 0, True)
        for agent in s.agents().values():
            await agent.start()
        changed = {id for driver in s.drivers() for id in await driver.changed()}
        own = {*plain, rescued, resized}  # other tests' servers share the stage
        assert changed & own == {rescued, resized}, "their servers stand for that"
        sizes = {g.id: g.ram_mib for driver in s.drivers() for g in await driver.guests()}
        assert [sizes[id] for id in (*plain, rescued, resized)] == [128, 128, 128, 192]
        for id in plain:
            assert (await s.server(id))["status"] == "ACTIVE"

    async def _driver_of(s: Scene, id: str) -> FakeComputeDriver:
        driver = s.agents()[await _host_of(s, id)].driver
        assert isinstance(driver, FakeComputeDriver)
        return driver

    stage.play(story)


def test_guests_resume_after_a_reboot_where_that_is_wanted(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        settings = s.cloud.runtime.settings
        before = settings["compute"]
        for resume, status in ((False, "SHUTOFF"), (True, "ACTIVE")):
            settings["compute"] = msgspec.structs.replace(Settings(), resume_guests=resume)
            id = await s.boot()
            agent = s.agents()[await _host_of(s, id)]
            await agent.driver.stop(id, 0)
            await agent.start()
            await s.until(id, status)
        settings["compute"] = before

    stage.play(story)

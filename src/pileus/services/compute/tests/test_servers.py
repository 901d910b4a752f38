"""Servers from birth to death: states, faults, quotas, visibility."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pileus.kernel.faults import Invalid
from pileus.services.compute.driver import RUNNING, SHUTDOWN
from pileus.services.compute.server import SERVERS as TABLE
from pileus.services.compute.tests.scene import SERVERS, Scene, Stage


def test_a_server_boots_runs_and_goes_and_leaves_nothing(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot(metadata={"hello": "world"}, accessIPv6="::babe:220.12.22.2")
        shown = await s.server(id)
        assert (shown["status"], shown["OS-EXT-STS:task_state"]) == ("ACTIVE", None)
        assert shown["OS-EXT-STS:power_state"] == RUNNING
        assert shown["metadata"] == {"hello": "world"}
        assert shown["accessIPv6"] == "::babe:dc0c:1602"
        assert shown["OS-SRV-USG:launched_at"] and not shown["OS-SRV-USG:terminated_at"]
        (address,) = shown["addresses"]["private"]
        (port,) = await s.ports(id)
        assert address["addr"] == port["fixed_ips"][0]["ip_address"]
        assert address["OS-EXT-IPS-MAC:mac_addr"] == port["mac_address"]
        assert id in await s.guests() and await s.held(id)
        assert await s.used() == {"Instances": 1, "Cores": 1, "RAM": 128}
        assert (await s.delete(id)).status == 204
        assert (await s.get(f"/servers/{id}")).status == 404
        assert (await s.member.delete(f"{SERVERS}/{id}")).status == 404
        assert id not in await s.guests() and not await s.held(id) and not await s.ports(id)
        assert await s.used() == {"Instances": 0, "Cores": 0, "RAM": 0}

    stage.play(story)


def test_a_create_is_answered_with_its_password_and_nothing_else(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        reply = await s.create(adminPass="secret")
        server = reply.json["server"]
        assert set(server) == {"id", "links", "adminPass", "OS-DCF:diskConfig", "security_groups"}
        assert server["adminPass"] == "secret"
        assert reply.headers["location"] == server["links"][0]["href"]
        assert reply.headers["x-openstack-nova-api-version"] == "2.1"
        made = (await s.create()).json["server"]["adminPass"]
        assert len(made) == 12
        await s.cloud.settle()
        assert "secret" not in str(await TABLE.get(s.cloud.runtime.store, server["id"]))

    stage.play(story)


def test_power_is_switched_and_seen_on_the_host(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        assert (await s.act(id, "os-stop")).status == 202
        shown = await s.server(id)
        assert (shown["status"], shown["OS-EXT-STS:power_state"]) == ("SHUTOFF", SHUTDOWN)
        assert await _power(s, id) == SHUTDOWN
        assert (await s.act(id, "os-start")).status == 202
        assert (await s.server(id))["status"] == "ACTIVE"
        for kind in ("SOFT", "HARD"):
            assert (await s.act(id, {"reboot": {"type": kind}})).status == 202
            assert (await s.server(id))["status"] == "ACTIVE"
        assert await _power(s, id) == RUNNING

    stage.play(story)


async def _power(s: Scene, id: str) -> int:
    found = {g.id: g.power_state for d in s.drivers() for g in await d.guests()}
    return found[id]


@pytest.mark.parametrize(
    ("before", "action", "verb", "state"),
    [
        ("os-stop", "os-stop", "stop", "stopped"),
        (None, "os-start", "start", "active"),
        ("os-stop", {"reboot": {"type": "SOFT"}}, "reboot", "stopped"),
    ],
)
def test_a_verb_in_the_wrong_state_conflicts_in_novas_words(
    stage: Stage, before: str | None, action: Any, verb: str, state: str
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        if before:
            await s.act(id, before)
        reply = await s.act(id, action)
        assert reply.status == 409
        message = reply.json["conflictingRequest"]["message"]
        assert message.startswith(f"Cannot '{verb}' instance {id} while it is in vm_state {state}")

    stage.play(story)


def test_a_server_that_never_ran_cannot_be_stopped(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await _broken(s)
        reply = await s.act(id, "os-stop")
        assert (
            reply.status == 409
            and "launched_at None" in reply.json["conflictingRequest"]["message"]
        )

    stage.play(story)


async def _broken(s: Scene, message: str = "The disk is upside down.") -> str:
    for driver in s.drivers():
        driver.trouble.failures["spawn"] = [Invalid(message)]
    id = await s.boot()
    for driver in s.drivers():
        driver.trouble.failures.clear()
    return id


def test_a_failed_boot_ends_in_error_with_a_fault_and_holds_nothing(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await _broken(s)
        shown = await s.server(id)
        assert (shown["status"], shown["OS-EXT-STS:task_state"]) == ("ERROR", None)
        assert shown["fault"]["message"] == "The disk is upside down."
        assert "details" not in shown["fault"] and shown["addresses"] == {}
        assert "details" in (await s.server(id, client=s.admin))["fault"]
        assert id not in await s.guests() and not await s.held(id) and not await s.ports(id)
        assert (await s.used())["Instances"] == 1, "a server in ERROR counts until it is deleted"
        actions = (await s.get(f"/servers/{id}/os-instance-actions")).json["instanceActions"]
        assert [(a["action"], a["message"]) for a in actions] == [("create", "Error")]
        assert (await s.delete(id)).status == 204
        assert (await s.used())["Instances"] == 0

    stage.play(story)


def test_no_valid_host_says_why_of_each(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        big = {"name": f"huge-{s.member.project_id}", "ram": 1024, "vcpus": 1, "disk": 5000}
        made = await s.admin.post("/compute/v2.1/flavors", {"flavor": big})
        id = await s.boot(flavorRef=made.json["flavor"]["id"])
        shown = await s.server(id)
        assert shown["status"] == "ERROR" and shown["hostId"] == ""
        hosts = s.agents()
        message = shown["fault"]["message"]
        assert message == f"No valid host was found. {len(hosts)} hosts: too little DISK_GB."
        details = (await s.server(id, client=s.admin))["fault"]["details"]
        assert all(f"{host} (5000 asked, " in details for host in hosts)
        assert not await s.held(id) and not await s.ports(id)

    stage.play(story)


def test_deleting_during_the_build_leaves_nothing(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        for delay_s in (0.0, 0.02, 0.05, 0.1):
            for driver in s.drivers():
                driver.trouble.latency_s = 0.06
            id = (await s.create()).json["server"]["id"]
            await asyncio.sleep(delay_s)
            assert (await s.member.delete(f"{SERVERS}/{id}")).status == 204
            assert (await s.member.delete(f"{SERVERS}/{id}")).status in (204, 404)
            await s.cloud.settle()
            for driver in s.drivers():
                driver.trouble.latency_s = 0.0
            assert (await s.get(f"/servers/{id}")).status == 404
            assert id not in await s.guests() and not await s.held(id) and not await s.ports(id)
        assert await s.used() == {"Instances": 0, "Cores": 0, "RAM": 0}

    stage.play(story)


def test_fifty_creates_at_once_with_a_quota_of_ten_give_ten(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        replies = await asyncio.gather(*[s.create() for _ in range(50)])
        assert sorted(r.status for r in replies) == [202] * 10 + [403] * 40
        refused = next(r for r in replies if r.status == 403)
        message = refused.json["forbidden"]["message"]
        assert message == (
            "Quota exceeded for instances: Requested 1, but already used 10 of 10 instances"
        )
        await s.cloud.settle()
        shown = (await s.get("/servers/detail")).json["servers"]
        assert [x["status"] for x in shown] == ["ACTIVE"] * 10
        assert await s.used() == {"Instances": 10, "Cores": 10, "RAM": 1280}
        for x in shown:
            await s.member.delete(f"{SERVERS}/{x['id']}")
        await s.cloud.settle()
        assert await s.used() == {"Instances": 0, "Cores": 0, "RAM": 0}

    stage.play(story)


def test_several_servers_are_numbered_and_all_or_nothing(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        reply = await s.create(min_count=11)
        assert reply.status == 403 and "Requested 11" in reply.json["forbidden"]["message"]
        reply = await s.create(min_count=2, max_count="3", return_reservation_id=True)
        reservation = reply.json["reservation_id"]
        assert reply.json == {"reservation_id": reservation}
        await s.cloud.settle()
        found = (await s.get(f"/servers?reservation_id={reservation}")).json["servers"]
        assert sorted(x["name"] for x in found) == ["web-1", "web-2", "web-3"]
        reply = await s.create(min_count=5, max_count=20)
        assert reply.status == 202
        await s.cloud.settle()
        assert (await s.used())["Instances"] == 10, "as many as the quota allows"
        assert (await s.create(min_count=3, max_count=2)).status == 400

    stage.play(story)


def test_other_projects_see_nothing_of_a_server(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id, other = await s.boot(), await s.other()
        url = f"{SERVERS}/{id}"
        for reply in (
            await other.get(url),
            await other.put(url, {"server": {"name": "mine"}}),
            await other.delete(url),
            await other.post(url + "/action", {"os-stop": None}),
            await other.get(url + "/metadata"),
            await other.get(url + "/ips"),
            await other.get(url + "/os-instance-actions"),
            await other.get(url + "/os-interface"),
        ):
            assert reply.status == 404, reply
            message = reply.json["itemNotFound"]["message"]
            assert message == f"Instance {id} could not be found."
        assert (await other.get(SERVERS)).json["servers"] == []
        assert (await other.get(SERVERS + "?all_tenants=1")).status == 403
        everything = (await s.admin.get(SERVERS + "?all_tenants=1")).json["servers"]
        assert id in [x["id"] for x in everything]

    stage.play(story)


def test_a_locked_server_obeys_administrators_only(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        assert (await s.act(id, "lock")).status == 202
        assert (await s.server(id, "2.9"))["locked"] is True
        for reply in (await s.act(id, "os-stop"), await s.delete(id)):
            assert reply.status == 409
            assert reply.json["conflictingRequest"]["message"] == f"Instance {id} is locked"
        assert (await s.act(id, "os-stop", s.admin)).status == 202
        assert (await s.act(id, "unlock")).status == 202
        assert (await s.act(id, "os-start")).status == 202
        assert (await s.act(id, "lock", s.admin)).status == 202
        assert (await s.act(id, "unlock")).status == 403, "what an administrator locked stays so"
        assert (await s.act(id, "unlock", s.admin)).status == 202

    stage.play(story)


@pytest.mark.parametrize(
    ("more", "status", "says"),
    [
        ({"flavorRef": "nothing"}, 400, "Flavor nothing could not be found."),
        ({"imageRef": "70a599e0-31e7-49b7-b260-868f441e862b"}, 400, "Can not find requested"),
        ({"imageRef": "x"}, 400, "is not a 'uuid'"),
        ({"imageRef": None}, 400, "Missing imageRef"),
        ({"key_name": "nobody"}, 400, "Invalid key_name provided."),
        ({"networks": [{"uuid": "70a599e0-31e7-49b7-b260-868f441e862b"}]}, 400, "could not be"),
        ({"networks": [{"uuid": "x"}]}, 400, "Bad networks format"),
        ({"security_groups": [{"name": "nothing"}]}, 400, "nothing"),
        ({"user_data": "&&&"}, 400, "base64"),
        ({"name": ""}, 400, "name"),
        ({"name": " x"}, 400, "whitespace"),
        ({"colour": "red"}, 400, "Additional properties are not allowed ('colour' was"),
        ({"availability_zone": "mars"}, 400, "zone is not available"),
        ({"availability_zone": "nova:fake-1"}, 403, "forced_host"),
        ({"metadata": {"a/b": "x"}}, 400, "metadata"),
        ({"block_device_mapping_v2": [{"source_type": "volume"}]}, 400, "Block Device Mapping"),
    ],
)
def test_what_can_be_checked_is_refused_before_anything_is_made(
    stage: Stage, more: dict[str, Any], status: int, says: str
) -> None:
    async def story(s: Scene) -> None:
        reply = await s.create(**more)
        assert reply.status == status and says in reply.body.decode(), reply
        assert (await s.get("/servers")).json["servers"] == []
        assert (await s.used())["Instances"] == 0

    stage.play(story)


def test_an_administrator_names_the_host(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        for host in s.agents():
            reply = await s.create(client=s.admin, availability_zone=f"nova:{host}", networks=[])
            await s.cloud.settle()
            shown = await s.server(reply.json["server"]["id"], client=s.admin)
            assert shown["OS-EXT-SRV-ATTR:host"] == host
            await s.admin.delete(f"{SERVERS}/{shown['id']}")

    stage.play(story)


def test_an_update_changes_what_it_names(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        version = {"openstack_api_version": "compute 2.90"}
        body = {
            "name": "db",
            "description": "the database",
            "hostname": "db-1",
            "accessIPv4": "1.2.3.4",
        }
        reply = await s.member.put(f"{SERVERS}/{id}", {"server": body}, **version)
        assert reply.status == 200, reply
        shown = await s.server(id, "2.90")
        assert (shown["name"], shown["description"]) == ("db", "the database")
        assert (shown["OS-EXT-SRV-ATTR:hostname"], shown["accessIPv4"]) == ("db-1", "1.2.3.4")
        bad = await s.member.put(f"{SERVERS}/{id}", {"server": {"accessIPv4": "1.2.3"}})
        assert bad.status == 400

    stage.play(story)


def test_metadata_and_tags_are_kept_item_by_item(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot("2.52", tags=["a"])
        url, version = f"{SERVERS}/{id}", {"openstack_api_version": "compute 2.52"}
        await s.member.post(url + "/metadata", {"metadata": {"k": "1", "l": "2"}})
        assert (await s.member.put(url + "/metadata/k", {"meta": {"k": "3"}})).status == 200
        assert (await s.member.put(url + "/metadata/k", {"meta": {"j": "3"}})).status == 400
        assert (await s.member.delete(url + "/metadata/l")).status == 204
        assert (await s.member.delete(url + "/metadata/l")).status == 404
        assert (await s.member.get(url + "/metadata")).json == {"metadata": {"k": "3"}}
        assert (await s.member.put(url + "/tags/b", **version)).status == 201
        assert (await s.member.put(url + "/tags/b", **version)).status == 204
        assert (await s.member.get(url + "/tags", **version)).json == {"tags": ["a", "b"]}
        assert (await s.member.get(url + "/tags/c", **version)).status == 404
        assert (await s.member.get(url + "/tags")).status == 404, "tags began with 2.26"
        found = await s.get("/servers?tags=a,b&not-tags=c", "2.52")
        assert [x["id"] for x in found.json["servers"]] == [id]
        assert (await s.get("/servers?not-tags-any=b", "2.52")).json["servers"] == []

    stage.play(story)


def test_reset_state_is_for_administrators_and_ends_an_error(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        body = {"os-resetState": {"state": "error"}}
        assert (await s.act(id, body)).status == 403
        assert (await s.act(id, body, s.admin)).status == 202
        assert (await s.server(id))["status"] == "ERROR"
        assert (await s.act(id, {"reboot": {"type": "HARD"}})).status == 202
        assert (await s.server(id))["status"] == "ACTIVE"

    stage.play(story)


def test_a_state_is_reset_while_a_task_is_under_way_which_ends_in_its_own(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        for driver in s.drivers():
            driver.trouble.latency_s = 0.2
        stopping = await s.member.post(f"{SERVERS}/{id}/action", {"os-stop": None})
        assert stopping.status == 202
        reset = {"os-resetState": {"state": "error"}}
        assert (await s.admin.post(f"{SERVERS}/{id}/action", reset)).status == 202
        shown = await s.server(id)
        assert (shown["status"], shown["OS-EXT-STS:task_state"]) == ("ERROR", "powering-off")
        await s.cloud.settle()
        for driver in s.drivers():
            driver.trouble.latency_s = 0.0
        shown = await s.server(id)
        assert (shown["status"], shown["OS-EXT-STS:task_state"]) == ("SHUTOFF", None)

    stage.play(story)


def test_actions_outlive_the_server(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        await s.act(id, "os-stop")
        await s.delete(id)
        assert (await s.get(f"/servers/{id}/os-instance-actions")).status == 404
        listed = (await s.get(f"/servers/{id}/os-instance-actions", "2.58")).json
        found = listed["instanceActions"]
        assert [a["action"] for a in found] == ["delete", "stop", "create"]
        one = await s.get(f"/servers/{id}/os-instance-actions/{found[1]['request_id']}", "2.62")
        (event,) = one.json["instanceAction"]["events"]
        assert (event["event"], event["result"]) == ("compute_stop_instance", "Success")
        assert "host" not in event and event["hostId"]

    stage.play(story)


def test_the_console_is_the_guests(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        reply = await s.act(id, {"os-getConsoleOutput": {"length": 3}})
        assert reply.status == 200
        lines = reply.json["output"].split("\n")
        assert len(lines) == 3 and lines[-1].startswith("web login:")
        everything = await s.act(id, {"os-getConsoleOutput": {}})
        assert id in everything.json["output"]

    stage.play(story)


def test_who_has_no_network_and_asks_for_any_gets_one_that_leads_out(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        newcomer = await s.other()
        made = [await s.create("2.37", newcomer, networks="auto") for _ in range(2)]
        assert [reply.status for reply in made] == [202, 202]
        await s.cloud.settle()
        for reply in made:
            shown = await s.server(reply.json["server"]["id"], client=newcomer)
            assert shown["status"] == "ACTIVE"
            assert list(shown["addresses"]) == ["auto_allocated_network"]
        (router,) = (await newcomer.get("/network/v2.0/routers")).json["routers"]
        assert router["external_gateway_info"]["external_fixed_ips"]

    stage.play(story)

"""What Nova once did itself, asked by its old names at the versions that still have them."""

from __future__ import annotations

from typing import Any

import pytest

from pileus.services.compute.tests.scene import SERVERS, Scene, Stage


async def external(s: Scene, subnet: str) -> tuple[str, str]:
    """A network that gives floating IPs, and a router from the project's to it; its id and name."""
    body = {"network": {"name": f"outer {subnet}", "router:external": True}}
    made = (await s.admin.post("/network/v2.0/networks", body)).json["network"]
    cidr = {"network_id": made["id"], "cidr": subnet, "ip_version": 4, "enable_dhcp": False}
    await s.admin.post("/network/v2.0/subnets", {"subnet": cidr})
    router = {"router": {"external_gateway_info": {"network_id": made["id"]}}}
    id = (await s.member.post("/network/v2.0/routers", router)).json["router"]["id"]
    found = await s.member.get(f"/network/v2.0/subnets?network_id={s.network}")
    inner = {"subnet_id": found.json["subnets"][0]["id"]}
    await s.member.put(f"/network/v2.0/routers/{id}/add_router_interface", inner)
    return made["id"], made["name"]


async def act(s: Scene, id: str, action: Any, version: str = "2.43") -> Any:
    reply = await s.member.post(
        f"{SERVERS}/{id}/action", action, openstack_api_version=f"compute {version}"
    )
    await s.cloud.settle()
    return reply


def test_a_floating_ip_is_had_given_to_a_server_moved_and_given_back(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        network, pool = await external(s, "203.0.113.0/26")
        url = "/compute/v2.1/os-floating-ips"
        assert pool in {
            p["name"] for p in (await s.get("/os-floating-ip-pools")).json["floating_ip_pools"]
        }
        assert (await s.member.post(url, {"pool": "nowhere"})).status == 404
        made = (await s.member.post(url, {"pool": pool})).json["floating_ip"]
        other = (await s.member.post(url, {"pool": network})).json["floating_ip"]
        assert made["pool"] == pool and made["instance_id"] is made["fixed_ip"] is None
        first, second = await s.boot(), await s.boot()
        give = {"addFloatingIp": {"address": made["ip"]}}
        assert (await act(s, first, give)).status == 202
        shown = (await s.get(f"/os-floating-ips/{made['id']}")).json["floating_ip"]
        assert shown["instance_id"] == first
        assert made["ip"] in str((await s.get(f"/servers/{first}/ips")).json)
        refused = await act(s, first, {"addFloatingIp": {"address": other["ip"]}})
        assert refused.status == 400, "its address has one already"
        assert (await act(s, second, give)).status == 202
        take = {"removeFloatingIp": {"address": made["ip"]}}
        assert (await act(s, first, take)).status == 409
        assert (await act(s, second, take)).status == 202
        assert (await act(s, second, {"removeFloatingIp": {"address": "0.0.0.0"}})).status == 404
        assert (await act(s, second, give, "2.44")).status == 400, (
            "there is no such action any more"
        )
        listed = (await s.get("/os-floating-ips")).json["floating_ips"]
        assert {f["id"] for f in listed} == {made["id"], other["id"]}
        foreign = await (await s.other()).get(f"{url}/{made['id']}")
        assert foreign.status == 404
        assert (await s.member.delete(f"{url}/{made['id']}")).status == 202
        assert (await s.get(f"/os-floating-ips/{made['id']}")).status == 404
        assert (await s.get("/os-floating-ips", "2.36")).status == 404

    stage.play(story)


def test_a_server_is_given_one_more_address_and_loses_it_again(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()

        async def addresses() -> list[str]:
            shown = (await s.server(id))["addresses"]["private"]
            assert [a["addr"] for a in shown] == [
                ip["ip_address"] for port in await s.ports(id) for ip in port["fixed_ips"]
            ]
            return [a["addr"] for a in shown]

        (first,) = await addresses()
        assert (await act(s, id, {"addFixedIp": {"networkId": s.network}})).status == 202
        both = await addresses()
        assert len(both) == 2 and first in both
        assert (await act(s, id, {"removeFixedIp": {"address": first}})).status == 202
        assert await addresses() == [a for a in both if a != first]
        for refused in (
            {"removeFixedIp": {"address": first}},
            {"addFixedIp": {"networkId": "11111111-2222-4333-8444-555555555555"}},
        ):
            assert (await act(s, id, refused)).status == 400
        assert (await act(s, id, {"addFixedIp": {"networkId": s.network}}, "2.44")).status == 400
        await s.act(id, "lock")
        locked = await act(s, id, {"addFixedIp": {"networkId": s.network}})
        assert locked.status == 409

    stage.play(story)


@pytest.mark.parametrize("name", ["os-networks", "os-tenant-networks"])
def test_networks_are_shown_to_whom_network_shows_them(stage: Stage, name: str) -> None:
    async def story(s: Scene) -> None:
        listed = (await s.get(f"/{name}")).json["networks"]
        assert {"id": s.network, "label": "private"}.items() <= dict(
            next(n for n in listed if n["id"] == s.network)
        ).items()
        assert (await s.get(f"/{name}/{s.network}")).json["network"]["label"] == "private"
        assert (await s.get(f"/{name}/{s.network}", client=await s.other())).status == 404
        assert (await s.get(f"/{name}/nothing")).status == 404
        assert (await s.get(f"/{name}", "2.36")).status == 404

    stage.play(story)


def test_hosts_tell_what_they_have_and_what_servers_hold(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        listed = (await s.get("/os-hosts", client=s.admin)).json["hosts"]
        assert {h["service"] for h in listed} == {"compute", "scheduler", "conductor"}
        zoned = (await s.get("/os-hosts?zone=nova", client=s.admin)).json["hosts"]
        assert zoned == [h for h in listed if h["service"] == "compute"]
        host = (await s.server(id, client=s.admin))["OS-EXT-SRV-ATTR:host"]
        rows = (await s.get(f"/os-hosts/{host}", client=s.admin)).json["host"]
        by_project = {r["resource"]["project"]: r["resource"] for r in rows}
        assert by_project[s.member.project_id]["memory_mb"] == 128
        assert by_project["(total)"]["cpu"] > 0
        assert by_project["(used_now)"]["cpu"] >= by_project[s.member.project_id]["cpu"] > 0
        put = "/compute/v2.1/os-hosts/"
        for body, status in (
            ({"status": "maybe"}, 400),
            ({"status": None, "maintenance_mode": None}, 400),
            ({"maintenance_mode": "enable"}, 501),
            ({"status": "disable"}, 200),
        ):
            assert (await s.admin.put(put + host, body)).status == status, body
        services = (await s.get("/os-services", client=s.admin)).json["services"]
        assert {x["status"] for x in services if x["host"] == host} == {"disabled"}
        assert (await s.admin.put(put + host, {"status": "enable"})).json["status"] == "enabled"
        assert (await s.admin.put(put + "nowhere", {"status": "enable"})).status == 404
        for verb in ("startup", "shutdown", "reboot"):
            assert (await s.get(f"/os-hosts/nowhere/{verb}", client=s.admin)).status == 404
            assert (await s.get(f"/os-hosts/{host}/{verb}", client=s.admin)).status == 501
            assert (await s.get(f"/os-hosts/{host}/{verb}")).status == 403
        assert (await s.get("/os-hosts", "2.43", s.admin)).status == 404

    stage.play(story)


def test_no_host_writes_usage_audits_and_the_log_says_so(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        url = "/os-instance_usage_audit_log"
        log = (await s.get(url, client=s.admin)).json["instance_usage_audit_logs"]
        assert log["hosts_not_run"] == sorted(s.agents()) and log["log"] == {}
        of = await s.get(f"{url}/2026-01-15%2012:00:00", client=s.admin)
        period = of.json["instance_usage_audit_log"]
        assert period["period_beginning"] == "2025-12-01 00:00:00"
        assert period["period_ending"] == "2026-01-01 00:00:00"
        assert (await s.get(f"{url}/lately", client=s.admin)).status == 400
        assert (await s.get(url)).status == 403

    stage.play(story)


def test_an_administrator_sees_the_security_groups_of_all_projects(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        own = {g["id"] for g in (await s.get("/os-security-groups")).json["security_groups"]}
        url = "/os-security-groups?all_tenants=true"
        every = {g["id"] for g in (await s.get(url, client=s.admin)).json["security_groups"]}
        assert own and own < every
        assert {g["id"] for g in (await s.get(url)).json["security_groups"]} == own

    stage.play(story)


def test_an_event_is_taken_for_a_server_on_a_host_and_each_says_what_became_of_it(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        id, away = await s.boot(), await s.boot()
        await s.act(away, "shelve")

        async def tell(version: str, *events: dict[str, str]) -> Any:
            return await s.admin.post(
                "/compute/v2.1/os-server-external-events",
                {"events": list(events)},
                openstack_api_version=f"compute {version}",
            )

        nobody = "11111111-2222-4333-8444-555555555555"
        taken = await tell("2.1", {"name": "network-changed", "server_uuid": id, "tag": "x"})
        assert taken.status == 200
        assert taken.json["events"] == [
            {
                "name": "network-changed",
                "server_uuid": id,
                "tag": "x",
                "status": "completed",
                "code": 200,
            }
        ]
        mixed = await tell(
            "2.93",
            {"name": "network-vif-plugged", "server_uuid": nobody},
            {"name": "volume-extended", "server_uuid": id},
            {"name": "power-update", "server_uuid": id, "tag": "POWER_ON"},
            {"name": "network-changed", "server_uuid": away},
        )
        assert mixed.status == 207
        assert [e["code"] for e in mixed.json["events"]] == [404, 400, 200, 422]
        actions = (await s.get(f"/servers/{id}/os-instance-actions")).json["instanceActions"]
        assert actions[0]["action"] == "start"
        for version, event in (
            ("2.50", {"name": "volume-extended", "server_uuid": id, "tag": "x"}),
            ("2.93", {"name": "network-changed", "server_uuid": "x"}),
            ("2.93", {"name": "network-changed"}),
        ):
            assert (await tell(version, event)).status == 400, event
        member = await s.member.post("/compute/v2.1/os-server-external-events", {"events": []})
        assert member.status == 403

    stage.play(story)


def test_a_volume_that_no_server_has_is_not_snapshot_by_one(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        url = "/compute/v2.1/os-assisted-volume-snapshots"
        info = {"snapshot_id": "s", "type": "qcow2", "new_file": "f"}
        snapshot = {"snapshot": {"volume_id": "v", "create_info": info}}
        refused = await s.admin.post(url, snapshot)
        assert refused.status == 400 and "id v" in refused.json["badRequest"]["message"]
        for query in ("", "?delete_info=[]", '?delete_info={"volume_id":"v"}'):
            assert (await s.admin.delete(f"{url}/s{query}")).status == 400
        assert (await s.member.post(url, snapshot)).status == 403

    stage.play(story)


def test_a_volume_and_its_snapshot_are_made_shown_and_deleted_where_block_storage_keeps_them(
    stage: Stage,
) -> None:
    async def story(s: Scene) -> None:
        volumes, snapshots = "/compute/v2.1/os-volumes", "/compute/v2.1/os-snapshots"
        asked = {"size": "1", "display_name": "data", "metadata": {"kind": "work"}}
        reply = await s.member.post(volumes, {"volume": asked})
        made = reply.json["volume"]
        assert reply.status == 200 and reply.headers["location"].endswith("/" + made["id"])
        assert made["displayName"] == "data" and made["metadata"] == {"kind": "work"}
        assert made["size"] == 1 and made["attachments"] == [{}]
        await s.cloud.settle()
        kept = (await s.member.get(f"/volume/v3/volumes/{made['id']}")).json["volume"]
        assert (kept["name"], kept["status"]) == ("data", "available")
        of_it = {"snapshot": {"volume_id": made["id"], "display_name": "then"}}
        snapshot = (await s.member.post(snapshots, of_it)).json["snapshot"]
        await s.cloud.settle()
        shown = (await s.get(f"/os-snapshots/{snapshot['id']}")).json["snapshot"]
        assert shown == snapshot | {"status": "available"}
        assert shown["volumeId"] == made["id"] and shown["displayName"] == "then"
        for path in ("os-snapshots", "os-snapshots/detail"):
            assert (await s.get("/" + path)).json == {"snapshots": [shown]}
        assert (await s.member.delete(f"{volumes}/{made['id']}")).status == 400, "it has a snapshot"
        for url in (f"{snapshots}/{snapshot['id']}", f"{volumes}/{made['id']}"):
            for version, status in (("2.35", 200), ("2.36", 404)):
                found = await s.get(url.removeprefix("/compute/v2.1"), version)
                assert found.status == status
            assert (await (await s.other()).get(url)).status == 404
            assert (await s.member.delete(url)).status == 202
            await s.cloud.settle()
            assert (await s.member.get(url)).status == 404
        gone = await s.member.get(f"/volume/v3/volumes/{made['id']}")
        assert gone.status == 404

    stage.play(story)


def test_of_volumes_a_slice_is_listed_and_the_server_that_has_one_is_named(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        for n in range(3):
            await s.member.post("/volume/v3/volumes", {"volume": {"size": 1, "name": str(n)}})
        await s.cloud.settle()
        every = (await s.get("/os-volumes")).json["volumes"]
        assert [v["displayName"] for v in every] == ["2", "1", "0"]
        for query, wanted in (
            ("limit=2", every[:2]),
            ("limit=1&offset=1", every[1:2]),
            ("limit=0&offset=0&name=1", every),
            ("offset=2", every[2:]),
        ):
            assert (await s.get(f"/os-volumes/detail?{query}")).json == {"volumes": wanted}, query
        assert (await s.get("/os-volumes?limit=-1")).status == 400
        assert (await s.get("/os-volumes", client=await s.other())).json == {"volumes": []}
        server, volume = await s.boot(), every[0]["id"]
        attach = {"volumeAttachment": {"volumeId": volume}}
        await s.member.post(f"{SERVERS}/{server}/os-volume_attachments", attach)
        await s.cloud.settle()
        (attached,) = (await s.get(f"/os-volumes/{volume}")).json["volume"]["attachments"]
        device = attached.pop("device")
        assert attached == {"id": volume, "volumeId": volume, "serverId": server}
        assert device.startswith("/dev/")

    stage.play(story)


@pytest.mark.parametrize(
    ("noun", "body", "status"),
    [
        ("volume", {"size": "#$%"}, 400),
        ("volume", {"size": ""}, 400),
        ("volume", {"size": 0}, 400),
        ("volume", {"display_name": "x"}, 400),
        ("volume", {"size": 1, "imageRef": "x"}, 400),
        ("volume", {"size": 1_000_000}, 403),
        ("snapshot", {"display_name": "x"}, 400),
        ("snapshot", {"volume_id": "11111111-2222-4333-8444-555555555555"}, 404),
    ],
)
def test_what_block_storage_does_not_make_is_refused_in_novas_words(
    stage: Stage, noun: str, body: dict[str, Any], status: int
) -> None:
    async def story(s: Scene) -> None:
        refused = await s.member.post(f"/compute/v2.1/os-{noun}s", {noun: body})
        assert refused.status == status, refused
        assert {"badRequest", "forbidden", "itemNotFound"} & refused.json.keys()
        for id in ("nothing", "detail%2Fmore", "11111111-2222-4333-8444-555555555555"):
            assert (await s.get(f"/os-{noun}s/{id}")).status == 404
            assert (await s.member.delete(f"/compute/v2.1/os-{noun}s/{id}")).status == 404

    stage.play(story)

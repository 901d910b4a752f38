"""Server groups: where their members go, who is a member, and how the API shows it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pileus.services.compute.tests.scene import SERVERS, Scene, Stage

GROUPS = "/compute/v2.1/os-server-groups"


async def make(s: Scene, policy: str, version: str = "2.64", **more: Any) -> Any:
    body = {"name": "g", "policy": policy} | more
    if version < "2.64":
        body["policies"] = [body.pop("policy")]
    return await s.member.post(
        GROUPS, {"server_group": body}, openstack_api_version=f"compute {version}"
    )


async def group(s: Scene, policy: str, **more: Any) -> str:
    reply = await make(s, policy, **more)
    assert reply.status == 200, reply
    return str(reply.json["server_group"]["id"])


async def member(s: Scene, id: str) -> Any:
    """A server of the group, as an administrator sees it once it has settled."""
    body = {
        "server": {
            "name": "web",
            "imageRef": s.image,
            "flavorRef": "42",
            "networks": [{"uuid": s.network}],
        },
        "os:scheduler_hints": {"group": id},
    }
    reply = await s.member.post(SERVERS, body)
    await s.cloud.settle()
    if reply.status != 202:
        return reply
    return await s.server(reply.json["server"]["id"], "2.71", s.admin)


def host(shown: Any) -> Any:
    return shown["OS-EXT-SRV-ATTR:host"]


def test_servers_of_an_affinity_group_share_a_host(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await group(s, "affinity")
        found = [await member(s, id) for _ in range(4)]
        assert len({host(one) for one in found}) == 1
        assert [one["server_groups"] for one in found] == [[id]] * 4
        shown = (await s.get(f"/os-server-groups/{id}", "2.64")).json["server_group"]
        assert sorted(shown["members"]) == sorted(one["id"] for one in found)

    stage.play(story)


def test_servers_of_an_anti_affinity_group_part_even_when_made_at_once(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await group(s, "anti-affinity")
        hosts = len(s.agents())
        found = await asyncio.gather(*(member(s, id) for _ in range(hosts + 1)))
        placed = [host(one) for one in found if one["status"] == "ACTIVE"]
        assert sorted(placed) == sorted(s.agents())
        (refused,) = [one for one in found if one["status"] == "ERROR"]
        assert f"of group {id}, which allows 1 on a host" in refused["fault"]["message"]
        gone = next(one for one in found if one["status"] == "ACTIVE")
        await s.delete(gone["id"])
        await s.delete(refused["id"])
        assert host(await member(s, id)) == host(gone), "its seat is free again"

    stage.play(story)


def test_a_rule_lets_more_of_an_anti_affinity_group_on_a_host(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await group(s, "anti-affinity", rules={"max_server_per_host": 2})
        found = [await member(s, id) for _ in range(2 * len(s.agents()))]
        counts = [sum(host(one) == name for one in found) for name in s.agents()]
        assert counts == [2] * len(s.agents())

    stage.play(story)


@pytest.mark.parametrize(("policy", "spread"), [("soft-affinity", 1), ("soft-anti-affinity", 2)])
def test_a_soft_policy_is_followed_as_far_as_it_goes(
    stage: Stage, policy: str, spread: int
) -> None:
    async def story(s: Scene) -> None:
        id = await group(s, policy)
        found = [await member(s, id) for _ in range(len(s.agents()) + 1)]
        assert [one["status"] for one in found] == ["ACTIVE"] * len(found)
        assert len({host(one) for one in found}) == spread

    stage.play(story)


def test_groups_are_spelled_by_microversion(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        old = (await make(s, "affinity", "2.1")).json["server_group"]
        assert old["policies"] == ["affinity"] and old["metadata"] == {}
        assert "project_id" not in old
        new = (await s.get(f"/os-server-groups/{old['id']}", "2.64")).json["server_group"]
        assert (new["policy"], new["rules"]) == ("affinity", {})
        assert new["project_id"] == s.member.project_id
        assert (await make(s, "soft-affinity", "2.14")).status == 400
        assert (await make(s, "soft-affinity", "2.15")).status == 200
        assert (await make(s, "together")).status == 400
        assert (await make(s, "affinity", rules={"max_server_per_host": 2})).status == 400
        assert (await make(s, "anti-affinity", rules={"max_server_per_host": 0})).status == 400

    stage.play(story)


def test_groups_are_their_projects_and_go_without_their_members(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await group(s, "affinity")
        shown = await member(s, id)
        other = await s.other()
        assert (await other.get(f"{GROUPS}/{id}")).status == 404
        assert (await other.get(GROUPS)).json == {"server_groups": []}
        listed = (await s.get("/os-server-groups")).json["server_groups"]
        assert [g["id"] for g in listed] == [id]
        everybody = await s.get("/os-server-groups?all_projects=1", client=s.admin)
        assert id in [g["id"] for g in everybody.json["server_groups"]]
        assert (await s.member.delete(f"{GROUPS}/{id}")).status == 204
        assert (await s.get(f"/os-server-groups/{id}")).status == 404
        assert (await s.server(shown["id"], "2.71"))["server_groups"] == []
        assert (await member(s, id)).status == 400

    stage.play(story)


def test_groups_and_their_members_are_counted(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        path = f"/compute/v2.1/os-quota-sets/{s.member.project_id}"
        quota = {"server_groups": 1, "server_group_members": 1}
        assert (await s.admin.put(path, {"quota_set": quota})).status == 200
        id = await group(s, "soft-affinity")
        refused = await make(s, "affinity")
        assert refused.status == 403 and "server_groups" in str(refused.json)
        assert (await member(s, id))["status"] == "ACTIVE"
        full = await member(s, id)
        assert full.status == 403 and "server_group_members" in str(full.json)
        assert (await s.used())["Instances"] == 1
        used = (await s.get("/limits")).json["limits"]["absolute"]["totalServerGroupsUsed"]
        assert used == 1

    stage.play(story)

"""Quota classes: what the default class says is what projects have, and others are only kept."""

from __future__ import annotations

from typing import Any

from pileus.services.compute.tests.scene import Scene, Stage

CLASSES = "/compute/v2.1/os-quota-class-sets"


async def change(s: Scene, name: str, version: str = "2.57", **numbers: Any) -> Any:
    return await s.admin.put(
        f"{CLASSES}/{name}",
        {"quota_class_set": numbers},
        openstack_api_version=f"compute {version}",
    )


def test_the_default_class_is_what_projects_have(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        before = (await s.get("/os-quota-class-sets/default", "2.57", s.admin)).json
        assert before["quota_class_set"]["id"] == "default"
        had = before["quota_class_set"]["key_pairs"]
        changed = await change(s, "default", key_pairs=had + 7)
        assert changed.json["quota_class_set"]["key_pairs"] == had + 7
        assert "id" not in changed.json["quota_class_set"]
        own = (await s.get(f"/os-quota-sets/{s.member.project_id}")).json["quota_set"]
        assert own["key_pairs"] == had + 7
        assert (await change(s, "default", key_pairs=had)).status == 200

    stage.play(story)


def test_other_classes_are_kept_and_are_nobodys(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        assert (await change(s, "gold", cores=999)).json["quota_class_set"]["cores"] == 999
        shown = (await s.get("/os-quota-class-sets/gold", "2.57", s.admin)).json
        assert shown["quota_class_set"]["cores"] == 999
        own = (await s.get(f"/os-quota-sets/{s.member.project_id}")).json["quota_set"]
        assert own["cores"] == 20

    stage.play(story)


def test_what_a_class_limits_depends_on_the_microversion(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        for version, there, gone in (
            ("2.49", {"fixed_ips", "injected_files"}, {"server_groups"}),
            ("2.50", {"server_groups", "injected_files"}, {"fixed_ips"}),
            ("2.57", {"server_groups"}, {"fixed_ips", "injected_files"}),
        ):
            found = (await s.get("/os-quota-class-sets/x", version, s.admin)).json
            assert there <= set(found["quota_class_set"])
            assert not gone & set(found["quota_class_set"])
            assert (await change(s, "x", version, **dict.fromkeys(gone, 1))).status == 400
        assert (await s.get("/os-quota-class-sets/x")).status == 403
        assert (await change(s, "y" * 256, cores=1)).status == 400

    stage.play(story)

"""A server at every version that changes its view. https://docs.openstack.org/nova/latest/reference/api-microversion-history.html"""

from __future__ import annotations

from typing import Any

import pytest

from pileus.kernel.schema import boundaries
from pileus.services.compute.servers.views import ServerView
from pileus.services.compute.tests.scene import SERVERS, Scene, Stage
from pileus.services.compute.versions import VERSIONS

AT_2_1 = {
    "id",
    "name",
    "status",
    "tenant_id",
    "user_id",
    "metadata",
    "hostId",
    "image",
    "flavor",
    "created",
    "updated",
    "addresses",
    "accessIPv4",
    "accessIPv6",
    "links",
    "progress",
    "key_name",
    "config_drive",
    "security_groups",
    "OS-DCF:diskConfig",
    "OS-EXT-AZ:availability_zone",
    "OS-SRV-USG:launched_at",
    "OS-SRV-USG:terminated_at",
    "OS-EXT-STS:task_state",
    "OS-EXT-STS:vm_state",
    "OS-EXT-STS:power_state",
    "os-extended-volumes:volumes_attached",
}
# What each version adds for a member, and besides that for an administrator.
ADDED: dict[str, tuple[set[str], set[str]]] = {
    "2.1": (
        AT_2_1,
        {
            "OS-EXT-SRV-ATTR:host",
            "OS-EXT-SRV-ATTR:instance_name",
            "OS-EXT-SRV-ATTR:hypervisor_hostname",
        },
    ),
    "2.3": (
        set(),
        {
            "OS-EXT-SRV-ATTR:hostname",
            "OS-EXT-SRV-ATTR:reservation_id",
            "OS-EXT-SRV-ATTR:launch_index",
            "OS-EXT-SRV-ATTR:kernel_id",
            "OS-EXT-SRV-ATTR:ramdisk_id",
            "OS-EXT-SRV-ATTR:root_device_name",
            "OS-EXT-SRV-ATTR:user_data",
        },
    ),
    "2.9": ({"locked"}, set()),
    "2.16": (set(), {"host_status"}),
    "2.19": ({"description"}, set()),
    "2.26": ({"tags"}, set()),
    "2.47": (set(), set()),
    "2.63": ({"trusted_image_certificates"}, set()),
    "2.69": (set(), set()),
    "2.71": ({"server_groups"}, set()),
    "2.73": ({"locked_reason"}, set()),
    "2.75": (set(), set()),
    "2.90": ({"OS-EXT-SRV-ATTR:hostname"}, set()),
    "2.96": ({"pinned_availability_zone"}, set()),
    "2.98": (set(), set()),
    "2.100": ({"scheduler_hints"}, set()),
}


def _number(version: str) -> tuple[int, int]:
    major, minor = version.split(".")
    return int(major), int(minor)


def _expected(version: str, *, admin: bool, single: bool) -> set[str]:
    found: set[str] = set()
    for at, (everybody, administrators) in ADDED.items():
        if _number(at) <= _number(version):
            found |= everybody | (administrators if admin else set())
    return found if single else found - {"server_groups"}


def test_every_version_at_which_the_view_changes_is_here() -> None:
    assert set(boundaries(ServerView)) <= {_number(v) for v in ADDED}
    assert set(VERSIONS.boundaries) <= {_number(v) for v in ADDED}


def test_a_server_has_at_each_version_the_keys_of_that_version(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot("2.1", user_data="aGk=")
        for at in ADDED:
            major, minor = _number(at)
            for version in {at, f"{major}.{max(1, minor - 1)}"}:
                for client, admin in ((s.member, False), (s.admin, True)):
                    shown = await s.server(id, version, client)
                    assert set(shown) == _expected(version, admin=admin, single=True), version
                    listed = await s.get(
                        "/servers/detail?all_tenants=" + str(int(admin)), version, client
                    )
                    one = next(x for x in listed.json["servers"] if x["id"] == id)
                    assert set(one) == _expected(version, admin=admin, single=False), version

    stage.play(story)


def test_what_fields_hold_changes_too(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        old, new = await s.server(id, "2.46"), await s.server(id, "2.47")
        assert set(old["flavor"]) == {"id", "links"} and old["flavor"]["id"] == "42"
        assert new["flavor"] == {
            "vcpus": 1,
            "ram": 128,
            "disk": 1,
            "ephemeral": 0,
            "swap": 0,
            "original_name": "m1.nano",
            "extra_specs": {},
        }
        assert "properties" not in (await s.server(id, "2.97"))["image"]
        assert "properties" in (await s.server(id, "2.98"))["image"]
        assert old["created"].endswith("Z") and len(old["created"]) == 20
        assert not old["OS-SRV-USG:launched_at"].endswith("Z")

    stage.play(story)


@pytest.mark.parametrize(("version", "full"), [("2.74", False), ("2.75", True)])
def test_the_answer_to_an_update_is_whole_since_2_75(
    stage: Stage, version: str, full: bool
) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        reply = await s.member.put(
            f"{SERVERS}/{id}",
            {"server": {"name": "new"}},
            openstack_api_version=f"compute {version}",
        )
        assert reply.status == 200, reply
        keys = set(reply.json["server"])
        whole = _expected(version, admin=False, single=True)
        assert keys == whole if full else "OS-EXT-STS:vm_state" not in keys

    stage.play(story)


@pytest.mark.parametrize(
    ("version", "more", "status"),
    [
        ("2.18", {"description": "x"}, 400),
        ("2.19", {"description": "x"}, 202),
        ("2.36", {"networks": "none"}, 400),
        ("2.36", {"networks": None}, 202),
        ("2.37", {"networks": None}, 400),
        ("2.37", {"networks": "none"}, 202),
        ("2.37", {"networks": "auto"}, 202),
        ("2.51", {"tags": ["a"]}, 400),
        ("2.52", {"tags": ["a"]}, 202),
        ("2.56", {"personality": []}, 202),
        ("2.57", {"personality": []}, 400),
        ("2.89", {"hostname": "a"}, 400),
        ("2.90", {"hostname": "a"}, 202),
        ("2.90", {"hostname": "a.b"}, 400),
        ("2.94", {"hostname": "a.b"}, 202),
    ],
)
def test_a_create_takes_what_its_version_has(
    stage: Stage, version: str, more: dict[str, Any], status: int
) -> None:
    async def story(s: Scene) -> None:
        reply = await s.create(version, **more)
        assert reply.status == status, reply

    stage.play(story)


def test_versions_are_negotiated_by_either_header(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        url = SERVERS
        new = await s.member.get(url, openstack_api_version="compute latest")
        assert new.headers["openstack-api-version"] == "compute 2.104"
        old = await s.member.get(url, x_openstack_nova_api_version="2.60")
        assert old.headers["x-openstack-nova-api-version"] == "2.60"
        assert "X-OpenStack-Nova-API-Version" in old.headers["vary"]
        bad = await s.member.get(url, openstack_api_version="compute 2.999")
        assert bad.status == 406 and "2.104" in bad.body.decode()
        assert (await s.member.get(url, openstack_api_version="compute two")).status == 400

    stage.play(story)


def test_the_version_documents_need_no_token(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        listed = await s.cloud.client.get("/compute/")
        assert listed.status == 200
        versions = listed.json["versions"]
        assert [v["id"] for v in versions] == ["v2.0", "v2.1"]
        for version in versions:
            (link,) = version["links"]
            one = (await s.cloud.client.get(link["href"])).json["version"]
            assert [x for x in one["links"] if x["rel"] == "self"] == version["links"]
            assert one["media-types"]
        assert versions[1]["version"] == "2.104" and versions[1]["min_version"] == "2.1"

    stage.play(story)

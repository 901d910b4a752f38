"""What a guest reads about itself, from the metadata service and from a config drive."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from pileus.services.compute.tests.scene import Scene, Stage
from pileus.services.network.contract import GUEST_METADATA

KEY = (
    "ssh-ed25519 "
    "AAAAC3NzaC1lZDI1NTE5AAAAIJ1lKVD2Vd6oNQxxBaZ4m3bN6Z0AaWkq5EOB0eRJ9nVJ somebody@somewhere"
)
SCRIPT = b"#!/bin/sh\necho hello\n"


async def _boot(s: Scene, **more: Any) -> str:
    body = {"keypair": {"name": "key", "public_key": KEY}}
    await s.member.post("/compute/v2.1/os-keypairs", body)
    user_data = base64.b64encode(SCRIPT).decode()
    return await s.boot(
        name="My Web", key_name="key", user_data=user_data, metadata={"a": "b"}, **more
    )


def test_the_ec2_tree_is_walked_name_by_name(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await _boot(s)
        (port,) = await s.ports(id)
        metadata = s.cloud.runtime.contracts.get(GUEST_METADATA)

        async def get(path: str) -> str:
            answer = await metadata.answer(port["id"], "GET", path)
            assert answer.status == 200, path
            return answer.body.decode()

        assert "latest" in (await get("/")).split("\n")
        assert (await get("/latest")).split("\n") == ["meta-data/", "user-data"]
        names = (await get("/latest/meta-data/")).split("\n")
        assert {"instance-id", "local-ipv4", "public-keys/", "placement/"} <= set(names)
        assert await get("/latest/meta-data/local-ipv4") == port["fixed_ips"][0]["ip_address"]
        assert await get("/latest/meta-data/hostname") == "my-web.novalocal"
        assert await get("/latest/meta-data/public-keys/") == "0=my-public-key"
        assert await get("/latest/meta-data/public-keys/0/openssh-key") == KEY
        assert await get("/2009-04-04/user-data") == SCRIPT.decode()
        assert (await metadata.answer(port["id"], "GET", "/latest/nothing")).status == 404

    stage.play(story)


def test_the_openstack_tree_holds_the_documents(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await _boot(s)
        (port,) = await s.ports(id)
        metadata = s.cloud.runtime.contracts.get(GUEST_METADATA)
        listed = await metadata.answer(port["id"], "GET", "/openstack/latest/")
        assert "meta_data.json" in listed.body.decode().split("\n")
        answer = await metadata.answer(port["id"], "GET", "/openstack/2013-10-17/meta_data.json")
        assert answer.content_type == "application/json"
        found = msgspec.json.decode(answer.body)
        assert (found["uuid"], found["name"], found["meta"]) == (id, "My Web", {"a": "b"})
        assert found["public_keys"] == {"key": KEY}
        network = msgspec.json.decode(
            (await metadata.answer(port["id"], "GET", "/openstack/latest/network_data.json")).body
        )
        assert network["links"][0]["ethernet_mac_address"] == port["mac_address"]
        assert network["networks"][0]["type"] == "ipv4_dhcp"

    stage.play(story)


def test_a_config_drive_holds_the_same_files(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await _boot(s, config_drive=True)
        assert (await s.server(id))["config_drive"] == "True"
        specs = [d._guests[id].spec for d in s.drivers() if id in d._guests]
        files = specs[0].metadata
        assert msgspec.json.decode(files["openstack/latest/meta_data.json"])["uuid"] == id
        assert files["openstack/latest/user_data"] == SCRIPT.decode()
        links = msgspec.json.decode(files["openstack/latest/network_data.json"])["links"]
        assert len(links) == 1
        binary = base64.b64encode(b"\xff\xfe").decode()
        refused = await s.create(config_drive=True, user_data=binary)
        assert refused.status == 400
        assert (await s.create(user_data=binary)).status == 202

    stage.play(story)


def test_a_guest_leaves_its_password_once_and_its_owner_reads_and_clears_it(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await _boot(s)
        (port,) = await s.ports(id)
        metadata = s.cloud.runtime.contracts.get(GUEST_METADATA)

        async def post(body: bytes, path: str = "/openstack/2013-10-17/password") -> int:
            return (await metadata.answer(port["id"], "POST", path, body)).status

        assert await post(b"x" * 1021) == 400
        assert await post(b"secret", "/openstack/latest/meta_data.json") == 405
        assert await post(b"secret") == 200
        assert await post(b"other") == 409
        path = f"/servers/{id}/os-server-password"
        assert (await s.get(path)).json == {"password": "secret"}
        assert (await s.member.delete("/compute/v2.1" + path)).status == 204
        assert (await s.get(path)).json == {"password": ""}

    stage.play(story)

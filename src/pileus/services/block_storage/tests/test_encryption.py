"""Encrypted volumes: whose key opens what, and that no disk of control's has a key in clear."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pileus.services.block_storage.attaching import revealed
from pileus.services.block_storage.attachment import ATTACHMENTS
from pileus.services.block_storage.backup import BACKUPS
from pileus.services.block_storage.contract import VOLUMES as KEPT
from pileus.services.block_storage.driver import ImageBytes, Volume, VolumeSpec
from pileus.services.block_storage.drivers.fake import FakeVolumeDriver
from pileus.services.block_storage.volume import VOLUMES
from pileus.services.identity.keys import KEYRING, KEYS
from pileus.services.identity.settings import Settings
from pileus.testing.client import Client
from pileus.testing.cloud import Cloud, cloud
from pileus.testing.stores import PLACES

from .conftest import Stage
from .given import AT, BASE, act, backup, made, shown, snapshot

TYPE, AGENTS = "secret", "/fake-"  # those serve volumes, and know their doors


async def encrypting(cloud: Cloud) -> None:
    """A volume type with which volumes are encrypted, unless there is one."""
    kind = await cloud.admin.post(f"{BASE}/types", {"volume_type": {"name": TYPE}})
    if kind.status == 409:
        return
    url = f"{BASE}/types/{kind.json['volume_type']['id']}/encryption"
    luks = {"encryption": {"provider": "luks", "key_size": 256, "cipher": "aes-xts-plain64"}}
    assert (await cloud.admin.post(url, luks)).status == 200


async def key_of(cloud: Cloud, id: str) -> str:
    return await revealed(cloud.runtime, (await VOLUMES.get(cloud.runtime.store, id)).sealed)


async def sealed(cloud: Cloud, volume: str, backup: str, attachment: str) -> set[str]:
    """What their rows have of keys."""
    store = cloud.runtime.store
    rows = (await VOLUMES.get(store, volume), await BACKUPS.get(store, backup))
    return {*(row.sealed for row in rows), (await ATTACHMENTS.get(store, attachment)).sealed}


async def password_of(member: Client, attachment: str) -> str:
    """The key of its door."""
    one = (await member.get(f"{BASE}/attachments/{attachment}", **AT)).json["attachment"]
    assert one["connection_info"]["encrypted"] is True
    return str(one["connection_info"]["auth_password"])


async def image_of(cloud: Cloud, id: str, member: Client) -> str:
    reply = await act(member, id, "os-volume_upload_image", {"image_name": "plain"})
    await cloud.settle()
    return str(reply.json["os-volume_upload_image"]["image_id"])


async def restored(cloud: Cloud, member: Client, id: str, into: str | None = None) -> str:
    reply = await member.post(f"{BASE}/backups/{id}/restore", {"restore": {"volume_id": into}})
    assert reply.status == 202, reply
    await cloud.settle()
    return str(reply.json["restore"]["volume_id"])


def test_a_copy_of_an_encrypted_volume_opens_with_its_sources_key(stage: Stage) -> None:
    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        await encrypting(cloud)
        id = await made(cloud, member, volume_type=TYPE)
        taken = await snapshot(cloud, member, id)
        copies = [
            await made(cloud, member, snapshot_id=taken),
            await made(cloud, member, source_volid=id),
        ]
        keys = {await key_of(cloud, one) for one in [id, *copies]}
        assert len(keys) == 1 and len(keys.pop()) == 64
        other = await made(cloud, member, volume_type=TYPE)
        assert await key_of(cloud, other) != await key_of(cloud, id)
        seen = await shown(member, id)
        record = await VOLUMES.get(cloud.runtime.store, id)
        assert seen["encrypted"] is True and record.sealed not in str(seen)

    stage.run(play())


def test_a_backup_of_an_encrypted_volume_opens_when_the_volume_is_gone(stage: Stage) -> None:
    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        await encrypting(cloud)
        id = await made(cloud, member, volume_type=TYPE)
        key = await key_of(cloud, id)
        kept = await backup(cloud, member, id)
        seen = (await member.get(f"{BASE}/backups/{kept}", **AT)).json["backup"]
        assert seen["encryption_key_id"] == (await shown(member, id))["encryption_key_id"]
        assert (await member.delete(f"{BASE}/volumes/{id}")).status == 202
        await cloud.settle()
        new = await restored(cloud, member, kept)
        of_type = await made(cloud, member, backup_id=kept)
        older = await made(cloud, member, volume_type=TYPE)
        assert await key_of(cloud, older) != key
        await restored(cloud, member, kept, older)
        for one in (new, of_type, older):
            assert (await shown(member, one))["status"] == "available"
            assert await key_of(cloud, one) == key

    stage.run(play())


def test_ossa_2018_001_who_connects_an_encrypted_volume_again_is_told_its_key(
    stage: Stage,
) -> None:
    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        await encrypting(cloud)
        id = await made(cloud, member, volume_type=TYPE)
        volumes = cloud.runtime.contracts.get(KEPT)
        host = (await VOLUMES.get(cloud.runtime.store, id)).host
        body = {"attachment": {"volume_uuid": id, "connector": {"host": host}}}
        reply = await member.post(f"{BASE}/attachments", body, **AT)
        one = reply.json["attachment"]["id"]
        for _ in range(2):
            assert await volumes.passphrase(one) == await key_of(cloud, id) != ""
            await volumes.disconnect(one)
            await volumes.connect(one, host)
        await volumes.detach(one)

    stage.run(play())


def test_bytes_that_no_key_would_open_are_refused(stage: Stage) -> None:
    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        await encrypting(cloud)
        secret, plain = await made(cloud, member, volume_type=TYPE), await made(cloud, member)
        kept = {id: await backup(cloud, member, id) for id in (secret, plain)}
        for of, into in ((secret, plain), (plain, secret)):
            body = {"restore": {"volume_id": into}}
            assert (await member.post(f"{BASE}/backups/{kept[of]}/restore", body)).status == 400
        body = {"volume": {"backup_id": kept[plain], "volume_type": TYPE}}
        assert (await member.post(f"{BASE}/volumes", body, **AT)).status == 400
        upload = await act(member, secret, "os-volume_upload_image", {"image_name": "i"})
        assert upload.status == 400

    stage.run(play())


def test_a_new_image_in_an_encrypted_volume_is_encrypted_with_its_key(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs: list[VolumeSpec] = []
    create = FakeVolumeDriver.create

    async def noted(driver: FakeVolumeDriver, spec: VolumeSpec) -> Volume:
        specs.append(spec)
        return await create(driver, spec)

    async def play() -> None:
        member, cloud = await stage.member(), stage.cloud
        await encrypting(cloud)
        id = await made(cloud, member, volume_type=TYPE)
        image = await image_of(cloud, await made(cloud, member), member)
        assert (await act(member, id, "os-reimage", {"image_id": image})).status == 202
        await cloud.settle()
        assert (await shown(member, id))["status"] == "available"
        assert specs[-1].id == id and isinstance(specs[-1].source, ImageBytes)
        assert specs[-1].passphrase == await key_of(cloud, id)

    monkeypatch.setattr(FakeVolumeDriver, "create", noted)
    stage.run(play())


def test_no_key_and_no_ticket_is_in_the_database_a_log_or_a_list_and_a_rotation_seals_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of volumes and of images, and what seals them all."""
    (file := tmp_path / "key-file").write_text("0123456789abcdef" * 2)
    file.chmod(0o600)
    lists = [f"{BASE}/volumes/detail", f"{BASE}/backups/detail", "/image/v2/images"]
    seals = Settings(key_file=str(file))

    async def play() -> tuple[set[str], set[str], list[bytes]]:
        async with cloud(data=tmp_path, settings={"identity": seals}) as c:
            await encrypting(c)
            member = await c.project("p")
            image = await image_of(c, await made(c, member), member)
            id = await made(c, member, volume_type=TYPE, imageRef=image)
            kept = await backup(c, member, id)
            asked = {"volume_uuid": id, "connector": {"host": "bare", "initiator": "iqn.x"}}
            reply = await member.post(f"{BASE}/attachments", {"attachment": asked}, **AT)
            one = reply.json["attachment"]["id"]
            keys = {await key_of(c, id), await password_of(member, one)}
            before = await sealed(c, id, kept, one)
            assert "" not in before
            assert (await c.admin.post("/identity/v3/keys/rotate")).status == 200
            await c.settle()
            after = await sealed(c, id, kept, one)
            assert not after & before
            assert {await key_of(c, id), await password_of(member, one)} == keys
            ring = c.runtime.contracts.get(KEYRING)
            keys |= {ring.file.open(key.secret) for key in await KEYS.all(c.runtime.store)}
            return keys, after, [(await member.get(url)).body for url in lists]

    with caplog.at_level(0):
        keys, after, told = asyncio.run(play())
    files = [path for path in tmp_path.rglob("*") if path.is_file() and AGENTS not in str(path)]
    kept = b"".join(path.read_bytes() for path in files)
    assert PLACES.server or all(text.encode() in kept for text in after)
    everywhere = b"".join([kept, *told, caplog.text.encode()])
    assert [text for text in (*keys, "/tickets/") if text.encode() in everywhere] == []

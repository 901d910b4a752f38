"""Who is given a console's address, of what kind, for how long."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from pileus.kernel.faults import NotFound
from pileus.services.compute.consoles import CONSOLE_TOKENS, KeptConsoles
from pileus.services.compute.tests.scene import SERVERS, Scene, Stage


async def console(
    s: Scene, id: str, version: str, protocol: str, kind: str, who: Any = None
) -> Any:
    body = {"remote_console": {"protocol": protocol, "type": kind}}
    return await (who or s.member).post(
        f"{SERVERS}/{id}/remote-consoles", body, openstack_api_version=f"compute {version}"
    )


def token_of(url: str) -> str:
    query = parse_qs(urlsplit(url).query)
    return query["token"][0] if "token" in query else query["path"][0].rpartition("=")[2]


def test_consoles_are_given_by_kind_and_version(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        for version, protocol, kind, status in (
            ("2.6", "vnc", "novnc", 200),
            ("2.99", "serial", "serial", 200),
            ("2.6", "spice", "spice-html5", 400),
            ("2.6", "rdp", "rdp-html5", 400),
            ("2.7", "mks", "webmks", 400),
            ("2.8", "mks", "webmks", 400),
            ("2.6", "vnc", "serial", 400),
            ("2.6", "telnet", "novnc", 400),
            ("2.5", "vnc", "novnc", 404),
        ):
            reply = await console(s, id, version, protocol, kind)
            assert reply.status == status, (version, protocol, kind, reply)
            if status == 200:
                shown = reply.json["remote_console"]
                assert (shown["protocol"], shown["type"]) == (protocol, kind)
                assert len(token_of(shown["url"])) == 64
        for action, kind, status in (
            ("os-getVNCConsole", "novnc", 200),
            ("os-getVNCConsole", "xvpvnc", 400),
            ("os-getSerialConsole", "serial", 200),
            ("os-getSPICEConsole", "spice-html5", 400),
        ):
            assert (await s.act(id, {action: {"type": kind}})).status == status, action
        assert (await console(s, id, "2.6", "vnc", "novnc", await s.other())).status == 404
        await s.act(id, "os-stop")
        refused = await console(s, id, "2.6", "vnc", "novnc")
        assert refused.status == 409
        assert "get_vnc_console" in refused.json["conflictingRequest"]["message"]

    stage.play(story)


def test_a_token_is_shown_to_administrators_and_used_up_by_its_console(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        id = await s.boot()
        host = (await s.server(id, client=s.admin))["OS-EXT-SRV-ATTR:host"]
        reply = await console(s, id, "2.31", "vnc", "novnc")
        token = token_of(reply.json["remote_console"]["url"])
        path = f"/os-console-auth-tokens/{token}"
        shown = (await s.get(path, "2.31", s.admin)).json["console"]
        assert (shown["instance_uuid"], shown["host"]) == (id, host)
        assert isinstance(shown["port"], int) and shown["internal_access_path"] is None
        assert (await s.get(path, "2.31")).status == 403
        assert (await s.get(path, "2.30", s.admin)).status == 400
        assert (await s.get(path + "0", "2.31", s.admin)).status == 404
        assert await CONSOLE_TOKENS.find(s.cloud.runtime.store, token) is None, "only its hash is"
        consoles = KeptConsoles(s.cloud.runtime)
        opened = await consoles.redeem(token)
        assert (opened.server_id, opened.host, opened.protocol) == (id, host, "vnc")
        with pytest.raises(NotFound):
            await consoles.redeem(token)
        assert (await s.get(path, "2.31", s.admin)).status == 404

    stage.play(story)


def test_a_token_that_is_too_old_or_of_a_server_elsewhere_opens_nothing(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        consoles = KeptConsoles(s.cloud.runtime)
        store = s.cloud.runtime.store
        for change in ({"expires_at": "2026-01-01T00:00:00.000000Z"}, {"host": "elsewhere"}):
            id = await s.boot()
            reply = await console(s, id, "2.6", "serial", "serial")
            (kept,) = [t for t in await CONSOLE_TOKENS.all(store) if t.server_id == id]
            async with store.tx() as tx:
                await CONSOLE_TOKENS.change(tx, kept, **change)
            with pytest.raises(NotFound):
                await consoles.redeem(token_of(reply.json["remote_console"]["url"]))
            assert await CONSOLE_TOKENS.find(store, kept.id) is None

    stage.play(story)

"""Access tokens for OAuth 2.0 clients."""

from __future__ import annotations

import base64
import sys
from typing import Any
from urllib.parse import urlencode

from pileus.services.identity.tests.clouds import V3, Identity, alone
from pileus.services.identity.tests.test_delegation import lent
from pileus.testing.client import Reply

FORM = {"grant_type": "client_credentials"}


async def ask(i: Identity, form: dict[str, str] | bytes, **headers: str) -> Reply:
    raw = form if isinstance(form, bytes) else urlencode(form).encode()
    kind = {"content_type": "application/x-www-form-urlencoded", **headers}
    url = f"{V3}/OS-OAUTH2/token"
    return await i.anybody.client.request("POST", url, raw=raw, headers=kind)


def basic(id: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{id}:{secret}".encode()).decode()


@alone
async def test_a_client_gets_a_token_that_every_service_takes_as_bearer(i: Identity) -> None:
    owner = await i.who("u", "member", f"projects/{await i.project('p')}")
    made, _ = await lent(i, owner, roles=[{"name": "reader"}])
    inside = {**FORM, "client_id": made["id"], "client_secret": made["secret"]}
    for reply in (
        await ask(i, FORM, authorization=basic(made["id"], made["secret"])),
        await ask(i, inside),
    ):
        assert reply.status == 200, reply
        assert reply.json["token_type"] == "Bearer" and reply.json["expires_in"] == 3600
        assert reply.headers["cache-control"] == "no-store"
        token = reply.json["access_token"]
        bearer = {"authorization": f"Bearer {token}"}
        shown = await i.anybody.get("/auth/tokens", x_subject_token=token, **bearer)
        assert [r["name"] for r in shown.json["token"]["roles"]] == ["reader"]
        projects = (await i.anybody.get("/auth/projects", **bearer)).json["projects"]
        assert [p["id"] for p in projects] == [owner.project_id]


@alone
async def test_whoever_is_no_client_is_told_so_in_oauths_words(i: Identity) -> None:
    owner = await i.who("u", "member", f"projects/{await i.project('p')}")
    made, _ = await lent(i, owner)
    good = basic(made["id"], made["secret"])
    cases: list[tuple[dict[str, str] | bytes, str, int, str]] = [
        ({}, good, 400, "invalid_request"),
        ({"grant_type": "password"}, good, 400, "unsupported_grant_type"),
        (b"\xff\xfe=1", good, 400, "invalid_request"),
        (FORM, "", 401, "invalid_client"),
        (FORM, "Basic !", 401, "invalid_client"),
        (FORM, basic(made["id"], ""), 401, "invalid_client"),
        (FORM, basic(made["id"], "wrong"), 401, "invalid_client"),
        (FORM, basic("nobody", made["secret"]), 401, "invalid_client"),
        (FORM, f"Bearer {owner.token}", 401, "invalid_client"),
    ]
    for form, authorization, status, error in cases:
        headers: dict[str, Any] = {"authorization": authorization} if authorization else {}
        reply = await ask(i, form, **headers)
        assert (reply.status, reply.json["error"]) == (status, error), (form, authorization, reply)
        assert reply.json["error_description"]
        assert ("www-authenticate" in reply.headers) is (status == 401)
    assert (await ask(i, b"a=" + b"x" * 20_000)).status == 413
    assert (await i.anybody.get("/OS-OAUTH2/token")).status == 405


def test_no_error_is_kept_to_be_raised_again() -> None:
    """Each raise would lengthen its traceback, and keep the secrets of those who were refused."""
    kept = [
        f"{module.__name__}.{name}"
        for module in list(sys.modules.values())
        if module.__name__.startswith("pileus.services.identity")
        for name, value in vars(module).items()
        if isinstance(value, BaseException)
    ]
    assert kept == []

"""OpenID Connect with a real provider: who logs in, who does not, and how browsers and keystoneauth do it."""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import hmac
import json
import logging
import re
import webbrowser
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import msgspec
import pytest
import requests
from joserfc import jwt
from keystoneauth1 import loading, session
from keystoneauth1.identity import v3

from pileus.kernel.world import Clock, World
from pileus.services.identity import SERVICE
from pileus.services.identity.federation.trusted import FILE
from pileus.services.identity.tests.clouds import Identity, Who
from pileus.services.identity.tests.openid_provider import (
    CLIENT,
    SECRET,
    OpenIdProvider,
    openid_provider,
)
from pileus.services.identity.tests.served import served
from pileus.testing.client import Client, Reply
from pileus.testing.cloud import cloud
from pileus.testing.ports import free_port

FEDERATION = "/OS-FEDERATION"
DASHBOARD = "https://dashboard.example.com/auth/websso/"
LISTENER = "http://localhost:{}/auth/websso/"
PROTOCOL = f"{FEDERATION}/identity_providers/acme/protocols/openid"
WEBSSO = "/auth/OS-FEDERATION/identity_providers/acme/protocols/openid/websso"
NAVIGATION = {  # what browsers say of a form that a page of another site sent by itself
    "sec-fetch-mode": "navigate",
    "sec-fetch-dest": "document",
    "sec-fetch-site": "cross-site",
    "origin": "null",
}
RULES = [
    {
        "local": [
            {"user": {"id": "{0}", "name": "{1}"}},
            {"groups": "{2}", "domain": {"id": "default"}},
        ],
        "remote": [{"type": "OIDC-sub"}, {"type": "HTTP_OIDC_EMAIL"}, {"type": "OIDC-groups"}],
    }
]


class LateClock(Clock):
    """The clock of a world that may be put forward."""

    late_s = 0.0

    def time(self) -> float:
        return super().time() + self.late_s

    def monotonic(self) -> float:
        return super().monotonic() + self.late_s


@dataclass
class Scene:
    """A cloud that trusts a provider, in which the group `Devs` are members of `project`."""

    i: Identity
    provider: OpenIdProvider
    clock: LateClock
    project: str

    def trust(self, **fields: Any) -> None:
        """Writes the operator's file; it is read again a second later."""
        issuer = {"client_id": CLIENT, "client_secret": SECRET, **fields}
        content = {"issuers": {self.provider.url: issuer}, "trusted_dashboards": [DASHBOARD]}
        (self.i.cloud.runtime.data / FILE).write_text(json.dumps(content))
        self.clock.late_s += 2

    def token(self, user: str = "alice", password: str = "pw") -> str:
        """An access token, as any program gets it for its user."""
        form = {"grant_type": "password", "username": user, "password": password}
        reply = requests.post(
            f"{self.provider.url}/token",
            data={**form, "scope": "openid profile"},
            auth=(CLIENT, SECRET),
            timeout=10,
        )
        assert reply.status_code == 200, reply.text
        return str(reply.json()["access_token"])

    async def bearer(self, token: str) -> Reply:
        path = f"/identity/v3{PROTOCOL}/auth"
        return await self.i.anybody.client.post(path, authorization=f"Bearer {token}")

    async def fresh(self, **lies: Any) -> Reply:
        """Logs in with a new token that bears these claims instead of the true ones."""
        self.provider.lies = lies
        token = await asyncio.to_thread(self.token)
        self.provider.lies = {}
        return await self.bearer(token)


Test = Callable[[Scene], Awaitable[None]]


def scene(test: Test) -> Callable[[], None]:
    async def run(provider: OpenIdProvider) -> None:
        clock = LateClock()
        async with cloud([SERVICE], hosts=0, world=World(clock)) as c:
            admin = Who(c.admin, c.admin.user_id, c.admin.project_id)
            found = Scene(Identity(c, admin, Who(c.client)), provider, clock, "")
            await _prepare(found)
            await test(found)

    @functools.wraps(test)
    def wrapped() -> None:
        with openid_provider() as provider:
            provider.add("alice", email="alice@example.com", groups=["devs", "other"])
            provider.add("mallory", email="mallory@example.com", groups=["other"])
            asyncio.run(run(provider))

    del wrapped.__wrapped__
    return wrapped


async def _prepare(s: Scene) -> None:
    s.trust()
    admin = s.i.admin
    group = await admin.make("/groups", name="Devs", domain_id="default")
    s.project = await s.i.project("cloudy")
    role = f"/projects/{s.project}/groups/{group['id']}/roles/{await s.i.role('member')}"
    provider = {"enabled": True, "remote_ids": [s.provider.url]}
    for path, body in (
        (f"{FEDERATION}/mappings/m", {"mapping": {"rules": RULES}}),
        (f"{FEDERATION}/identity_providers/acme", {"identity_provider": provider}),
        (PROTOCOL, {"protocol": {"mapping_id": "m", "remote_id_attribute": "HTTP_OIDC_ISS"}}),
    ):
        made = await admin.put(path, body)
        assert made.status == 201, made
    assert (await admin.put(role)).status == 204


def refused(reply: Reply) -> None:
    """The one 401 that tells nothing."""
    assert reply.status == 401, reply
    assert reply.json["error"]["message"] == "The request you have made requires authentication."
    assert "x-subject-token" not in reply.headers


# Bearer tokens


@scene
async def test_a_providers_token_logs_in_and_reaches_what_its_groups_may(s: Scene) -> None:
    reply = await s.bearer(await asyncio.to_thread(s.token))
    assert reply.status == 201, reply
    token = reply.json["token"]
    assert token["user"]["name"] == "alice@example.com" and token["methods"] == ["openid"]
    assert len(token["user"]["OS-FEDERATION"]["groups"]) == 1
    who = s.i.anybody.client.as_(reply.headers["x-subject-token"])
    found = (await who.get("/identity/v3/auth/projects")).json["projects"]
    assert [p["name"] for p in found] == ["cloudy"]
    other = await s.bearer(await asyncio.to_thread(s.token, "mallory"))
    stranger = s.i.anybody.client.as_(other.headers["x-subject-token"])
    assert (await stranger.get("/identity/v3/auth/projects")).json["projects"] == []


@scene
async def test_the_method_openid_takes_the_bearer_token_and_a_federated_one(s: Scene) -> None:
    token = await asyncio.to_thread(s.token)
    part = {"identity_provider": "acme", "protocol": "openid"}
    scope = {"project": {"id": s.project}}
    body = {"auth": {"identity": {"methods": ["openid"], "openid": part}, "scope": scope}}
    url = "/identity/v3/auth/tokens"
    reply = await s.i.anybody.client.post(url, body, authorization=f"bearer {token}")
    assert reply.status == 201 and reply.json["token"]["project"]["name"] == "cloudy"
    refused(await s.i.anybody.client.post(url, body))
    unscoped = (await s.bearer(token)).headers["x-subject-token"]
    again = await s.i.login(mapped={"id": unscoped}, scope=scope)
    assert again.status == 201 and again.json["token"]["project"]["name"] == "cloudy"
    own = await s.i.token(await s.i.user("local"))
    refused(await s.i.login(mapped={"id": own.token}))
    assert (await s.i.login(mapped={"protocol": "openid"})).status == 400


@scene
async def test_a_token_of_another_issuer_audience_or_time_lets_nobody_in(s: Scene) -> None:
    now = int(s.clock.time())
    lies: dict[str, Any]
    for lies in (
        {"iss": "https://evil.example.com"},
        {"iss": s.provider.url + "/"},
        {"aud": "somebody else"},
        {"aud": ["a", "b"]},
        {"aud": []},
        {"exp": now - 3600},
        {"exp": "never"},
        {"exp": None},
        {"nbf": now + 3600},
        {"iat": now + 3600},
        {"sub": None},
        {"sub": 5},
        {"sub": ""},
    ):
        reply = await s.fresh(**lies)
        assert reply.status == 401, lies
        refused(reply)
    assert (await s.fresh(aud=["other", CLIENT])).status == 201
    assert (await s.fresh(exp=now - 30)).status == 201  # clocks differ a little


@scene
async def test_a_token_that_the_issuer_did_not_sign_lets_nobody_in(s: Scene) -> None:
    token = await asyncio.to_thread(s.token)
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    forged = _part({**claims, "sub": "admin"})
    public = await asyncio.to_thread(
        lambda: requests.get(f"{s.provider.url}/keys", timeout=10).json()["keys"][0]
    )
    pem = s.provider.keys[0].as_pem(private=False)
    signed = f"{_part({'alg': 'HS256', 'kid': public['kid']})}.{body}"
    mac = hmac.new(pem, signed.encode(), hashlib.sha256).digest()
    shared = f"{signed}.{base64.urlsafe_b64encode(mac).decode().rstrip('=')}"
    with openid_provider() as other:
        other.keys[0] = other.keys[0].import_key(
            {**other.keys[0].as_dict(private=True), "kid": public["kid"]}
        )
        elsewhere = jwt.encode({"alg": "RS256", "kid": public["kid"]}, claims, other.keys[0])
    for bad in (
        f"{head}.{forged}.{signature}",
        f"{_part({'alg': 'none'})}.{body}.",
        f"{_part({'alg': 'none'})}.{body}.{signature}",
        f"{_part({'alg': 'RS256'})}.{body}.{signature[:-8]}AAAAAAAA",
        shared,
        elsewhere,
        "a.b.c",
        f"{_nested(b'[')}.{body}.{signature}",
        f"{head}.{_nested(b'[')}.{signature}",
        "..",
        "x" * 20_000,
        "",
        token[:-1] + "é",
    ):
        refused(await s.bearer(bad))
    assert (await s.bearer(token)).status == 201


def _nested(opening: bytes) -> str:
    return base64.urlsafe_b64encode(b'{"iss":' + opening * 5_000).decode().rstrip("=")


def _part(document: Any) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(document)).decode().rstrip("=")


@scene
async def test_keys_rotate_and_an_unknown_key_is_not_asked_for_at_every_request(s: Scene) -> None:
    old = await asyncio.to_thread(s.token)
    assert (await s.bearer(old)).status == 201
    s.provider.rotate()
    new = await asyncio.to_thread(s.token)
    asked = s.provider.asked.count("/keys")
    for _ in range(5):
        refused(await s.bearer(new))  # the keys were fetched a moment ago
    assert s.provider.asked.count("/keys") == asked
    s.clock.late_s += 15
    assert (await s.bearer(new)).status == 201
    assert s.provider.asked.count("/keys") == asked + 1
    refused(await s.bearer(old))


@scene
async def test_a_token_that_only_its_issuer_can_read_is_asked_about(s: Scene) -> None:
    s.provider.opaque, s.provider.auth_methods = True, ["client_secret_post"]
    token = await asyncio.to_thread(s.token)
    assert "." not in token
    reply = await s.bearer(token)
    assert reply.status == 201 and reply.json["token"]["user"]["name"] == "alice@example.com"
    refused(await s.bearer(token[:-1]))
    for lies in ({"active": False}, {"aud": "x"}, {"iss": "https://x"}, {"exp": 1}, {"sub": 1}):
        s.provider.lies = lies
        refused(await s.bearer(token))
    s.provider.lies = {}
    s.trust(client_secret="")
    refused(await s.bearer(token))


@scene
async def test_more_is_asked_of_the_provider_where_the_operator_wants_it(s: Scene) -> None:
    s.provider.opaque = True
    token = await asyncio.to_thread(s.token)
    s.provider.lies = {"email": None, "groups": None}  # of the introspection only
    refused(await s.bearer(token))
    s.trust(userinfo=True)
    s.provider.lies = {"aud": CLIENT}
    assert (await s.bearer(token)).json["token"]["user"]["name"] == "alice@example.com"
    s.provider.lies = {"sub": "mallory"}
    refused(await s.bearer(token))


@scene
async def test_an_issuer_that_the_operator_does_not_trust_is_never_asked(s: Scene) -> None:
    token = await asyncio.to_thread(s.token)
    before = list(s.provider.asked)
    (s.i.cloud.runtime.data / FILE).unlink()
    s.clock.late_s += 2
    refused(await s.bearer(token))
    s.trust()
    body: Any
    for ids in ([], ["https://somebody.else"]):
        body = {"identity_provider": {"remote_ids": ids}}
        await s.i.admin.patch(f"{FEDERATION}/identity_providers/acme", body)
        refused(await s.bearer(token))
        refused(await s.bearer("opaque"))
    assert s.provider.asked == before
    assert (
        await s.i.anybody.post(f"{FEDERATION}/identity_providers/x/protocols/y/auth")
    ).status == 404
    body = {"identity_provider": {"enabled": False}}
    await s.i.admin.patch(f"{FEDERATION}/identity_providers/acme", body)
    assert (await s.bearer(token)).status == 403


@scene
async def test_ossa_2013_003_a_junk_bearer_token_makes_one_short_line_of_log(s: Scene) -> None:
    written: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: written.append(record.getMessage())  # type: ignore[method-assign]
    log, before = logging.getLogger("pileus"), logging.getLogger("pileus").level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        refused(await s.bearer(f"{_part({})}.{_part({'iss': 'evil' + chr(10) * 9000})}.x"))
    finally:
        log.removeHandler(handler)
        log.setLevel(before)
    assert any("evil" in line for line in written)
    assert max(map(len, written)) < 1000 and not any(chr(10) in line for line in written)


@scene
async def test_a_provider_that_is_gone_answers_no_login_and_harms_nobody(s: Scene) -> None:
    token = await asyncio.to_thread(s.token)
    s.provider.url = "http://127.0.0.1:1"
    s.trust()
    body = {"identity_provider": {"remote_ids": ["http://127.0.0.1:1"]}}
    await s.i.admin.patch(f"{FEDERATION}/identity_providers/acme", body)
    refused(await s.bearer("opaque"))
    refused(await s.bearer(token))
    assert (await s.i.admin.get("/projects")).status == 200


@scene
async def test_a_slip_of_the_operators_pen_leaves_what_was_trusted(s: Scene) -> None:
    token = await asyncio.to_thread(s.token)
    assert (await s.bearer(token)).status == 201
    for bad in ("issuers: [", "issuers: {'http://plain.example.com': {client_id: x}}", "x: 1"):
        (s.i.cloud.runtime.data / FILE).write_text(bad)
        s.clock.late_s += 2
        assert (await s.bearer(token)).status == 201, bad


# keystoneauth


@scene
async def test_keystoneauth_logs_in_by_each_of_its_openid_plugins(s: Scene) -> None:
    """By the names and options under which a clouds.yaml asks for them."""
    access_token = await asyncio.to_thread(s.token)
    discovery = s.provider.url + "/.well-known/openid-configuration"
    app = {
        "client_id": CLIENT,
        "client_secret": SECRET,
        "discovery_endpoint": discovery,
        "scope": "openid profile",
    }

    def log_in(url: str) -> None:
        asked: dict[str, dict[str, Any]] = {
            "v3oidcpassword": {**app, "username": "alice", "password": "pw"},
            "v3oidcclientcredentials": app,
            "v3oidcaccesstoken": {"access_token": access_token},
            "v3oidcdeviceauthz": app,
            "v3oidcauthcode": {
                **app,
                "code": _code(s),
                "redirect_uri": url,
                "access_token_type": "id_token",
            },
        }
        where = {"auth_url": url, "identity_provider": "acme", "protocol": "openid"}
        for name, options in asked.items():
            loader: Any = loading.get_plugin_loader(name)
            plugin = loader.load_from_options(**where, **options, project_id=s.project)
            client = session.Session(plugin)
            found = client.get(f"{url}/v3/auth/projects").json()["projects"]
            assert [p["id"] for p in found] == [s.project], name
            access = plugin.get_access(client)
            assert access.project_id == s.project, name
            assert access.role_names == ["member", "reader"], name

    s.provider.user = "alice"
    s.provider.robot = {"email": "robot@example.com", "groups": ["devs"]}
    async with served(s.i.cloud) as url:
        s.provider.app.redirect_uris.add(url)
        await asyncio.to_thread(log_in, url)


def _code(s: Scene) -> str:
    """The code that alice's browser carries back to a program."""
    asked = {
        "response_type": "code",
        "client_id": CLIENT,
        "redirect_uri": s.provider.app.get_default_redirect_uri(),
        "scope": "openid profile",
    }
    reply = requests.get(
        f"{s.provider.url}/authorize", params=asked, allow_redirects=False, timeout=10
    )
    return parse_qs(urlsplit(reply.headers["location"]).query)["code"][0]


# Browsers


@dataclass
class Browser:
    """Follows no redirect by itself; its cookies are those of the cloud."""

    client: Client
    cookies: dict[str, str]

    async def get(self, url: str) -> Reply:
        cookie = "; ".join(f"{k}={v}" for k, v in self.cookies.items())
        reply = await self.client.get(url, cookie=cookie)
        if "set-cookie" in reply.headers:
            name, _, value = reply.headers["set-cookie"].partition(";")[0].partition("=")
            self.cookies[name] = value
        return reply


async def begun(s: Scene, where: str = WEBSSO) -> tuple[Browser, str]:
    """A browser at the provider's door, and the URL there."""
    s.provider.user = "alice"
    s.provider.app.redirect_uris.add(
        "http://cloud.test:5000/identity/v3/auth/OS-FEDERATION/redirect_uri"
    )
    browser = Browser(s.i.anybody.client, {})
    reply = await browser.get(f"/identity/v3{where}?origin={quote(DASHBOARD, safe='')}")
    assert reply.status == 302, reply
    assert "HttpOnly" in reply.headers["set-cookie"]
    return browser, reply.headers["location"]


async def sent_back(url: str) -> str:
    """Where the provider sends the browser."""
    reply = await asyncio.to_thread(requests.get, url, allow_redirects=False, timeout=10)
    assert reply.status_code == 302, reply.text
    return str(reply.headers["location"])


@pytest.mark.parametrize("where", [WEBSSO, "/auth/OS-FEDERATION/websso/openid"])
def test_a_browser_logs_in_and_the_dashboard_gets_the_token(where: str) -> None:
    @scene
    async def there_and_back(s: Scene) -> None:
        browser, door = await begun(s, where)
        page = await browser.get(await sent_back(door))
        assert page.status == 200 and page.headers["content-type"].startswith("text/html")
        text = page.body.decode()
        assert f'action="{DASHBOARD}" method="post"' in text
        token = re.findall(r'name="token" value="([^"]+)"', text)[0]
        who = s.i.anybody.client.as_(token)
        found = (await who.get("/identity/v3/auth/projects")).json["projects"]
        assert [p["name"] for p in found] == ["cloudy"]
        assert "no-store" in page.headers["cache-control"]
        assert list(browser.cookies.values()) == [""]

    there_and_back()


@scene
async def test_a_login_is_finished_by_the_browser_that_began_it_and_once(s: Scene) -> None:
    browser, door = await begun(s)
    back = await sent_back(door)
    stranger, other_door = await begun(s)
    refused(await stranger.get(back))  # a link that somebody else sent her
    refused(await Browser(s.i.anybody.client, {}).get(back))
    kept = dict(browser.cookies)
    wrong = back.replace("state=", "state=x")
    refused(await Browser(s.i.anybody.client, dict.fromkeys(kept, "forged")).get(back))
    refused(await browser.get(wrong))
    assert (await browser.get(back)).status == 200
    refused(await Browser(s.i.anybody.client, kept).get(back))  # the code is used
    late = await sent_back(other_door)
    s.clock.late_s += 601
    refused(await stranger.get(late))


@scene
async def test_an_id_token_made_for_another_login_or_client_lets_nobody_in(s: Scene) -> None:
    for lies in (
        {"nonce": "another"},
        {"azp": "another"},
        {"aud": "another"},
        {"iss": "https://x"},
    ):
        browser, door = await begun(s)
        back = await sent_back(door)
        s.provider.lies = lies
        refused(await browser.get(back))
    s.provider.lies = {}
    browser, door = await begun(s)
    refused(await browser.get(f"{await sent_back(door)}&iss=https%3A%2F%2Fevil"))
    state = parse_qs(urlsplit(door).query)["state"][0]
    path = "/identity/v3/auth/OS-FEDERATION/redirect_uri"
    refused(await browser.get(f"{path}?state={state}&error=access_denied"))
    refused(await browser.get(path))


@scene
async def test_only_trusted_dashboards_get_tokens(s: Scene) -> None:
    for origin in ("https://evil.example.com/auth/websso/", DASHBOARD[:-1], DASHBOARD + "x"):
        reply = await s.i.anybody.get(f"{WEBSSO}?origin={quote(origin, safe='')}")
        assert reply.status == 401 and "not a trusted dashboard" in reply.json["error"]["message"]
    assert (await s.i.anybody.get(WEBSSO)).status == 400
    origin = quote(DASHBOARD, safe="")
    nowhere = f"/auth/OS-FEDERATION/websso/saml2?origin={origin}"
    assert (await s.i.anybody.get(nowhere)).status == 404


@scene
async def test_keystoneauths_web_single_sign_on_gets_its_token(s: Scene) -> None:
    class Window(webbrowser.BaseBrowser):
        """Follows redirects with cookies, and posts the form that it is shown, as scripts do."""

        def open(self, url: str, new: int = 0, autoraise: bool = True) -> bool:
            with requests.Session() as http:
                page = http.get(url, timeout=10)
                action, token = re.findall(
                    r'action="([^"]+)".*name="token" value="([^"]+)"', page.text, re.S
                )[0]
                asyncio.run_coroutine_threadsafe(_post(action, token), loop)
            return True

    async def _post(action: str, token: str) -> None:
        await asyncio.to_thread(
            requests.post, action, data={"token": token}, headers=NAVIGATION, timeout=10
        )

    def log_in(url: str) -> None:
        plugin = v3.WebSSO(
            url,
            identity_provider="acme",
            protocol="openid",
            project_id=s.project,
            redirect_port=port,
            login_timeout=15,
        )
        assert plugin.get_access(session.Session(plugin)).project_id == s.project

    loop, port = asyncio.get_running_loop(), free_port()
    s.provider.user = "alice"
    issuer = {"client_id": CLIENT, "client_secret": SECRET}
    content = {"issuers": {s.provider.url: issuer}, "trusted_dashboards": [LISTENER.format(port)]}
    (s.i.cloud.runtime.data / FILE).write_text(json.dumps(content))
    s.clock.late_s += 2
    webbrowser.register("window", None, Window(), preferred=True)
    async with served(s.i.cloud) as url:
        s.provider.app.redirect_uris.add(f"{url}/v3/auth/OS-FEDERATION/redirect_uri")
        await asyncio.to_thread(log_in, url)

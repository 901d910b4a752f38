"""Logging in by every method that a `clouds.yaml` can name, with the unmodified SDK and client; and the middleware by
which every other OpenStack service protects itself, before a small application.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pileus.cli.client import Client, Credentials
from pileus.kernel.world import Clock
from pileus.testing.running import RunningCloud, running
from tests.e2e.shell import client_venv

SECRET = base64.b32encode(b"clouds.yaml test").decode()
PASSWORD = "clouds-yaml-test"
GUARDED = Path(__file__).parent / "guarded.py"
_SDK = """
import json, sys, openstack
for name in sys.argv[1:]:
    cloud = openstack.connect(cloud=name)
    token = cloud.auth_token
    view = cloud.session.get(
        "/auth/tokens", endpoint_filter={"service_type": "identity", "interface": "public",
        "version": "3"}, headers={"X-Subject-Token": token}).json()["token"]
    print(json.dumps({"name": name, "token": token, "methods": sorted(view["methods"]),
        "project": view.get("project", {}).get("id"), "roles": sorted(r["name"] for r in view.get("roles", ())),
        "user": view["user"]["id"]}))
"""


class Site:
    """A cloud, and a user in it with everything to log in by."""

    def __init__(self, cloud: RunningCloud, folder: Path) -> None:
        self.client, self.folder = cloud.client(), folder
        self.auth_url = cloud.environment()["OS_AUTH_URL"]
        self.project = self.make("project", name="yaml", domain_id="default")
        self.user = self.user_with("member", "yaml-user")
        self.guarded = self.user_with("member", "yaml-factors")
        rules = {"multi_factor_auth_rules": [["password", "totp"]]}
        self.identity("PATCH", f"/users/{self.guarded}", {"user": {"options": rules}})
        self.trustee = self.make("user", name="yaml-trustee", password=PASSWORD)
        for user in (self.user, self.guarded):
            self.make("credential", user_id=user, type="totp", blob=SECRET)
        own = self.own()
        self.credential = self._application_credential(own)
        self.trust = self._trust(own)

    def identity(self, method: str, path: str, body: Any = None) -> Any:
        return self.client.call(method, "identity", f"/v3{path}", body)

    def make(self, noun: str, **fields: Any) -> str:
        return str(self.identity("POST", f"/{noun}s", {noun: fields})[noun]["id"])

    def user_with(self, role: str, name: str) -> str:
        user = self.make("user", name=name, password=PASSWORD)
        [found] = self.identity("GET", f"/roles?name={role}")["roles"]
        for place in (f"/projects/{self.project}", "/domains/default"):
            self.identity("PUT", f"{place}/users/{user}/roles/{found['id']}")
        [reader] = self.identity("GET", "/roles?name=reader")["roles"]
        self.identity("PUT", f"/system/users/{user}/roles/{reader['id']}")
        return user

    def token(self) -> str:
        """The user's, by password, on his project."""
        return self.own().token

    def own(self) -> Client:
        names = {
            "OS_AUTH_URL": self.auth_url,
            "OS_USERNAME": "yaml-user",
            "OS_PASSWORD": PASSWORD,
            "OS_PROJECT_NAME": "yaml",
            "OS_USER_DOMAIN_NAME": "Default",
            "OS_PROJECT_DOMAIN_NAME": "Default",
        }
        client = Client(Credentials.of(names))
        client.login()
        return client

    def narrowed(self, rules: list[dict[str, str]]) -> str:
        """A token of the user's by a credential with access rules; their service is in the catalog."""
        service = self.make("service", type=rules[0]["service"], name="guarded")
        self.make("endpoint", service_id=service, interface="public", url="http://guarded.test")
        made = self._application_credential(self.own(), name="narrowed", access_rules=rules)
        part = {"id": made["id"], "secret": made["secret"]}
        identity = {"methods": ["application_credential"], "application_credential": part}
        url = f"{self.auth_url}/v3/auth/tokens"
        answer = self.client.send("POST", url, {"auth": {"identity": identity}})
        return str(answer.headers["x-subject-token"])

    def _application_credential(self, own: Client, **fields: Any) -> dict[str, Any]:
        asked = {"name": "yaml", "roles": [{"name": "reader"}], **fields}
        body = {"application_credential": asked}
        path = f"/v3/users/{self.user}/application_credentials"
        made: dict[str, Any] = own.call("POST", "identity", path, body)["application_credential"]
        return made

    def _trust(self, own: Client) -> str:
        asked = {
            "trustor_user_id": self.user,
            "trustee_user_id": self.trustee,
            "project_id": self.project,
            "roles": [{"name": "member"}],
            "impersonation": True,
        }
        made = own.call("POST", "identity", "/v3/OS-TRUST/trusts", {"trust": asked})
        return str(made["trust"]["id"])

    def clouds(self) -> dict[str, dict[str, Any]]:
        """What `clouds.yaml` says; passcodes are of now."""
        password = {"username": "yaml-user", "password": PASSWORD, "user_domain_id": "default"}
        project = {"project_name": "yaml", "project_domain_name": "Default"}
        credential = self.credential["id"], self.credential["secret"]
        by_name = {"username": "yaml-user", "user_domain_name": "Default"}
        return {
            "project": _cloud("v3password", password, project),
            "domain": _cloud("v3password", password, {"domain_id": "default"}),
            "system": _cloud("v3password", password, {"system_scope": "all"}),
            "token": _cloud("v3token", {"token": self.token()}, project),
            "totp": _cloud("v3totp", {"user_id": self.user, "passcode": _passcode()}, project),
            "factors": _cloud(
                "v3multifactor",
                {"auth_methods": ["v3password", "v3totp"], "passcode": _passcode()},
                {**password, "username": "yaml-factors", **project},
            ),
            "credential": _cloud(
                "v3applicationcredential",
                {"application_credential_id": credential[0]},
                {"application_credential_secret": credential[1]},
            ),
            "named-credential": _cloud(
                "v3applicationcredential",
                {"application_credential_name": "yaml", **by_name},
                {"application_credential_secret": credential[1]},
            ),
            "oauth2": _cloud(
                "v3oauth2clientcredential",
                {"oauth2_client_id": credential[0], "oauth2_client_secret": credential[1]},
                {"oauth2_endpoint": f"{self.auth_url}/v3/OS-OAUTH2/token"},
            ),
            "trust": _cloud(
                "v3password",
                {"user_id": self.trustee, "password": PASSWORD},
                {"trust_id": self.trust},
            ),
        }

    def environment(self) -> dict[str, str]:
        """For a client that is to read the clouds as they are written now."""
        file = self.folder / "clouds.yaml"
        known = self.clouds()
        for cloud in known.values():
            cloud["auth"]["auth_url"] = self.auth_url
        file.write_text(yaml.safe_dump({"clouds": known}))
        kept = {k: v for k, v in os.environ.items() if not k.startswith("OS_")}
        return {**kept, "OS_CLIENT_CONFIG_FILE": str(file), "PYTHONWARNINGS": "ignore"}

    def run(self, *command: str, stdin: str = "") -> str:
        """What a program of the client's venv printed."""
        done = subprocess.run(
            [str(client_venv() / "bin" / command[0]), *command[1:]],
            env=self.environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def _cloud(kind: str, *parts: dict[str, Any]) -> dict[str, Any]:
    auth = {k: v for part in parts for k, v in part.items()}
    methods = {"auth_methods": auth.pop("auth_methods")} if "auth_methods" in auth else {}
    return {"auth_type": kind, "auth": {**auth, **methods}}


def _passcode() -> str:
    counter = int(Clock().time()) // 30
    digest = hmac.digest(base64.b32decode(SECRET), struct.pack(">Q", counter), "sha1")
    at = digest[-1] & 15
    return f"{(int.from_bytes(digest[at : at + 4], 'big') & 0x7FFFFFFF) % 1_000_000:06d}"


MEMBER, READER = ["member", "reader"], ["reader"]
EXPECTED = {
    "project": (["password"], True, MEMBER),
    "domain": (["password"], False, MEMBER),
    "system": (["password"], False, READER),
    "token": (["password", "token"], True, MEMBER),
    "totp": (["totp"], True, MEMBER),
    "factors": (["password", "totp"], True, MEMBER),
    "credential": (["application_credential"], True, READER),
    "named-credential": (["application_credential"], True, READER),
    "oauth2": (["application_credential"], True, READER),
    "trust": (["password"], True, MEMBER),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("clouds-yaml")
    with running(folder / "state") as cloud:
        yield Site(cloud, folder)


def test_the_sdk_logs_in_by_every_method(site: Site) -> None:
    printed = site.run("python", "-c", _SDK, *EXPECTED)
    for line in printed.splitlines():
        found = json.loads(line)
        methods, on_project, roles = EXPECTED[found["name"]]
        assert found["methods"] == methods, found
        assert found["project"] == (site.project if on_project else None), found
        assert found["roles"] == roles, found
        assert found["user"] == (site.guarded if found["name"] == "factors" else site.user), found
    assert len(printed.splitlines()) == len(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_standard_client_logs_in(site: Site, name: str) -> None:
    printed = site.run("openstack", "--os-cloud", name, "token", "issue", "-f", "json")
    found = json.loads(printed)
    assert found["id"] and found.get("project_id") == (site.project if EXPECTED[name][1] else None)


def test_the_middleware_of_other_services_lets_in_whom_this_cloud_knows(site: Site) -> None:
    """And tells the application who it is; who is revoked or narrowed by access rules stays out."""
    service = site.user_with("service", "yaml-service")
    revoked = site.token()
    client = site.own()
    client.send("DELETE", f"{site.auth_url}/v3/auth/tokens", headers={"x-subject-token": revoked})
    rules = [{"service": "guarded", "method": "GET", "path": "/open"}]
    tokens = {
        "good": site.token(),
        "narrowed": site.narrowed(rules),
        "revoked": revoked,
        "junk": "gAAAAAB" + "x" * 180,
        "none": "",
    }
    asked = {"auth_url": f"{site.auth_url}/v3", "user_id": service, "password": PASSWORD}
    asked |= {"project_id": site.project, "service_type": "guarded"}
    found = json.loads(site.run("python", str(GUARDED), stdin=json.dumps([asked, tokens])))
    assert (
        found["good"]["/open"]
        == found["good"]["/closed"]
        == {
            "status": 200,
            "user": site.user,
            "project": site.project,
            "roles": MEMBER,
        }
    )
    assert found["narrowed"]["/open"]["status"] == 200
    assert found["narrowed"]["/closed"]["status"] == 401
    for name in ("revoked", "junk", "none"):
        assert found[name]["/open"]["status"] == 401, name

"""Rubbish for every operation: schemathesis over the derived OpenAPI documents, told what there is to be named.

A value that names a thing is mostly the id of one that exists; what keeps whoever asks logged in (his user, project and
roles) is never offered, as he would delete it.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pileus.cli.client import ApiError, Client, Credentials
from pileus.kernel.resources import Service
from pileus.testing.openapi import document
from pileus.testing.running import RunningCloud

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance"
PASSWORD = "correct-horse-battery"
OFFERED = 3  # ids of a kind
ODD = ["0" * 32, "ünï % ..", "-1"]  # and what is none
# What fits the field of that name, where chance would hardly find it.
PLAUSIBLE: dict[str, list[str]] = {
    "cidr": ["10.9.0.0/24", "fd00:9::/64"],
    "ip_address": ["10.9.0.5", "fd00:9::5"],
    "fixed_ip_address": ["10.9.0.6"],
    "mac_address": ["fa:16:3e:00:00:01"],
    "remote_ip_prefix": ["10.0.0.0/8", "::/0"],
    "destination": ["10.8.0.0/24"],
    "nexthop": ["10.9.0.9"],
    "start": ["10.9.0.10"],
    "end": ["10.9.0.20"],
    "expires_at": ["2050-01-01T00:00:00Z"],
    "changes-since": ["2020-01-01T00:00:00Z"],
    "resources": ["VCPU:1", "MEMORY_MB:1,DISK_GB:1"],
    "required": ["HW_CPU_X86_AVX", "!HW_CPU_X86_AVX"],
    "resource_class": ["VCPU"],
    "group": ["identity"],
    "option": ["driver"],
}
# Fields that name a thing otherwise than its path does.
ALIASES = {
    "flavorRef": "flavor_id",
    "imageRef": "image_id",
    "rescue_image_ref": "image_id",
    "key_name": "keypair_name",
    "port": "port_id",
    "parent_id": "project_id",
    "actor_id": "user_id",
    "target_id": "project_id",
    "member": "project_id",
    "member_id": "project_id",
    "parent_provider_uuid": "provider_id",
    "trustee_user_id": "user_id",
    "implied_role_id": "role_id",
    "remote_group_id": "security_group_id",
}
PATCH = {  # what the image service takes as a PATCH
    "application/openstack-images-v2.1-json-patch": {
        "schema": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["op", "path"],
                "properties": {
                    "op": {"enum": ["add", "replace", "remove"]},
                    "path": {"enum": ["/name", "/tags", "/visibility", "/min_disk", "/x", "/a/b"]},
                    "value": {},
                },
            },
        }
    }
}


@dataclass
class Site:
    """A running cloud with some of everything in it, and who asks."""

    cloud: RunningCloud
    services: list[Service]
    admin: Client
    member: Client = field(init=False)
    kept: set[str] = field(default_factory=set)  # ids that are never offered

    def __post_init__(self) -> None:
        for noun in ("roles", "users", "projects", "domains"):
            self.kept |= {x["id"] for x in self.admin.call("GET", "identity", f"/v3/{noun}")[noun]}
        self.member = self._make_member()
        for client in (self.admin, self.member):
            fill(client)

    def _make_member(self) -> Client:
        """A member of a project of his own; he is kept, too."""
        ask, name = self.admin.call, "rubbish"
        project = ask("POST", "identity", "/v3/projects", {"project": {"name": name}})["project"]
        user = {"name": name, "password": PASSWORD}
        user = ask("POST", "identity", "/v3/users", {"user": user})["user"]
        role = ask("GET", "identity", "/v3/roles?name=member")["roles"][0]
        grant = f"/v3/projects/{project['id']}/users/{user['id']}/roles/{role['id']}"
        ask("PUT", "identity", grant)
        self.kept |= {project["id"], user["id"]}
        member = Client(Credentials(self.admin.credentials.auth_url, name, PASSWORD, name))
        member.login()
        return member

    def known(self, client: Client) -> dict[str, list[str]]:
        """Ids of what the client sees, by the name that paths give them."""
        found: dict[str, list[str]] = {}
        for service in self.services:
            lists = {op.path for _, op in service.operations() if op.method == "GET"}
            for resource, op in service.operations():
                path, _, last = op.path.rpartition("/")
                if last == f"{{{resource.id_param}}}" and path in lists and "{" not in path:
                    names = found.setdefault(resource.id_param, [])
                    names += [n for n in self._names(client, path) if n not in names]
        return {name: ids[:OFFERED] for name, ids in found.items() if ids}

    def _names(self, client: Client, path: str) -> Iterator[str]:
        with suppress(ApiError):  # not for everybody
            listed = client.send("GET", self.cloud.url + path).json
            for item in next((v for v in listed.values() if isinstance(v, list)), []):
                item = next(iter(item.values())) if len(item) == 1 else item
                name = item if isinstance(item, str) else item.get("id") or item.get("uuid")
                name = name or item.get("name", "")
                if name and name not in self.kept:
                    yield str(name)


def fill(client: Client) -> None:
    """Something of most kinds, for the ids' sake; who may not make one goes on to the next."""
    net = client.call("POST", "network", "/v2.0/networks", {"network": {"name": "r"}})["network"]
    subnet = {"network_id": net["id"], "cidr": "10.9.0.0/24", "ip_version": 4}
    subnet = client.call("POST", "network", "/v2.0/subnets", {"subnet": subnet})["subnet"]
    image = {"name": "r", "disk_format": "raw", "container_format": "bare"}
    image = client.call("POST", "image", "/v2/images", image)
    kind = {"Content-Type": "application/octet-stream"}
    url = client.catalog["image"] + f"/v2/images/{image['id']}/file"
    client.send("PUT", url, b"rubbish" * 100, kind)
    flavor = client.call("GET", "compute", "/flavors")["flavors"][0]["id"]
    user_data = base64.b64encode(b"#!").decode()
    server: dict[str, Any] = {"name": "r", "flavorRef": flavor, "imageRef": image["id"]}
    server |= {"networks": [{"uuid": net["id"]}], "user_data": user_data}
    wanted: list[tuple[str, str, dict[str, Any]]] = [
        ("network", "/v2.0/ports", {"port": {"network_id": net["id"]}}),
        ("network", "/v2.0/routers", {"router": {"name": "r"}}),
        ("network", "/v2.0/security-groups", {"security_group": {"name": "r"}}),
        (
            "network",
            "/v2.0/subnetpools",
            {"subnetpool": {"name": "r", "prefixes": ["10.1.0.0/16"]}},
        ),
        ("compute", "/servers", {"server": server}),
        ("compute", "/os-keypairs", {"keypair": {"name": "r"}}),
        ("compute", "/os-server-groups", {"server_group": {"name": "r", "policies": ["affinity"]}}),
        ("compute", "/os-aggregates", {"aggregate": {"name": "r"}}),
        ("placement", "/resource_providers", {"name": f"r-{net['id']}"}),
        ("identity", "/v3/domains", {"domain": {"name": "r"}}),
        ("identity", "/v3/projects", {"project": {"name": "r"}}),
        ("identity", "/v3/users", {"user": {"name": "r"}}),
        ("identity", "/v3/groups", {"group": {"name": "r"}}),
        ("identity", "/v3/roles", {"role": {"name": "r"}}),
        ("identity", "/v3/regions", {"region": {"id": "r"}}),
        ("identity", "/v3/policies", {"policy": {"blob": "{}", "type": "application/json"}}),
        ("identity", "/v3/OS-OAUTH1/consumers", {"consumer": {}}),
    ]
    for service, path, body in wanted:
        with suppress(ApiError):
            client.call("POST", service, path, body)


def grounded(service: Service, known: Mapping[str, list[str]]) -> dict[str, Any]:
    """The service's document, in which names and references may be those that exist."""
    found = document(service)
    offered = {**PLAUSIBLE, **known}
    offered |= {name: offered[other] for name, other in ALIASES.items() if other in offered}
    for path, entry in found["paths"].items():
        for one in entry.values():
            for parameter in one["parameters"]:
                parameter["schema"] = _either(parameter["name"], parameter["schema"], offered)
        if "patch" in entry and path.endswith("/images/{image_id}"):
            entry["patch"]["requestBody"] = {"content": PATCH}
    for schema in found["components"]["schemas"].values():
        for name, inner in schema.get("properties", {}).items():
            schema["properties"][name] = _either(name, inner, offered)
    return found


def _either(name: str, schema: Any, offered: Mapping[str, list[str]]) -> Any:
    """Of `anyOf` ids and text, schemathesis makes text; so text is some that stands beside the ids."""
    spelled = json.dumps(schema)
    if name not in offered or '"string"' not in spelled:
        return schema
    return {"enum": [*offered[name], *ODD, *([None] if '"null"' in spelled else [])]}


@dataclass(frozen=True)
class Found:
    """What a run says: `report` is schemathesis' own, with a line of curl for each fault."""

    passed: bool
    cases: int
    report: str


def ask(
    document: Mapping[str, Any], url: str, token: str, folder: Path, *options: str, seed: int = 1
) -> Found:
    """All operations of a document, by whoever the token stands for."""
    path = folder / f"{document['info']['title']}.json"
    path.write_text(json.dumps(document))
    words = [str(Path(sys.executable).with_name("schemathesis")), "run", str(path), "--url", url]
    words += ["--header", f"X-Auth-Token: {token}", "--checks", CHECKS, "--seed", str(seed)]
    words += ["--generation-database", "none", "--no-shrink", "--no-color", "--warnings", "off"]
    words += ["--continue-on-failure", "--suppress-health-check", "all", "--output-sanitize"]
    words += ["false", *options]
    hooks = {"SCHEMATHESIS_HOOKS": "rubbish_hooks", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        words, env={**os.environ, **hooks}, capture_output=True, text=True, cwd=folder, check=False
    )
    count = re.search(r"(\d+) generated", done.stdout)
    report = done.stdout + done.stderr
    return Found(done.returncode == 0, int(count[1]) if count else 0, report)

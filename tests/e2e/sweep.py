"""An outside sweep: what a host's machine holds, compared with what the cloud's API says should be there.

It imports nothing of Pileus: namespaces, links, rules, processes, files and listening ports are read with the machine's own
tools, and the API is asked over plain HTTP.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import subprocess
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_RUNNING = (1, 3)  # nova's numbers for running and paused
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_PAUSE_S = 0.5


@dataclass(frozen=True)
class Scope:
    """Which machine is looked at: the host's state folder, its devices' prefix, the namespaces it works in ("": ours)."""

    state: Path
    prefix: str
    underlay: str
    home: str = ""


@dataclass
class Told:
    """What the API says; empty when all should be gone."""

    servers: list[dict[str, Any]] = field(default_factory=list)
    ports: list[dict[str, Any]] = field(default_factory=list)
    routers: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)  # ids of everything on the network

    @property
    def placed(self) -> set[str]:
        return {s["id"] for s in self.servers if s["OS-EXT-SRV-ATTR:host"]}

    @property
    def running(self) -> set[str]:
        return {s["id"] for s in self.servers if s["OS-EXT-STS:power_state"] in _RUNNING}

    @property
    def guests(self) -> list[dict[str, Any]]:
        """The ports of servers that are on a host."""
        return [p for p in self.ports if p["device_id"] in self.placed]


def sweep(scope: Scope, environment: Mapping[str, str] | None, patience_s: float = 20) -> list[str]:
    """What is there and should not be, or the other way round; `environment` (OS_*) None: nothing should be there.

    Hosts follow the API at a small distance, so it looks again until all is well or patience ends.
    """
    return asyncio.run(_swept(scope, environment, patience_s))


async def _swept(
    scope: Scope, environment: Mapping[str, str] | None, patience_s: float
) -> list[str]:
    left = patience_s
    while True:
        told = ask(environment) if environment is not None else Told()
        found = look(scope, told)
        if not found or left <= 0:
            return found
        await asyncio.sleep(_PAUSE_S)
        left -= _PAUSE_S


def look(scope: Scope, told: Told) -> list[str]:
    """One look at everything."""
    emulators = processes(scope)
    return [
        *differ("process of server", set(emulators), told.running),
        *differ("folder of server", folders(scope), told.placed),
        *differ("tap", taps(scope), {"tap" + p["id"][:11] for p in told.guests}),
        *differ("namespace", namespaces(scope), _namespaces(scope, told)),
        *(f"half a file {path}" for path in scope.state.rglob("*.part")),
        *(f"device {name} of nothing" for name in strange_devices(scope, told)),
        *(f"rule about {word}, which is nothing" for word in strange_rules(scope, told)),
        *(f"listening socket {line}" for line in listeners(scope, set(emulators.values()))),
    ]


def differ(what: str, found: set[str], wanted: set[str]) -> list[str]:
    over = [f"{what} {name}: there, but the API does not know why" for name in found - wanted]
    return sorted(over + [f"{what} {name}: missing" for name in wanted - found])


# What the API says


def ask(environment: Mapping[str, str]) -> Told:
    urls, token = _log_in(environment)

    def get(service: str, path: str, noun: str) -> list[dict[str, Any]]:
        headers = {"X-Auth-Token": token}
        _, answer = _call(urls[service] + path, headers)
        return list(answer[noun])

    told = Told()
    told.servers = get("compute", "/servers/detail?all_tenants=1&limit=1000", "servers")
    told.ports = get("network", "/v2.0/ports", "ports")
    told.routers = {r["id"] for r in get("network", "/v2.0/routers", "routers")}
    told.known = {p["id"] for p in told.ports} | told.routers
    for path, noun in (("networks", "networks"), ("security-groups", "security_groups")):
        told.known |= {row["id"] for row in get("network", f"/v2.0/{path}", noun)}
    return told


def _log_in(environment: Mapping[str, str]) -> tuple[dict[str, str], str]:
    user = {
        "name": environment["OS_USERNAME"],
        "password": environment["OS_PASSWORD"],
        "domain": {"name": environment["OS_USER_DOMAIN_NAME"]},
    }
    project = {
        "name": environment["OS_PROJECT_NAME"],
        "domain": {"name": environment["OS_PROJECT_DOMAIN_NAME"]},
    }
    identity = {"methods": ["password"], "password": {"user": user}}
    body = {"auth": {"identity": identity, "scope": {"project": project}}}
    root = environment["OS_AUTH_URL"].rstrip("/").removesuffix("/v3")
    headers, answer = _call(f"{root}/v3/auth/tokens", {}, body)
    urls = {
        service["type"]: endpoint["url"]
        for service in answer["token"]["catalog"]
        for endpoint in service["endpoints"]
        if endpoint["interface"] == "public"
    }
    return urls, headers["X-Subject-Token"]


def _call(
    url: str, headers: Mapping[str, str], body: Any = None
) -> tuple[Mapping[str, str], dict[str, Any]]:
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.headers, json.load(answer)


# What the machine holds


def processes(scope: Scope) -> dict[str, int]:
    """The guests of the state folder: the id of each, and its QEMU or its container's first process."""
    found = _containers(scope)
    inside = str(scope.state.resolve())
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            cwd = str((folder / "cwd").readlink())
        except OSError:
            continue  # it ended while we looked
        if words[0].endswith(b"qemu-system-x86_64") and cwd.startswith(inside):
            found[words[words.index(b"-uuid") + 1].decode()] = int(folder.name)
    return found


def _containers(scope: Scope) -> dict[str, int]:
    """First processes of a namespace of their own, whose root lies over a folder of the host's mounts."""
    hosts = [str(path).encode() for path in scope.state.absolute().glob("hosts/*/compute")]
    places = {hashlib.sha256(host).hexdigest()[:12] for host in hosts}
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            is_first = re.search(r"^NSpid:\s\d+\s1$", (folder / "status").read_text(), re.MULTILINE)
            root = (folder / "mounts").read_text().partition("\n")[0] if is_first else ""
        except OSError:
            continue  # it ended while we looked
        over = re.search(rf"upperdir=/run/pileus/(\w+)/({_UUID})/", root)
        if over and over[1] in places:
            found[over[2]] = int(folder.name)
    return found


def folders(scope: Scope) -> set[str]:
    kinds = ("guests", "containers")
    return {p.name for k in kinds for p in scope.state.glob(f"hosts/*/compute/{k}/*")}


def taps(scope: Scope) -> set[str]:
    return {name for name, kind, _ in devices(scope, scope.home) if kind == "port"}


def namespaces(scope: Scope) -> set[str]:
    names = _run("ip", "-json", "netns") or "[]"
    return {
        row["name"]
        for row in json.loads(names)
        if row["name"].startswith((f"{scope.prefix}-net-", f"{scope.prefix}-router-"))
    }


def _namespaces(scope: Scope, told: Told) -> set[str]:
    served = {f"{scope.prefix}-net-{port['network_id']}" for port in told.guests}
    return served | {f"{scope.prefix}-router-{id}" for id in told.routers}


def strange_devices(scope: Scope, told: Told) -> list[str]:
    places = {scope.home, scope.underlay}
    rows = [row for place in places for row in devices(scope, place)]
    return sorted(name for name, _, id in rows if id not in told.known)


def devices(scope: Scope, namespace: str) -> list[tuple[str, str, str]]:
    """Our devices in a namespace as (name, kind, id of the object): what their aliases say."""
    rows = json.loads(_run("ip", "-json", "-details", "link", namespace=namespace))
    found = []
    for row in rows:
        words = row.get("ifalias", "").split("/")
        if words[:2] == ["pileus", scope.prefix]:
            found.append((row["ifname"], words[2], words[3]))
    return found


def strange_rules(scope: Scope, told: Told) -> set[str]:
    """Ids and taps in our tables that belong to no object."""
    known = told.known | {"tap" + p["id"][:11] for p in told.guests}
    words: set[str] = set()
    for namespace in {scope.home, scope.underlay}:
        text = _run("nft", "list", "ruleset", namespace=namespace)
        for table in re.split(r"^(?=table )", text, flags=re.MULTILINE):
            if re.match(rf"table \w+ pileus_{scope.prefix}(_underlay)? ", table):
                words |= set(re.findall(rf"\btap[0-9a-f-]{{11}}|{_UUID}", table))
    return words - known


def listeners(scope: Scope, emulators: set[int]) -> list[str]:
    """TCP ports on which the host's process listens where others may reach it, but for the API's; guests' QEMUs on none."""
    note = scope.state / "cloud.json"
    text = note.read_text() if note.exists() else '{"pid": 0, "url": ":0"}'
    cloud = json.loads(text)
    api = cloud["url"].rpartition(":")[2]
    ours = {cloud["pid"], *emulators}
    found = []
    for namespace in {scope.home, scope.underlay}:
        for line in _run("ss", "-Hlntp", namespace=namespace).splitlines():
            owners = {int(pid) for pid in re.findall(r"pid=(\d+)", line)}
            port = line.split()[3].rpartition(":")[2]
            if owners & ours and not (port == api and cloud["pid"] in owners):
                found.append(" ".join(line.split()[:4]))
    return found


def _run(*command: str, namespace: str = "") -> str:
    prefix = ["nsenter", f"--net=/run/netns/{namespace}"] if namespace else []
    done = subprocess.run([*prefix, *command], check=True, capture_output=True, text=True)
    return done.stdout

"""Clouds to be measured, started as an operator starts them, and the things that must be in them first."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench import measure
from pileus.cli import background
from pileus.cli.client import Answer, Client, Credentials
from pileus.testing.ports import free_port
from pileus.testing.roles import two_roles

SERVERS = 1_000
HOSTS = ["--hosts", "8"]  # room for them: a pretended host holds 256 servers of one vCPU
MICROVERSION = {
    "OpenStack-API-Version": "compute 2.90",
    "X-OpenStack-Nova-API-Version": "2.90",
}


class Bench:
    """A running cloud and the administrator's client of it.

    `roots` are the cloud's own processes; `others` the database and the bus, where they are processes.
    """

    def __init__(
        self, state: Path, roots: Sequence[int] = (), ready_ms: float = 0, timeout_s: float = 60
    ) -> None:
        self.state = state
        self.roots = roots
        self.ready_ms = ready_ms  # from the start of the command to the line `ready`
        self.credentials = Credentials.of(background.environment(state))
        self.client = Client(self.credentials, timeout_s=timeout_s)
        self.client.login()

    def pids(self) -> list[int]:
        return [pid for root in self.roots for pid in measure.tree(root)]

    def others(self) -> list[int]:
        return sorted(set(measure.tree(os.getpid())) - set(self.pids()) - {os.getpid()})

    def compute(self, method: str, path: str, body: object = None) -> Answer:
        url = self.client.catalog["compute"].rstrip("/") + path
        return self.client.send(method, url, body, MICROVERSION)

    def cpu_us(self, work: Callable[[], object], times: int) -> float:
        """Microseconds of the cloud's CPU for one of `times` calls."""
        pids = self.pids()
        before = measure.cpu_ns(pids)
        for _ in range(times):
            work()
        return (measure.cpu_ns(pids) - before) / times / 1_000


@contextmanager
def one_process(state: Path, driver: str, options: Sequence[str] = ()) -> Iterator[Bench]:
    """`pileus up`: SQLite, one process."""
    command = [sys.executable, "-m", "pileus.cli.main", "up", "--state", str(state)]
    command += ["--listen", f"127.0.0.1:{free_port()}", "--driver", driver, *options]
    begun = time.perf_counter()
    with (state.parent / f"{state.name}.log").open("a") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("ready "):
                break
        else:
            raise SystemExit(f"the cloud ended before it was ready; see {log.name}")
        yield Bench(state, [process.pid], (time.perf_counter() - begun) * 1_000)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()


@contextmanager
def bare_server() -> Iterator[tuple[str, int]]:
    """The URL and the process of a server that does nothing."""
    port = free_port()
    command = [sys.executable, "-m", "bench.bare", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        if process.stdout.readline() != "ready\n":
            raise SystemExit("the server that does nothing did not start")
        yield f"http://127.0.0.1:{port}/", process.pid
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()


@contextmanager
def two_processes(folder: Path, driver: str, options: Sequence[str] = ()) -> Iterator[Bench]:
    """`pileus control` and `pileus host` over PostgreSQL, with fsync, and NATS."""
    with two_roles(folder, ("--driver", driver, *options), durable=True) as both:
        assert both.host.process is not None
        roots = [both.cloud.process.pid, both.host.process.pid]
        yield Bench(both.cloud.state, roots, both.cloud.ready_ms)


# -- what there must be --------------------------------------------------------------------------


def unlimited(bench: Bench) -> None:
    """No quota stands in the way of a thousand servers, of their networks, or of volumes."""
    project = bench.client.project_id
    quota = {"quota_set": {"instances": -1, "cores": -1, "ram": -1}}
    bench.compute("PUT", f"/os-quota-sets/{project}", quota)
    free = {"quota_set": {"volumes": -1, "gigabytes": -1}}
    bench.client.call("PUT", "block-storage", f"/os-quota-sets/{project}", free)
    nouns = ("network", "subnet", "port", "security_group_rule")
    free = {"quota": dict.fromkeys(nouns, -1)}
    bench.client.call("PUT", "network", f"/v2.0/quotas/{project}", free)


def flavor(bench: Bench) -> str:
    wanted = {"name": "bench", "ram": 64, "vcpus": 1, "disk": 1}
    for kept in bench.compute("GET", "/flavors").json["flavors"]:
        if kept["name"] == wanted["name"]:
            return str(kept["id"])
    return str(bench.compute("POST", "/flavors", {"flavor": wanted}).json["flavor"]["id"])


def image(bench: Bench) -> str:
    """The id of a public image, once one is active."""
    while True:
        images = bench.client.call("GET", "image", "/v2/images?status=active")["images"]
        if images:
            return str(images[0]["id"])
        time.sleep(0.2)


def network(bench: Bench) -> str:
    found = bench.client.call("GET", "network", "/v2.0/networks?name=bench")["networks"]
    if found:
        return str(found[0]["id"])
    made = bench.client.call("POST", "network", "/v2.0/networks", {"network": {"name": "bench"}})
    subnet = {"network_id": made["network"]["id"], "ip_version": 4, "cidr": "10.64.0.0/16"}
    bench.client.call("POST", "network", "/v2.0/subnets", {"subnet": subnet})
    return str(made["network"]["id"])


def create(bench: Bench, networks: object, count: int = 1) -> dict[str, Any]:
    body = {
        "name": "bench",
        "imageRef": image(bench),
        "flavorRef": flavor(bench),
        "networks": networks,
        "min_count": count,
        "max_count": count,
    }
    return dict(bench.compute("POST", "/servers", {"server": body}).json["server"])


def active(bench: Bench) -> list[str]:
    rows = bench.compute("GET", "/servers?status=ACTIVE&limit=1000").json["servers"]
    return [row["id"] for row in rows]


def fill(bench: Bench, count: int) -> list[str]:
    """The ids of `count` ACTIVE servers without ports, made where missing."""
    while (have := len(active(bench))) < count:
        wanted = min(100, count - have)
        create(bench, "none", wanted)
        deadline = time.monotonic() + 120
        while len(active(bench)) < have + wanted:
            if time.monotonic() > deadline:
                raise SystemExit(f"{wanted} servers did not become ACTIVE in 120 s")
            time.sleep(0.2)
    return active(bench)[:count]


def update(bench: Bench, server: str) -> None:
    """Changes a server, and waits until what follows from it has been done."""
    name = {"server": {"name": f"bench-{random.randrange(10**6)}"}}
    bench.compute("PUT", f"/servers/{server}", name)
    time.sleep(0.02)


# -- many at once --------------------------------------------------------------------------------


class Burst:
    """Eight kept connections that ask at the same moment, so that what is measured is work and not waking up."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None and parts.port is not None
        self.head = "".join(f"{k}: {v}\r\n" for k, v in {"Host": parts.netloc, **headers}.items())
        address = (parts.hostname, parts.port)
        self.sockets = [socket.create_connection(address, 30) for _ in range(8)]

    def get(self, *targets: tuple[str, dict[str, str]]) -> None:
        """Asks for paths, each with headers of its own; every answer must be 200."""
        self.ask(*(("GET", path, headers, None) for path, headers in targets))

    def ask(
        self, *asked: tuple[str, str, dict[str, str], object], refused_too: bool = False
    ) -> list[bytes]:
        """Sends requests (method, path, headers, body as JSON or None) and gives the heads of the answers."""
        heads = []
        for at in range(0, len(asked), len(self.sockets)):
            some = list(zip(self.sockets, asked[at : at + len(self.sockets)], strict=False))
            for sock, one in some:
                sock.sendall(self._written(*one))
            heads += [_read(sock, refused_too) for sock, _ in some]
        return heads

    def _written(self, method: str, path: str, headers: dict[str, str], body: object) -> bytes:
        raw = b"" if body is None else json.dumps(body).encode()
        if raw:
            length = str(len(raw))
            headers = {**headers, "Content-Type": "application/json", "Content-Length": length}
        more = "".join(f"{k}: {v}\r\n" for k, v in headers.items())
        return f"{method} {path} HTTP/1.1\r\n{self.head}{more}\r\n".encode() + raw

    def close(self) -> None:
        for sock in self.sockets:
            sock.close()


def _read(sock: socket.socket, refused_too: bool = False) -> bytes:
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        data += sock.recv(1 << 16)
    if not data.startswith((b"HTTP/1.1 2", b"HTTP/1.1 4") if refused_too else b"HTTP/1.1 2"):
        raise SystemExit(f"an answer was {data[:200]!r}")
    length = data[:end].lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
    left = end + 4 + int(length or 0) - len(data)
    while left > 0:
        left -= len(sock.recv(1 << 16))
    return data[:end]

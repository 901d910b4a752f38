"""Measure what this project promises of itself, and write docs/performance.md.

    python -m bench.figures [--runs 5] [--only get,list] [--driver fake] [-- OPTIONS OF pileus up]

A cloud is started with the fake driver on a state folder of its own and asked over plain HTTP. CPU is the cloud's
processes' alone. Reads are random over 1,000 servers with updates in between, so that a cache cannot flatter them.
"""

from __future__ import annotations

import argparse
import datetime as dt
import multiprocessing
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import measure
from bench.measure import Figure
from pileus.cli import background
from pileus.cli.client import Answer, ApiError, Client, Credentials
from pileus.testing.running import free_port

ROOT = Path(__file__).parents[1]
SERVERS = 1_000
MICROVERSION = {
    "OpenStack-API-Version": "compute 2.90",
    "X-OpenStack-Nova-API-Version": "2.90",
}
UPLOAD_BYTES = 1 << 30
SETTLE_S = 5.0


class Bench:
    """A running cloud and the administrator's client of it."""

    def __init__(self, state: Path, process: subprocess.Popen[str], ready_ms: float) -> None:
        self.state = state
        self.process = process
        self.ready_ms = ready_ms  # from the start of the command to the line `ready`
        self.credentials = Credentials.of(background.environment(state))
        self.client = Client(self.credentials)
        self.client.login()
        self.pids = measure.tree(process.pid)

    def compute(self, method: str, path: str, body: object = None) -> Answer:
        url = self.client.catalog["compute"].rstrip("/") + path
        return self.client.send(method, url, body, MICROVERSION)

    def cpu_us(self, work: Callable[[], object], times: int) -> float:
        """Microseconds of the cloud's CPU for one of `times` calls, with what it does after the last answer."""
        before = measure.cpu_ns(self.pids)
        for _ in range(times):
            work()
        return (measure.cpu_ns(self.pids) - before) / times / 1_000


@contextmanager
def cloud(state: Path, driver: str, options: Sequence[str]) -> Iterator[Bench]:
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
        yield Bench(state, process, (time.perf_counter() - begun) * 1_000)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout.close()


# -- what there must be --------------------------------------------------------------------------


def unlimited(bench: Bench) -> None:
    """No quota stands in the way of a thousand servers."""
    project = bench.client.project_id
    quota = {"quota_set": {"instances": -1, "cores": -1, "ram": -1}}
    bench.compute("PUT", f"/os-quota-sets/{project}", quota)
    ports = {"quota": {"port": -1}}
    bench.client.call("PUT", "network", f"/v2.0/quotas/{project}", ports)


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
    name = {"server": {"name": f"bench-{random.randrange(10**6)}"}}
    bench.compute("PUT", f"/servers/{server}", name)


# -- the figures ---------------------------------------------------------------------------------


def startup(state: Path, args: argparse.Namespace, name: str, bar: float) -> Figure:
    values = []
    for _ in range(args.runs):
        with cloud(state, args.driver, args.options) as bench:
            values.append(bench.ready_ms)
    return Figure(f"ready, {name}", "ms", values, bar)


def fresh_startup(folder: Path, args: argparse.Namespace) -> Figure:
    values = []
    for run in range(args.runs):
        with cloud(folder / f"fresh{run}", args.driver, args.options) as bench:
            values.append(bench.ready_ms)
    return Figure("ready, new state folder", "ms", values, 3_000)


def idle(bench: Bench, runs: int) -> list[Figure]:
    time.sleep(SETTLE_S)
    cpu, memory = [], []
    for _ in range(runs):
        before, begun = measure.cpu_ns(bench.pids), time.perf_counter()
        time.sleep(5)
        took = time.perf_counter() - begun
        cpu.append((measure.cpu_ns(bench.pids) - before) / 1e6 / took)
        memory.append(measure.pss_mb(measure.tree(bench.process.pid)))
    return [
        Figure("idle: PSS of all processes", "MB", memory, 150),
        Figure("idle: CPU per second", "ms", cpu, 5),
    ]


def boots(bench: Bench, runs: int, name: str, networks: object) -> Figure:
    """From the moment before the request is sent to `launched_at`: a little more than `created` to there."""
    medians = []
    for _ in range(runs):
        took = [_boot_ms(bench, networks) for _ in range(20)]
        medians.append(statistics.median(took))
    return Figure(f"boot to launched_at, {name} (median of 20)", "ms", medians, 50)


def _boot_ms(bench: Bench, networks: object) -> float:
    sent = dt.datetime.now(dt.UTC)
    server = create(bench, networks)
    while True:
        row = bench.compute("GET", f"/servers/{server['id']}").json["server"]
        if row["status"] == "ERROR":
            raise SystemExit(f"a boot failed: {row.get('fault')}")
        if row["status"] == "ACTIVE":
            break
        time.sleep(0.005)
    bench.compute("DELETE", f"/servers/{server['id']}")
    launched = dt.datetime.fromisoformat(row["OS-SRV-USG:launched_at"]).replace(tzinfo=dt.UTC)
    return (launched - sent).total_seconds() * 1_000


def get_server(bench: Bench, runs: int, servers: Sequence[str]) -> Figure:
    values = []
    for _ in range(runs):
        spent = []
        for _ in range(40):
            update(bench, random.choice(servers))
            spent.append(
                bench.cpu_us(lambda: bench.compute("GET", f"/servers/{random.choice(servers)}"), 50)
            )
        values.append(statistics.mean(spent))
    return Figure("GET server by id, random over 1,000: CPU", "us", values, 150)


def validate(bench: Bench, runs: int) -> Figure:
    url = bench.credentials.auth_url.rstrip("/").removesuffix("/v3") + "/v3/auth/tokens"
    tokens = []
    for _ in range(50):
        client = Client(bench.credentials)
        client.login()
        tokens.append(client.token)
        client.close()

    def ask() -> None:
        bench.client.send("GET", url, None, {"X-Subject-Token": random.choice(tokens)})

    values = [bench.cpu_us(ask, 1_000) for _ in range(runs)]
    return Figure("token validation, 50 tokens in turn: CPU", "us", values, 90)


def list_details(bench: Bench, runs: int, servers: Sequence[str]) -> Figure:
    def ask() -> None:
        rows = bench.compute("GET", f"/servers/detail?limit={SERVERS}").json["servers"]
        assert len(rows) == SERVERS, len(rows)

    values = []
    for _ in range(runs):
        spent = []
        for _ in range(5):
            update(bench, random.choice(servers))
            spent.append(bench.cpu_us(ask, 1) / 1_000)
        values.append(statistics.mean(spent))
    return Figure("list of 1,000 servers with details: CPU", "ms", values, 10)


def under_load(bench: Bench, runs: int, servers: Sequence[str]) -> list[Figure]:
    """p99 of a GET while 50 boots, an upload of 1 GiB and lists of 1,000 rows run, each in a process of its own."""
    p99, p50 = [], []
    for _ in range(runs):
        spawn = multiprocessing.get_context("spawn")
        jobs = [
            spawn.Process(target=job, args=(bench.state, bench.process.pid))
            for job in (load_boots, load_upload, load_lists)
        ]
        for job in jobs:
            job.start()
        time.sleep(1)
        took = []
        while any(job.is_alive() for job in jobs[:2]):
            begun = time.perf_counter()
            bench.compute("GET", f"/servers/{random.choice(servers)}")
            took.append((time.perf_counter() - begun) * 1_000)
            time.sleep(0.002)
        jobs[2].terminate()
        for job in jobs:
            job.join()
        took.sort()
        p99.append(took[int(len(took) * 0.99)])
        p50.append(took[len(took) // 2])
    return [
        Figure("GET under 50 boots + upload + lists: p99", "ms", p99, 20),
        Figure("GET under 50 boots + upload + lists: p50", "ms", p50),
    ]


class _Load(Bench):
    """The same cloud, asked from another process."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.credentials = Credentials.of(background.environment(state))
        self.client = Client(self.credentials, timeout_s=300)
        self.client.login()


def load_boots(state: Path, pid: int) -> None:
    bench = _Load(state)
    networks = [{"uuid": network(bench)}]
    made = [create(bench, networks)["id"] for _ in range(50)]
    left = set(made)
    while left:
        left &= {r["id"] for r in bench.compute("GET", "/servers?status=BUILD").json["servers"]}
        time.sleep(0.1)
    for server in made:
        bench.compute("DELETE", f"/servers/{server}")


def load_upload(state: Path, pid: int) -> None:
    bench = _Load(state)
    wanted = {"name": "bench-upload", "disk_format": "raw", "container_format": "bare"}
    made = bench.client.call("POST", "image", "/v2/images", wanted)
    base = (
        bench.client.catalog["image"].rstrip("/").removesuffix("/v2") + "/v2/images/" + made["id"]
    )
    bench.client.send(
        "PUT", base + "/file", bytes(UPLOAD_BYTES), {"Content-Type": "application/octet-stream"}
    )
    bench.client.send("DELETE", base)


def load_lists(state: Path, pid: int) -> None:
    bench = _Load(state)
    while True:
        bench.compute("GET", f"/servers/detail?limit={SERVERS}")


# -- the page ------------------------------------------------------------------------------------


def page(figures: Sequence[Figure], args: argparse.Namespace, began: str) -> str:
    commit = _out("git", "rev-parse", "--short", "HEAD")
    changed = " with uncommitted changes" if _out("git", "status", "--porcelain", "src") else ""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    options = " ".join(args.options)
    lines = [
        "# Performance",
        "",
        "Written by `make figures`; do not edit. The bar is what this project asks of itself, on the median.",
        "",
        f"- commit {commit}{changed}, {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC",
        f"- driver {args.driver}, {options or 'SQLite, one process'}, every commit durable (synchronous=FULL)",
        f"- Python {platform.python_version()}, {platform.system()} {platform.release()}, {cpu}, {_cores()} cores",
        f"- load average {began} before, {measure.load()} after",
        "",
        "| figure | unit | min | median | max | runs | bar | |",
        "|---|---|--:|--:|--:|--:|--:|---|",
        *[figure.row() for figure in figures],
        "",
        "CPU is that of the cloud's processes alone, from `/proc/PID/task/*/schedstat`. `ready` is wall time from the start",
        "of the command to its line `ready`.",
        "",
    ]
    return "\n".join(lines)


def _cores() -> int:
    return multiprocessing.cpu_count()


def _out(*command: str) -> str:
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="", help="startup,idle,boot,get,token,list,load")
    parser.add_argument("--driver", default="fake")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md")
    parser.add_argument("options", nargs="*", help="further options of `pileus up`, after --")
    return parser.parse_args()


def measured(folder: Path, args: argparse.Namespace) -> Iterator[Figure]:
    only = set(args.only.split(",")) - {""}

    def want(name: str) -> bool:
        return not only or name in only

    state = folder / "state"
    if want("startup"):
        yield fresh_startup(folder, args)
        with cloud(state, args.driver, args.options):
            pass
        yield startup(state, args, "existing state folder, 0 servers", 1_500)
        with cloud(state, args.driver, args.options) as bench:
            unlimited(bench)
            fill(bench, 100)
        yield startup(state, args, "existing state folder, 100 servers", 1_500)
    with cloud(state, args.driver, args.options) as bench:
        unlimited(bench)
        if want("idle"):
            yield from idle(bench, args.runs)
        if want("boot"):
            yield boots(bench, args.runs, "no network", "none")
            yield boots(bench, args.runs, "with a port", [{"uuid": network(bench)}])
        if want("token"):
            yield validate(bench, args.runs)
        servers = fill(bench, SERVERS) if only & {"get", "list", "load"} or not only else []
        if want("get"):
            yield get_server(bench, args.runs, servers)
        if want("list"):
            yield list_details(bench, args.runs, servers)
        if want("load"):
            yield from under_load(bench, args.runs, servers)


def main() -> int:
    args = arguments()
    began, figures = measure.load(), []
    with tempfile.TemporaryDirectory(prefix="pileus-figures-") as folder:
        try:
            for figure in measured(Path(folder), args):
                print(figure.row(), flush=True)
                figures.append(figure)
        except ApiError as e:
            print(f"stopped: {e}", file=sys.stderr)
            return 1
    if not args.only:
        args.page.parent.mkdir(exist_ok=True)
        args.page.write_text(page(figures, args, began))
        print(f"wrote {args.page}")
    return 1 if any(figure.verdict == "MISSED" for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())

"""Measure what this project promises of itself, and write docs/performance.md.

    python -m bench.figures [--runs 5] [--only get,list] [--two] [-- OPTIONS OF pileus up]

A cloud is started with the fake driver on a state folder of its own and asked over plain HTTP. CPU is the cloud's
processes' alone. Reads are random over 1,000 servers with an update after every 80, so that a cache cannot flatter
them, and come eight at a time.
`--two` measures a control and a host process over PostgreSQL and NATS instead, for the record.
"""

from __future__ import annotations

import argparse
import datetime as dt
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from bench import measure, page
from bench.clouds import (
    HOSTS,
    MICROVERSION,
    SERVERS,
    Bench,
    Burst,
    bare_server,
    create,
    fill,
    network,
    one_process,
    two_processes,
    unlimited,
    update,
)
from bench.measure import Figure
from pileus.cli.client import ApiError, Client

UPLOAD_BYTES = 1 << 30
SETTLE_S = 5.0


def startup(state: Path, args: argparse.Namespace, name: str, bar: float) -> Figure:
    values = []
    for _ in range(args.runs):
        with one_process(state, args.driver, args.options) as bench:
            values.append(bench.ready_ms)
    return Figure(f"ready, {name}", "ms", values, bar)


def fresh_startup(folder: Path, args: argparse.Namespace) -> Figure:
    values = []
    for run in range(args.runs):
        with one_process(folder / f"fresh{run}", args.driver, args.options) as bench:
            values.append(bench.ready_ms)
    return Figure("ready, new state folder", "ms", values, 3_000)


def idle(bench: Bench, runs: int) -> list[Figure]:
    time.sleep(SETTLE_S)
    cpu, memory = [], []
    for _ in range(runs):
        pids = bench.pids()
        before, begun = measure.cpu_ns(pids), time.perf_counter()
        time.sleep(5)
        took = time.perf_counter() - begun
        cpu.append((measure.cpu_ns(pids) - before) / 1e6 / took)
        memory.append(measure.pss_mb(bench.pids()))
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


def nothing(runs: int) -> Figure:
    """What an answer costs that has nothing in it: the yardstick for the next two."""
    values = []
    with bare_server() as (url, pid):
        burst = Burst(url, {"X-Auth-Token": "-" * 200, **MICROVERSION})
        for _ in range(runs):
            before = measure.cpu_ns([pid])
            burst.get(*[("/", {})] * 4_000)
            values.append((measure.cpu_ns([pid]) - before) / 4_000 / 1_000)
        burst.close()
    return Figure("an empty answer by the bare HTTP server: CPU", "us", values)


def get_server(bench: Bench, runs: int, servers: Sequence[str]) -> Figure:
    url = bench.client.catalog["compute"]
    burst = Burst(url, {"X-Auth-Token": bench.client.token, **MICROVERSION})
    path = urlsplit(url).path.rstrip("/") + "/servers/"
    values = []
    for _ in range(runs):
        spent = []
        for _ in range(40):
            update(bench, random.choice(servers))
            targets: list[tuple[str, dict[str, str]]] = []
            targets += [(path + random.choice(servers), {}) for _ in range(80)]
            spent.append(bench.cpu_us(partial(burst.get, *targets), 1) / len(targets))
        values.append(statistics.mean(spent))
    burst.close()
    return Figure("GET server by id, random over 1,000: CPU", "us", values, 150)


def validate(bench: Bench, runs: int) -> Figure:
    url = bench.credentials.auth_url.rstrip("/").removesuffix("/v3") + "/v3/auth/tokens"
    tokens = []
    for _ in range(50):
        client = Client(bench.credentials)
        client.login()
        tokens.append(client.token)
        client.close()
    burst = Burst(url, {"X-Auth-Token": bench.client.token})
    path = urlsplit(url).path
    values = []
    for _ in range(runs):
        targets = [(path, {"X-Subject-Token": random.choice(tokens)}) for _ in range(4_000)]
        values.append(bench.cpu_us(partial(burst.get, *targets), 1) / len(targets))
    burst.close()
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


# -- under load ----------------------------------------------------------------------------------


def under_load(bench: Bench, runs: int, servers: Sequence[str]) -> list[Figure]:
    """p99 of a GET while 50 boots, an upload of 1 GiB and lists of 1,000 rows run, each in a process of its own.

    Those processes yield to the cloud and to who measures it: they stand for other machines.
    """
    p99, p50 = [], []
    for _ in range(runs):
        took = sorted(_gets_under_load(bench, servers))
        p99.append(took[int(len(took) * 0.99)])
        p50.append(took[len(took) // 2])
    return [
        Figure("GET under 50 boots + upload + lists: p99", "ms", p99, 20),
        Figure("GET under 50 boots + upload + lists: p50", "ms", p50),
    ]


def _gets_under_load(bench: Bench, servers: Sequence[str]) -> list[float]:
    spawn = multiprocessing.get_context("spawn")
    jobs = [
        spawn.Process(target=job, args=(bench.state,))
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
    if any(job.exitcode for job in jobs[:2]):
        raise SystemExit("the load failed, so the figure means nothing")
    return took


def load_boots(state: Path) -> None:
    os.nice(5)
    bench = Bench(state)
    networks = [{"uuid": network(bench)}]
    made = [create(bench, networks)["id"] for _ in range(50)]
    left = set(made)
    while left:
        left &= {r["id"] for r in bench.compute("GET", "/servers?status=BUILD").json["servers"]}
        time.sleep(0.1)
    for server in made:
        bench.compute("DELETE", f"/servers/{server}")


def load_upload(state: Path) -> None:
    os.nice(5)
    bench = Bench(state, timeout_s=300)
    wanted = {"name": "bench-upload", "disk_format": "raw", "container_format": "bare"}
    made = bench.client.call("POST", "image", "/v2/images", wanted)
    root = bench.client.catalog["image"].rstrip("/").removesuffix("/v2")
    url = f"{root}/v2/images/{made['id']}"
    kind = {"Content-Type": "application/octet-stream"}
    bench.client.send("PUT", url + "/file", bytes(UPLOAD_BYTES), kind)
    bench.client.send("DELETE", url)


def load_lists(state: Path) -> None:
    os.nice(5)
    bench = Bench(state)
    while True:
        bench.compute("GET", f"/servers/detail?limit={SERVERS}")


# -- all of them ---------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", default="", help="startup,idle,boot,get,token,list,load")
    parser.add_argument("--driver", default="fake")
    parser.add_argument("--two", action="store_true", help="control and host, PostgreSQL and NATS")
    parser.add_argument("--page", type=Path, default=page.PAGE)
    parser.add_argument("options", nargs="*", help="further options of `pileus up`, after --")
    return parser.parse_args()


def startups(folder: Path, args: argparse.Namespace) -> Iterator[Figure]:
    state = folder / "started"
    yield fresh_startup(folder, args)
    with one_process(state, args.driver, args.options):
        pass
    yield startup(state, args, "existing state folder, 0 servers", 1_500)
    with one_process(state, args.driver, args.options) as bench:
        unlimited(bench)
        fill(bench, 100)
    yield startup(state, args, "existing state folder, 100 servers", 1_500)


def running(bench: Bench, runs: int, only: set[str]) -> Iterator[Figure]:
    """The figures of a cloud that runs."""

    def want(name: str) -> bool:
        return not only or name in only

    unlimited(bench)
    if want("idle"):
        yield from idle(bench, runs)
    if want("boot"):
        yield boots(bench, runs, "no network", "none")
        yield boots(bench, runs, "with a port", [{"uuid": network(bench)}])
    if want("get") or want("token"):
        yield nothing(runs)
    if want("token"):
        yield validate(bench, runs)
    servers = fill(bench, SERVERS) if not only or only & {"get", "list", "load"} else []
    if want("get"):
        yield get_server(bench, runs, servers)
    if want("list"):
        yield list_details(bench, runs, servers)
    if want("load"):
        yield from under_load(bench, runs, servers)


def measured(folder: Path, args: argparse.Namespace) -> Iterator[Figure]:
    only = set(args.only.split(",")) - {""}
    if not args.two and (not only or "startup" in only):
        yield from startups(folder, args)
    if only == {"startup"}:
        return
    start = two_processes if args.two else one_process
    with start(folder / "state", args.driver, [*HOSTS, *args.options]) as bench:
        yield from running(bench, args.runs, only)


def text(figures: Sequence[Figure], args: argparse.Namespace, began: str) -> str:
    how = "a control and a host process over PostgreSQL (fsync on) and NATS"
    if not args.two:
        how = "one process, SQLite with synchronous=FULL"
    options = "".join(f" {o}" for o in args.options)
    what = f"driver {args.driver}, {how}; every acknowledged write is on disk{options}"
    command = "make figures" if not args.two else "python -m bench.figures --two"
    lines = [
        "## Two processes, for the record" if args.two else "## What Pileus asks of itself",
        "",
        *page.circumstances(command, what, began),
        "",
        "| figure | unit | min | median | max | runs | bar | |",
        "|---|---|--:|--:|--:|--:|--:|---|",
        *[figure.row(bars=not args.two) for figure in figures],
        "",
        "The bar is for the median. `ready` is wall time from the start of the command to its line `ready`.",
    ]
    return "\n".join(lines)


def main() -> int:
    args = arguments()
    began, figures = measure.load(), []
    with tempfile.TemporaryDirectory(prefix="pileus-figures-") as folder:
        try:
            for figure in measured(Path(folder), args):
                print(figure.row(bars=not args.two), flush=True)
                figures.append(figure)
        except ApiError as e:
            print(f"stopped: {e}", file=sys.stderr)
            return 1
    if not args.only:
        page.write("two" if args.two else "one", text(figures, args, began), args.page)
        print(f"wrote {args.page}")
    return 1 if not args.two and any(figure.verdict == "MISSED" for figure in figures) else 0


if __name__ == "__main__":
    sys.exit(main())

"""What logins by password cost, and what others wait for meanwhile; writes a part of docs/performance.md.

    python -m bench.logins [--runs 5]

Passwords are hashed as costly as a new cloud does. A login's CPU is compared with that of its hash alone, measured here.
Eight clients then log in again and again while a ninth asks for a user: its waiting is the figure. The clients stand
for other machines and yield to the cloud.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from argon2 import PasswordHasher

from bench import measure, page
from bench.clouds import Bench, Burst, one_process
from bench.measure import Figure
from pileus.services.identity.settings import Settings

AT_ONCE = 8
AUTH = "/identity/v3/auth/tokens"


def body(bench: Bench) -> object:
    known = bench.credentials
    user = {"name": known.username, "domain": {"id": "default"}, "password": known.password}
    project = {"name": known.project, "domain": {"id": "default"}}
    identity = {"methods": ["password"], "password": {"user": user}}
    return {"auth": {"identity": identity, "scope": {"project": project}}}


def burst(bench: Bench, **headers: str) -> Burst:
    url = urlsplit(bench.credentials.auth_url)
    return Burst(f"{url.scheme}://{url.netloc}", headers)


def hashes(runs: int) -> Figure:
    """What the hash alone costs on this machine now."""
    rules = Settings()
    hasher = PasswordHasher(
        rules.password_hash_passes, rules.password_hash_memory_kib, parallelism=1
    )
    known, values = hasher.hash("a-password"), []
    for _ in range(runs):
        begun = time.process_time()
        for _ in range(20):
            hasher.verify(known, "a-password")
        values.append((time.process_time() - begun) / 20 * 1_000)
    return Figure("a password's hash alone: CPU", "ms", values)


def logins(bench: Bench, runs: int) -> Figure:
    asked, clients, values = [("POST", AUTH, {}, body(bench))] * 40, burst(bench), []
    for _ in range(runs):
        values.append(bench.cpu_us(lambda: clients.ask(*asked), 1) / len(asked) / 1_000)
    clients.close()
    return Figure("a login by password: CPU", "ms", values)


def log_in_for_ever(state: Path) -> None:
    os.nice(5)
    bench = Bench(state)
    clients, asked = burst(bench), [("POST", AUTH, {}, body(bench))] * AT_ONCE
    while True:
        clients.ask(*asked)


def waits(bench: Bench, runs: int) -> Iterator[tuple[float, float]]:
    """Of each run the middle one and the hundredth longest of times that a GET of a user took."""
    user = bench.client.call("GET", "identity", "/v3/users?name=admin")["users"][0]["id"]
    asked = ("GET", f"/identity/v3/users/{user}", {}, None)
    clients = burst(bench, **{"X-Auth-Token": bench.client.token})
    for _ in range(runs):
        took = []
        for _ in range(1_000):
            begun = time.perf_counter()
            clients.ask(asked)
            took.append((time.perf_counter() - begun) * 1_000)
            time.sleep(0.002)
        took.sort()
        yield took[500], took[990]
    clients.close()


def beside(bench: Bench, runs: int, name: str) -> list[Figure]:
    p50, p99 = zip(*waits(bench, runs), strict=True)
    return [
        Figure(f"GET of a user, {name}: p50", "ms", p50),
        Figure(f"GET of a user, {name}: p99", "ms", p99),
    ]


def measured(bench: Bench, runs: int) -> Iterator[Figure]:
    yield hashes(runs)
    yield logins(bench, runs)
    yield from beside(bench, runs, "nothing else asked")
    load = multiprocessing.get_context("spawn").Process(target=log_in_for_ever, args=(bench.state,))
    load.start()
    try:
        time.sleep(1)
        yield from beside(bench, runs, f"beside {AT_ONCE} logins at once")
    finally:
        load.terminate()
        load.join()


def text(figures: list[Figure], runs: int, began: str) -> str:
    what = "driver fake, one process, SQLite with synchronous=FULL; argon2id of 19 MiB, two passes"
    spent = {f.name: min(f.values) for f in figures}
    hashed, login = list(spent.values())[:2]
    return "\n".join(
        [
            "## Logins by password",
            "",
            *page.circumstances(f"python -m bench.logins --runs {runs}", what, began),
            f"- a login costs its hash and {login - hashed:.1f} ms (least of all runs; the bar is 5 ms)",
            "",
            "| figure | unit | min | median | max | runs | | |",
            "|---|---|--:|--:|--:|--:|--:|---|",
            *[figure.row(bars=False) for figure in figures],
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--page", type=Path, default=page.PAGE)
    args, began, figures = parser.parse_args(), measure.load(), []
    with (
        tempfile.TemporaryDirectory(prefix="pileus-logins-") as folder,
        one_process(Path(folder) / "state", "fake") as bench,
    ):
        for figure in measured(bench, args.runs):
            print(figure.row(bars=False), flush=True)
            figures.append(figure)
    page.write("logins", text(figures, args.runs, began), args.page)
    print(f"wrote {args.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

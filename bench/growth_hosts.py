"""What compute and placement cost as hosts and servers grow, to 10,000 hosts and 100,000 servers on one machine.

    python -m bench.growth_hosts [--hosts 100,1000,10000] [--runs 5]

Hosts are the fake driver's; ten servers on each are written through the store while the cloud is down, with what they
hold of the hosts. Everything measured is a request over HTTP. What the cloud does by itself (the hosts' heartbeats and
looks for news) is measured first and taken off. At last 1,000 servers are booted by one request, and single boots race
for a quota; then the books are checked: what providers say is used is what consumers hold, and every server that runs
holds room on its own host, once.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from bench import measure, page
from bench.clouds import MICROVERSION, Bench, Burst, create, flavor, image, one_process, unlimited
from bench.curve import drawn
from bench.growth_identity import FLAT, growth, table
from bench.measure import Figure
from pileus.kernel.sqlite import SqliteStore
from pileus.kernel.store import Tx
from pileus.kernel.world import World
from pileus.services.compute.nodes import NODES
from pileus.services.compute.server import SERVERS, FlavorCopy, Server
from pileus.services.placement.ledger import CONSUMERS, Consumer
from pileus.services.placement.providers import PROVIDERS, ResourceProvider

CURVE = page.ROOT / "docs" / "growth_hosts.svg"
ON_EACH = 10  # servers of a host
HOLDS = {"VCPU": 1, "MEMORY_MB": 64, "DISK_GB": 1}
AT_ONCE, LISTED = 1_000, 50
RACE, ROOM = 200, 100  # single boots, and how many the quota has room for
SETTLE_S, IDLE_S = 35.0, 15.0  # after the start each host looks for news once
GROWING = (  # with the answer, or with the hosts that are part of the process
    "allocation candidates, all",
    "the hypervisors",
    "start, s of CPU",
    "idle, ms a second",
    "memory (PSS), MB",
)
_NAMES = itertools.count()
Asked = tuple[str, str, dict[str, str], object]


# -- filling -------------------------------------------------------------------------------------


async def fill(state: Path, project_id: str) -> list[str]:
    """Brings every host to its ten servers; the ids of all, oldest first. They are off: a fake host has no guests for them."""
    store = SqliteStore(str(state / "cloud.sqlite"), World())
    await store.start()
    try:
        nodes = sorted(n.host for n in await NODES.all(store))
        providers = {p.name: p for p in await PROVIDERS.all(store)}
        for at in range(0, len(nodes), 100):
            async with store.tx() as tx:
                for host in nodes[at : at + 100]:
                    if not providers[host].in_use:
                        await _fill_host(tx, providers[host], project_id)
        return [s.id for s in await SERVERS.all(store)]
    finally:
        await store.stop()


async def _fill_host(tx: Tx, host: ResourceProvider, project_id: str) -> None:
    small = FlavorCopy(id="bench", name="bench", vcpus=1, ram=64, disk=1)
    owner: Any = {"project_id": project_id, "user_id": "bench"}
    for n in range(ON_EACH):
        id, name = World().new_id(), f"{host.name}-{n}"
        server = Server(
            id=id,
            name=name,
            hostname=name,
            flavor=small,
            vm_state="stopped",
            host=host.name,
            **owner,
        )
        await SERVERS.insert(tx, server)
        held = Consumer(id=id, consumer_type="INSTANCE", allocations={host.id: HOLDS}, **owner)
        await CONSUMERS.insert(tx, held)
    stocks = {
        name: msgspec.structs.replace(stock, used=ON_EACH * HOLDS[name])
        for name, stock in host.inventories.items()
    }
    await PROVIDERS.change(tx, host, inventories=stocks)


# -- asking --------------------------------------------------------------------------------------


@dataclass
class Visit:
    """One step's cloud: what it costs when nothing is asked, and what is asked of it."""

    bench: Bench
    servers: list[str]
    idle_ns: float = 0.0  # in a second

    def __post_init__(self) -> None:
        client = self.bench.client
        self.compute = urlsplit(client.catalog["compute"]).path.rstrip("/")
        self.placement = urlsplit(client.catalog["placement"]).path.rstrip("/")
        self.burst = Burst(client.catalog["compute"], {"X-Auth-Token": client.token})
        self.body = {
            "name": "bench",
            "imageRef": image(self.bench),
            "flavorRef": flavor(self.bench),
            "networks": "none",
        }

    def get(self, path: str) -> Asked:
        """Under a new name of the cloud: what was rendered before has links of another, so no answer is from memory.

        A small cloud remembers all its servers as rendered, a large one few: they could not be compared.
        """
        name = {"X-Forwarded-Host": f"cloud-{next(_NAMES)}.test"}
        return "GET", self.compute + path, {**MICROVERSION, **name}, None

    def show(self) -> Asked:
        return self.get(f"/servers/{random.choice(self.servers)}")

    def listed(self) -> Asked:
        """Behind one that has enough behind it."""
        marker = random.choice(self.servers[LISTED:])
        return self.get(f"/servers/detail?limit={LISTED}&marker={marker}")

    def boot(self) -> Asked:
        return "POST", self.compute + "/servers", MICROVERSION, {"server": self.body}

    def candidates(self, limit: str) -> Asked:
        asks = ",".join(f"{name}:{amount}" for name, amount in HOLDS.items())
        path = f"{self.placement}/allocation_candidates?resources={asks}{limit}"
        return "GET", path, {"OpenStack-API-Version": "placement 1.39"}, None

    def cpu_us(self, asked: Sequence[Asked], *, boots: bool = False) -> float:
        """Microseconds of the cloud's CPU for one of them, what it does by itself taken off."""
        pids = self.bench.pids()
        before, begun = measure.cpu_ns(pids), time.perf_counter()
        self.burst.ask(*asked)
        if boots:
            self.settled(len(asked))
        took, spent = time.perf_counter() - begun, measure.cpu_ns(pids) - before
        return max(1.0, spent - self.idle_ns * took) / len(asked) / 1_000

    def settled(self, newest: int) -> None:
        """Returns when the newest are built, a page after the other. Raises SystemExit where a boot failed."""
        marker = ""
        while newest > 0:
            path = f"/servers/detail?limit={min(newest, LISTED)}{marker}"
            servers = self.bench.compute("GET", path).json["servers"]
            if failed := [s for s in servers if s["status"] == "ERROR"]:
                raise SystemExit(f"a boot failed: {failed[0].get('fault')}")
            if any(s["status"] == "BUILD" for s in servers):
                time.sleep(0.05)
            else:
                newest -= len(servers)
                marker = f"&marker={servers[-1]['id']}"


def cases(v: Visit) -> dict[str, tuple[int, Callable[[], Asked]]]:
    return {
        "a boot": (40, v.boot),
        "a server by id": (400, v.show),
        f"{LISTED} servers with details": (20, v.listed),
        "allocation candidates, 50": (40, lambda: v.candidates("&limit=50")),
        "allocation candidates, all": (2, lambda: v.candidates("")),
        "the hypervisors": (2, lambda: v.get("/os-hypervisors")),
    }


def step(state: Path, hosts: int, servers: list[str], runs: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    with one_process(state, "fake", ["--hosts", str(hosts)]) as bench:
        pids, values = bench.pids(), list[float]()
        found["start, s of CPU"] = [measure.cpu_ns(pids) / 1e9]
        time.sleep(SETTLE_S)
        for _ in range(2):
            before, begun = measure.cpu_ns(pids), time.perf_counter()
            time.sleep(IDLE_S)
            values.append((measure.cpu_ns(pids) - before) / (time.perf_counter() - begun))
        visit = Visit(bench, servers, min(values))
        found["idle, ms a second"] = [v / 1e6 for v in values]
        for run in range(runs + 1):  # in the first, statements are compiled
            for name, (count, make) in cases(visit).items():
                spent = visit.cpu_us([make() for _ in range(count)], boots=name == "a boot")
                if run:
                    found.setdefault(name, []).append(spent)
        found["memory (PSS), MB"] = [measure.pss_mb(bench.pids())]
        visit.burst.close()
    return found


# -- races ---------------------------------------------------------------------------------------


def races(state: Path, hosts: int) -> list[str]:
    """What came of 1,000 boots at once and of a quota that many race for. Raises SystemExit if it is wrong."""
    with one_process(state, "fake", ["--hosts", str(hosts)]) as bench:
        visit = Visit(bench, [])
        before, begun = measure.cpu_ns(bench.pids()), time.perf_counter()
        create(bench, "none", AT_ONCE)
        visit.settled(AT_ONCE)
        took, spent = time.perf_counter() - begun, measure.cpu_ns(bench.pids()) - before
        lines = [
            f"- {AT_ONCE:,} servers of one request on {hosts:,} hosts: all ACTIVE after {took:.1f} s, "
            f"{spent / 1e6 / AT_ONCE:.1f} ms of CPU each, the hosts' own included"
        ]
        accepted = _race(bench, visit)
        visit.burst.close()
    if accepted != ROOM:
        raise SystemExit(f"a quota with room for {ROOM} accepted {accepted}")
    lines.append(f"- {RACE} single boots for a quota with room for {ROOM}: {accepted} accepted")
    return [*lines, asyncio.run(checked(state))]


def _race(bench: Bench, visit: Visit) -> int:
    project = bench.client.project_id
    limits = bench.compute("GET", "/limits").json["limits"]["absolute"]
    quota = {"instances": limits["totalInstancesUsed"] + ROOM}
    bench.compute("PUT", f"/os-quota-sets/{project}", {"quota_set": quota})
    visit.burst.ask(*[visit.boot() for _ in range(RACE)], refused_too=True)
    visit.settled(ROOM)
    used = bench.compute("GET", "/limits").json["limits"]["absolute"]["totalInstancesUsed"]
    return int(used - limits["totalInstancesUsed"])


async def checked(state: Path) -> str:
    """The books. Raises SystemExit if they are not straight."""
    store = SqliteStore(str(state / "cloud.sqlite"), World())
    await store.start()
    try:
        providers = {p.id: p for p in await PROVIDERS.all(store)}
        consumers = {c.id: c for c in await CONSUMERS.all(store)}
        servers = await SERVERS.all(store)
    finally:
        await store.stop()
    held: Counter[tuple[str, str]] = Counter()
    for consumer in consumers.values():
        for id, amounts in consumer.allocations.items():
            for name, amount in amounts.items():
                held[id, name] += amount
    for provider in providers.values():
        for name, stock in provider.inventories.items():
            if held[provider.id, name] != stock.used or stock.used > stock.capacity:
                raise SystemExit(f"{provider.name} says {stock.used} {name} of {stock.capacity}")
    for server in servers:
        (root,) = consumers.pop(server.id).allocations
        if providers[root].name != server.host:
            raise SystemExit(f"{server.id} is on {server.host}, its room on {providers[root].name}")
    if consumers:
        raise SystemExit(f"{len(consumers)} consumers are no servers")
    spread = Counter(s.host for s in servers)
    most, least = max(spread.values()), min(spread.values())
    return (
        f"- the books: {len(servers):,} servers hold room, each on its own host; {len(providers):,} "
        f"providers say the same; {least} to {most} servers on a host"
    )


# -- telling -------------------------------------------------------------------------------------


def text(
    steps: dict[int, dict[str, list[float]]],
    races: Sequence[str],
    args: argparse.Namespace,
    began: str,
) -> str:
    command = f"python -m bench.growth_hosts --hosts {args.hosts} --runs {args.runs}"
    what = "driver fake, one process, SQLite with synchronous=FULL; every acknowledged write is on disk"
    heads = [f"{n:,} hosts, {n * ON_EACH:,} servers" for n in steps]
    spread = f"min / median / max of {args.runs} runs, eight requests at a time"
    idle = "start, idle and memory are of the whole process, hosts included"
    return "\n".join(
        [
            "## Compute and placement as they fill",
            "",
            *page.circumstances(command, what, began),
            f"- CPU of the server, {spread}, what it does by itself taken off; {idle}",
            "",
            *table(steps, heads, GROWING),
            "",
            *races,
            "",
            "Servers are rendered for every answer here; at other times 3,000 are remembered as they were. Why the lines "
            "are not level: the database keeps 2 MB in memory, which is all of a small cloud and a hundredth of a large "
            "one, and the indexes of that are a level deeper (of pages a boot reads 20 and then 50, a server 2 and 6). "
            "That comes to an end; nothing that is called flat reads more rows for there being more hosts or servers.",
            "",
            f"![CPU of each request by the number of hosts]({CURVE.name})",
        ]
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", default="100,1000,10000")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--page", type=Path, default=page.PAGE)
    parser.add_argument("--curve", type=Path, default=CURVE)
    return parser.parse_args()


def measured(
    state: Path, sizes: Sequence[int], runs: int
) -> Iterator[tuple[int, dict[str, list[float]]]]:
    for hosts in sizes:
        with one_process(state, "fake", ["--hosts", str(hosts)]) as bench:
            unlimited(bench)
            flavor(bench)
            image(bench)
            project_id = bench.client.project_id
        servers = asyncio.run(fill(state, project_id))
        yield hosts, step(state, hosts, servers, runs)


def write(
    steps: dict[int, dict[str, list[float]]],
    raced: Sequence[str],
    args: argparse.Namespace,
    began: str,
) -> None:
    """The page and the curve as far as the measuring has come: a long run that is broken off leaves what it saw."""
    page.write("growth hosts", text(steps, raced, args, began), args.page)
    points = {h: {n: min(f[n]) for n in f if n not in GROWING[2:]} for h, f in steps.items()}
    args.curve.write_text(drawn(points, "hosts (ten servers each)", "CPU us"))


def main() -> int:
    args, began = arguments(), measure.load()
    sizes = [int(n) for n in args.hosts.split(",")]
    steps: dict[int, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(prefix="pileus-growth-") as folder:
        state = Path(folder) / "state"
        for hosts, found in measured(state, sizes, args.runs):
            steps[hosts] = found
            for name, values in found.items():
                print(Figure(f"{hosts} hosts: {name}", "us", values).row(), flush=True)
            write(steps, [f"partial: {len(steps)} of {len(sizes)} sizes, no races"], args, began)
        raced = races(state, sizes[-1])
    print("\n".join(raced))
    write(steps, raced, args, began)
    print(f"wrote {args.page} and {args.curve}")
    known = [[f[name] for f in steps.values()] for name in steps[sizes[-1]] if name not in GROWING]
    return int(any(growth(values) > FLAT for values in known))


if __name__ == "__main__":
    sys.exit(main())

"""Kill a cloud without warning while all that servers can be asked for is asked; nothing is lost, left or stuck.

Acknowledged means committed: a create that was answered 202 ends ACTIVE or in ERROR with a reason, a delete that was
answered 204 ends gone. After each kill the books of all services agree, and when all servers are deleted nothing that
served them is left.
"""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pileus.cli import background
from pileus.cli.client import ApiError, Unreachable
from pileus.kernel.world import Clock
from pileus.testing.places import Place
from pileus.testing.ports import free_port
from pileus.testing.roles import TwoRoles, two_roles
from pileus.testing.running import RunningCloud, start
from tests.e2e import books
from tests.e2e.deeds import DEEDS, DELETE, FORCE_DELETE, MICROVERSION, Deed, Things
from tests.e2e.guests import forget
from tests.e2e.sweep import Scope, sweep

SETTLE_S = 90
# How much is asked in a round, and the seconds in which the kill falls: after one of the deeds, or, as real guests take
# longer and two processors are soon busy, after the first.
ROUNDS = {"fake": (14, 0.15), "container": (4, 1.5), "qemu": (2, 4.0)}
VOLUMES = 6
ROOM = 14  # servers of pretence: with more, some are deleted
# Both are off by default: a shelved guest leaves its host at once, what is deleted is gone.
KEEPING = ("--set", "compute.reclaim_s=3600", "--set", "compute.shelved_offload_s=3600")
Row = dict[str, Any]


class Victims(Protocol):
    """The processes of a cloud. `images` and `hosts` are the folders of control's images and of pretended hosts."""

    cloud: RunningCloud
    images: Path
    hosts: Path

    def kill(self, chance: random.Random) -> None: ...

    def again(self) -> None:
        """Starts what is down."""


class Together:
    """One process."""

    def __init__(self, state: Path, driver: str, options: list[str], address: str) -> None:
        self.state, self.driver, self.options = state, driver, options
        self.address, self.port = address, free_port()
        self.images, self.hosts = state, state / "hosts"
        self.again()

    def kill(self, chance: random.Random) -> None:
        self.cloud.kill()

    def again(self) -> None:
        self.cloud = start(self.state, self.driver, self.options, self.port, self.address)


class Apart:
    """A control and a host over PostgreSQL and NATS: either dies, or both."""

    def __init__(self, roles: TwoRoles) -> None:
        self.roles, self.cloud = roles, roles.cloud
        self.images, self.hosts = roles.cloud.state, roles.host.state / "hosts"

    def kill(self, chance: random.Random) -> None:
        """A host alone comes back at once: somebody may be waiting for it."""
        who = chance.choice(("control", "host", "both"))
        if who != "control":
            self.roles.host.kill()
        if who != "host":
            self.cloud.kill()
        else:
            self.roles.host.start()

    def again(self) -> None:
        """Both at once, where both are down: a host waits for control."""
        host, waiting = self.roles.host, threading.Thread()
        if host.process is None or host.process.poll() is not None:
            waiting = threading.Thread(target=host.start)
            waiting.start()
        if self.cloud.process.poll() is not None:
            self.cloud = self.roles.again()
        if waiting.ident is not None:
            waiting.join()


@dataclass
class Ledger:
    """What the cloud acknowledged."""

    created: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    # Asked to be deleted: never answered, or kept for a while.
    doubtful: set[str] = field(default_factory=set)
    done: Counter[str] = field(default_factory=Counter)  # deeds that were accepted
    kills: int = 0


class Killer:
    """`outside`: with real guests, whose outer network is there; `keeps`: what is deleted can be restored."""

    def __init__(
        self, victims: Victims, seed: int, driver: str, outside: Place | None, keeps: bool
    ) -> None:
        self.victims, self.driver, self.outside, self.keeps = victims, driver, outside, keeps
        self.random = random.Random(seed)
        self.ledger, self.tried = Ledger(), Counter[str]()
        self.client = victims.cloud.client()
        self.rows: dict[str, Row] = {}
        self.create_body: dict[str, Any] = {}

    def get(self, service: str, path: str) -> Any:
        base = self.client.catalog[service] if service else self.victims.cloud.url
        return self.client.send("GET", base.rstrip("/") + path, None, MICROVERSION).json

    async def fetch(self, service: str, path: str) -> Any:
        return self.get(service, path)

    def compute(self, method: str, path: str, body: object = None) -> Any:
        url = self.client.catalog["compute"].rstrip("/") + path
        return self.client.send(method, url, body, MICROVERSION).json

    def prepare(self) -> None:
        """A network, an image, two flavors and room for many servers."""
        client, project = self.client, self.client.project_id
        self.victims.cloud.wait_for_image()
        quota = {"instances": -1, "cores": -1, "ram": -1}
        self.compute("PUT", f"/os-quota-sets/{project}", {"quota_set": quota})
        client.call("PUT", "network", f"/v2.0/quotas/{project}", {"quota": {"port": -1}})
        network = client.call("POST", "network", "/v2.0/networks", {"network": {"name": "kills"}})
        network_id = network["network"]["id"]
        subnet = {"network_id": network_id, "ip_version": 4, "cidr": "10.99.0.0/16"}
        client.call("POST", "network", "/v2.0/subnets", {"subnet": subnet})
        image = self.get("image", "/v2/images?status=active")["images"][0]["id"]
        flavors = [self._flavor(vcpus) for vcpus in (1, 2)]
        services = self.get("compute", "/os-services?binary=nova-compute")["services"]
        hosts = {service["host"]: service["id"] for service in services}
        self.things = Things(image, (flavors[0], flavors[1]), network_id, hosts)
        for _ in range(VOLUMES if self.driver == "fake" else 0):
            client.call("POST", "block-storage", "/volumes", {"volume": {"size": 1}})
        self.create_body = {
            "name": "kills",
            "imageRef": image,
            "flavorRef": flavors[0],
            "networks": [{"uuid": network_id}],
        }

    def _flavor(self, vcpus: int) -> str:
        flavor = {"name": f"kills-{vcpus}", "vcpus": vcpus, "ram": 128 * vcpus, "disk": 1}
        return str(self.compute("POST", "/flavors", {"flavor": flavor})["flavor"]["id"])

    # -- a round -----------------------------------------------------------------------------------

    def round(self) -> None:
        """Ask for this and that until the kill falls, a moment after so many deeds; then start again."""
        count, window_s = ROUNDS[self.driver]
        work = self._real_work(count) if self.outside else self._work(count)
        moment = self.random.uniform(0.0, window_s)
        first = 0 if self.outside else self.random.randint(0, len(work))
        kill = threading.Timer(moment, self.victims.kill, [random.Random(self.random.random())])
        with suppress(Unreachable):  # the kill fell; what was not answered is not acknowledged
            for n, do in enumerate(work):
                if n == first:
                    kill.start()
                do()
        if kill.ident is None:
            kill.start()
        kill.join()
        self.ledger.kills += 1
        self.victims.again()

    def _real_work(self, count: int) -> list[Callable[[], None]]:
        deletes = [self._delete_any for _ in range(count) if self.random.random() < 0.4]
        return [partial(self._create, 1) for _ in range(count)] + deletes

    def _work(self, count: int) -> list[Callable[[], None]]:
        """As many deeds, each on a server of its own; some servers come and some go."""
        ids = self.random.sample(sorted(self.rows), min(count, len(self.rows)))
        work: list[Callable[[], None]] = [partial(self._do_to, self.rows[id]) for id in ids]
        if len(self.rows) < ROOM:
            work += [partial(self._create, 1), partial(self._create, self.random.randint(2, 3))]
        work += [self._delete_any] * (len(self.rows) - ROOM)
        self.random.shuffle(work)
        return work

    def _create(self, count: int) -> None:
        body = {**self.create_body, "max_count": count}
        made = self.compute("POST", "/servers", {"server": body})
        self.ledger.created.add(made["server"]["id"])
        self.ledger.done["create"] += 1

    def _delete_any(self) -> None:
        left = sorted(self.ledger.created - self.ledger.deleted)
        if left:
            self._delete(self.random.choice(left))

    def _delete(self, id: str, verb: str = DELETE) -> None:
        # Until answered: a kill may fall between commit and answer.
        self.ledger.doubtful.add(id)
        try:
            if verb == DELETE:
                self.compute("DELETE", f"/servers/{id}")
            else:
                self.compute("POST", f"/servers/{id}/action", {FORCE_DELETE: None})
        except ApiError as e:
            # The answer to an earlier delete may have been lost: then it is gone, and 404 says so.
            assert e.status == 404, e
        self.ledger.done[verb] += 1
        if verb == FORCE_DELETE or not self.keeps:
            self.ledger.doubtful.discard(id)
            self.ledger.deleted.add(id)

    def _do_to(self, row: Row) -> None:
        """Of what its status allows, what was tried least so far."""
        status, things = row["status"], self.things
        fits = [deed for deed in DEEDS if status in deed.statuses and deed.asks(row, things)]
        self.random.shuffle(fits)
        deed = min(fits, key=lambda deed: self.tried[deed.name], default=None)
        if deed is None or row["id"] in self.ledger.deleted:
            return
        self.tried[deed.name] += 1
        if deed.name in (DELETE, FORCE_DELETE):
            self._delete(row["id"], deed.name)
        else:
            self._do(deed, row)

    def _do(self, deed: Deed, row: Row) -> None:
        for method, path, body in deed.asks(row, self.things):
            try:
                self.compute(method, path, body)
                self.ledger.done[deed.name] += 1
            except ApiError as e:
                # 503: its host was killed, which the answer waited for.
                assert e.status in {404, 409, 503} | deed.refused, (deed.name, e)

    # -- what must hold --------------------------------------------------------------------------

    async def settled(self) -> None:
        """Returns once no server is busy and none is there that was deleted."""
        clock = Clock()
        deadline = clock.monotonic() + SETTLE_S
        while True:
            self.rows = await books.servers(self.fetch)
            busy = {
                id: (row["status"], row["OS-EXT-STS:task_state"])
                for id, row in self.rows.items()
                if row["status"] == "BUILD"
                or row["OS-EXT-STS:task_state"] is not None
                or id in self.ledger.deleted
            }
            if not busy:
                return
            if clock.monotonic() > deadline:
                sagas = self.get("", "/status")["sagas"]
                raise AssertionError(f"still busy after {SETTLE_S} s: {busy}, {sagas}")
            await clock.sleep(0.05)

    def check(self) -> None:
        """Nothing acknowledged is lost, every server is in a stable state, and all books agree."""
        for service in self.things.hosts.values():
            self.compute("PUT", f"/os-services/{service}", {"forced_down": False})
        asyncio.run(self.settled())
        ledger = self.ledger
        lost = ledger.created - ledger.deleted - ledger.doubtful - self.rows.keys()
        assert not lost, f"acknowledged and lost: {sorted(lost)}"
        self.sweep()

    def sweep(self) -> None:
        """The machine holds what the API says and nothing else, and so does each API."""
        found = asyncio.run(self._compared())
        assert found == [], found
        if self.outside is not None:
            scope = Scope(self.victims.images, self.outside.prefix, self.outside.name)
            assert sweep(scope, self.victims.cloud.environment()) == []

    async def _compared(self) -> list[str]:
        """Hosts follow the API at a small distance; half images of a dead control go once a minute."""
        for tries in range(700):
            told = await books.read(self.fetch)
            found = books.differences(told) + books.files(self.victims.images, told)
            if self.driver == "fake":
                found += books.strange_guests(books.pretended(self.victims.hosts), told)
            waits = tries < 200 or all(text.startswith("half a file") for text in found)
            if not found or not waits:
                break
            await Clock().sleep(0.1)
        self.rows, self.things.ports = told.servers, told.ports_of
        self.things.volumes = [v["id"] for v in told.volumes if v["status"] == "available"]
        return found

    def clear(self) -> None:
        """Delete every server; nothing that served them is left, as every API says."""
        for id in self.rows:
            self._delete(id, FORCE_DELETE)
        asyncio.run(self.settled())
        assert self.rows == {}
        for image in self.get("image", "/v2/images?limit=1000")["images"]:
            if image["id"] != self.things.image and image["name"].startswith("kills"):
                self.client.call("DELETE", "image", f"/v2/images/{image['id']}")
        self.sweep()


@contextmanager
def together(
    state: Path, driver: str, options: list[str], outside: Place | None
) -> Iterator[Victims]:
    near, more = ("127.0.0.1", []) if outside is None else (outside.near, outside.options)
    victims = Together(state, driver, [*more, *options], near)
    try:
        yield victims
    finally:
        if victims.cloud.process.poll() is None:
            victims.cloud.stop()
        if driver == "container":
            forget(state)
        background.kill_leftovers(state)


def survive(
    state: Path,
    seed: int,
    rounds: int,
    outside: Place | None = None,
    driver: str = "fake",
    *,
    apart: bool = False,
    keeps: bool = False,
    wanted: Set[str] = frozenset(),
) -> Ledger:
    """So many kills at seeded moments; everything holds after each and at the end.

    `apart`: control and host are processes of their own; `keeps`: what is deleted can be restored, and what is shelved
    stays on its host. Up to as many more until all that is `wanted` was accepted once: a slow machine is asked for less.
    """
    options = list(KEEPING) if keeps else []
    with ExitStack() as stack:
        if apart:
            roles = stack.enter_context(two_roles(state, control_options=options))
            victims: Victims = Apart(roles)
        else:
            victims = stack.enter_context(together(state, driver, options, outside))
        killer = Killer(victims, seed, driver, outside, keeps)
        killer.prepare()
        ledger = killer.ledger
        while ledger.kills < rounds or (ledger.kills < 2 * rounds and wanted - ledger.done.keys()):
            killer.round()
            killer.check()
        killer.clear()
    done = ", ".join(f"{name} {n}" for name, n in sorted(ledger.done.items()))
    sys.stdout.write(f"seed {seed}: {ledger.kills} kills; accepted: {done}\n")
    return ledger

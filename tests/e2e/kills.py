"""Kill a cloud without warning while servers are made, moved and deleted; started again, nothing was lost or left.

Acknowledged means committed: a create that was answered 202 ends ACTIVE or in ERROR with a reason, a delete that was
answered 204 ends gone, and when all servers are deleted nothing that served them is left.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pileus.cli import background
from pileus.cli.client import ApiError, Client, Unreachable
from pileus.kernel.world import Clock
from pileus.testing.places import Place
from pileus.testing.running import RunningCloud, free_port, start
from tests.e2e.guests import forget
from tests.e2e.sweep import Scope, sweep

MICROVERSION = {"X-OpenStack-Nova-API-Version": "2.60", "OpenStack-API-Version": "compute 2.60"}
SETTLE_S = 60
# Servers of a round, and the seconds in which it is killed. Real guests take longer, and two processors are soon busy.
ROUNDS = {"fake": (8, 0.4), "container": (4, 1.5), "qemu": (2, 4.0)}


@dataclass
class Ledger:
    """What the cloud acknowledged."""

    created: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)  # asked to be deleted, never answered
    kills: int = 0


class Killer:
    def __init__(
        self, state: Path, seed: int, outside: Place | None = None, driver: str = "qemu"
    ) -> None:
        """`outside`: with real guests, of that driver, whose outer network is there."""
        self.driver = "fake" if outside is None else driver
        self.state, self.outside, self.port = state, outside, free_port()
        self.random = random.Random(seed)
        self.ledger = Ledger()
        self.cloud: RunningCloud | None = None
        self.client: Client | None = None
        self.create_body: dict[str, Any] = {}

    def up(self) -> Client:
        """Start (again) and log in."""
        if self.outside is None:
            self.cloud = start(self.state, port=self.port)
        else:
            options, address = self.outside.options, self.outside.near
            self.cloud = start(self.state, self.driver, options, self.port, address)
        self.client = self.cloud.client()
        return self.client

    def prepare(self) -> None:
        """A network, an image and room for many servers."""
        client = self.up()
        assert self.cloud is not None
        self.cloud.wait_for_image()
        path = f"/os-quota-sets/{client.project_id}"
        quota = {"instances": -1, "cores": -1, "ram": -1}
        client.call("PUT", "compute", path, {"quota_set": quota})
        ports = {"quota": {"port": -1}}
        client.call("PUT", "network", f"/v2.0/quotas/{client.project_id}", ports)
        network = client.call("POST", "network", "/v2.0/networks", {"network": {"name": "kills"}})
        network_id = network["network"]["id"]
        subnet = {"network_id": network_id, "ip_version": 4, "cidr": "10.99.0.0/16"}
        client.call("POST", "network", "/v2.0/subnets", {"subnet": subnet})
        images = client.call("GET", "image", "/v2/images?status=active")["images"]
        flavors = client.call("GET", "compute", "/flavors/detail")["flavors"]
        self.create_body = {
            "name": "kills",
            "imageRef": images[0]["id"],
            "flavorRef": min(flavors, key=lambda flavor: flavor["ram"])["id"],
            "networks": [{"uuid": network_id}],
        }

    def round(self) -> None:
        """Make and delete servers until the kill falls, then start again."""
        assert self.cloud is not None
        creates, window_s = ROUNDS[self.driver]
        kill = threading.Timer(self.random.uniform(0.0, window_s), self.cloud.kill)
        kill.start()
        try:
            for _ in range(creates):
                self._create()
                if self.random.random() < 0.4:
                    self._delete()
                if self.outside is None and self.random.random() < 0.4:
                    self._move()
        except Unreachable:
            pass  # the kill fell; what was not answered is not acknowledged
        kill.join()
        self.ledger.kills += 1
        self.up()

    def _create(self) -> None:
        assert self.client is not None
        made = self.client.call("POST", "compute", "/servers", {"server": self.create_body})
        self.ledger.created.add(made["server"]["id"])

    def _delete(self) -> None:
        assert self.client is not None
        left = sorted(self.ledger.created - self.ledger.deleted)
        if not left:
            return
        server = self.random.choice(left)
        # Until answered: a kill may fall between commit and answer.
        self.ledger.doubtful.add(server)
        try:
            self.client.call("DELETE", "compute", f"/servers/{server}")
        except ApiError as e:
            # The answer to an earlier delete may have been lost: then it is gone, and 404 says so.
            assert e.status == 404, e
        self.ledger.doubtful.discard(server)
        self.ledger.deleted.add(server)

    def _move(self) -> None:
        """To another host, while it runs or not. What is being made or deleted refuses."""
        assert self.client is not None
        left = sorted(self.ledger.created - self.ledger.deleted)
        if not left:
            return
        live = {"os-migrateLive": {"host": None, "block_migration": "auto"}}
        server, body = self.random.choice(left), self.random.choice([live, {"migrate": None}])
        url = f"{self.client.catalog['compute'].rstrip('/')}/servers/{server}/action"
        try:
            self.client.send("POST", url, body, MICROVERSION)
        except ApiError as e:
            assert e.status in (404, 409), e

    # -- what must hold --------------------------------------------------------------------------

    def servers(self) -> dict[str, dict[str, Any]]:
        assert self.client is not None
        rows = self.client.call("GET", "compute", "/servers/detail?limit=1000")["servers"]
        return {row["id"]: row for row in rows}

    async def settled(self) -> dict[str, dict[str, Any]]:
        """All servers, once none is busy."""
        clock = Clock()
        deadline = clock.monotonic() + SETTLE_S
        while True:
            rows = self.servers()
            busy = {
                id: (row["status"], row["OS-EXT-STS:task_state"])
                for id, row in rows.items()
                if row["status"] == "BUILD"
                or row["OS-EXT-STS:task_state"] is not None
                or id in self.ledger.deleted
            }
            if not busy:
                return rows
            assert clock.monotonic() < deadline, f"still busy after {SETTLE_S} s: {busy}"
            await clock.sleep(0.1)

    def check(self) -> None:
        """Nothing acknowledged is lost; every server is ACTIVE, or in ERROR with a reason."""
        rows = asyncio.run(self.settled())
        lost = self.ledger.created - self.ledger.deleted - self.ledger.doubtful - rows.keys()
        assert not lost, f"acknowledged and lost: {sorted(lost)}"
        for id, row in rows.items():
            assert row["status"] in ("ACTIVE", "VERIFY_RESIZE", "ERROR"), (id, row["status"])
            assert row["status"] != "ERROR" or row["fault"]["message"], id
        self.sweep()

    def sweep(self) -> None:
        """The machine holds what the API says and nothing else."""
        if self.outside is not None:
            assert self.cloud is not None
            scope = Scope(self.state, self.outside.prefix, self.outside.name)
            assert sweep(scope, self.cloud.environment()) == []

    def clear(self) -> None:
        """Delete every server; nothing that served them is left, as every API and `pileus status` say."""
        assert self.client is not None
        for id in self.servers():
            self.client.call("DELETE", "compute", f"/servers/{id}")
            self.ledger.deleted.add(id)
        asyncio.run(self.settled())
        ports = self.client.call("GET", "network", "/v2.0/ports")["ports"]
        assert [p["id"] for p in ports if p["device_owner"].startswith("compute:")] == []
        providers = self.client.call("GET", "placement", "/resource_providers")[
            "resource_providers"
        ]
        for provider in providers:
            path = f"/resource_providers/{provider['uuid']}/allocations"
            assert self.client.call("GET", "placement", path)["allocations"] == {}, provider["name"]
        limits = self.client.call("GET", "compute", "/limits")["limits"]["absolute"]
        assert (limits["totalInstancesUsed"], limits["totalCoresUsed"]) == (0, 0)
        command = [sys.executable, "-m", "pileus.cli.main", "status", "--state", str(self.state)]
        status = subprocess.run(command, capture_output=True, text=True, check=False)
        assert status.returncode == 0, status.stdout
        self.sweep()

    def end(self) -> None:
        if self.cloud is not None and self.cloud.process.poll() is None:
            self.cloud.stop()
        if self.driver == "container":
            forget(self.state)
        background.kill_leftovers(self.state)


def survive(
    state: Path, seed: int, rounds: int, outside: Place | None = None, driver: str = "qemu"
) -> Ledger:
    """So many kills at seeded moments; everything holds after each and at the end."""
    killer = Killer(state, seed, outside, driver)
    try:
        killer.prepare()
        for _ in range(rounds):
            killer.round()
            killer.check()
        killer.clear()
    finally:
        killer.end()
    return killer.ledger

"""How long a container server takes from its request until it is ACTIVE, and until its ssh greets.

    python -m bench.containers [--runs 10]

Needs root and `make setup DRIVER=container`. A cloud with real containers is started in a network of its own; the image
is on the host already, as after the first server of it. Its port is reached from where the network's DHCP answers.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from bench import measure, page
from bench.measure import Figure
from pileus.cli.client import Client
from pileus.host.netns import Namespaces
from pileus.testing.places import Place, place
from pileus.testing.running import RunningCloud, running

LOOK_S = 0.002
PATIENCE_S = 30.0
BAR_MS = 150


def active(client: Client, id: str, patience_s: float = PATIENCE_S) -> dict[str, Any]:
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        shown: dict[str, Any] = client.call("GET", "compute", f"/servers/{id}")["server"]
        if shown["status"] == "ERROR":
            raise SystemExit(shown["fault"]["message"])
        if shown["status"] == "ACTIVE":
            return shown
        time.sleep(LOOK_S)
    raise SystemExit(f"not ACTIVE within {patience_s} s")


def greets(address: str, port: int = 22, patience_s: float = PATIENCE_S) -> None:
    """Returns when the port speaks ssh. In the calling thread's namespace."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        with socket.socket() as plug:
            plug.settimeout(0.2)
            try:
                plug.connect((address, port))
                if plug.recv(4) == b"SSH-":
                    return
            except OSError:
                time.sleep(LOOK_S)
    raise SystemExit(f"{address} does not greet within {patience_s} s")


def image_of(client: Client, kind: str = "docker") -> str:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        path = f"/v2/images?container_format={kind}&status=active"
        if images := client.call("GET", "image", path)["images"]:
            return str(images[0]["id"])
        time.sleep(0.1)
    raise SystemExit(f"no {kind} image became active; `make setup` builds one")


def open_network(client: Client) -> str:
    """The id of a network, `bench`, that lets everything in."""
    open_to_all = {"name": "bench", "port_security_enabled": False}
    network = client.call("POST", "network", "/v2.0/networks", {"network": open_to_all})["network"]
    subnet = {"network_id": network["id"], "ip_version": 4, "cidr": "10.44.0.0/24"}
    client.call("POST", "network", "/v2.0/subnets", {"subnet": subnet})
    return str(network["id"])


def measured(cloud: RunningCloud, here: Place, runs: int) -> list[tuple[float, float]]:
    """Of each run, milliseconds until ACTIVE and until the greeting."""
    client, namespaces = cloud.client(), Namespaces()
    network = open_network(client)
    wanted = {
        "name": "bench",
        "imageRef": image_of(client),
        "flavorRef": client.call("GET", "compute", "/flavors?minDisk=1")["flavors"][0]["id"],
        "networks": [{"uuid": network}],
    }
    found = []
    for _ in range(runs + 1):  # the first fetches the image
        began = time.monotonic()
        made = client.call("POST", "compute", "/servers", {"server": wanted})["server"]
        shown = active(client, made["id"])
        is_active = time.monotonic()
        address = shown["addresses"]["bench"][0]["addr"]
        space = f"{here.prefix}-net-{network}"
        asyncio.run(namespaces.call(space, partial(greets, address)))
        found.append(((is_active - began) * 1000, (time.monotonic() - began) * 1000))
        client.call("DELETE", "compute", f"/servers/{made['id']}")
        time.sleep(0.5)
    return found[1:]


def main() -> int:
    parser = argparse.ArgumentParser(description="Containers as servers, measured.")
    parser.add_argument("--runs", type=int, default=10)
    runs, began = parser.parse_args().runs, measure.load()
    with tempfile.TemporaryDirectory() as folder, place() as here:
        state = Path(folder, "state")
        try:
            with running(state, "container", here.options, here.near) as cloud:
                found = measured(cloud, here, runs)
        finally:
            forget = [sys.executable, "-m", "pileus.cli.main", "forget", "--state", str(state)]
            subprocess.run(forget, check=False, capture_output=True)
    what = (
        "driver container, one process, SQLite with every commit on disk; one after the other, from POST /servers; "
        "the image is on the host"
    )
    figures = [
        Figure(name, "ms", values, BAR_MS)
        for name, values in zip(("ACTIVE", "ssh greets"), zip(*found, strict=True), strict=True)
    ]
    text = [
        "## A container server\n",
        *page.circumstances(f"python -m bench.containers --runs {runs}", what, began),
        "\n| figure | unit | min | median | max | runs | bar | |",
        "|---|---|--:|--:|--:|--:|--:|---|",
        *(figure.row() for figure in figures),
    ]
    print("\n".join(text))
    page.write("containers", "\n".join(text))
    return 0 if all(figure.median <= BAR_MS for figure in figures) else 1


if __name__ == "__main__":
    sys.exit(main())

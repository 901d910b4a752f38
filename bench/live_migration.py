"""For how long a guest stands still on its way to another host, from its stop there until it goes on here.

    python -m bench.live_migration [--runs 10]

Needs root and `make setup`. Two hosts, each a process in a network of its own, and PostgreSQL between them.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from pathlib import Path

from bench import measure, page
from bench.measure import Figure
from tests.e2e.test_moves import LIVE, Pair, pair

BAR_MS = 100
NEWER = {"OpenStack-API-Version": "compute 2.90"}  # an action's events have details


def stood_ms(both: Pair) -> float:
    """What the newest live migration says of itself."""
    client = both.here.client
    path = f"{client.catalog['compute'].rstrip('/')}/servers/{both.here.id}/os-instance-actions"
    actions = client.send("GET", path, None, NEWER).json["instanceActions"]
    request = next(a["request_id"] for a in actions if a["action"] == "live-migration")
    shown = client.send("GET", f"{path}/{request}", None, NEWER).json["instanceAction"]
    (found,) = re.findall(r"stood still for (\d+) ms", str(shown["events"]))
    return float(found)


def main() -> int:
    parser = argparse.ArgumentParser(description="Live migrations, measured.")
    parser.add_argument("--runs", type=int, default=10)
    runs, began = parser.parse_args().runs, measure.load()
    stood, took = [], []
    with tempfile.TemporaryDirectory() as folder, pair(Path(folder)) as both:
        both.here.log_in()
        for _ in range(runs):
            other, start = both.other, time.monotonic()
            both.act(LIVE)
            both.settled("ACTIVE", on=other)
            took.append(time.monotonic() - start)
            stood.append(stood_ms(both))
    figures = [
        Figure("the guest stands still", "ms", stood, BAR_MS),
        Figure("from the request until it is logged in to", "s", took),
    ]
    text = [
        "## A live migration\n",
        *page.circumstances(
            f"python -m bench.live_migration --runs {runs}",
            "driver qemu, two host processes, PostgreSQL; disks and memory go by TCP",
            began,
        ),
        "\n| figure | unit | min | median | max | runs | bar | |",
        "|---|---|--:|--:|--:|--:|--:|---|",
        *(figure.row() for figure in figures),
    ]
    print("\n".join(text))
    page.write("live migration", "\n".join(text))
    return 0 if figures[0].median <= BAR_MS else 1


if __name__ == "__main__":
    sys.exit(main())

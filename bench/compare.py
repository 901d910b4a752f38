"""The same work on real OpenStack services and on Pileus, in turns, and a table of both in docs/performance.md.

    python -m bench.compare [--suites keystone,nova] [--rounds 3] [--servers 200]

The real services must be up (bench/real/*.sh, state in PEERS_HOME); Pileus is started here with the fake driver. Each
round runs a suite on the one and then on the other. The main figure is CPU: that of all services which the suite
involves, database, bus and cache included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import measure, page
from bench.clouds import HOSTS, Bench, one_process, unlimited
from pileus.cli import background

SUITES = Path(__file__).parent / "suites"
REAL = {
    "OS_AUTH_URL": "http://127.0.0.1:25000/v3",
    "OS_USERNAME": "admin",
    "OS_PASSWORD": "adminpw",
    "OS_PROJECT_NAME": "admin",
    "OS_USER_DOMAIN_ID": "default",
    "OS_PROJECT_DOMAIN_ID": "default",
}
# Which real services a suite makes work, by the beginnings of their names in PEERS_HOME/run.
INVOLVED = {
    "cinder": ("cinder", "keystone", "mariadb", "memcached", "rabbitmq"),
    "keystone": ("keystone", "mariadb", "memcached"),
    "glance": ("glance", "keystone", "mariadb", "memcached"),
    "placement": ("placement", "keystone", "mariadb", "memcached"),
    "neutron": ("neutron", "ovn", "keystone", "mariadb", "memcached", "rabbitmq"),
    "nova": (
        *("nova", "neutron", "ovn", "keystone", "placement", "glance"),
        *("mariadb", "memcached", "rabbitmq"),
    ),
}
NAMES = {
    "cinder": "Cinder",
    "glance": "Glance",
    "keystone": "Keystone",
    "neutron": "Neutron",
    "nova": "Nova",
    "placement": "Placement",
}
Row = dict[str, Any]


def real_groups(peers: Path, suite: str) -> str:
    """`name=pidfile,...` of the real services involved."""
    files = sorted((peers / "run").glob("*.pid"))
    return ",".join(f"{f.stem}={f}" for f in files if f.stem.startswith(INVOLVED[suite]))


def run_suite(
    suite: str, label: str, environment: Mapping[str, str], groups: str, args: argparse.Namespace
) -> dict[str, Any]:
    """The suite's own report, as JSON."""
    with tempfile.TemporaryDirectory(prefix="pileus-compare-") as out:
        command = [str(args.peers / "venv-tool/bin/python"), str(SUITES / f"{suite}.py")]
        command += ["--runs", "1", "--label", label, "--pids", groups, "--out", out]
        command += ["--scale", str(args.scale)]
        if suite == "nova":
            command += ["--servers", str(args.servers), "--conc", "10"]
        subprocess.run(command, check=True, env={**os.environ, **environment}, stdout=sys.stderr)
        (written,) = Path(out).glob("*.json")
        found: dict[str, Any] = json.loads(written.read_text())
        return found


def cell(rows: Sequence[Row], key: str) -> str:
    """min / median / max of all rounds."""
    values = [row[key] for row in rows if row[key] is not None]
    if not values:
        return ""
    return " / ".join(f"{v:.2f}" for v in (min(values), statistics.median(values), max(values)))


def table(real: Sequence[dict[str, Any]], ours: Sequence[dict[str, Any]]) -> list[str]:
    def by_case(reports: Sequence[dict[str, Any]]) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for report in reports:
            for row in report["rows"]:
                found.setdefault(row["case"], []).append(row)
        return found

    theirs, mine = by_case(real), by_case(ours)
    lines = [
        "| case | real: CPU ms | Pileus: CPU ms | ratio | real: p50 ms | Pileus: p50 ms | errors |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for case in theirs:
        a, b = theirs[case], mine.get(case, [])
        errors = f"{sum(r['errors'] for r in a)}, {sum(r['errors'] for r in b)}"
        cpu = [statistics.median(r["cpu_ms"] for r in rows) if rows else 0 for rows in (a, b)]
        ratio = f"{cpu[0] / cpu[1]:.0f}" if cpu[1] else ""
        cells = [case, cell(a, "cpu_ms"), cell(b, "cpu_ms"), ratio]
        cells += [cell(a, "p50_ms"), cell(b, "p50_ms"), errors]
        lines.append("| " + " | ".join(cells) + " |")
    memory = [
        statistics.median(r["memory_total"]["pss_mib"] for r in some) for some in (real, ours)
    ]
    count = [some[-1]["memory_total"]["procs"] for some in (real, ours)]
    lines += [
        "",
        f"Memory (PSS): real {memory[0]:.0f} MiB in {count[0]} processes, Pileus {memory[1]:.0f} MiB in {count[1]}.",
        "",
    ]
    return lines


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suites", default="keystone,nova")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--servers", type=int, default=200, help="in the lists of nova's suite")
    peers = os.environ.get("PEERS_HOME", str(Path.home() / ".cache/openstack-peers"))
    parser.add_argument("--peers", type=Path, default=Path(peers))
    parser.add_argument("--note", default="", help="what else is to be known about this run")
    parser.add_argument("--page", type=Path, default=page.PAGE)
    return parser.parse_args()


def rounds(args: argparse.Namespace, bench: Bench, suite: str) -> list[str]:
    """Both sides in turn, and their table."""
    mine = {**background.environment(bench.state)}
    mine |= {"OS_USER_DOMAIN_ID": "default", "OS_PROJECT_DOMAIN_ID": "default"}
    real, ours = [], []
    for _ in range(args.rounds):
        groups = real_groups(args.peers, suite)
        real.append(run_suite(suite, "real", REAL, groups, args))
        ours.append(run_suite(suite, "pileus", mine, f"pileus={bench.roots[0]}", args))
    return table(real, ours)


def part(args: argparse.Namespace, suite: str) -> str:
    """A suite's table, with the circumstances."""
    began = measure.load()
    with (
        tempfile.TemporaryDirectory(prefix="pileus-compare-") as folder,
        one_process(Path(folder) / suite, "fake", HOSTS) as bench,
    ):
        unlimited(bench)
        lines = rounds(args, bench, suite)
    has_bus = (args.peers / "run/rabbitmq.pid").exists()
    bus = "RabbitMQ" if has_bus else "oslo.messaging's fake bus"  # NORMQ: cheaper for the real side
    what = (
        f"{args.rounds} rounds in turn, min / median / max; CPU ms per operation of all processes involved, database and "
        "bus included. Pileus: driver fake, one process, SQLite with synchronous=FULL. Real: newest releases for this "
        f"Python, uWSGI with two processes, MariaDB (every commit flushed), memcached, {bus}, OVN's databases, fake "
        "hypervisor. Password hashes: argon2id (19 MiB) here, bcrypt (12 rounds) there"
    )
    command = (
        f"python -m bench.compare --suites {suite} --rounds {args.rounds} --scale {args.scale}"
    )
    if suite == "nova":
        command += f" --servers {args.servers}"
    head = [f"## {NAMES[suite]}, side by side with the real one", ""]
    head += page.circumstances(command, what, began)
    notes = [
        "CPU includes what those processes do besides: whoever takes longer is charged more of it",
        args.note,
    ]
    head += [f"- {note}" for note in notes if note]
    return "\n".join([*head, "", *lines])


def main() -> int:
    args = arguments()
    for suite in args.suites.split(","):
        text = part(args, suite)
        print(text, flush=True)
        page.write(f"compared {suite}", text, args.page)
    return 0


if __name__ == "__main__":
    sys.exit(main())

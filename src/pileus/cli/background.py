"""`make up` and `make down`: the cloud as a background process of a state folder.

The process id is in `pileus.pid` and what it prints in `pileus.log`, both in the state folder. A second `up` finds the
cloud running and leaves it be.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from pileus.cli.client import ApiError, Client
from pileus.kernel.world import Clock

PATIENCE_S = 120
READY = re.compile(r"^ready (?P<url>http\S+) in (?P<ms>\d+) ms", re.MULTILINE)


def pid_of(state: Path) -> int | None:
    """The process that runs this state folder's cloud; None if none does, or its id now belongs to another.

    One that was started by hand is found by what it wrote itself.
    """
    for pid in (_number(state / "pileus.pid"), _written(state / "cloud.json")):
        if pid is not None and _is_ours(pid):
            return pid
    return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _written(path: Path) -> int | None:
    try:
        return int(json.loads(path.read_text())["pid"])
    except (OSError, ValueError, KeyError):
        return None


def _is_ours(pid: int) -> bool:
    """A process has no command line for the moment in which it replaces itself, and none once it has ended."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return b"pileus" in command if command else state != "Z"


def exports(printed: str) -> dict[str, str]:
    """The variables that lines such as `export OS_USERNAME='admin'` set."""
    words = (shlex.split(line) for line in printed.splitlines())
    pairs = (word[1].partition("=") for word in words if len(word) == 2 and word[0] == "export")
    return {name: value for name, _, value in pairs}


def environment(state: Path) -> dict[str, str]:
    """What `pileus env` prints for an administrator, as a mapping."""
    command = [sys.executable, "-m", "pileus.cli.main", "env", "--state", str(state)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(f"pileus env failed: {done.stderr.strip()}")
    return exports(done.stdout)


def start(
    state: Path, listen: str, driver: str, options: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    """Start the process, in a session of its own."""
    state.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pileus.cli.main", "up", "--state", str(state)]
    command += ["--listen", listen, "--driver", driver, *options]
    with (state / "pileus.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    (state / "pileus.pid").write_text(str(process.pid))
    return process


async def ready(state: Path, clock: Clock) -> tuple[str, int]:
    """Wait for the `ready` line: (URL, milliseconds). Fails with the log's end if the process ends before it."""
    log = state / "pileus.log"
    deadline = clock.monotonic() + PATIENCE_S
    while clock.monotonic() < deadline:
        found = READY.search(log.read_text(errors="replace"))
        if found:
            return found["url"], int(found["ms"])
        if pid_of(state) is None:
            raise click.ClickException(f"the cloud ended before it was ready:\n{_tail(log)}")
        await clock.sleep(0.05)
    raise click.ClickException(f"not ready after {PATIENCE_S} s; see {log}:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


async def stop(state: Path, clock: Clock) -> bool:
    """End the process and wait for it; False if there was none. Guests live on."""
    pid = pid_of(state)
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    deadline = clock.monotonic() + PATIENCE_S
    while pid_of(state) is not None:
        if clock.monotonic() > deadline:
            raise click.ClickException(f"process {pid} did not end in {PATIENCE_S} s; see its log")
        await clock.sleep(0.05)
    (state / "pileus.pid").unlink(missing_ok=True)
    return True


async def delete_servers(client: Client, clock: Clock) -> int:
    """Delete the servers of all projects and wait until they are gone: how many there were."""
    path = "/servers?all_tenants=1"
    servers = client.call("GET", "compute", path)["servers"]
    for server in servers:
        try:
            client.call("DELETE", "compute", "/servers/" + server["id"])
        except ApiError as e:
            if e.status != 404:
                raise
    deadline = clock.monotonic() + PATIENCE_S
    while clock.monotonic() < deadline and client.call("GET", "compute", path)["servers"]:
        await clock.sleep(0.2)
    return len(servers)


def kill_leftovers(state: Path) -> int:
    """End every process that runs in the state folder (guests) or is told of a file in it: how many."""
    mark = f"{state.resolve()}/".encode()
    ended = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            inside = os.fsencode(os.readlink(folder / "cwd"))
            if inside.startswith(mark) or mark in (folder / "cmdline").read_bytes():
                os.kill(int(folder.name), signal.SIGTERM)
                ended += 1
        except (OSError, ProcessLookupError):
            continue  # it ended while we looked
    return ended


@click.group()
def main() -> None:
    """The cloud in the background."""


@main.command()
@click.option("--state", type=click.Path(path_type=Path), required=True)
@click.option("--listen", default="127.0.0.1:5000", show_default=True)
@click.option(
    "--driver", type=click.Choice(["qemu", "container", "qemu,container", "fake"]), default="qemu"
)
@click.argument("options", nargs=-1)
def up(state: Path, listen: str, driver: str, options: tuple[str, ...]) -> None:
    """Start it unless it runs, and wait until it answers."""
    if pid_of(state) is not None:
        click.echo(f"==> the cloud of {state} is running (process {pid_of(state)})")
        return
    click.echo(f"==> starting the cloud on {listen} with --driver {driver}")
    start(state, listen, driver, options)
    url, ms = asyncio.run(ready(state, Clock()))
    click.echo(f"==> ready: {url} in {ms} ms; log in {state / 'pileus.log'}")


@main.command()
@click.option("--state", type=click.Path(path_type=Path), required=True)
def down(state: Path) -> None:
    """Stop it. Guests keep running and the state stays."""
    was = asyncio.run(stop(state, Clock()))
    click.echo("==> stopped" if was else "==> nothing was running")


if __name__ == "__main__":
    main()

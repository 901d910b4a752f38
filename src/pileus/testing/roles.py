"""The two roles apart: `pileus control` as an ordinary user and `pileus host` as root, over PostgreSQL and NATS.

The processes start as an operator would start them on two machines; loopback lies between them here, or a veth pair where
the host has a network namespace of its own.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pileus.cli import background
from pileus.kernel.world import Clock
from pileus.testing.nats_server import NatsServer
from pileus.testing.places import Place
from pileus.testing.ports import free_port
from pileus.testing.postgres_server import postgres
from pileus.testing.running import RunningCloud

NOBODY = 65534
_JOINED = re.compile(r"has joined in \d+ ms")
_PATIENCE_S = 60


def _start(
    command: Sequence[str], log: Path, *, ordinary: bool = False, machine: Place | None = None
) -> subprocess.Popen[bytes]:
    """`ordinary`: as a user without any privilege but, where Python lies in root's home, that to read files there."""
    arguments = [sys.executable, "-m", "pileus.cli.main", *command]
    if ordinary and os.geteuid() == 0:
        left = "-all,+dac_read_search"
        caps = [f"--bounding-set={left}", f"--inh-caps={left}", f"--ambient-caps={left}"]
        ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
        arguments = ["setpriv", *ids, *caps, *arguments]
    if machine is not None:
        arguments = machine.inside(arguments)
    with log.open("wb") as output:
        return subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
        )


async def _said(log: Path, text: re.Pattern[str], process: subprocess.Popen[bytes]) -> None:
    clock = Clock()
    give_up = clock.monotonic() + _PATIENCE_S
    while not text.search(printed := await asyncio.to_thread(log.read_text, errors="replace")):
        if process.poll() is not None or clock.monotonic() > give_up:
            raise AssertionError(printed[-4000:])
        await clock.sleep(0.05)


@dataclass
class Host:
    """`pileus host`, which may be killed and started again. `machine`: the network namespace it runs in, or this one."""

    state: Path
    command: Sequence[str]
    machine: Place | None = None
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it has joined."""
        log = self.state / "pileus.log"
        self.process = _start(self.command, log, machine=self.machine)
        asyncio.run(_said(log, _JOINED, self.process))

    def kill(self) -> None:
        """As a power cut of that process alone; its guests run on."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None:
            _end(self.process)


@dataclass
class TwoRoles:
    """`cloud` is the control's; `again` starts it anew where it was killed.

    `more` makes another host out of its folder, options and machine, and does not start it.
    """

    cloud: RunningCloud
    host: Host
    again: Callable[[], RunningCloud]
    more: Callable[[Path, Sequence[str], Place | None], Host]


@contextmanager
def two_roles(
    folder: Path,
    host_options: Sequence[str] = ("--driver", "fake"),
    machine: Place | None = None,
    control_options: Sequence[str] = (),
    durable: bool = False,
) -> Iterator[TwoRoles]:
    """A cloud of one control and one host process; the host runs in the namespace `machine`, if one is given.

    `durable`: PostgreSQL waits for the disk.
    """
    state, host_state = folder / "control", folder / "host"
    for path in (state, host_state):
        path.mkdir(parents=True)
    _open_to_ordinary_user(folder, state)
    address = machine.near if machine else "127.0.0.1"
    listen = f"{address}:{free_port(address)}"
    with ExitStack() as stack:
        store = stack.enter_context(postgres(durable=durable))
        nats = NatsServer(folder, address=address)
        stack.callback(nats.stop)
        control = ["control", "--state", str(state), "--listen", listen]
        control += ["--store", store, "--bus", nats.url, *control_options]

        def again() -> RunningCloud:
            process = _start(control, state / "pileus.log", ordinary=True)
            stack.callback(_end, process)
            (state / "pileus.pid").write_text(str(process.pid))
            url, ready_ms = asyncio.run(background.ready(state, Clock()))
            return RunningCloud(state, url, process, ready_ms)

        cloud = again()

        def more(state: Path, options: Sequence[str], machine: Place | None) -> Host:
            state.mkdir(exist_ok=True)
            command = ["host", "--state", str(state), "--bus", nats.url, "--control-url", cloud.url]
            host = Host(state, [*command, *options], machine)
            stack.callback(host.stop)
            return host

        host = more(host_state, host_options, machine)
        host.start()
        yield TwoRoles(cloud, host, again, more)


def _open_to_ordinary_user(folder: Path, state: Path) -> None:
    """Root's temporary folders are closed to others."""
    if os.geteuid() == 0:
        for path in (folder, *list(folder.parents)[:3]):
            path.chmod(path.stat().st_mode | 0o055)
        os.chown(state, NOBODY, NOBODY)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

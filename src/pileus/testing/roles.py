"""The two roles apart: `pileus control` as an ordinary user and `pileus host` as root, over PostgreSQL and NATS.

The processes start as an operator would start them on two machines; only loopback lies between them here.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pileus.cli import background
from pileus.kernel.world import Clock
from pileus.testing.nats_server import NatsServer
from pileus.testing.postgres_server import postgres
from pileus.testing.running import RunningCloud, free_port

NOBODY = 65534
_JOINED = re.compile(r"has joined in \d+ ms")
_PATIENCE_S = 60


def _start(command: Sequence[str], log: Path, *, ordinary: bool) -> subprocess.Popen[bytes]:
    """`ordinary`: as a user without any privilege but, where Python lies in root's home, that to read files there."""
    arguments = [sys.executable, "-m", "pileus.cli.main", *command]
    if ordinary and os.geteuid() == 0:
        left = "-all,+dac_read_search"
        caps = [f"--bounding-set={left}", f"--inh-caps={left}", f"--ambient-caps={left}"]
        ids = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
        arguments = ["setpriv", *ids, *caps, *arguments]
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


@contextmanager
def two_roles(
    folder: Path, host_options: Sequence[str] = ("--driver", "fake")
) -> Iterator[RunningCloud]:
    """A cloud of one control and one host process. What it gives is the control's."""
    state, host_state = folder / "control", folder / "host"
    state.mkdir()
    host_state.mkdir()
    if os.geteuid() == 0:
        for path in (folder, *list(folder.parents)[:2]):
            path.chmod(path.stat().st_mode | 0o055)
        os.chown(state, NOBODY, NOBODY)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with ExitStack() as stack:
        store = stack.enter_context(postgres())
        nats = NatsServer(folder)
        stack.callback(nats.stop)
        bus = f"nats://127.0.0.1:{nats.port}"
        control = [
            "control",
            "--state",
            str(state),
            "--listen",
            f"127.0.0.1:{port}",
            "--store",
            store,
            "--bus",
            bus,
        ]
        process = _start(control, state / "pileus.log", ordinary=True)
        stack.callback(_end, process)
        (state / "pileus.pid").write_text(str(process.pid))
        found = asyncio.run(background.ready(state, Clock()))
        host = [
            "host",
            "--state",
            str(host_state),
            "--bus",
            bus,
            "--control-url",
            url,
            *host_options,
        ]
        joining = _start(host, host_state / "pileus.log", ordinary=False)
        stack.callback(_end, joining)
        asyncio.run(_said(host_state / "pileus.log", _JOINED, joining))
        yield RunningCloud(state, found[0], process, found[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

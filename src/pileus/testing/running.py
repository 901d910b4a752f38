"""A whole cloud as a user starts it: a `pileus up` process with a state folder and a port of its own.

What spans processes (the official suites, the command line, kills, figures) is asked of such a cloud over HTTP, and of
nothing else.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pileus.cli import background
from pileus.cli.client import Client, Credentials
from pileus.kernel.world import Clock
from pileus.testing.ports import free_port

DEBIAN_PACKAGES = ("netcat-traditional",)  # by which the official suites talk UDP to guests
ACTIVE_PATIENCE_S = 60


@dataclass
class RunningCloud:
    """`ready_ms` is the time that the cloud itself printed."""

    state: Path
    url: str
    process: subprocess.Popen[bytes]
    ready_ms: int

    def environment(self) -> dict[str, str]:
        """The administrator's `OS_*` variables."""
        return background.environment(self.state)

    def client(self) -> Client:
        """The administrator, logged in."""
        client = Client(Credentials.of(self.environment()))
        client.login()
        return client

    def stop(self) -> int:
        """End it as an operator does; the exit status. Guests live on."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=background.PATIENCE_S)

    def kill(self) -> None:
        """End it as a power cut does, with all its own processes."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=background.PATIENCE_S)

    def wait_for_image(self) -> None:
        """Until a public image is active: at a first start it still arrives when the cloud is ready."""
        asyncio.run(_image(self.client(), Clock()))


async def _image(client: Client, clock: Clock) -> None:
    deadline = clock.monotonic() + ACTIVE_PATIENCE_S
    path = "/v2/images?status=active&visibility=public"
    while not client.call("GET", "image", path)["images"]:
        if clock.monotonic() > deadline:
            raise TimeoutError(f"no public image became active in {ACTIVE_PATIENCE_S} s")
        await clock.sleep(0.1)


def start(
    state: Path,
    driver: str = "fake",
    options: Sequence[str] = (),
    port: int | None = None,
    address: str = "127.0.0.1",
) -> RunningCloud:
    """Start a cloud and wait until it is ready; the caller ends it. Raises ClickException with the log's end."""
    listen = f"{address}:{port or free_port()}"
    process = background.start(state, listen, driver, options)
    try:
        url, ms = asyncio.run(background.ready(state, Clock()))
    except BaseException:
        process.kill()
        process.wait()
        raise
    return RunningCloud(state, url, process, ms)


@contextmanager
def running(
    state: Path,
    driver: str = "fake",
    options: Sequence[str] = (),
    address: str = "127.0.0.1",
) -> Iterator[RunningCloud]:
    """A cloud for the length of a block."""
    cloud = start(state, driver, options, address=address)
    try:
        yield cloud
    finally:
        if cloud.process.poll() is None:
            cloud.stop()

"""A `nats-server` for tests, on a free port and gone with the test."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from pileus.kernel.nats_bus import NatsSettings
from pileus.testing.ports import free_port

DEBIAN_PACKAGES = ("nats-server",)


class NatsServer:
    """A `nats-server` of its own on a free port."""

    def __init__(self, folder: Path, *options: str, address: str = "127.0.0.1") -> None:
        self._folder, self.options, self.address = folder, options, address
        self.port = free_port(address)
        self.start()

    @property
    def url(self) -> str:
        return f"nats://{self.address}:{self.port}"

    def start(self) -> None:
        command = ["nats-server", "-a", self.address, "-p", str(self.port), *self.options]
        with (self._folder / "nats.log").open("ab") as output:
            self._process = subprocess.Popen(command, stdout=output, stderr=output)
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex((self.address, self.port)) == 0:
                    return
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(0.05)  # the pause between tries
                break
        raise AssertionError((self._folder / "nats.log").read_text())

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def reload(self) -> None:
        """Makes it read its configuration again."""
        self._process.send_signal(signal.SIGHUP)

    def settings(self, **more: object) -> NatsSettings:
        servers = (self.url,)
        return NatsSettings(servers=servers, longest_wait_s=0.1, **more)  # type: ignore[arg-type]


def nats_server(folder: Path, *options: str) -> NatsServer:
    if shutil.which("nats-server") is None:
        pytest.skip("nats-server is not installed (Debian package nats-server)")
    return NatsServer(folder, *options)

"""Debian's PostgreSQL, started for tests: a folder, a port and a socket of its own, run by an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pileus.testing.ports import free_port

DEBIAN_PACKAGES = ("postgresql",)
USER = "postgres"
IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
INITDB = ("-U", "pileus", "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync")


def programs() -> Path | None:
    """The folder with initdb and postgres of the newest version installed, or None."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return found[-1].parent if found else None


@contextmanager
def postgres(*, durable: bool = False) -> Iterator[str]:
    """A running server with an empty database; its URL. Raises FileNotFoundError if Debian's package is missing.

    `durable`: it really waits for the disk, as figures need and tests do not.
    """
    bin_ = programs()
    if bin_ is None:
        raise FileNotFoundError(
            "PostgreSQL is not installed; install it: apt-get install postgresql"
        )
    folder = Path(tempfile.mkdtemp(prefix="pileus-postgres-", dir=None if durable else IN_MEMORY))
    port = free_port()
    account = pwd.getpwnam(USER) if os.geteuid() == 0 else None
    if account is not None:
        os.chown(folder, account.pw_uid, account.pw_gid)
    ids: dict[str, Any] = {"user": account.pw_uid, "group": account.pw_gid} if account else {}
    data = folder / "data"
    subprocess.run(
        [bin_ / "initdb", "-D", data, *INITDB],
        check=True,
        capture_output=True,
        cwd=folder,
        **ids,
    )
    options = {"listen_addresses": "127.0.0.1", "fsync": "on" if durable else "off"}
    settings = [text for name, value in options.items() for text in ("-c", f"{name}={value}")]
    server = subprocess.Popen(
        [str(bin_ / "postgres"), "-D", str(data), "-p", str(port), "-k", str(folder), *settings],
        stdout=subprocess.DEVNULL,
        stderr=(folder / "log").open("wb"),
        cwd=folder,
        **ids,
    )
    try:
        _wait(bin_, folder, port)
        yield f"postgresql://pileus@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGQUIT)  # its immediate shutdown: nothing is read from it again
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(bin_: Path, folder: Path, port: int) -> None:
    command = [str(bin_ / "pg_isready"), "-h", str(folder), "-p", str(port), "-t", "1"]
    for _ in range(300):
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return
        with socket.socket() as s:  # a tenth of a second between tries
            s.settimeout(0.1)
            s.connect_ex(("127.0.0.1", 9))
    raise TimeoutError(f"PostgreSQL did not start: {(folder / 'log').read_text()[-2000:]}")

"""Install Debian packages that are missing: `packages.py NAME...`. Needs nothing but Python 3.11's own library.

Runs before there is a virtual environment, so it imports nothing of ours. Says what is missing and what to do about it
when it is not allowed to install.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

INSTALLED = b"install ok installed"
NO_STARTS = Path("/usr/sbin/policy-rc.d")
LISTS = Path(
    "/var/lib/apt/lists"
)  # empty on a fresh machine; the test image is made of packages too


def missing(names: Sequence[str]) -> list[str]:
    """Those of `names` that dpkg does not hold installed, in their order."""
    return [name for name in dict.fromkeys(names) if not _installed(name)]


def _installed(name: str) -> bool:
    ask = ["dpkg-query", "--show", "--showformat=${Status}", name]
    return subprocess.run(ask, capture_output=True, check=False).stdout == INSTALLED


def privilege() -> list[str] | None:
    """The words before a command that make it root's; None if this user has no such way."""
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], check=False).returncode == 0:
        return ["sudo", "-n", "--preserve-env=DEBIAN_FRONTEND"]
    return None


@contextmanager
def nothing_starts(root: Sequence[str]) -> Iterator[None]:
    """Servers that are installed in the block are not started: Debian would, at their usual ports (deb-systemd-invoke(1p))."""
    if NO_STARTS.exists():  # somebody decides that already
        yield
        return
    write = [*root, "tee", str(NO_STARTS)]
    subprocess.run(write, input=b"#!/bin/sh\nexit 101\n", stdout=subprocess.DEVNULL, check=True)
    try:
        subprocess.run([*root, "chmod", "755", str(NO_STARTS)], check=True)
        yield
    finally:
        subprocess.run([*root, "rm", "-f", str(NO_STARTS)], check=True)


def install(names: Sequence[str], root: Sequence[str]) -> int:
    """apt-get's exit status. The package lists are fetched first: on a fresh machine there are none."""
    apt = [*root, "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0"]
    subprocess.run([*apt, "update"], check=False, stdin=subprocess.DEVNULL)
    if not names:
        return 0
    command = [*apt, "install", "--yes", "--no-install-recommends", *names]
    with nothing_starts(root):
        return subprocess.run(command, check=False, stdin=subprocess.DEVNULL).returncode


def main(names: Sequence[str]) -> int:
    absent = missing(names)
    if not absent and any(LISTS.glob("*Packages*")):
        return 0
    root = privilege()
    if root is None and not absent:
        return 0
    if root is None:
        print(
            f"missing Debian packages: {' '.join(absent)}\n"
            "Installing them needs root or passwordless sudo. Either run\n"
            f"    sudo apt-get install --no-install-recommends {' '.join(absent)}\n"
            "and start again, or use the driver that needs neither root nor packages:\n"
            "    make up DRIVER=fake",
            file=sys.stderr,
        )
        return 1
    print(f"    fetching package lists; installing {' '.join(absent) or 'nothing'}", flush=True)
    return install(absent, root)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

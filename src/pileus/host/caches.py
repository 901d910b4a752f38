"""Where things are kept that can be made again."""

from __future__ import annotations

import os
from hashlib import blake2s
from pathlib import Path


def folder() -> Path:
    """This user's cache of ours, made if absent: `$XDG_CACHE_HOME/pileus` or `~/.cache/pileus`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = Path(base) / "pileus"
    path.mkdir(parents=True, exist_ok=True)
    return path


def testimage() -> Path:
    """Where `make setup` builds the bootable test image; it may not be there yet."""
    return folder() / "testimage.qcow2"


def novnc() -> Path:
    """Where `make setup` puts the files of noVNC; they may not be there yet."""
    return folder() / "novnc"


def testroot() -> Path:
    """Where `make setup` builds the root file system for containers; it may not be there yet."""
    return folder() / "testroot.tar.gz"


def sockets(state: Path) -> Path:
    """The folder of the sockets that go with a state folder, made if absent.

    Its path is short, and users who may not enter the state folder pass: guests' processes do.
    """
    base = Path("/run/pileus-sockets") if os.geteuid() == 0 else folder() / "run"
    path = base / blake2s(bytes(state.resolve()), digest_size=8).hexdigest()
    path.mkdir(parents=True, exist_ok=True, mode=0o711)
    return path

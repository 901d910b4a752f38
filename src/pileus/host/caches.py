"""Where things are kept that can be made again."""

from __future__ import annotations

import os
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

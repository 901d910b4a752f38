"""Files that are whole or absent: written aside, flushed, renamed, and the folder flushed too."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import BinaryIO

from pileus.kernel.faults import Conflict

PART = ".part"  # the suffix of a file still being written; one found at start-up is rubbish
CLAIM = ".claim"


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` by `data` so that a crash at any time leaves the old or the new bytes."""
    part = path.with_name(path.name + PART)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    settle(part, path)


def settle(part: Path, path: Path) -> None:
    """Give a finished, flushed file its name, durably."""
    part.replace(path)
    sync_folder(path.parent)


def claim(folder: Path, owner: str) -> BinaryIO:
    """Until it is closed, or we die, nobody else has that folder, on this machine or by NFS. Raises Conflict."""
    file = (folder / CLAIM).open("a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        with file:
            other = file.read().decode(errors="replace")
        text = f"Folder {folder} is used by {other}; {owner} must have another"
        raise Conflict(f"{text}, or wait for its end.") from None
    file.truncate(0)
    file.write(owner.encode())
    file.flush()
    return file


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

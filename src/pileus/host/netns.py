"""Named network namespaces, and one thread that does work inside them.

A namespace belongs to a thread, so everything that must happen inside one (a socket opened, a
sysctl written, a netlink or nftables context made) is a job for a single helper thread, which
enters, works, and comes home. What the job opened keeps its namespace and is used from anywhere.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from pileus.kernel.faults import NotFound, Unavailable

T = TypeVar("T")
_CLONE_NEWNET = 0x40000000
_MS_BIND = 4096
_MNT_DETACH = 2
# What stands for the machine's network where an ordinary user runs a host (`userns`). Root has the
# process's own.
MACHINE = Path("/run/pileus/machine")


def is_own_machine() -> bool:
    """Whether this process is root of a machine of its user's own."""
    return os.path.exists(MACHINE)


class Namespaces:
    """The namespaces named in `directory` (`ip netns` knows those in /run/netns).

    Wherever a name is asked for, `""` is the machine's namespace (the process's own, or an ordinary
    user's `MACHINE`) and an absolute path is itself.
    """

    def __init__(self, directory: Path = Path("/run/netns")) -> None:
        self.directory = directory
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._own = os.open(self.path(""), os.O_RDONLY | os.O_CLOEXEC)
        home = (lambda: self._enter(self._own, "our own")) if is_own_machine() else None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="netns", initializer=home)

    def path(self, name: str) -> Path:
        """Where the namespace can be opened; `""` gives the machine's."""
        own = MACHINE if is_own_machine() else Path("/proc/self/ns/net")
        return self.directory / name if name else own

    def exists(self, name: str) -> bool:
        path = self.path(name)
        return path.exists() and path.stat().st_dev != path.parent.stat().st_dev

    def names(self) -> set[str]:
        """Every name that holds a namespace; a name left without one (a crash half-way) is not
        counted.
        """
        if not self.directory.is_dir():
            return set()
        device = self.directory.stat().st_dev
        return {e.name for e in os.scandir(self.directory) if e.stat().st_dev != device}

    def identity(self, name: str) -> int:
        """Equal for two names of one namespace."""
        return self.path(name).stat().st_ino

    async def call(self, name: str, job: Callable[[], T]) -> T:
        """The result of `job`, run by the helper thread inside namespace `name`."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._inside, name, job)

    async def create(self, name: str) -> None:
        """Make a fresh namespace, its loopback down; one of that name that exists is kept."""
        if not self.exists(name):
            await self.call("", lambda: self._name(name, fresh=True))

    async def attach_own(self, name: str) -> None:
        """Give the machine's namespace a name."""
        if not self.exists(name):
            await self.call("", lambda: self._name(name, fresh=False))

    async def remove(self, name: str) -> None:
        """Forget the name; the namespace dies with the last process and socket inside. Absent is
        fine.
        """
        await self.call("", lambda: self._forget(name))

    def close(self) -> None:
        self._thread.shutdown(wait=True)
        os.close(self._own)

    def _inside(self, name: str, job: Callable[[], T]) -> T:
        if not name:
            return job()
        try:
            fd = os.open(self.path(name), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFound(f"There is no network namespace {name}.") from error
        try:
            self._enter(fd, name)
            return job()
        finally:
            os.close(fd)
            self._enter(self._own, "our own")

    def _enter(self, fd: int, name: str) -> None:
        if self._libc.setns(fd, _CLONE_NEWNET):
            code = ctypes.get_errno()
            raise Unavailable(f"Cannot enter network namespace {name}: {os.strerror(code)}.")

    def _name(self, name: str, *, fresh: bool) -> None:
        path = self.path(name)
        self.directory.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o400)
        if fresh and self._libc.unshare(_CLONE_NEWNET):
            path.unlink()
            self._refuse("create", name)
        try:
            source = b"/proc/thread-self/ns/net"
            if self._libc.mount(source, os.fsencode(path), b"none", _MS_BIND, None):
                path.unlink()
                self._refuse("name", name)
        finally:
            self._enter(self._own, "our own")

    def _forget(self, name: str) -> None:
        path = self.path(name)
        if self.exists(name) and self._libc.umount2(os.fsencode(path), _MNT_DETACH):
            self._refuse("remove", name)
        path.unlink(missing_ok=True)

    def _refuse(self, verb: str, name: str) -> None:
        reason = os.strerror(ctypes.get_errno())
        raise Unavailable(f"Cannot {verb} network namespace {name}: {reason}; root may.")


def sysctl(key: str, value: int) -> None:
    """Set a `net.` sysctl of the calling thread's namespace; `key` has slashes (interface names
    have dots).
    """
    Path("/proc/sys", key).write_text(f"{value}\n")

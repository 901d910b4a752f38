"""Images of a Ceph pool, by the commands `rbd`, `rados` and `ceph`; QEMU opens them by itself.

Commands and not the C library: a cluster that does not answer holds up a process that can be killed, not a thread of ours.
Every image lies in one namespace of the pool. Clones are of format 2: what they were made of may be deleted first.
"""

from __future__ import annotations

import configparser
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pileus.host.process import ProcessFailed, run
from pileus.kernel.faults import Conflict, Fault, Invalid, NotFound, Unavailable

CEPH_PACKAGES = ("ceph-common", "qemu-block-extra")  # `make setup-ceph`
_ANSWER_S, _COPY_S = 60, 6 * 3600
_ABSENT, _EXISTS, _BUSY, _FULL, _OVER_QUOTA, _HAS_CLONES = 2, 17, 16, 28, 122, 39
_T = TypeVar("_T")


class RbdImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image as whoever opens it needs to know it. `monitors` are `address:port`; `key` is `user`'s.

    `limits` are a throttle group's: who opens it keeps them.
    """

    pool: str
    namespace: str
    image: str
    monitors: tuple[str, ...]
    user: str
    key: str
    limits: dict[str, int] = {}


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where images lie, and as whom: `conf` is the path of the cluster's configuration."""

    pool: str
    user: str = "admin"
    conf: str = "/etc/ceph/ceph.conf"
    namespace: str = ""

    @classmethod
    def named(cls, text: str) -> Place:
        """`POOL[:id=USER][:conf=PATH]`, as QEMU names it. Raises Invalid."""
        pool, *options = text.split(":")
        given = {key: value for key, _, value in (option.partition("=") for option in options)}
        if not pool or not given.keys() <= {"id", "conf"} or not all(given.values()):
            raise Invalid(f"rbd:{text} names no pool; rbd:POOL, :id=USER and :conf=PATH would.")
        known = {"user": given.get("id"), "conf": given.get("conf")}
        return cls(pool=pool, **{key: value for key, value in known.items() if value})

    def options(self, image: str, snapshot: str = "") -> dict[str, str]:
        """Of QEMU's block driver, on a machine that has the configuration."""
        found = {"driver": "rbd", "pool": self.pool, "image": image}
        found |= {"conf": self.conf, "user": self.user, "namespace": self.namespace}
        return found | ({"snapshot": snapshot} if snapshot else {})


class Snapshot(msgspec.Struct, frozen=True):
    name: str
    size: int


class Rbd:
    """Raises NotFound for an image that is not there, Conflict for one that is in use, Unavailable for a mute cluster."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._door: tuple[tuple[str, ...], str] | None = None

    async def ready(self) -> None:
        """The namespace is there."""
        place = self.place
        words = ("namespace", "create", f"{place.pool}/{place.namespace}")
        await self._ends(*words, like=(_EXISTS,))

    async def names(self) -> list[str]:
        """Of all images, sorted."""
        return sorted(await self._told(list[str], "ls", self._whole))

    async def size(self, image: str) -> int | None:
        """In bytes; None where there is no such image."""
        try:
            found = await self._told(dict[str, Any], "info", self._spec(image))
        except NotFound:
            return None
        return int(found["size"])

    async def create(self, image: str, size: int) -> None:
        words = ("create", self._spec(image), "--size", f"{size}B")
        await self._ends(*words, like=(_EXISTS,))

    async def create_of(self, image: str, data: bytes) -> None:
        """A new one that has just those bytes."""
        await self._run("rbd", "import", "--no-progress", "-", self._spec(image), stdin=data)

    async def resize(self, image: str, size: int) -> None:
        if await self.size(image) != size:  # which `rbd` refuses
            await self._rbd("resize", self._spec(image), "--size", f"{size}B", "--no-progress")

    async def rename(self, image: str, name: str) -> None:
        await self._rbd("rename", self._spec(image), self._spec(name))

    async def clone(self, image: str, snapshot: str, name: str) -> None:
        """Copies nothing."""
        origin = self._spec(image, snapshot)
        await self._rbd("clone", "--rbd-default-clone-format", "2", origin, self._spec(name))

    async def remove(self, image: str) -> None:
        """One that clones stand on goes to the trash, which is emptied as they go."""
        words = (self._spec(image), "--no-progress")
        if await self._ends("rm", *words, like=(_ABSENT, _HAS_CLONES)) == _HAS_CLONES:
            await self._ends("trash", "mv", self._spec(image), like=(_ABSENT,))
        await self.empty_trash()

    async def empty_trash(self) -> None:
        """Of all that nothing stands on."""
        words = ("trash", "purge", self._whole, "--no-progress")
        await self._ends(*words, like=(_HAS_CLONES,))

    async def snapshots(self, image: str) -> list[Snapshot]:
        return await self._told(list[Snapshot], "snap", "ls", self._spec(image))

    async def snapshot(self, image: str, name: str) -> None:
        words = ("snap", "create", self._spec(image, name), "--no-progress")
        await self._ends(*words, like=(_EXISTS,))

    async def remove_snapshot(self, image: str, name: str) -> None:
        """Clones of it stay."""
        words = ("snap", "rm", self._spec(image, name), "--no-progress")
        await self._ends(*words, like=(_ABSENT,))

    async def roll_back(self, image: str, name: str) -> None:
        words = (self._spec(image, name), "--no-progress")
        await self._rbd("snap", "rollback", *words, timeout_s=_COPY_S)

    async def has_clones(self, image: str) -> bool:
        return bool(await self._told(list[Any], "children", "--all", self._spec(image)))

    async def note(self, image: str, key: str, value: str) -> None:
        """Kept with the image; "" is none."""
        if value:
            await self._rbd("image-meta", "set", self._spec(image), key, value)
        else:
            await self._ends("image-meta", "remove", self._spec(image), key, like=(_ABSENT,))

    async def noted(self, image: str, key: str) -> str:
        try:
            return (await self._rbd("image-meta", "get", self._spec(image), key)).decode().strip()
        except NotFound:
            return ""

    async def read(self, name: str) -> bytes:
        """An object of the namespace; b"" where there is none."""
        try:
            return await self._run("rados", *self._objects, "get", name, "-")
        except NotFound:
            return b""

    async def write(self, name: str, data: bytes) -> None:
        """Replaces an object whole."""
        await self._run("rados", *self._objects, "put", name, "-", stdin=data)

    async def room(self) -> tuple[int, int]:
        """What the pool may hold, and what it can take yet, in bytes."""
        said = await self._run("ceph", "df", "detail", "--format", "json")
        for pool in msgspec.json.decode(said)["pools"]:
            if pool["name"] == self.place.pool:
                stats = pool["stats"]
                total = stats["quota_bytes"] or stats["stored"] + stats["max_avail"]
                return total, max(0, min(stats["max_avail"], total - stats["stored"]))
        raise NotFound(f"Ceph has no pool {self.place.pool}; `ceph osd pool create` makes one.")

    async def opened(self, image: str, limits: dict[str, int]) -> RbdImage:
        """How a QEMU anywhere opens it; the cluster's monitors and our key are asked for once."""
        if self._door is None:
            self._door = (await self._monitors(), await self._key())
        monitors, key = self._door
        place = self.place
        return RbdImage(
            pool=place.pool,
            namespace=place.namespace,
            image=image,
            monitors=monitors,
            user=place.user,
            key=key,
            limits=limits,
        )

    async def _monitors(self) -> tuple[str, ...]:
        said = await self._run("ceph", "mon", "dump", "--format", "json")
        return tuple(
            address["addr"]
            for monitor in msgspec.json.decode(said)["mons"]
            for address in monitor["public_addrs"]["addrvec"]
        )

    async def _key(self) -> str:
        name = f"client.{self.place.user}"
        words = ("--name", name, "--lookup", "keyring")
        paths = (await self._run("ceph-conf", *words)).decode().strip()
        for path in map(Path, paths.split(",")):
            ring = configparser.ConfigParser()
            if path.exists() and ring.read(path) and ring.has_option(name, "key"):
                return ring.get(name, "key")
        raise Unavailable(f"No keyring of {paths} has a key of {name}.")

    @property
    def _whole(self) -> str:
        return f"{self.place.pool}/{self.place.namespace}"

    @property
    def _objects(self) -> tuple[str, ...]:
        return "-p", self.place.pool, "-N", self.place.namespace

    def _spec(self, image: str, snapshot: str = "") -> str:
        return f"{self._whole}/{image}" + (f"@{snapshot}" if snapshot else "")

    async def _told(self, kind: type[_T], *words: str) -> _T:
        return msgspec.json.decode(await self._rbd(*words, "--format", "json"), type=kind)

    async def _rbd(self, *words: str, timeout_s: float = _ANSWER_S) -> bytes:
        return await self._run("rbd", *words, timeout_s=timeout_s)

    async def _ends(self, *words: str, like: tuple[int, ...]) -> int:
        """The error number, 0 or one of those, with which a command of `rbd` ended."""
        try:
            await self._attempt("rbd", *words)
        except ProcessFailed as failed:
            if (code := _code(failed)) in like:
                return code
            raise self._fault(failed) from None
        return 0

    async def _run(
        self,
        program: str,
        *words: str,
        timeout_s: float = _ANSWER_S,
        stdin: bytes | None = None,
    ) -> bytes:
        try:
            return await self._attempt(program, *words, timeout_s=timeout_s, stdin=stdin)
        except ProcessFailed as failed:
            raise self._fault(failed) from None

    async def _attempt(self, program: str, *words: str, **given: Any) -> bytes:
        who = ("--conf", self.place.conf, "--name", f"client.{self.place.user}")
        return await run([program, *who, *words], **given)

    def _fault(self, failed: ProcessFailed) -> Fault:
        pool, inside, code = self.place.pool, str(failed), _code(failed)
        if code == _ABSENT:
            return NotFound(f"It is not in Ceph's pool {pool}.", internal=inside)
        if code in (_FULL, _OVER_QUOTA):
            return Conflict(f"No room in Ceph's pool {pool}.", internal=inside)
        if code in (_BUSY, _HAS_CLONES):
            return Conflict(f"It is in use in Ceph's pool {pool}.", internal=inside)
        return Unavailable(f"Ceph's pool {pool} does not do what it should.", internal=inside)


def _code(failed: ProcessFailed) -> int | None:
    """`rbd` ends with the error's number, the others say it in brackets."""
    if failed.returncode == 1 and (said := re.search(r"\((\d+)\) ", failed.reason)):
        return int(said[1])
    return failed.returncode

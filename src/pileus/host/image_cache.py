"""Images a host has fetched: each once, checked, inspected, and ready to stand behind disks.

An image is a file named by its id beside a note of what it is; the note comes last, so a file
without one is unfinished and is fetched again. Formats that a disk cannot stand on are rewritten as
qcow2.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Container, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pileus.host import files, handover
from pileus.host.images import (
    HEAD,
    ImageFacts,
    inspect,
    inspect_bytes,
    needed,
    require,
)
from pileus.host.process import Limits, ProcessFailed, run
from pileus.kernel.faults import Invalid, TooLarge, Unavailable
from pileus.kernel.world import Clock

DOWNLOADS = 4  # at a time; more would only share the same disk and link
SIZE_LIMIT = 1 << 40  # bytes of a download whose size nobody told us
_CHUNK = 1 << 20
_PATIENCE_S = 60  # without a byte
_STANDS = {"raw": "raw", "iso": "raw", "qcow2": "qcow2"}  # what QEMU is told the base of a disk is
# Threads of their own: the image service may be this very process, and answers with the common ones.
_LOOKS = ThreadPoolExecutor(DOWNLOADS, "look")
_REWRITTEN = {
    "vmdk": "vmdk",
    "vdi": "vdi",
    "vhd": "vpc",
    "vhdx": "vhdx",
}  # and qemu-img's names of the others


class CachedImage(msgspec.Struct, frozen=True, kw_only=True):
    """An image on this host. `format` is raw or qcow2, whatever it was fetched as."""

    name: str
    format: str
    virtual_size: int
    checksum_sha512: str


class ImageCache:
    """The images in `folder`. Two callers that want the same one wait for one download."""

    def __init__(self, folder: Path, clock: Clock | None = None) -> None:
        self.folder = folder
        self._clock = clock or Clock()
        self._busy: dict[str, asyncio.Task[CachedImage]] = {}
        self._threads = ThreadPoolExecutor(DOWNLOADS, "image")

    def start_up(self) -> None:
        """Make the folder and drop what an earlier process left unfinished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        _remove(self.folder.glob(f"*{files.PART}"))

    async def close(self) -> None:
        for task in list(self._busy.values()):
            task.cancel()
        await asyncio.gather(*self._busy.values(), return_exceptions=True)
        self._threads.shutdown(wait=False)

    def path(self, image: CachedImage) -> Path:
        return self.folder / image.name

    async def get(
        self, image_id: str, url: str, disk_format: str, checksum_sha512: str = "", size: int = 0
    ) -> CachedImage:
        """The image, fetched from `url` unless it is here already.

        Raises Invalid when it is not what it is said to be, Unavailable when it cannot be fetched.
        """
        if not image_id or not image_id.replace("-", "").isalnum():
            raise Invalid(f"Image id {image_id!r} cannot name a file; a UUID would.")
        known = self._noted(image_id)
        if known and checksum_sha512 in ("", known.checksum_sha512):
            self._used(image_id)
            return known
        task = self._busy.get(image_id)
        if task is None:
            fetching = self._fetch(image_id, url, disk_format, checksum_sha512, size)
            task = self._busy[image_id] = asyncio.create_task(fetching)
            task.add_done_callback(lambda done: self._busy.pop(image_id, None))
        return await asyncio.shield(task)

    async def copy(self, image: CachedImage, url: str) -> None:
        """The image as another host keeps it, unless it is here: inspected there, and rewritten if need be."""
        if self._noted(image.name) == image:
            self._used(image.name)
            return
        part = self.folder / f"{image.name}.copy{files.PART}"
        part.touch(0o600)
        try:
            await handover.fetch(url, part)
            part.chmod(0o644)
            files.settle(part, self.path(image))
            note = self.folder / f"{image.name}.json"
            await asyncio.to_thread(files.write_atomically, note, msgspec.json.encode(image))
            self._used(image.name)
        finally:
            part.unlink(missing_ok=True)

    async def forget(self, unused_s: float, needed: Container[str]) -> list[str]:
        """Drop the images that nobody asked for in so long and that no disk in `needed` stands on.

        Their ids: everybody may upload images, and a host that kept each would fill up.
        """
        before = self._clock.time() - unused_s
        gone, doomed = [], []
        for note in sorted(self.folder.glob("*.json")):
            id = note.stem
            if id not in needed and id not in self._busy and note.stat().st_mtime <= before:
                aside = self.folder / f"{id}.gone{files.PART}"  # its name is free for a download
                with contextlib.suppress(FileNotFoundError):
                    (self.folder / id).rename(aside)
                note.unlink()
                gone.append(id)
                doomed.append(aside)
        await asyncio.to_thread(_remove, doomed)
        return gone

    def _used(self, image_id: str) -> None:
        """A note is as old as the last use of its image."""
        now = self._clock.time()
        os.utime(self.folder / f"{image_id}.json", (now, now))

    def _noted(self, image_id: str) -> CachedImage | None:
        note = self.folder / f"{image_id}.json"
        if not note.exists():
            return None
        found = msgspec.json.decode(note.read_bytes(), type=CachedImage)
        return found if self.path(found).exists() else None

    async def _fetch(
        self, image_id: str, url: str, disk_format: str, checksum: str, size: int
    ) -> CachedImage:
        part = self.folder / f"{image_id}{files.PART}"
        stop = Event()
        try:
            loop = asyncio.get_running_loop()
            download = loop.run_in_executor(self._threads, _download, url, part, size, stop)
            digest = await download
            if checksum and digest != checksum:
                raise Invalid(
                    f"Image {image_id} has sha512 {digest[:16]}...; {checksum[:16]}... was told."
                )
            facts = await asyncio.to_thread(inspect, part)
            require(facts, disk_format)
            await self._shape(part, facts)
            return await asyncio.to_thread(self._keep, image_id, part, facts, digest)
        finally:
            stop.set()
            await asyncio.to_thread(_remove, [part])

    async def _shape(self, part: Path, facts: ImageFacts) -> None:
        """Turn an inspected image in place into what guests stand on: qcow2, within limits."""
        if facts.format not in _REWRITTEN:
            return
        target = part.with_name(f"{part.name}.qcow2{files.PART}")
        room = shutil.disk_usage(self.folder).free // 2  # the other half stays the guests'
        limits = Limits(cpu_s=600, file_size=min(facts.virtual_size + (64 << 20), room))
        source = _REWRITTEN[facts.format]
        command = ["qemu-img", "convert", "-f", source, "-O", "qcow2", str(part), str(target)]
        try:
            await run(command, limits=limits, timeout_s=1800)
            target.replace(part)
        except ProcessFailed as failed:
            raise Invalid(
                f"Image of format {facts.format} cannot be read.", internal=failed.reason
            ) from failed
        finally:
            target.unlink(missing_ok=True)

    def _keep(self, image_id: str, part: Path, facts: ImageFacts, digest: str) -> CachedImage:
        descriptor = os.open(part, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.chmod(0o755 if part.is_dir() else 0o644)
        image = CachedImage(
            name=image_id,
            format=_STANDS.get(facts.format, "qcow2"),
            virtual_size=facts.virtual_size,
            checksum_sha512=digest,
        )
        files.settle(part, self.path(image))
        files.write_atomically(self.folder / f"{image_id}.json", msgspec.json.encode(image))
        self._used(image_id)
        return image


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


async def look(url: str, size: int = 0, disk_format: str = "") -> ImageFacts:
    """The facts of a remote image, said to be of that format, from its head, without fetching the rest."""
    return await asyncio.get_running_loop().run_in_executor(_LOOKS, _look, url, size, disk_format)


async def fetch(url: str) -> bytes:
    """The first bytes of a remote file, at most 64 KiB."""
    return await asyncio.get_running_loop().run_in_executor(_LOOKS, _fetch, url)


def _fetch(url: str) -> bytes:
    with _open(url, {}) as answer:
        return bytes(answer.read(HEAD))


def _look(url: str, size: int, disk_format: str) -> ImageFacts:
    head, whole = _part(url, 0, HEAD)
    if (more := needed(head)) > HEAD:
        head, whole = _part(url, 0, more)
    size, tail = size or whole or len(head), b""
    if disk_format == "vhd" and size > len(head):  # a fixed one says what it is at its end
        tail, _ = _part(url, size - 512, 512)
    return inspect_bytes(head, size, tail)


def _part(url: str, at: int, length: int) -> tuple[bytes, int]:
    """So many bytes of it, and how many it has; 0 if that is not said."""
    with _open(url, {"Range": f"bytes={at}-{at + length - 1}"}) as answer:
        told = answer.headers.get("Content-Range", "").rpartition("/")[2]
        whole = int(told) if told.isdigit() else int(answer.headers.get("Content-Length") or 0)
        if at and answer.status != 206:
            raise Unavailable("The image's server gives no part of it.")
        return answer.read(length), whole


def _download(url: str, part: Path, size: int, stop: Event) -> str:
    """Stream a URL into a file; its sha512. Runs in a thread; `stop` ends it early."""
    digest = hashlib.sha512()
    limit = size or SIZE_LIMIT
    with _open(url, {}) as answer, part.open("wb") as out:
        if shutil.disk_usage(part.parent).free < size:
            raise Unavailable(f"No room on this host for an image of {size} bytes.")
        while chunk := _read(answer, url):
            if stop.is_set():
                raise Unavailable("The download was given up.")
            digest.update(chunk)
            out.write(chunk)
            if out.tell() > limit:
                raise TooLarge(f"The image is larger than the {limit} bytes it should have.")
        if size and out.tell() != size:
            raise Unavailable(f"The image ended after {out.tell()} of {size} bytes.")
    return digest.hexdigest()


def _read(answer: Any, url: str) -> bytes:
    try:
        data: bytes = answer.read(_CHUNK)
    except (OSError, http.client.HTTPException) as reason:
        raise Unavailable(
            "The image broke off while it was fetched.", internal=repr(reason)
        ) from None
    return data


def _open(url: str, headers: dict[str, str]) -> Any:
    """Open a URL with no proxy, no file: and no ftp: scheme."""
    if urlsplit(url).scheme not in ("http", "https"):
        raise Invalid(f"An image is fetched over http or https, not from {url.split(':')[0]}:.")
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.HTTPDefaultErrorHandler,
    ):
        opener.add_handler(handler())
    try:
        return opener.open(urllib.request.Request(url, headers=headers), timeout=_PATIENCE_S)
    except urllib.error.HTTPError as refused:
        refused.close()
        place = urlsplit(url).netloc  # the rest is a ticket
        raise Unavailable(f"The image's server answered {refused.code}.", internal=place) from None
    except (OSError, http.client.HTTPException) as reason:
        raise Unavailable("The image's server cannot be reached.", internal=repr(reason)) from None

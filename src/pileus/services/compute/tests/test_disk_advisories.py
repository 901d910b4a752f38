"""Advisories about disks of guests: the driver and the real qemu-img on real files, QEMU itself not started.

What a guest would write or read goes through qemu-io and qemu-img, which are told of its disks in
the words that its QEMU would have been told.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pileus.host import qemu
from pileus.host.image_cache import CachedImage
from pileus.host.process import run
from pileus.kernel.faults import Conflict
from pileus.kernel.world import World
from pileus.services.compute.driver import GuestSpec, ImageSource
from pileus.services.compute.drivers.qemu import QemuComputeDriver

pytestmark = pytest.mark.skipif(
    None in map(shutil.which, (qemu.PROGRAM, "qemu-img", "qemu-io", "genisoimage", "mke2fs")),
    reason="needs QEMU and its tools; `make setup` installs them",
)

SECRET = b"canary of the host " * 4096
MIB, GIB = 1 << 20, 1 << 30
FORMATS = {"create": ["-f"], "convert": ["-f", "-O"], "resize": ["-f"]}  # what each must be told
# Does what was asked, then notes the words and which files others than their owner may open.
LOOKING = """#!/bin/sh
PATH="${PATH#*:}"
echo "$(basename "$0") $*" >> "$(dirname "$0")/words"
"$(basename "$0")" "$@" || exit
[ ! -r . ] || find . -type d ! -perm /011 -prune -o -type f -perm /077 -print >> "$(dirname "$0")/open"
"""


class Asleep:
    """A QEMU that was told all it needs and does nothing with it."""

    def __init__(self) -> None:
        self.was_asked_off = False
        self._over = asyncio.Event()

    async def attach(self) -> None: ...

    async def status(self) -> str:
        return "running"

    async def ended(self, timeout_s: float | None = None) -> bool:
        await self._over.wait()
        return True

    async def kill(self) -> None:
        self._over.set()

    async def close(self) -> None: ...


@dataclass
class Host:
    """One driver, one image with 1 MiB of bytes, and a file that is nobody else's."""

    folder: Path
    driver: QemuComputeDriver
    image: ImageSource
    machines: list[qemu.Machine] = field(default_factory=list)
    world: World = field(default_factory=World)

    @property
    def secret(self) -> Path:
        return self.folder / "private"

    def of(self, guest_id: str) -> Path:
        return self.folder / "state/guests" / guest_id

    async def spawn(self) -> GuestSpec:
        spec = GuestSpec(
            id=self.world.new_id(),
            name="a",
            project_id=self.world.new_hex(),
            vcpus=1,
            ram_mib=64,
            root_gib=1,
            ephemeral_gib=1,
            swap_mib=4,
            image=self.image,
            config_drive=True,
            metadata={"openstack/latest/user_data": "canary of the guest"},
        )
        await self.driver.spawn(spec)
        return spec

    def disks(self) -> list[dict[str, Any]]:
        """What the last QEMU was told of its disks."""
        words = self.machines[-1].arguments()
        return [json.loads(words[n + 1]) for n, word in enumerate(words) if word == "-blockdev"]

    async def write(self, spec: GuestSpec, data: bytes) -> None:
        """At the start of every disk that the guest may write to."""
        source = self.folder / "data"
        source.write_bytes(data)
        for disk in self.disks():
            if not disk["read-only"]:
                words = ["qemu-io", "-c", f"write -s {source} 0 {len(data)}", _name(disk)]
                await run(words, cwd=self.of(spec.id))

    async def read(self, folder: Path, disk: dict[str, Any]) -> bytes:
        """The first 4 MiB of a disk, read as we are: whatever it leads to can be opened."""
        out = self.folder / "out"
        words = ["dd", "-O", "raw", "bs=1M", "count=4", f"if={_name(disk)}", f"of={out}"]
        await run(["qemu-img", *words], cwd=folder)
        return out.read_bytes()

    async def forged(self) -> bytes:
        """A disk in a disk: it names the secret file as what stands behind it."""
        path = self.folder / "forged"
        words = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(self.secret)]
        await run([*words, str(path), str(MIB)])
        believed = {"driver": "qcow2", "file": {"driver": "file", "filename": str(path)}}
        assert SECRET[:512] in await self.read(self.folder, believed), "it works where it may"
        return path.read_bytes()

    async def size(self, folder: Path, disk: dict[str, Any]) -> int:
        """In bytes, as the guest sees it."""
        words = ["info", "--output=json", "-f", disk["driver"], disk["file"]["filename"]]
        found: int = json.loads(await run(["qemu-img", *words], cwd=folder))["virtual-size"]
        return found

    def commands(self) -> list[list[str]]:
        """What qemu-img was asked by the driver so far."""
        lines = (self.folder / "bin/words").read_text().splitlines()
        asked = [line.split() for line in lines if line.startswith("qemu-img ")]
        return [
            words for words in asked if words[1] in FORMATS and str(self.folder) not in words[-2]
        ]

    def opened(self) -> set[str]:
        """Files that others could open right after a command had made them."""
        found = self.folder / "bin/open"
        return set(found.read_text().split()) if found.exists() else set()


def _name(disk: dict[str, Any]) -> str:
    return "json:" + json.dumps(disk)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    with tempfile.TemporaryDirectory(prefix="pileus-disks-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # the user that QEMU runs as comes by
        _stand_in(folder / "bin", monkeypatch)
        image = _image(folder / "state/images")
        found = Host(folder, QemuComputeDriver(folder / "state", accelerator="tcg"), image)
        found.secret.write_bytes(SECRET)
        found.secret.chmod(0o600)

        async def launch(machine: qemu.Machine, *rest: object) -> Asleep:
            found.machines.append(machine)
            return Asleep()

        monkeypatch.setattr(qemu.Emulator, "launch", launch)
        before = os.umask(0)  # nobody's but our own care keeps files private
        yield found
        os.umask(before)


def _stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tools of our own, found before the real ones, whoever calls them."""
    folder.mkdir()
    folder.chmod(0o777)
    for tool in ("qemu-img", "genisoimage", "mke2fs", "mkswap", "cp"):
        (folder / tool).write_text(LOOKING)
        (folder / tool).chmod(0o755)
    for note in ("words", "open"):
        (folder / note).touch()
        (folder / note).chmod(0o666)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def _image(folder: Path) -> ImageSource:
    """An image that was fetched already."""
    folder.mkdir(parents=True)
    (folder / "good").write_bytes(b"of the image" + bytes(MIB - 12))
    kept = CachedImage(name="good", format="raw", virtual_size=MIB, checksum_sha512="")
    (folder / "good.json").write_bytes(msgspec.json.encode(kept))
    return ImageSource(id="good", url="", disk_format="raw")


def play(host: Host, story: Callable[[], Awaitable[None]]) -> None:
    async def played() -> None:
        await host.driver.start_up()
        try:
            await story()
        finally:
            await host.driver.close()

    asyncio.run(played())


def untold(block: dict[str, Any]) -> list[str]:
    """What a QEMU would have to find out from the bytes of a disk."""
    if block["driver"] == "file":
        return []
    missing = untold(block["file"]) if "file" in block else ["file"]
    if block["driver"] == "qcow2":
        missing += untold(block["backing"]) if "backing" in block else ["backing"]
    return missing


def formats_untold(words: list[str]) -> list[str]:
    """The options that a qemu-img would make up for from the bytes of a disk."""
    needed = [*FORMATS[words[1]], *(["-F"] if "-b" in words else [])]
    return [option for option in needed if option not in words]


def test_ossa_2014_009_a_rescued_guest_reads_its_disks_as_it_wrote_them(host: Host) -> None:
    async def story() -> None:
        spec, forged = await host.spawn(), await host.forged()
        await host.write(spec, forged)
        await host.driver.rescue(spec.id, host.image)
        rescue, *own = host.disks()
        assert (await host.read(host.of(spec.id), rescue)).startswith(b"of the image")
        assert len(own) == 4
        for disk in own:
            seen = await host.read(host.of(spec.id), disk)
            assert disk["read-only"] or seen.startswith(forged)
            assert SECRET[:512] not in seen
        await host.driver.unrescue(spec.id, True)
        assert len(host.machines) == 3
        for machine in host.machines:
            for d in machine.disks:
                assert d.format == ("qcow2" if d.path.endswith(".qcow2") else "raw")
        assert [untold(disk) for disk in [rescue, *own, *host.disks()]] == [[]] * 9

    play(host, story)


def test_ossa_2014_003_what_a_guest_brought_to_a_host_is_on_no_disk_of_the_next_one_there(
    host: Host,
) -> None:
    async def story() -> None:
        first = await host.spawn()
        await host.write(first, SECRET)
        await host.driver.stop(first.id, 0)
        here, there = host.driver, QemuComputeDriver(host.folder / "other", accelerator="tcg")
        shutil.copytree(host.folder / "state/images", host.folder / "other/images")
        await there.start_up()
        try:
            await there.receive(first, await here.lend(first.id))
            host.driver = there
            second = await host.spawn()
            guests = host.folder / "other/guests"
            brought = [b for b in _files(guests / first.id).values() if SECRET[:512] in b]
            assert len(brought) == 3, "root, ephemeral and swap came as they were"
            for disk in host.disks():
                assert SECRET[:512] not in await host.read(guests / second.id, disk)
            assert not set(_files(guests / first.id)) & set(_files(guests / second.id))
        finally:
            host.driver = here
            await there.close()

    play(host, story)


def _files(folder: Path) -> dict[tuple[int, int], bytes]:
    """The head of each file by what it is on its file system: a link would have the number of another."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {(s.st_dev, s.st_ino): p.read_bytes()[: 4 * MIB] for p in files for s in [p.stat()]}


def test_ossa_2016_001_a_snapshot_holds_what_the_guest_wrote(host: Host) -> None:
    async def story() -> None:
        spec, forged = await host.spawn(), await host.forged()
        await host.write(spec, forged)
        await host.driver.stop(spec.id, 0)
        name, folder = host.world.new_id(), host.of(spec.id)
        assert await host.driver.snapshot(spec.id, name) == "qcow2"
        copy = {"driver": "qcow2", "file": {"driver": "file", "filename": f"snapshot-{name}.qcow2"}}
        seen = await host.read(folder, copy)
        assert seen.startswith(forged) and SECRET[:512] not in seen
        words = ["qemu-img", "info", "--output=json", f"snapshot-{name}.qcow2"]
        facts = json.loads(await run(words, cwd=folder))
        assert (facts["format"], facts["virtual-size"]) == ("qcow2", GIB)
        assert "backing-filename" not in facts

    play(host, story)
    commands = host.commands()
    assert [words[1] for words in commands].count("convert") == 1
    assert [formats_untold(words) for words in commands] == [[]] * len(commands)


@pytest.mark.parametrize("end", ["confirm", "revert"])
def test_ossa_2016_007_and_2026_002_a_resize_changes_a_size_and_no_bytes(
    host: Host, end: str
) -> None:
    async def story() -> None:
        spec, forged = await host.spawn(), await host.forged()
        await host.write(spec, forged)
        larger = msgspec.structs.replace(spec, root_gib=2)
        await host.driver.resize(larger, 0, True)
        await _reads(host, spec, forged, 2)
        if end == "confirm":
            await host.driver.confirm_resize(spec.id)
            await host.driver.reboot(spec.id, True)
        else:
            await host.driver.revert_resize(spec.id, True)
        await _reads(host, spec, forged, 2 if end == "confirm" else 1)

    play(host, story)
    commands = host.commands()
    assert [words[1] for words in commands].count("resize") == 1
    assert [formats_untold(words) for words in commands] == [[]] * len(commands)


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root runs QEMU and qemu-img as himself")
def test_ossa_2016_001_2016_007_and_2026_002_a_disk_whose_head_was_forged_leads_to_no_file_of_the_host(
    host: Host,
) -> None:
    """No guest can write it, but a QEMU that was broken into could."""

    async def story() -> None:
        spec = await host.spawn()
        await host.driver.stop(spec.id, 0)
        folder, name = host.of(spec.id), host.world.new_id()
        forge = ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", str(host.secret)]
        await run([*forge, "disk.qcow2"], cwd=folder)
        believed = {"driver": "qcow2", "file": {"driver": "file", "filename": "disk.qcow2"}}
        assert SECRET[:512] in await host.read(folder, believed), "root is led there"
        with pytest.raises(Conflict, match="could not be copied") as copied:
            await host.driver.snapshot(spec.id, name)
        with pytest.raises(Conflict, match="could not be grown") as grown:
            await host.driver.resize(msgspec.structs.replace(spec, root_gib=2), 0, True)
        for refused in (copied, grown):
            assert "Permission denied" in refused.value.internal
        assert list(folder.glob("snapshot-*")) == []
        await host.driver.revert_resize(spec.id, True)
        for disk in host.disks():
            assert SECRET[:512] not in await host.read(folder, disk), "QEMU is told what is behind"

    play(host, story)


async def _reads(host: Host, spec: GuestSpec, forged: bytes, root_gib: int) -> None:
    folder, disks = host.of(spec.id), host.disks()
    root, ephemeral, *others = [await host.read(folder, disk) for disk in disks]
    assert root.startswith(forged) and ephemeral.startswith(forged)
    assert [SECRET[:512] in seen for seen in (root, ephemeral, *others)] == [False] * 4
    assert [untold(disk) for disk in disks] == [[]] * 4
    sizes = [await host.size(folder, disk) for disk in disks[:2]]
    assert sizes == [root_gib * GIB, GIB]


def test_ossa_2014_001_no_disk_of_a_guest_is_anybodys_to_open_even_while_it_is_made(
    host: Host,
) -> None:
    async def story() -> None:
        spec = await host.spawn()
        await host.driver.stop(spec.id, 0)
        await host.driver.snapshot(spec.id, host.world.new_id())
        await host.driver.resize(msgspec.structs.replace(spec, root_gib=2), 0, True)
        await host.driver.rescue(spec.id, host.image)
        folder = host.of(spec.id)
        left = [path for path in folder.iterdir() if path.is_file()]
        assert len([path for path in left if path.suffix in (".qcow2", ".raw", ".iso")]) == 7
        assert [path.name for path in left if path.stat().st_mode & 0o077] == []
        assert folder.stat().st_mode & 0o777 == 0o711, "who knows a name may pass, to be refused"

    play(host, story)
    assert host.opened() == set()

"""Real files of every format that an image may have: each is known for what it is, and guests' disks can stand on it."""

from __future__ import annotations

import asyncio
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from pileus.host.image_cache import CachedImage, ImageCache, look
from pileus.host.images import ImageFacts, inspect, require
from pileus.testing.shelf import shelf

MIB = 1 << 20
SIZE = 16 * MIB

pytestmark = pytest.mark.skipif(
    None in map(shutil.which, ("qemu-img", "genisoimage")), reason="needs qemu-utils, genisoimage"
)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is in each of them."""
    path, chance = tmp_path_factory.mktemp("disk") / "raw", random.Random(5)
    content = bytearray(SIZE)
    for at in (0, 5 * MIB, SIZE - 70_000):
        content[at : at + 70_000] = chance.randbytes(70_000)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    "disk_format, made_as, options",
    [
        ("raw", "raw", ""),
        ("ami", "raw", ""),
        ("qcow2", "qcow2", ""),
        ("vhd", "vpc", "subformat=dynamic,force_size=on"),
        ("vhd", "vpc", "subformat=fixed,force_size=on"),
        ("vhdx", "vhdx", "subformat=dynamic"),
        ("vhdx", "vhdx", "subformat=fixed"),
        ("vdi", "vdi", ""),
        ("vmdk", "vmdk", "subformat=monolithicSparse"),
        ("vmdk", "vmdk", "subformat=streamOptimized"),
    ],
)
def test_an_image_of_that_format_is_what_it_is_and_has_the_disk_in_it(
    disk: Path, tmp_path: Path, disk_format: str, made_as: str, options: str
) -> None:
    image = tmp_path / "image"
    words = ["-o", options] if options else []
    convert = ["qemu-img", "convert", "-fraw", f"-O{made_as}", *words, str(disk), str(image)]
    subprocess.run(convert, check=True)
    found = "raw" if disk_format == "ami" else disk_format
    assert inspect(image) == ImageFacts(found, SIZE)
    stands_on(image, disk, tmp_path / "cache", disk_format)


def test_an_iso_is_known_and_is_a_disk_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_bytes(b"content")
    image = tmp_path / "image"
    words = ["genisoimage", "-quiet", "-o", str(image), str(tmp_path / "tree")]
    subprocess.run(words, check=True)
    assert inspect(image) == ImageFacts("iso", image.stat().st_size)
    stands_on(image, image, tmp_path / "cache", "iso")


@pytest.mark.parametrize(
    "made_as, options",
    [
        ("vmdk", "subformat=monolithicFlat"),
        ("vmdk", "subformat=twoGbMaxExtentSparse"),
        ("vhdx", "subformat=dynamic,block_size=1M"),
        ("qed", ""),
        ("parallels", ""),
    ],
)
def test_an_image_that_is_said_to_be_another_format_or_is_none_of_ours_is_refused(
    disk: Path, tmp_path: Path, made_as: str, options: str
) -> None:
    image = tmp_path / "image"
    words = ["-o", options] if options else []
    subprocess.run(
        ["qemu-img", "convert", "-fraw", f"-O{made_as}", *words, str(disk), str(image)], check=True
    )
    facts = inspect(image)
    assert facts.format == made_as
    with pytest.raises(Exception, match="is said to be qcow2"):
        require(facts, "qcow2")
    if made_as != "vhdx":
        with pytest.raises(Exception, match="may not be used"):
            require(facts, made_as)


def stands_on(image: Path, disk: Path, folder: Path, disk_format: str) -> None:
    """The host fetches it, and what a guest's disk would stand on has that disk in it."""
    data = image.read_bytes()

    async def story(url: str) -> tuple[Path, CachedImage]:
        require(await look(url, len(data), disk_format), disk_format)
        cache = ImageCache(folder)
        cache.start_up()
        kept = await cache.get("one", url, disk_format, size=len(data))
        await cache.close()
        return cache.path(kept), kept

    with shelf() as shop:
        path, kept = asyncio.run(story(shop.offer(data)))
    assert kept.format in ("raw", "qcow2") and kept.virtual_size == disk.stat().st_size
    compare = ["qemu-img", "compare", "-q", "-fraw", f"-F{kept.format}"]
    subprocess.run([*compare, str(disk), str(path)], check=True)

"""Archives that mean harm, what `docker save` writes, and what comes out of a tree again; needs root."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pileus.host import rootfs
from pileus.host.caged_tar import REFUSED
from pileus.host.images import ImageFacts
from pileus.host.process import ProcessFailed
from pileus.host.rootfs import FIRST_ID, Command, RootCache
from pileus.kernel.faults import Conflict, Invalid

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]
Member = tuple[tarfile.TarInfo, bytes]


def member(name: str, kind: bytes = tarfile.REGTYPE, data: bytes = b"", link: str = "") -> Member:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.mode = kind, len(data), link, 0o755
    return info, data


def archive(*members: Member) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as out:
        for info, data in members:
            out.addfile(info, io.BytesIO(data))
    return written.getvalue()


def unpacked(folder: Path, data: bytes) -> tuple[Path, Command]:
    """As the cache does it with what it fetched. `folder` is empty and stands for the host."""
    cache = RootCache(folder / "roots")
    cache.start_up()
    part = cache.folder / "image.part"
    part.write_bytes(data)
    asyncio.run(cache._shape(part, ImageFacts("raw", len(data))))
    assert list(cache.folder.iterdir()) == [part]
    return part / "tree", Command(**json.loads((part / "command.json").read_text()))


def test_files_links_and_owners_come_as_they_are_with_users_of_their_own(tmp_path: Path) -> None:
    owned, data = member("home/a", data=b"mine")
    owned.uid, owned.gid, owned.mode = 1000, 70000, 0o4711
    tree, command = unpacked(
        tmp_path,
        gzip.compress(
            archive(
                (owned, data),
                member("bin", tarfile.SYMTYPE, link="usr/bin"),
                member("usr/bin/", tarfile.DIRTYPE),
                member("bin/sh", data=b"shell"),
                member("etc/again", data=b"first"),
                member("etc/again", data=b"second"),
                member("etc/linked", tarfile.LNKTYPE, link="etc/again"),
            )
        ),
    )
    found = (tree / "home/a").stat()
    assert (found.st_uid, found.st_gid) == (FIRST_ID + 1000, FIRST_ID + 65534)
    assert stat.S_IMODE(found.st_mode) == 0o4711
    assert (tree / "home").stat().st_uid == FIRST_ID
    assert (tree / "usr/bin/sh").read_bytes() == b"shell"
    assert (tree / "etc/linked").read_bytes() == b"second"
    assert command == Command()


def test_links_that_lead_out_lead_nowhere_and_devices_are_left_out(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    tree, _ = unpacked(
        tmp_path,
        archive(
            member("out", tarfile.SYMTYPE, link=str(outside)),
            member("/absolute", data=b"inside"),
            member("dev/sda", tarfile.BLKTYPE),
            member("dev/mem", tarfile.CHRTYPE),
            member("up", tarfile.SYMTYPE, link="../../../.."),
            member("up/inside", data=b"here"),
        ),
    )
    assert (tree / "absolute").read_bytes() == b"inside"
    assert not (tree / "dev").exists()
    assert (tree / "inside").read_bytes() == b"here"
    assert sorted(p.name for p in outside.iterdir()) == ["secret"]


HOSTILE: dict[str, Callable[[Path], bytes]] = {
    "outside of itself": lambda out: archive(member("a/../../../escaped", data=b"x")),
    "No such file": lambda out: archive(
        member("stolen", tarfile.LNKTYPE, link=str(out / "secret"))
    ),
    "File exists": lambda out: archive(
        member("out", tarfile.SYMTYPE, link=str(out)), member("out/planted", data=b"x")
    ),
    "no tar archive": lambda out: b"not a tar at all" * 1000,
    "neither file, folder nor link": lambda out: archive(member("odd", b"Z")),
    "whom its /etc/passwd does not know": lambda out: saved([[]], {"User": "ghost"}),
}


@pytest.mark.parametrize("why", HOSTILE)
def test_an_archive_that_means_harm_is_refused_and_leaves_nothing(why: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    with pytest.raises(Invalid, match=why):
        unpacked(tmp_path, HOSTILE[why](outside))
    assert [p.name for p in outside.iterdir()] == ["secret"]
    assert not (tmp_path / "escaped").exists() and not Path("/escaped").exists()
    assert [p.name for p in (tmp_path / "roots").iterdir()] == ["image.part"]


def test_an_archive_that_unpacks_to_more_than_there_is_room_for_is_refused(tmp_path: Path) -> None:
    tree, bomb = tmp_path / "tree", tmp_path / "bomb"
    tree.mkdir()
    bomb.write_bytes(gzip.compress(archive(member("zeros", data=bytes(1 << 20)))))
    with pytest.raises(ProcessFailed, match="unpacks to more than 100000 bytes") as refused:
        asyncio.run(rootfs._caged("unpack", bomb, tree, 100_000))
    assert refused.value.returncode == REFUSED
    assert list(tree.iterdir()) == []


def saved(layers: list[list[Member]], config: dict[str, object]) -> bytes:
    """What `docker save` writes."""
    names = [f"{n}/layer.tar" for n in range(len(layers))]
    manifest = json.dumps([{"Config": "config.json", "Layers": names}]).encode()
    return archive(
        *(member(n, data=archive(*layer)) for n, layer in zip(names, layers, strict=True)),
        member("config.json", data=json.dumps({"config": config}).encode()),
        member("manifest.json", data=manifest),
    )


def test_saved_layers_lie_over_each_other_and_say_what_is_to_be_run(tmp_path: Path) -> None:
    below = [
        member("etc/passwd", data=b"root:x:0:0::/:/bin/sh\nweb:x:33:44::/:/bin/sh\n"),
        member("etc/gone", data=b"x"),
        member("opt/old/a", data=b"x"),
        member("opt/old/b", data=b"x"),
    ]
    above = [
        member("etc/.wh.gone"),
        member("opt/old/.wh..wh..opq"),
        member("opt/old/c", data=b"x"),
    ]
    config: dict[str, object] = {
        "User": "web",
        "Entrypoint": ["/bin/web"],
        "Cmd": ["--fast"],
        "Env": ["A=b"],
        "WorkingDir": "/srv",
    }
    tree, command = unpacked(tmp_path, saved([below, above], config))
    assert [p.name for p in (tree / "opt/old").iterdir()] == ["c"]
    assert [p.name for p in (tree / "etc").iterdir()] == ["passwd"]
    wanted = Command(args=["/bin/web", "--fast"], env=["A=b"], cwd="/srv", uid=33, gid=44)
    assert command == wanted


def test_a_tree_is_packed_as_its_container_sees_it_and_not_one_link_further(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    tree, _ = unpacked(
        tmp_path,
        archive(
            member("etc/name", data=b"x"),
            member("out", tarfile.SYMTYPE, link=str(tmp_path)),
        ),
    )
    packed = tmp_path / "packed.tar"
    packed.touch()
    asyncio.run(rootfs.pack(tree, COMMAND, packed, 1 << 30))
    with layer_of(packed) as found:
        assert sorted(found.getnames()) == ["etc", "etc/name", "out"]
        assert found.getmember("out").issym()
        assert {(m.uid, m.gid) for m in found} == {(0, 0)}
    again, command = unpacked(tmp_path / "again", packed.read_bytes())
    assert ((again / "etc/name").read_bytes(), command) == (b"x", COMMAND)
    (tree / "large").write_bytes(bytes(2000))
    with pytest.raises(Conflict, match="more than 1000 bytes"):
        asyncio.run(rootfs.pack(tree, COMMAND, packed, 1000))


COMMAND = Command(args=["/bin/web", "-x"], env=["A=b"], cwd="/etc", uid=33, gid=44)


def layer_of(packed: Path) -> tarfile.TarFile:
    """The layer, whose digest the configuration tells."""
    with tarfile.open(packed) as outer:
        read = {m.name: io.BytesIO((outer.extractfile(m) or io.BytesIO()).read()) for m in outer}
    assert read.keys() == {"layer.tar", "config.json", "manifest.json"}
    config = json.loads(read["config.json"].getvalue())
    digest = hashlib.sha256(read["layer.tar"].getvalue()).hexdigest()
    assert config["rootfs"]["diff_ids"] == [f"sha256:{digest}"]
    return tarfile.open(fileobj=read["layer.tar"])


def test_the_cage_runs_no_code_of_the_tree_and_cannot_leave_it(tmp_path: Path) -> None:
    """The C library would load a hostile tree's own modules to find out what a user is called."""
    evil = [
        member("etc/nsswitch.conf", data=b"passwd: evil\ngroup: evil\n"),
        member("lib/x86_64-linux-gnu/libnss_evil.so.2", data=b"\x7fELF evil"),
        member("usr/lib/python3.11/bz2.py", data=b"raise SystemExit(7)"),
        member("bz2.py", data=b"raise SystemExit(7)"),
    ]
    tree, _ = unpacked(tmp_path, archive(*evil))
    packed = tmp_path / "packed.tar"
    packed.touch()
    asyncio.run(rootfs.pack(tree, COMMAND, packed, 1 << 30))
    with layer_of(packed) as found:
        assert {"bz2.py", "etc/nsswitch.conf"} <= set(found.getnames())

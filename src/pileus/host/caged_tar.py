"""Trees of containers from archives that somebody uploaded, and archives of trees that guests wrote.

Runs as a process of its own, for which the tree is all there is and which can do nothing but read,
write and own files: whatever names and links say, they lead nowhere else. Imports nothing of ours,
and nothing at all once it is inside. Understands a tar of a root file system, plain or compressed,
and what `docker save` writes. Refuses by exit code 3 and a sentence.

    python caged_tar.py unpack ARCHIVE TREE FIRST_ID BYTES {}  prints what the image says is to be run
    python caged_tar.py pack ARCHIVE TREE FIRST_ID BYTES COMMAND
"""

from __future__ import annotations

import bz2
import contextlib
import ctypes
import gzip
import hashlib
import json
import lzma
import os
import shutil
import stat
import struct
import sys
import tarfile
import zlib
from typing import Any, BinaryIO

REFUSED = 3
IDS = 65535  # users and groups that a container has: 65535 is nobody's, and QEMU's of an ordinary user
_NOBODY = 65534
_SYS_CHROOT = 18
_LOADED = (bz2, gzip)  # by tarfile, when it meets an archive of theirs
_ENTRIES = 500_000
_NOTES = 1 << 20  # bytes of a manifest or a configuration
_GONE, _OPAQUE = ".wh.", ".wh..wh..opq"


class Refused(Exception):
    """What is wrong with the archive."""


class Unpacker:
    """Writes below the process's root. `first` is the host's user for the archive's user 0."""

    def __init__(self, first: int, limit: int) -> None:
        self.first, self.limit = first, limit
        self.entries = self.written = 0

    def lay(self, layer: tarfile.TarFile, *, is_layer: bool) -> None:
        for member in layer:
            self.entries += 1
            self.written += member.size if member.isreg() else 0
            if self.entries > _ENTRIES:
                raise Refused(f"it has more than {_ENTRIES} files")
            if self.written > self.limit:
                raise Refused(f"it unpacks to more than {self.limit} bytes")
            parts = [part for part in member.name.split("/") if part not in ("", ".")]
            if ".." in parts:
                raise Refused(f"it names a file outside of itself: {member.name[:100]!r}")
            path = "/" + "/".join(parts)
            if is_layer and parts and parts[-1].startswith(_GONE):
                self._white_out(path)
            else:
                self._lay_one(layer, member, path)

    def _lay_one(self, layer: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> None:
        """Devices are left out: a container has its own."""
        if member.ischr() or member.isblk():
            return
        if path != "/":
            self._make_room(path, member.isdir())
        if member.isdir():
            if not os.path.isdir(path):
                os.mkdir(path)
        elif member.issym():
            os.symlink(member.linkname, path)
            return self._own(path, member)
        elif member.islnk():
            os.link("/" + member.linkname.lstrip("/"), path, follow_symlinks=False)
            return None
        elif member.isfifo():
            os.mkfifo(path)
        elif member.isreg():
            source = layer.extractfile(member)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            with os.fdopen(os.open(path, flags, 0o600), "wb") as out:
                if source is not None:
                    shutil.copyfileobj(source, out, 1 << 20)
        else:
            raise Refused(f"{member.name[:100]!r} is neither file, folder nor link")
        self._own(path, member)
        os.chmod(path, stat.S_IMODE(member.mode))
        os.utime(path, (int(member.mtime), int(member.mtime)))

    def _make_room(self, path: str, is_folder: bool) -> None:
        parent = os.path.dirname(path)
        if not os.path.isdir(parent):
            os.makedirs(parent, 0o755)
            self._own_made(parent)
        if os.path.lexists(path) and not (is_folder and os.path.isdir(path)):
            _remove(path)

    def _own_made(self, folder: str) -> None:
        """Folders that the archive does not name are root's."""
        while folder != "/" and os.stat(folder).st_uid < self.first:
            os.chown(folder, self.first, self.first)
            folder = os.path.dirname(folder)

    def _own(self, path: str, member: tarfile.TarInfo) -> None:
        user, group = (id if 0 <= id < IDS else _NOBODY for id in (member.uid, member.gid))
        os.chown(path, self.first + user, self.first + group, follow_symlinks=False)

    def _white_out(self, path: str) -> None:
        """A layer says that what those below it have is gone."""
        folder, name = os.path.split(path)
        if name != _OPAQUE:
            _remove(os.path.join(folder, name.removeprefix(_GONE)))
        elif os.path.isdir(folder):
            for inside in os.listdir(folder):
                _remove(os.path.join(folder, inside))


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def unpack(archive: BinaryIO, unpacker: Unpacker) -> dict[str, Any]:
    """What is to be run, as far as the archive says."""
    with tarfile.open(fileobj=archive) as outer:
        manifest = _note(outer, "manifest.json")
        if not (isinstance(manifest, list) and manifest and "Layers" in manifest[0]):
            unpacker.lay(outer, is_layer=False)
            return {}
        for name in manifest[0]["Layers"]:
            inner = outer.extractfile(name)
            if inner is None:
                raise Refused(f"its layer {name!r} is no file")
            with tarfile.open(fileobj=inner) as layer:
                unpacker.lay(layer, is_layer=True)
        said = (_note(outer, manifest[0]["Config"]) or {}).get("config") or {}
    user, group = _identity(str(said.get("User") or ""))
    args = [*(said.get("Entrypoint") or ()), *(said.get("Cmd") or ())]
    env, cwd = said.get("Env") or [], said.get("WorkingDir") or "/"
    return {"args": args, "env": env, "cwd": cwd, "uid": user, "gid": group}


def _note(outer: tarfile.TarFile, name: str) -> Any:
    try:
        file = outer.extractfile(name)
    except KeyError:
        return None
    return json.loads(file.read(_NOTES)) if file is not None else None


def _identity(said: str) -> tuple[int, int]:
    """The numbers of `user`, `user:group` or either by number."""
    user, _, group = said.partition(":")
    uid, own = _looked_up("/etc/passwd", user or "0")
    gid = _looked_up("/etc/group", group)[0] if group else own
    return uid, gid


def _looked_up(path: str, name: str) -> tuple[int, int]:
    if name.isdigit():
        return int(name), 0
    with contextlib.suppress(FileNotFoundError), open(path) as lines:
        for line in lines:
            fields = line.rstrip("\n").split(":")
            if fields[0] == name:
                return int(fields[2]), int(fields[3]) if path.endswith("passwd") else 0
    raise Refused(f"it runs as {name!r}, whom its {path} does not know")


def pack(archive: BinaryIO, first: int, limit: int, command: dict[str, Any]) -> None:
    """As `docker save` has it: the whole tree as one layer, and what is to be run."""
    archive.seek(tarfile.BLOCKSIZE)  # of the layer's header, which says how long it is
    _pack_layer(archive, first, limit)
    size = archive.tell() - tarfile.BLOCKSIZE
    archive.seek(tarfile.BLOCKSIZE)
    digest = hashlib.sha256()
    while piece := archive.read(1 << 20):
        digest.update(piece)
    said = {
        "Entrypoint": command["args"],
        "Env": command["env"],
        "WorkingDir": command["cwd"],
        "User": f"{command['uid']}:{command['gid']}",
    }
    layers = {"type": "layers", "diff_ids": [f"sha256:{digest.hexdigest()}"]}
    manifest = [{"Config": "config.json", "RepoTags": None, "Layers": ["layer.tar"]}]
    notes = {"config.json": {"os": "linux", "config": said, "rootfs": layers}}
    for name, note in {**notes, "manifest.json": manifest}.items():
        data = json.dumps(note).encode()
        archive.write(_header(name, len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE))
    archive.write(bytes(2 * tarfile.BLOCKSIZE))
    archive.seek(0)
    archive.write(_header("layer.tar", size))


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.GNU_FORMAT)


def _pack_layer(archive: BinaryIO, first: int, limit: int) -> None:
    """As its container sees the owners; sockets are left out."""
    written = 0
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as out:
        for folder, folders, files in os.walk("/"):
            for name in sorted([*folders, *files]):
                path = os.path.join(folder, name)
                member = out.gettarinfo(path, path.lstrip("/"))
                if member is None:
                    continue
                written += member.size
                if written > limit:
                    raise Refused(f"it has more than {limit} bytes")
                member.uid, member.gid = (max(0, id - first) for id in (member.uid, member.gid))
                if member.isreg():
                    with open(path, "rb") as file:
                        out.addfile(member, file)
                else:
                    out.addfile(member)


def enter(folder: str) -> None:
    """From here on the folder is all there is, and what is in it is not trusted."""
    kept = _capabilities() & ~(1 << _SYS_CHROOT)
    os.chroot(folder)
    os.chdir("/")
    sys.meta_path.clear()
    sys.path.clear()
    tarfile.pwd = tarfile.grp = None  # type: ignore[attr-defined]  # the C library would load code
    header = struct.pack("=Ii", 0x20080522, 0)
    sets = struct.pack("=IIIIII", kept, kept, 0, 0, 0, 0)
    if ctypes.CDLL(None).capset(header, sets):
        raise OSError("cannot give up the right to chroot")


def _capabilities() -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1], 16) for line in lines if line.startswith("CapPrm"))


def main(verb: str, path: str, folder: str, first: int, limit: int, command: dict[str, Any]) -> int:
    os.umask(0o022)
    with open(path, "rb" if verb == "unpack" else "w+b") as archive:
        enter(folder)
        try:
            if verb == "pack":
                pack(archive, first, limit, command)
                return 0
            os.chown("/", first, first)
            os.chmod("/", 0o755)
            print(json.dumps(unpack(archive, Unpacker(first, limit))))
        except Refused as refused:
            return _refuse(str(refused))
        except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError, KeyError) as e:
            return _refuse(f"it is no tar archive that can be read ({e})")
        except OSError as e:  # its names contradict each other, or there is no room
            return _refuse(f"{e.strerror}: {e.filename or path}")
    return 0


def _refuse(why: str) -> int:
    print(why[:500], file=sys.stderr)
    return REFUSED


if __name__ == "__main__":
    _verb, _path, _folder, _first, _limit, _command = sys.argv[1:]
    sys.exit(main(_verb, _path, _folder, int(_first), int(_limit), json.loads(_command)))

"""A small bootable guest image, made in seconds from Debian packages without mounts or privileges.

It behaves like CirrOS to the scripts that expect one: user `cirros` (password `gocubsgo`,
everything by `sudo`), DHCP on every NIC, host name, ssh keys and user data from a config drive or
the metadata service, its console on ttyS0, a root disk that grows, a guest agent, power-off by
ACPI. What runs inside it lies in `testimage_root/`.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import lzma
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from pileus.host import files
from pileus.host.process import ProcessFailed, run

PACKAGES = ("apt", "dpkg", "qemu-utils")  # what the building host needs; the rest is fetched

_KERNEL = "linux-image-cloud-amd64"
# Fetched and unpacked, never installed. Where Debian renamed one, either name will do.
_CONTENTS: tuple[tuple[str, ...], ...] = (
    ("busybox",),
    ("dropbear-bin",),
    ("libtomcrypt1",),
    ("libtommath1",),
    ("libgmp10",),
    ("jq",),
    ("libjq1",),
    ("libonig5",),
    ("e2fsprogs",),
    ("libext2fs2", "libext2fs2t64"),
    ("libcom-err2",),
    ("libss2",),
    ("libblkid1",),
    ("libuuid1",),
    ("libc6",),
    ("libcrypt1",),
    ("qemu-guest-agent",),
    ("libglib2.0-0", "libglib2.0-0t64"),
    ("libpcre2-8-0",),
    ("libnuma1",),
    ("liburing2",),
    ("libudev1",),
    ("libcap2",),
    ("zlib1g",),
    ("util-linux",),
    ("libsmartcols1",),
    ("libmount1",),
    ("libselinux1",),
    ("libtinfo6",),
    ("netcat-traditional",),
    ("mtools",),
    ("syslinux",),
    ("syslinux-common",),
)
_STATIC_BUSYBOX = "busybox-static"  # its wget cannot resolve names, so it serves the initramfs only

_BINARIES = (
    "bin/busybox",
    "usr/sbin/dropbear",
    "usr/bin/dropbearkey",
    "usr/bin/jq",
    "usr/sbin/qemu-ga",
    "sbin/resize2fs",
    "sbin/mke2fs",
    "bin/lsblk",
    "bin/nc.traditional",
)
_EARLY = (  # by the initramfs
    "virtio_pci",
    "virtio_blk",
    "virtio_scsi",
    "sd_mod",
    "virtio_rng",
    "crc32c_generic",
    "ext4",
)
_FIRST = ("virtio_net", "virtio_console", "isofs", "button", "evdev")  # before the login prompt
_LATER = ("virtio_balloon", "sr_mod", "vfat", "nls_cp437", "nls_ascii", "8021q", "nvme")
_FOLDERS = [
    "bin",
    "dev",
    "etc/dropbear",
    "home/cirros",
    "lib/modules",
    "lib64",
    "mnt",
    "proc",
    "root",
    "run",
    "sys",
    "tmp",
    "usr/libexec",
    "var/log",
    "var/lib/cloud",
]
_AS_ROOT = {"bin/sudo": "/usr/libexec/sudo", "bin/ping": "/usr/libexec/ping"}
_AS_ROOT |= {f"bin/{name}": f"/usr/libexec/{name}" for name in ("ping6", "blkid")}
_SHADOW = (  # the password of people at the console, gocubsgo
    "root:*:19000:0:99999:7:::\n"
    "cirros:$6$pileus$1BUTPjBk5FPfSDnhPhr.l8.j.FK/bmlzy6.fpilute.N/"
    "gL0Hbwe.meiLvZecrmiAmJRgzY5w6UeUwhidSnba1:19000:0:99999:7:::\n"
)
_MIB = 1 << 20
_BOOT_MIB = 24  # the FAT partition: boot loader, kernel, initramfs
_ROOM_MIB = 24  # free space of the root file system before it grows
_TREE = Path(__file__).with_name("testimage_root")
_KERNEL_ARGUMENTS = (
    "console=tty0 console=ttyS0 quiet panic=5 mitigations=off nokaslr random.trust_cpu=on "
    "net.ifnames=0"
)

Progress = Callable[[str], None]


async def build(destination: Path, progress: Progress = lambda text: None) -> Path:
    """Make the image at `destination` (qcow2) unless the same recipe made the one that is there.

    Raises ProcessFailed when a package cannot be fetched or a tool is missing.
    """
    stamp = destination.with_name(destination.name + ".recipe")
    recipe = recipe_hash()
    if _is_built(destination, stamp, recipe):
        return destination
    with tempfile.TemporaryDirectory(prefix="testimage.", dir=destination.parent) as folder:
        kitchen = _Kitchen(Path(folder), progress)
        part = destination.with_name(destination.name + files.PART)
        await kitchen.cook(part)
        files.settle(part, destination)
    files.write_atomically(stamp, recipe.encode(), 0o644)
    progress(f"test image ready at {destination}")
    return destination


def _is_built(destination: Path, stamp: Path, recipe: str) -> bool:
    destination.parent.mkdir(parents=True, exist_ok=True)
    return destination.exists() and stamp.exists() and stamp.read_text() == recipe


def recipe_hash() -> str:
    """What the image depends on: this module and the tree of files beside it."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for path in sorted(_TREE.rglob("*")):
        if path.is_file():
            digest.update(str(path.relative_to(_TREE)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class _Kitchen:
    """The folder in which one image is made: packages, what they hold, trees, partitions."""

    def __init__(self, folder: Path, progress: Progress) -> None:
        self.folder = folder
        self.progress = progress
        self.unpacked = folder / "x"
        self.static = folder / "static"
        self.root = folder / "root"

    async def cook(self, target: Path) -> None:
        await self._fetch()
        modules = await asyncio.to_thread(Modules, self.unpacked)
        initramfs = await asyncio.to_thread(self._initramfs, modules)
        self.progress("assembling the root file system")
        libraries = await self._libraries()
        applets = (await run([*self._loaded("bin/busybox"), "--list"])).decode().split()
        await asyncio.to_thread(self._lay_root, modules, libraries, applets)
        boot = await self._boot_partition(initramfs)
        root = await self._root_partition()
        disk = self.folder / "disk.raw"
        await asyncio.to_thread(self._join, disk, boot, root)
        self.progress("compressing")
        convert = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c"]
        options = ["-o", "compression_type=zstd"]
        await run([*convert, *options, str(disk), str(target)], timeout_s=300)

    async def _fetch(self) -> None:
        debs = self.folder / "debs"
        debs.mkdir()
        debs.chmod(0o777)  # apt fetches as a user of its own
        self.folder.chmod(0o755)
        kernel = await _kernel_package()
        names = [kernel, _STATIC_BUSYBOX, *await _known_names()]
        self.progress(f"fetching {len(names)} Debian packages")
        await run(["apt-get", "download", "-qq", *names], cwd=debs, timeout_s=600)
        self.progress("unpacking")
        for deb in sorted(debs.iterdir()):
            is_static = deb.name.startswith(f"{_STATIC_BUSYBOX}_")
            where = self.static if is_static else self.unpacked
            await run(["dpkg-deb", "-x", str(deb), str(where)], timeout_s=120)
        _merge_usr(self.unpacked)

    def _library_path(self) -> str:
        return f"{self.unpacked}/usr/lib/x86_64-linux-gnu"

    def _loaded(self, program: str, *arguments: str) -> list[str]:
        """The command of an unpacked program under its own loader and libraries, not the host's."""
        loader = self.unpacked / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
        path = self.unpacked / "usr" / program
        return [str(loader), "--library-path", self._library_path(), *arguments, str(path)]

    async def _libraries(self) -> dict[str, Path]:
        found: dict[str, Path] = {}
        for program in _BINARIES:
            listed = await run(self._loaded(program.removeprefix("usr/"), "--list"))
            for name, path in re.findall(r"(\S+) => (/\S+) \(", listed.decode()):
                found[Path(name).name] = Path(path)
        return found

    def _initramfs(self, modules: Modules) -> bytes:
        early = modules.closure(_EARLY)
        archive = Cpio()
        for folder in ("bin", "dev", "proc", "sys", "mnt", "lib"):
            archive.add(folder, b"", 0o040755)
        archive.add("init", (_TREE / "initramfs/init").read_bytes(), 0o100755)
        archive.add("bin/busybox", (self.static / "bin/busybox").read_bytes(), 0o100755)
        for name in early:
            archive.add(f"lib/{name}.ko", modules.read(name), 0o100644)
        archive.add("lib/order", " ".join(early).encode(), 0o100644)
        return gzip.compress(archive.end(), 6)

    def _lay_root(self, modules: Modules, libraries: dict[str, Path], applets: list[str]) -> None:
        for folder in _FOLDERS:
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        for link in ("sbin", "usr/bin", "usr/sbin"):
            (self.root / link).symlink_to("/bin")
        (self.root / "var/run").symlink_to("/run")  # where udhcpc's process id is looked for
        self._lay_programs(libraries, applets)
        shutil.copytree(_TREE / "root", self.root, dirs_exist_ok=True)
        for path in (_TREE / "root").rglob("*"):
            if path.is_file():
                is_script = path.read_bytes().startswith(b"#!")
                (self.root / path.relative_to(_TREE / "root")).chmod(0o755 if is_script else 0o644)
        (self.root / "etc/shadow").write_text(_SHADOW)
        (self.root / "etc/shadow").chmod(0o600)
        shutil.copy(self.unpacked / "etc/mke2fs.conf", self.root / "etc/mke2fs.conf")
        target = self.root / "lib/modules" / modules.version
        target.mkdir()
        loaded = modules.closure(_EARLY)
        for list_name, names in (("modules.first", _FIRST), ("modules.later", _LATER)):
            chosen = [name for name in modules.closure(names) if name not in loaded]
            for name in chosen:
                (target / f"{name}.ko").write_bytes(modules.read(name))
            (self.root / "etc" / list_name).write_text(" ".join(chosen) + "\n")
            loaded += chosen

    def _lay_programs(self, libraries: dict[str, Path], applets: list[str]) -> None:
        for name, path in libraries.items():
            shutil.copyfile(path, self.root / "lib" / name)
            (self.root / "lib" / name).chmod(0o755)
        (self.root / "lib64/ld-linux-x86-64.so.2").symlink_to("/lib/ld-linux-x86-64.so.2")
        loader = self.unpacked / "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
        shutil.copyfile(loader, self.root / "lib/ld-linux-x86-64.so.2")
        (self.root / "lib/ld-linux-x86-64.so.2").chmod(0o755)
        for program in _BINARIES:
            target = self.root / "bin" / Path(program).name
            shutil.copyfile(self.unpacked / "usr" / program.removeprefix("usr/"), target)
            target.chmod(0o755)
        for name in ("mkfs.ext4", "mkfs.ext3", "mkfs.ext2"):
            (self.root / "bin" / name).symlink_to("mke2fs")
        for program, script in _AS_ROOT.items():
            (self.root / program).write_bytes(setuid_program(script))
            (self.root / program).chmod(0o4755)
        (self.root / "usr/libexec/nc").symlink_to("/bin/busybox")
        for applet in applets:
            target = self.root / "bin" / applet
            ours = (_TREE / "root/bin" / applet).exists()
            if not ours and not target.exists() and not target.is_symlink():
                target.symlink_to("busybox")

    async def _boot_partition(self, initramfs: bytes) -> Path:
        """A FAT file system with SYSLINUX; the hidden sectors are those before it on the disk."""
        part = self.folder / "boot.fat"
        _sparse(part, _BOOT_MIB * _MIB)
        (self.folder / "initrd").write_bytes(initramfs)
        configuration = (
            "DEFAULT l\nPROMPT 0\nTIMEOUT 1\nLABEL l\n KERNEL vmlinuz\n INITRD initrd\n"
            f" APPEND {_KERNEL_ARGUMENTS}\n"
        )
        (self.folder / "syslinux.cfg").write_text(configuration)
        (kernel,) = (self.unpacked / "boot").glob("vmlinuz-*")
        tools = {"PATH": f"{self.unpacked}/usr/bin:{os.environ['PATH']}", "MTOOLS_SKIP_CHECK": "1"}
        geometry = ["-h", "16", "-s", "63", "-H", str(_MIB // 512), "-c", "8"]
        sectors = str(_BOOT_MIB * _MIB // 512)
        await run(
            ["mformat", "-i", str(part), "-T", sectors, *geometry, "-v", "BOOT", "::"], env=tools
        )
        contents = {"vmlinuz": kernel, "initrd": self.folder / "initrd"}
        contents["syslinux.cfg"] = self.folder / "syslinux.cfg"
        for name, source in contents.items():
            await run(["mcopy", "-i", str(part), str(source), f"::{name}"], env=tools)
        await run(["syslinux", "-i", str(part)], env=tools)
        return part

    async def _root_partition(self) -> Path:
        part = self.folder / "root.ext4"
        listed = await run(["du", "-sm", str(self.root)])
        _sparse(part, (int(listed.split()[0]) + _ROOM_MIB) * _MIB)
        config = {"MKE2FS_CONFIG": str(self.unpacked / "etc/mke2fs.conf")}
        options = ["-q", "-t", "ext4", "-L", "cirros-root", "-m", "0", "-J", "size=4"]
        options += ["-O", "^metadata_csum", "-E", "root_owner=0:0,resize=10485760"]
        await run(
            [*self._loaded("sbin/mke2fs"), *options, "-d", str(self.root), str(part)], env=config
        )
        owners = self.folder / "owners"
        owners.write_text("".join(_owner_commands(self.root)))
        await run([*self._loaded("sbin/debugfs"), "-w", "-f", str(owners), str(part)])
        return part

    def _join(self, disk: Path, boot: Path, root: Path) -> None:
        """Boot sector, partition table (FAT at 1 MiB, ext4 behind it), partitions."""
        start, length = _MIB, boot.stat().st_size
        second = start + length
        loader = (self.unpacked / "usr/lib/syslinux/mbr/mbr.bin").read_bytes()
        sector = bytearray(loader.ljust(512, b"\0"))
        sector[440:444] = b"PILE"
        sector[446:478] = _partition(True, 0x0C, start, length) + _partition(
            False, 0x83, second, root.stat().st_size
        )
        sector[510:512] = b"\x55\xaa"
        with disk.open("wb") as out:
            out.write(sector)
            for at, part in ((start, boot), (second, root)):
                out.seek(at)
                with part.open("rb") as source:
                    shutil.copyfileobj(source, out, _MIB)


class Modules:
    """The kernel modules of an unpacked kernel package, and which need which."""

    def __init__(self, unpacked: Path) -> None:
        (folder,) = (unpacked / "usr/lib/modules").iterdir()
        self.version = folder.name
        self._files = {_module_name(path): path for path in folder.rglob("*.ko*")}
        builtin = (folder / "modules.builtin").read_text().split()
        self._builtin = {_module_name(Path(line)) for line in builtin}

    def read(self, name: str) -> bytes:
        path = self._files[name]
        data = path.read_bytes()
        return lzma.decompress(data) if path.suffix == ".xz" else data

    def closure(self, names: Iterable[str]) -> list[str]:
        """The modules and all they need, in the order to load them.

        Those in the kernel drop out.
        """
        order: list[str] = []

        def visit(name: str) -> None:
            if name in order or name in self._builtin or name not in self._files:
                return
            for needed in self._needs(name):
                visit(needed)
            order.append(name)

        for name in names:
            visit(name)
        return order

    def _needs(self, name: str) -> list[str]:
        found = re.search(rb"\0depends=([^\0]*)\0", self.read(name))
        names = found[1].decode().split(",") if found else []
        return [name.replace("-", "_") for name in names if name]


class Cpio:
    """An initramfs archive ("newc"), written in memory."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._count = 0

    def add(self, name: str, data: bytes, mode: int) -> None:
        self._count += 1
        fields = (self._count, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._parts += [_padded(header + name.encode() + b"\0"), _padded(data)]

    def end(self) -> bytes:
        self.add("TRAILER!!!", b"", 0)
        return b"".join(self._parts)


def setuid_program(script: str) -> bytes:
    """An x86-64 ELF program that becomes root and runs `script` with its own arguments.

    The kernel ignores the setuid bit of scripts, and 140 bytes are all it takes.
    """
    code = bytes.fromhex(
        "31ff6a6a580f05"  # setgid(0)
        "31ff6a69580f05"  # setuid(0)
        "488b0c24488d742408488d54cc10"  # rcx: argc, rsi: argv, rdx: envp
        "488d3d0d000000"  # rdi: the path, 13 bytes further on
        "6a3b580f05"  # execve
        "6a7e5f6a3c580f05"  # exit(126)
    )
    body = code + script.encode() + b"\0"
    base = 0x400000
    size = 64 + 56 + len(body)
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, base + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 0x1000)
    return header + segment + body


async def _kernel_package() -> str:
    listed = (await run(["apt-cache", "depends", _KERNEL])).decode()
    found = re.search(r"Depends: (linux-image-\S+)", listed)
    if not found:
        raise ProcessFailed(["apt-cache", "depends", _KERNEL], "names no kernel; is this Debian?")
    return found[1]


async def _known_names() -> list[str]:
    """The name of each package that this system's lists know, the first of its alternatives."""
    every = [name for names in _CONTENTS for name in names]
    listed = (await run(["apt-cache", "policy", *every])).decode()
    known = set(re.findall(r"^(\S+):\n.*\n  Candidate: (?!\(none\))", listed, re.MULTILINE))
    missing = [names for names in _CONTENTS if not known.intersection(names)]
    if missing:
        reason = f"does not know {missing}; `apt-get update` would fetch the lists"
        raise ProcessFailed(["apt-cache"], reason)
    return [next(name for name in names if name in known) for names in _CONTENTS]


def _merge_usr(root: Path) -> None:
    """Bring `/bin`, `/sbin` and `/lib*` of older packages under `/usr`, as newer ones have it."""
    for name in ("bin", "sbin", "lib", "lib64"):
        if (root / name).is_dir():
            shutil.copytree(root / name, root / "usr" / name, symlinks=True, dirs_exist_ok=True)


def _owner_commands(root: Path) -> Iterable[str]:
    """What debugfs must be told so that files belong to root and the user's home to the user."""
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            continue
        inside = f"/{path.relative_to(root)}"
        owner = 1000 if inside == "/home/cirros" else 0
        yield f'sif "{inside}" uid {owner}\nsif "{inside}" gid {owner}\n'


def _module_name(path: Path) -> str:
    return path.name.split(".ko")[0].replace("-", "_")


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def _partition(is_active: bool, kind: int, start: int, length: int) -> bytes:
    chs = b"\xfe\xff\xff"
    flag = 0x80 if is_active else 0
    return struct.pack("<B3sB3sII", flag, chs, kind, chs, start // 512, length // 512)

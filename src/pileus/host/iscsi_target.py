"""iSCSI targets: a tgtd serves files to whoever has the name and the password that go with each (CHAP).

A tgtd works in a folder of its own and is found again by it. It keeps nothing back: a write is answered when the file
has it, SYNCHRONIZE CACHE is `fdatasync`. One that is started anew at the same place is logged in to by itself.
Nothing that it serves is changed while it runs: a disk may be given another size or file only by an error of I/O.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import struct
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from pileus.host import process
from pileus.host.handover import listening
from pileus.host.process import ProcessFailed
from pileus.kernel.faults import Unavailable

PROGRAM = "tgtd"
DEBIAN_PACKAGES = ("tgt",)
LUN = 1  # 0 is the controller's
START_S = 20
_THREADS = 4  # for each disk
_SOCKET, _LOG = "control", "tgtd.log"
# `struct tgtadm_req` of tgt's tgtadm.h: mode, op, driver, length, tid, sid, lun and six that are not used here.
_REQUEST = struct.Struct("=II64sIiQQ24x")
# It listens to its own user only, and `tgtadm` would show the passwords to everybody who looks at processes. Perl is
# a part of every Debian.
_SPEAK = """
binmode STDIN; local $/; my $all = <STDIN>;
while (length $all) {
    my $size = unpack("x72 L", $all);
    socket(my $s, AF_UNIX, SOCK_STREAM, 0);
    for (my $n = 0; not connect($s, sockaddr_un($ARGV[0])); $n++) {
        die "connect: $!" if $n == 1000;
        select(undef, undef, undef, 0.01);  # it is not up yet
    }
    syswrite($s, substr($all, 0, $size, ""));
    sysread($s, my $answer, 8) == 8 or die "no answer";
    my $error = unpack("L", $answer);
    die "error $error" if $error;
}
"""


class _Mode(IntEnum):
    TARGET, UNIT, ACCOUNT = 1, 2, 7


class _Op(IntEnum):
    NEW, BIND, UPDATE = 0, 3, 5


@dataclass(frozen=True)
class Target:
    """`disk` is a file, from the tgtd's folder; `serial`, 32 hex digits, is the same wherever the disk is served."""

    name: str
    disk: str
    user: str
    password: str
    serial: str
    is_read_only: bool = False

    def requests(self, number: int) -> Iterator[bytes]:
        """Nobody gets in before it is whole: the last one opens it. `number`: of its tgtd's targets, from 1.

        Disks have a short name of their target's id too, and one initiator may have disks of several tgtds.
        """
        tid = int(self.serial[:6], 16) + number
        yield _request(_Mode.TARGET, _Op.NEW, tid, f"targetname={self.name}")
        yield _request(_Mode.ACCOUNT, _Op.NEW, tid, f"user={self.user},password={self.password}")
        yield _request(_Mode.ACCOUNT, _Op.BIND, tid, f"user={self.user}")
        yield _request(_Mode.UNIT, _Op.NEW, tid, f"path={self.disk},bsoflags=direct", LUN)
        said = f"scsi_id={self.serial},scsi_sn={self.serial},vendor_id=PILEUS,product_id=VOLUME"
        said += f",thin_provisioning=1,readonly={int(self.is_read_only)}"
        yield _request(_Mode.UNIT, _Op.UPDATE, tid, said, LUN)
        yield _request(_Mode.TARGET, _Op.BIND, tid, "initiator-address=ALL")


def _request(mode: _Mode, op: _Op, tid: int, said: str, lun: int = 0) -> bytes:
    words = said.encode() + b"\0"
    return _REQUEST.pack(mode, op, b"iscsi", _REQUEST.size + len(words), tid, 0, lun) + words


def is_installed() -> bool:
    return shutil.which(PROGRAM) is not None


async def launch(
    folder: Path,
    address: str,
    port: int,
    targets: Sequence[Target],
    prefix: Sequence[str],
) -> subprocess.Popen[bytes]:
    """A tgtd that works in `folder`, once it serves all of them. Raises Unavailable."""
    listening(address, port).close()  # it would choose another place and say nothing
    portal = f"portal=[{address}]:{port}" if ":" in address else f"portal={address}:{port}"
    argv = [*prefix, "env", f"TGT_IPC_SOCKET={_SOCKET}", PROGRAM, "-f", f"-t{_THREADS}"]
    child = await asyncio.to_thread(
        process.launch, [*argv, "--iscsi", portal], cwd=folder, output=folder / _LOG
    )
    is_up = False
    try:
        said = b"".join(words for n, one in enumerate(targets, 1) for words in one.requests(n))
        speak = [*prefix, "perl", "-MSocket", "-e", _SPEAK, f"{_SOCKET}.0"]
        await process.run(speak, stdin=said, cwd=folder, timeout_s=START_S)
        is_up = True
    except ProcessFailed as failed:
        log = (folder / _LOG).read_text(errors="replace").strip()[-2000:]
        text = "The iSCSI target does not answer."
        raise Unavailable(text, internal=f"{failed.reason}; it said: {log}") from None
    finally:
        if not is_up:
            await process.kill(child.pid)
            child.poll()
    return child


def running_below(root: Path) -> dict[int, Path]:
    """Those whose working folder is somewhere below `root`: pid -> folder."""
    root, found = root.resolve(), dict[int, Path]()

    def belongs(arguments: list[bytes], cwd: Path) -> bool:
        # Not the first argument: one about to be executed is `setpriv` or `env` for a moment.
        return PROGRAM.encode() in arguments and cwd.is_relative_to(root)

    for pid in process.find(belongs):
        with contextlib.suppress(OSError):  # it ended meanwhile
            found[pid] = Path(f"/proc/{pid}/cwd").readlink()
    return found

"""iSCSI targets: a tgtd serves files to whoever has the name and the password that go with each (CHAP).

A tgtd works in a folder of its own and is found again by it. It keeps nothing back: a write is answered when the file
has it, SYNCHRONIZE CACHE is `fdatasync`. One that is started anew at the same place is logged in to by itself.
Nothing that it serves is changed while it runs: a disk may be given another size or file only by an error of I/O.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pileus.host import process, tgtd_requests
from pileus.host.handover import listening
from pileus.host.process import ProcessFailed, as_user
from pileus.host.tgtd_requests import Mode, Op, request
from pileus.kernel.faults import Unavailable
from pileus.kernel.world import Clock

PROGRAM = "tgtd"
DEBIAN_PACKAGES = ("tgt",)
LUN = 1  # 0 is the controller's
_REFUSAL = "The iSCSI target does not answer."
_THREADS = 4  # for each disk
_SOCKET, _LOG = "control", "tgtd.log"


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
        yield request(Mode.TARGET, Op.NEW, tid, f"targetname={self.name}")
        yield request(Mode.ACCOUNT, Op.NEW, tid, f"user={self.user},password={self.password}")
        yield request(Mode.ACCOUNT, Op.BIND, tid, f"user={self.user}")
        yield request(Mode.UNIT, Op.NEW, tid, f"path={self.disk},bsoflags=direct", LUN)
        said = f"scsi_id={self.serial},scsi_sn={self.serial},vendor_id=PILEUS,product_id=VOLUME"
        said += f",thin_provisioning=1,readonly={int(self.is_read_only)}"
        yield request(Mode.UNIT, Op.UPDATE, tid, said, LUN)
        yield request(Mode.TARGET, Op.BIND, tid, "initiator-address=ALL")


def is_installed() -> bool:
    return shutil.which(PROGRAM) is not None


async def launch(
    folder: Path,
    address: str,
    port: int,
    targets: Sequence[Target],
    owner: int | None,
    clock: Clock,
) -> subprocess.Popen[bytes]:
    """`owner`'s tgtd that works in `folder`, once it serves all of them; None is us. Raises Unavailable."""
    listening(address, port).close()  # it would choose another place and say nothing
    portal = f"portal=[{address}]:{port}" if ":" in address else f"portal={address}:{port}"
    prefix, user = ([], []) if owner is None else (as_user(owner), [str(owner)])
    argv = [*prefix, "env", f"TGT_IPC_SOCKET={_SOCKET}", PROGRAM, "-f", f"-t{_THREADS}"]
    argv += ["--iscsi", portal]
    is_up, out = partial(_is_up, address, port), folder / _LOG
    child = await process.serving(argv, is_up, _REFUSAL, clock, cwd=folder, output=out)
    said = b"".join(words for n, one in enumerate(targets, 1) for words in one.requests(n))
    ask = [sys.executable, "-IS", str(Path(tgtd_requests.__file__)), f"{_SOCKET}.0", *user]
    try:
        await process.run(ask, stdin=said, cwd=folder)
    except ProcessFailed as failed:
        await process.kill(child.pid)
        child.poll()
        raise Unavailable(_REFUSAL, internal=failed.reason) from None
    return child


def _is_up(address: str, port: int) -> bool:
    """It serves its portal last."""
    with contextlib.suppress(OSError):
        socket.create_connection((address, port), timeout=1).close()
        return True
    return False


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

"""One machine's Ceph, started for tests: a monitor, a manager and an OSD over a file, with keys, in a folder of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pileus.testing.ports import free_port

CEPH_PACKAGES = ("ceph-mon", "ceph-mgr", "ceph-osd")
PROGRAMS = ("ceph-mon", "ceph-mgr", "ceph-osd", "rbd")
_ALONE = ("monmaptool", "ceph-authtool")  # they ask no cluster
POOL, USER = "volumes", "pileus"
_PATIENCE_S, _TRIES, _DISK = 90, 200, 6 << 30
_CONFIGURATION = """
[global]
fsid = {fsid}
mon host = 127.0.0.1:{port}
public addr = 127.0.0.1
ms bind ipv6 = false
keyring = {folder}/keyring
mon data = {folder}/mon
mgr data = {folder}/mgr
osd data = {folder}/osd
run dir = {folder}
admin socket =
log file =
err to stderr = true
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd crush chooseleaf type = 0
mon allow pool size one = true
mon osd full ratio = 0.99
mon data avail warn = 1
mon data avail crit = 1
mgr initial modules =
bluestore block size = {disk}
bluestore fsck on mount = false
osd memory target = 939524096
bluestore cache autotune = false
bluestore cache size = 67108864
"""
# Whom, and what he may: the monitor takes them from its first keyring.
_KEYS = {
    "mon.": {"mon": "allow *"},
    "client.admin": {"mon": "allow *", "mgr": "allow *", "osd": "allow *"},
    "mgr.x": {"mon": "allow profile mgr", "osd": "allow *"},
    "osd.0": {"mon": "allow profile osd", "mgr": "allow profile osd", "osd": "allow *"},
    f"client.{USER}": {"mon": "profile rbd", "mgr": "profile rbd", "osd": "profile rbd"},
}


def lacks() -> str:
    """What keeps a cluster from running here; "" if nothing does."""
    if absent := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"{', '.join(absent)} not installed: make setup-ceph"
    free = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0]) >> 10
    return "" if free > 1500 else f"{free} MiB of memory are free, Ceph wants 1500"


@contextmanager
def ceph() -> Iterator[Path]:
    """A running cluster with the pool POOL, where USER may work; its configuration file."""
    folder = Path(tempfile.mkdtemp(prefix="pileus-ceph-"))
    cluster = _Cluster(folder)
    try:
        cluster.start()
        yield cluster.conf
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


class _Cluster:
    def __init__(self, folder: Path) -> None:
        self.folder, self.conf = folder, folder / "ceph.conf"
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        for name in ("mon", "mgr", "osd"):
            (self.folder / name).mkdir()
        fsid, port = _uuid(), free_port()
        told = {"fsid": fsid, "port": port, "folder": self.folder, "disk": _DISK}
        self.conf.write_text(_CONFIGURATION.format(**told))
        self._make_keys()
        monmap = str(self.folder / "monmap")
        self._run(
            "monmaptool", "--create", "--fsid", fsid, "--add", "a", f"127.0.0.1:{port}", monmap
        )
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", monmap)
        self._launch("ceph-mon", "-i", "a")
        self._until("the monitor answers", lambda: bool(self._ceph("mon", "stat")))
        self._launch("ceph-mgr", "-i", "x")
        uuid = _uuid()
        self._ceph("osd", "new", uuid)
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", uuid)
        self._launch("ceph-osd", "-i", "0")
        self._until("the OSD is up", lambda: self._said("osd", "stat")["num_up_osds"] == 1)
        self._ceph("osd", "pool", "create", POOL, "8")
        self._run("rbd", "pool", "init", POOL)
        self._until("the pool has room", self._has_room)

    def stop(self) -> None:
        for process in reversed(self._running):
            process.kill()  # nothing is read from it again
            process.wait(30)

    def _make_keys(self) -> None:
        keyring = str(self.folder / "keyring")
        self._run("ceph-authtool", "--create-keyring", keyring)
        for name, caps in _KEYS.items():
            words = [word for part, may in caps.items() for word in ("--cap", part, may)]
            self._run("ceph-authtool", keyring, "--gen-key", "-n", name, *words)

    def _has_room(self) -> bool:
        pools = self._said("df")["pools"]
        return any(pool["name"] == POOL and pool["stats"]["max_avail"] for pool in pools)

    def _said(self, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._ceph(*words, "--format", "json") or b"{}")
        return found

    def _ceph(self, *words: str) -> bytes:
        return self._run("ceph", "--connect-timeout", "10", *words)

    def _run(self, program: str, *words: str) -> bytes:
        done = subprocess.run(
            [program, *([] if program in _ALONE else ["-c", str(self.conf)]), *words],
            capture_output=True,
            timeout=_PATIENCE_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{program} {words}: {done.stderr.decode()[-2000:]}")
        return done.stdout

    def _launch(self, program: str, *words: str) -> None:
        with (self.folder / f"{program}.log").open("wb") as log:
            argv = [program, "-c", str(self.conf), *words, "-f"]
            self._running.append(subprocess.Popen(argv, stdout=log, stderr=log))

    def _until(self, what: str, is_so: Callable[[], bool]) -> None:
        last = self._running[-1]
        for _ in range(_TRIES):
            if is_so():
                return
            try:
                last.wait(0.2)  # the pause between tries
            except subprocess.TimeoutExpired:
                continue
            break
        logs = "\n".join(path.read_text()[-1000:] for path in self.folder.glob("*.log"))
        raise TimeoutError(f"It did not come true that {what}: {logs}")


def _uuid() -> str:
    return Path("/proc/sys/kernel/random/uuid").read_text().strip()

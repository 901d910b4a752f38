"""What a CI system does: `pip install .`, then a complete API cloud as a user without any privilege.

And what a person does who is not root: the same real guests, in a user namespace of his own.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pileus.cli import background
from pileus.cli.background import exports
from pileus.cli.client import Client, Credentials
from pileus.host import caches
from pileus.kernel.world import Clock
from pileus.testing.places import Place, need_root
from pileus.testing.ports import free_port
from pileus.testing.running import RunningCloud
from tests.e2e.guests import World, with_guest
from tests.e2e.shell import ROOT
from tests.e2e.sweep import Scope, processes
from tests.e2e.test_containers import PING, beside, image_named

NOBODY = 65534
# A Python that every user may run; one in root's home is not.
PYTHON = "/usr/bin/python3" if Path("/usr/bin/python3").exists() else sys.executable
READS = {
    "identity": "/v3/auth/projects",
    "image": "/v2/images",
    "placement": "/resource_providers",
    "network": "/v2.0/networks",
    "compute": "/flavors",
}


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """A folder that everyone may read, with a fresh `venv` of the project in it and nothing else."""
    folder = Path(tempfile.mkdtemp(prefix="pileus-user-"))
    folder.chmod(0o755)
    subprocess.run([PYTHON, "-m", "venv", str(folder / "venv")], check=True)
    pip = [str(folder / "venv" / "bin" / "pip"), "install", "--quiet", str(ROOT)]
    subprocess.run(pip, check=True, stdin=subprocess.DEVNULL)
    yield folder
    shutil.rmtree(folder)


def as_ordinary_user(command: list[str], home: Path) -> list[str]:
    """The command as nobody, if we are root; else as we are."""
    if os.geteuid() != 0:
        return command
    os.chown(home, NOBODY, NOBODY)
    drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs"]
    return [*drop, "--inh-caps=-all", "--bounding-set=-all", *command]


def test_an_ordinary_user_gets_an_api_cloud_from_pip_install_alone(installed: Path) -> None:
    home = installed / "home"
    home.mkdir()
    pileus = str(installed / "venv" / "bin" / "pileus")
    env = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    state = ["--state", str(home / "state")]
    listen = ["--listen", f"127.0.0.1:{free_port()}"]
    up = as_ordinary_user([pileus, "up", "--driver", "fake", *state, *listen], home)
    with subprocess.Popen(up, env=env, cwd=home, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert any(line.startswith("ready ") for line in process.stdout)
            shown = subprocess.run(
                [pileus, "env", *state], env=env, capture_output=True, text=True, check=True
            )
            client = Client(Credentials.of(exports(shown.stdout)))
            for service, path in READS.items():
                assert client.call("GET", service, path), service
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
    assert process.returncode == 0


def test_whoever_lacks_what_real_guests_need_is_told_so(installed: Path) -> None:
    home = installed / "poor"
    home.mkdir()
    command = [str(installed / "venv" / "bin" / "pileus"), "up", "--state", str(home / "state")]
    env = {"HOME": str(home), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        as_ordinary_user(command, home), env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ") and "use --driver fake" in done.stderr


@dataclass(frozen=True)
class Person(Place):
    """A user of this machine; `inside` is wherever `pileus connect` leads."""

    bin: Path
    home: Path

    def does(self, *command: str) -> list[str]:
        """The command as run by that user, to whom /dev/net/tun is open as on most machines."""
        tun = f'mount --bind {self.home}/tun /dev/net/tun; exec "$@"'
        drop = ["setpriv", "--reuid", self.name, "--regid", self.name, "--init-groups"]
        words = ["env", f"HOME={self.home}", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *command]
        return ["unshare", "-m", "--propagation", "private", "sh", "-c", tun, "sh", *drop, *words]

    def pileus(self, verb: str, *options: str) -> list[str]:
        return self.does(str(self.bin / "pileus"), verb, "--state", str(self.state), *options)

    @property
    def state(self) -> Path:
        return self.home / "state"

    def inside(self, command: list[str]) -> list[str]:
        way = shlex.join(self.pileus("connect"))
        return [command[0], "-o", f"ProxyCommand={way} %h %p", *command[1:]]

    def ids(self) -> range:
        """Those that the user may give to others."""
        for line in Path("/etc/subuid").read_text().splitlines():
            owner, first, size = line.split(":")
            if owner == self.name:
                return range(int(first), int(first) + int(size))
        raise AssertionError(f"useradd gave {self.name} no subordinate ids")

    def has_processes(self) -> set[str]:
        """The names of whatever runs as the user or one of those ids."""
        found, own = set(), {pwd.getpwnam(self.name).pw_uid, *self.ids()}
        for status in Path("/proc").glob("[0-9]*/status"):
            try:
                text = status.read_text()
            except OSError:
                continue
            words = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
            if int(words["Uid"].split()[0]) in own and not words["State"].startswith("Z"):
                found.add(words["Name"])
        return found


@pytest.fixture
def person(installed: Path) -> Iterator[Person]:
    need_root()
    name = f"pileus-e2e-{os.getpid() % 10000}"
    home = installed / name
    subprocess.run(["useradd", "--create-home", "--home-dir", str(home), name], check=True)
    try:
        os.mknod(home / "tun", 0o20666, os.makedev(10, 200))
        (home / "tun").chmod(0o666)
        images = home / ".cache" / "pileus"
        images.mkdir(parents=True)
        for path in (caches.testimage(), caches.testroot()):
            for file in path.parent.glob(f"{path.name}*"):
                shutil.copy(file, images)
        subprocess.run(["chown", "-R", f"{name}:", str(home / ".cache")], check=True)
        yield Person(name, "", "127.0.0.1", "", installed / "venv" / "bin", home)
    finally:
        subprocess.run(["userdel", name], check=True)


@contextmanager
def cloud_of(person: Person, port: int) -> Iterator[RunningCloud]:
    listen = ["--listen", f"127.0.0.1:{port}"]
    line = person.pileus("up", "--driver", "qemu,container", *listen)
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            assert (
                b"run by an ordinary user: containers have no limits" in process.stderr.readline()
            )
            said = process.stdout.readline()
            assert said.startswith(b"ready "), process.stderr.read().decode()
            yield RunningCloud(person.state, f"http://127.0.0.1:{port}", process, 0)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


@contextmanager
def world_outside() -> Iterator[str]:
    """The URL of a server on an address that is no guest's business to know: it is beyond the uplink."""
    address = "198.51.100.77"
    subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    try:
        with socket.create_server((address, 0)) as server:
            threading.Thread(target=_greet, args=(server,), daemon=True).start()
            yield f"http://{address}:{server.getsockname()[1]}/"
            server.shutdown(socket.SHUT_RDWR)
    finally:
        subprocess.run(["ip", "address", "del", f"{address}/32", "dev", "lo"], check=True)


def _greet(server: socket.socket) -> None:
    while True:
        try:
            near, _ = server.accept()
        except OSError:
            return
        with near:
            near.recv(1000)
            near.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nworld")


@pytest.mark.e2e
def test_an_ordinary_user_has_real_guests_that_outlive_the_cloud(person: Person) -> None:
    scope, port = Scope(person.state, "", ""), free_port()
    with cloud_of(person, port) as cloud:
        here = with_guest(cloud, person, scope, "qemu")
        assert here.log_in() == "first"
        container = beside(here, "small", image_named(here, "pileus-test-root"))
        assert here.log_in(PING.format(container)) == "2 packets received"
        with world_outside() as url:
            assert here.log_in(f"wget -q -O - {url}") == "world"
        booted = here.log_in("cat /proc/sys/kernel/random/boot_id")
        before = processes(scope)
        assert len(before) == 2
    assert processes(scope) == before, "guests live on"
    with cloud_of(person, port) as cloud:
        here = World(cloud, person, scope, cloud.client(), here.guest)
        assert here.log_in("cat /proc/sys/kernel/random/boot_id") == booted
        assert here.log_in(PING.format(container)) == "2 packets received"
        asyncio.run(background.delete_servers(here.client, Clock()))
        assert processes(scope) == {}
    subprocess.run(person.pileus("forget"), check=True, capture_output=True)
    assert person.has_processes() == set()
    owners = {path.lstat().st_uid for path in person.state.rglob("*")}
    assert owners <= {pwd.getpwnam(person.name).pw_uid, 0}, "the user can remove the folder"

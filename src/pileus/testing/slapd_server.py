"""Debian's slapd, started for tests: a folder and a port of its own, an empty tree below SUFFIX."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pileus.testing.ports import free_port

DEBIAN_PACKAGES = ("slapd",)
SUFFIX = "dc=example,dc=org"
ADMIN, ADMIN_PASSWORD = f"cn=admin,{SUFFIX}", "admin-of-the-tree"
_CONFIGURATION = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {folder}/pid
database mdb
maxsize 16777216
suffix "{suffix}"
rootdn "{admin}"
rootpw {password}
directory {folder}/data
dbnosync
access to attrs=userPassword by anonymous auth by * none
access to * by users read
"""


def program() -> str | None:
    return shutil.which("slapd", path="/usr/sbin:/usr/bin")


@contextmanager
def slapd(certificate: tuple[Path, Path] | None = None) -> Iterator[str]:
    """A running server; its URL. With a certificate and its key (PEM files), it can speak TLS.

    Raises FileNotFoundError if Debian's package is missing.
    """
    found = program()
    if found is None:
        raise FileNotFoundError("slapd is not installed; install it: apt-get install slapd")
    folder = Path(tempfile.mkdtemp(prefix="pileus-slapd-"))
    (folder / "data").mkdir()
    text = _CONFIGURATION.format(folder=folder, suffix=SUFFIX, admin=ADMIN, password=ADMIN_PASSWORD)
    if certificate is not None:
        files = "\nTLSCertificateFile {}\nTLSCertificateKeyFile {}\n".format(*certificate)
        text = text.replace("\npidfile", f"{files}pidfile")
    (folder / "slapd.conf").write_text(text)
    url = f"ldap://127.0.0.1:{free_port()}"
    command = [found, "-d", "0", "-h", url, "-f", str(folder / "slapd.conf")]
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=(folder / "log").open("wb")
    )
    try:
        _wait(server, url, folder)
        yield url
    finally:
        server.kill()  # nothing is read from it again
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(server: subprocess.Popen[bytes], url: str, folder: Path) -> None:
    port = int(url.rpartition(":")[2])
    for _ in range(100):
        with socket.socket() as s:
            s.settimeout(0.1)
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        try:
            server.wait(0.1)  # the pause between tries
        except subprocess.TimeoutExpired:
            continue
        break
    raise TimeoutError(f"slapd did not start: {(folder / 'log').read_text()[-2000:]}")

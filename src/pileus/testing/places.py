"""A network of its own for a cloud under test: a namespace, tied to this machine's by a veth pair.

It serves as the underlay of a real host, so that clouds on one machine do not meet: each has external networks, floating
IPs and gateways of its own there. From inside both the cloud's API and its floating IPs can be reached.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_SPACES = Path("/run/netns")  # where one may be left of a run that was killed
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_STRIDE = 101  # processes that were started together take numbers far apart
_numbers = itertools.count(os.getpid() * _STRIDE)


@dataclass(frozen=True)
class Place:
    """`near` is this machine's address on the pair, `far` the namespace's; `prefix` is free for a cloud's devices."""

    name: str
    prefix: str
    near: str
    far: str

    def inside(self, command: list[str]) -> list[str]:
        """The command as run in the namespace."""
        return ["nsenter", f"--net=/run/netns/{self.name}", *command]

    @property
    def options(self) -> list[str]:
        """What `pileus up` or `pileus host` is told to have its outer network here."""
        return ["--underlay", self.name, "--prefix", self.prefix]


def need_root() -> None:
    """Skips the test for anybody else."""
    if os.geteuid() != 0:
        pytest.skip("real guests on a real network need root")


@contextmanager
def place() -> Iterator[Place]:
    """Needs root. The namespace goes with the block, and with it all that bears its prefix."""
    number = next(n for n in _numbers if not (_SPACES / f"{_prefix(n)}-outside").exists())
    prefix = _prefix(number)
    high, low = divmod(number % (1 << 14) * 4, 256)  # a /30 of 100.64.0.0/16
    near, far = (f"100.64.{high}.{low + end}" for end in (1, 2))
    here = Place(f"{prefix}-outside", prefix, near, far)
    _ip("netns", "add", here.name)
    try:
        device, peer = f"{prefix}pair", f"{prefix}far"
        _ip("link", "add", device, "type", "veth", "peer", peer, "netns", here.name)
        _ip("address", "add", f"{near}/30", "dev", device)
        _ip("link", "set", device, "up")
        # Places meet through this machine, which may have been told to forward nothing.
        Path(f"/proc/sys/net/ipv4/conf/{device}/forwarding").write_text("1")
        for words in (
            ("address", "add", f"{far}/30", "dev", peer),
            ("link", "set", peer, "up"),
            ("link", "set", "lo", "up"),
            ("route", "add", "default", "via", near),
        ):
            _ip("-netns", here.name, *words)
        yield here
    finally:
        forget(here)
        _ip("netns", "del", here.name)


def _prefix(number: int) -> str:
    tens, ones = divmod(number % (len(_LETTERS) ** 2), len(_LETTERS))
    return f"e{_LETTERS[tens]}{_LETTERS[ones]}"


def forget(place: Place) -> None:
    """What a reboot of a machine forgets: the namespaces, devices and rules of that prefix, here and in the place."""
    for line in _said("ip", "netns").splitlines():
        if line.startswith((f"{place.prefix}-net-", f"{place.prefix}-router-")):
            _ip("netns", "del", line.split()[0])
    for inside in ([], place.inside([])):
        for row in json.loads(_said(*inside, "ip", "-json", "-details", "link")):
            if row.get("ifalias", "").startswith(f"pileus/{place.prefix}/"):
                # The other end of a pair goes with the first.
                command = [*inside, "ip", "link", "del", row["ifname"]]
                subprocess.run(command, check=False, capture_output=True)
        tables = _said(*inside, "nft", "list", "tables")
        for table in re.findall(rf"table (\w+ pileus_{place.prefix}\w*)", tables):
            _said(*inside, "nft", "delete", "table", *table.split())


def _said(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)

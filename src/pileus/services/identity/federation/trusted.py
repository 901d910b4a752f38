"""Whom this cloud's operator trusts: OpenID issuers and what it is to them, and dashboards that may get tokens.

`federation.yaml` in the state folder, as secret as the store, read again when it changes:

    issuers:
      https://login.example.com/realms/cloud:
        client_id: pileus
        client_secret: ...          # for web single sign-on and for tokens that only their issuer can read
        audiences: [openstack-cli]  # whom else tokens may be meant for
        userinfo: true              # ask for more than the token says
        scopes: openid profile email
        ca_file: /etc/ssl/login-ca.pem
    trusted_dashboards:
      - https://dashboard.example.com/auth/websso/

An identity provider logs users in when one of its `remote_ids` is an issuer that stands here.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import yaml

from pileus.kernel.faults import Invalid
from pileus.kernel.world import World

from ..wire import Discreet

log = logging.getLogger(__name__)
FILE = "federation.yaml"
_PERIOD_S = 1.0
_PRINTABLE = re.compile(r"[!-~]+")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Issuer(Discreet, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    client_id: str
    client_secret: str = ""
    audiences: tuple[str, ...] = ()
    userinfo: bool = False
    scopes: str = "openid profile email"
    ca_file: str = ""

    @property
    def meant_for(self) -> list[str]:
        return [self.client_id, *self.audiences]


class Trusted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    issuers: dict[str, Issuer] = {}
    trusted_dashboards: tuple[str, ...] = ()


class TrustedFile:
    """What stands in the file now. A slip of the pen is logged and leaves what was in force."""

    def __init__(self, world: World, folder: Path) -> None:
        self._clock, self._path = world.clock, folder / FILE
        self._seen: tuple[int, int] | None = None
        self._next_look = 0.0
        self._found = Trusted()

    @property
    def trusted(self) -> Trusted:
        now = self._clock.monotonic()
        if now >= self._next_look:
            self._next_look = now + _PERIOD_S
            self._look()
        return self._found

    def _look(self) -> None:
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            self._seen, self._found = None, Trusted()
            return
        signature = (stat.st_mtime_ns, stat.st_size)
        if signature == self._seen:
            return
        self._seen = signature
        if stat.st_mode & 0o077:
            log.warning("%s may hold secrets, and others than its owner can read it.", self._path)
        try:
            self._found = read(self._path)
        except Invalid as fault:
            log.error("%s; what was trusted before still is.", fault.message)


def read(path: Path) -> Trusted:
    """Raises Invalid, which quotes nothing of the file: it holds secrets."""
    try:
        content = yaml.safe_load(path.read_text("utf-8")) or {}
        found = msgspec.convert(content, Trusted)
    except yaml.MarkedYAMLError as e:
        line = e.problem_mark.line + 1 if e.problem_mark is not None else 1
        raise Invalid(f"{path} is no YAML: line {line}, {e.problem}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, msgspec.ValidationError) as e:
        raise Invalid(f"{path} cannot be read: {e}") from None
    for issuer in found.issuers:
        if not is_safe(issuer, beside=issuer):
            raise Invalid(f"{path}: issuer {issuer!r} must be an https:// address")
    return found


def is_safe(url: str, *, beside: str) -> bool:
    """Whether it may be asked: by https, or on this machine for an issuer (`beside`) that is there without it too."""
    try:
        parts, home = urlsplit(url), urlsplit(beside)
    except ValueError:
        return False
    if not _PRINTABLE.fullmatch(url) or not parts.hostname:
        return False
    return parts.scheme == "https" or (
        parts.scheme == home.scheme == "http"
        and parts.hostname in _LOOPBACK
        and home.hostname in _LOOPBACK
    )

"""A secret outside the store that encrypts the keys in it, so that who has a copy of the store has no keys.

The setting `key_file` names a file of one secret a line, the same on every control: the first line encrypts, the
others still decrypt. A new first line and a restart are enough to change it.
"""

from __future__ import annotations

import base64
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pileus.kernel.faults import Invalid

_MARK = "sealed:"
_SHORTEST = 32  # characters of a secret


class KeyFile:
    """No file (path ""): keys stand in the store as they are."""

    def __init__(self, path: str) -> None:
        """Raises Invalid for a file that is not there, that others can read, or whose secrets are short."""
        self.path = path
        self._ring = [_key(secret) for secret in _secrets(Path(path))] if path else []

    def seal(self, secret: str, at: int) -> str:
        """What to store of a key; `at` is the time in seconds."""
        if not self._ring:
            return secret
        return _MARK + self._ring[0].encrypt_at_time(secret.encode(), at).decode()

    def open(self, stored: str) -> str:
        """The key. Raises Invalid."""
        if not stored.startswith(_MARK):
            return stored
        if not self._ring:
            raise Invalid(
                "The keys in the store are encrypted: identity.key_file must name the file of the "
                "secret, as on the control that encrypted them."
            )
        try:
            return MultiFernet(self._ring).decrypt(stored.removeprefix(_MARK)).decode()
        except InvalidToken:
            raise Invalid(
                f"No secret in {self.path} decrypts the keys in the store; put the one they were "
                "encrypted with on a line of it."
            ) from None

    def is_current(self, stored: str) -> bool:
        """Whether it is stored as `seal` would store it now."""
        if not self._ring:
            return not stored.startswith(_MARK)
        try:
            self._ring[0].decrypt(stored.removeprefix(_MARK))
        except InvalidToken:
            return False
        return True


def _secrets(path: Path) -> list[bytes]:
    try:
        mode, lines = path.stat().st_mode, path.read_bytes().splitlines()
    except OSError as e:
        raise Invalid(f"identity.key_file: {path} cannot be read: {e.strerror}.") from e
    if mode & 0o077:
        raise Invalid(f"identity.key_file: others can read {path}; chmod 600 it.")
    secrets = [line.strip() for line in lines if line.strip()]
    if not secrets or min(map(len, secrets)) < _SHORTEST:
        raise Invalid(
            f"identity.key_file: {path} must have a secret of at least {_SHORTEST} characters on "
            "each line; `openssl rand -base64 32` makes one."
        )
    return secrets


def _key(secret: bytes) -> Fernet:
    derived = HKDF(SHA256(), 32, None, b"pileus identity keys").derive(secret)
    return Fernet(base64.urlsafe_b64encode(derived))

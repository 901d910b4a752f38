"""Identity's settings."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from pileus.kernel.runtime import Runtime


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    token_s: int = 3600  # upstream's default: long enough for a work session of a script
    expired_window_s: int = 48 * 3600  # how long a service may finish what an expired token began
    max_tree_depth: int = 5  # projects below each other, the domain not counted, as upstream
    enforcement_model: Literal["flat", "strict_two_level"] = "flat"  # of limits, as upstream
    key_file: str = ""  # a file whose secret encrypts the keys in the store: see `key_file`
    password_hash_memory_kib: int = 19 * 1024  # argon2id's, by OWASP's advice; more costs logins
    password_hash_passes: int = 2
    receipt_s: int = 300  # how long somebody may take for his second factor, as upstream
    oauth1_request_token_s: int = 8 * 3600  # how long a user may take to authorize one; 0: for ever
    oauth1_access_token_s: int = 24 * 3600  # how long one can be used; 0: for ever

    # Security compliance, all off as upstream.
    lockout_failure_attempts: int = 0  # wrong passwords in a row that lock an account; 0: none do
    lockout_duration_s: int = 1800  # how long it is locked; 0: until it is enabled again
    password_expires_days: int = 0  # how long a password is good; 0: for ever
    unique_last_password_count: int = 0  # so many last passwords cannot be taken again
    minimum_password_age_days: int = 0  # how long one's own choice stands
    password_regex: str = ""  # what a password must match from its first letter on
    password_regex_description: str = ""  # what whoever is refused is told of it
    change_password_upon_first_use: bool = False  # if an administrator chose the old one
    disable_user_account_days_inactive: int = 0  # days without a login that disable an account

    def __post_init__(self) -> None:
        """Raises ValueError for a pattern that is none."""
        try:
            re.compile(self.password_regex)
        except re.error as e:
            raise ValueError(f"password_regex is no regular expression: {e}") from e


def of(runtime: Runtime) -> Settings:
    """Those in force."""
    found = runtime.settings.get("identity")
    return found if isinstance(found, Settings) else Settings()

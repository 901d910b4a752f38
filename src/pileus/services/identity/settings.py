"""Identity's settings."""

from __future__ import annotations

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    token_s: int = 3600  # upstream's default: long enough for a work session of a script
    expired_window_s: int = 48 * 3600  # how long a service may finish what an expired token began
    max_tree_depth: int = 5  # projects below each other, the domain counted, as upstream

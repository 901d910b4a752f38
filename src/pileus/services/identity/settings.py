"""Identity's settings."""

from __future__ import annotations

from typing import Literal

import msgspec

from pileus.kernel.runtime import Runtime


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    token_s: int = 3600  # upstream's default: long enough for a work session of a script
    expired_window_s: int = 48 * 3600  # how long a service may finish what an expired token began
    max_tree_depth: int = 5  # projects below each other, the domain not counted, as upstream
    enforcement_model: Literal["flat", "strict_two_level"] = "flat"  # of limits, as upstream
    receipt_s: int = 300  # how long somebody may take for his second factor, as upstream


def of(runtime: Runtime) -> Settings:
    """Those in force."""
    found = runtime.settings.get("identity")
    return found if isinstance(found, Settings) else Settings()

"""What an operator may turn: the knobs, each with its reason."""

from __future__ import annotations

import msgspec

from pileus.kernel.runtime import Runtime


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Of the compute service."""

    default_zone: str = "nova"  # clients and templates name it literally
    resume_guests: bool = False  # start again after a reboot of the host what ran before it
    stop_timeout_s: float = 60.0  # how long a guest may take to power off by itself
    shelved_offload_s: int = 0  # how long a shelved guest stays on its host; -1 is for ever
    reclaim_s: int = 0  # how long a deleted server can be restored
    resize_confirm_window: int = 0  # seconds until a resize is confirmed by itself; 0 is never
    cpu_ratio: float = 4.0  # vCPUs promised for each real one
    ram_ratio: float = 1.0  # overcommitted memory ends in killed guests
    disk_ratio: float = 1.0
    provider_yaml: str = ""  # a host's own file: resource classes and traits that no driver finds
    stack: bool = False  # fills one host before the next: empty ones can be switched off


DEFAULTS = Settings()


def settings_of(runtime: Runtime) -> Settings:
    """The settings in force; the defaults where a test gives none."""
    found = runtime.settings.get("compute")
    return found if isinstance(found, Settings) else DEFAULTS

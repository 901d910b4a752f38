"""What an operator may turn: the knob, with its reason."""

from __future__ import annotations

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Of the block storage service; each host has its own.

    `back_end` is `file` or `rbd:POOL[:id=USER][:conf=PATH]`; "" is the one that the host had before, at first `file`.
    """

    back_end: str = ""  # disks of hosts, or a Ceph that all of them reach

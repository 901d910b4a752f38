"""What an operator may turn: the knob, with its reason."""

from __future__ import annotations

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Of the block storage service; each host has its own.

    `back_ends`: see `back_ends`; "" are those that the host had before, at first `file`. `iscsi_address`: where hosts
    that speak iSCSI and not NBD reach the files of this one; "" is where the cloud's own hosts do.
    """

    back_ends: str = ""  # disks of hosts, Cephs that all of them reach, or several of both
    iscsi_address: str = ""  # storage often has a network of its own

"""VLAN tags without the kernel's VLAN devices (8021q): two small programs for each carried network.

One takes frames with the tag off the device below and lets them come in by a device of their own, without it; the other
gives what leaves by that device the tag, and sends it out by the one below. They are loaded by bpf(2), which only root of
the machine may do, and run where traffic control classifies (clsact). In the calling thread's namespace.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

from pileus.host import netlink_wire as wire
from pileus.host.netlink import Netlink
from pileus.kernel.faults import Unavailable

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_LOAD, _CLASSIFIER = 5, 3
_VLAN_PUSH, _VLAN_POP, _REDIRECT = 18, 19, 23  # the kernel's functions for programs
_INCOMING = 1  # ... for `_REDIRECT`
_HAS_TAG, _TAG, _KIND = 20, 24, 28  # where a program finds them in its packet
_CUSTOMER, _SERVICE = b"\x81\x00", b"\x88\xa8"  # EtherTypes of tags
_LOAD_WORD, _AND, _COPY, _SET = 0x61, 0x57, 0xBF, 0xB7
_IF_EQUAL, _UNLESS_EQUAL, _CALL, _EXIT = 0x15, 0x55, 0x85, 0x95
_PASS_ON = -1  # to the next program


def add_vlan(
    link: Netlink, name: str, *, below: str, tag: int, mtu: int, service: bool = False
) -> None:
    """The frames of another device that bear this VLAN tag, as a device of their own; `service`: one of 802.1ad."""
    try:
        link.add_vlan(name, below=below, tag=tag, mtu=mtu, protocol=_SERVICE if service else b"")
    except Unavailable as fault:
        cause = fault.__cause__
        if not (isinstance(cause, wire.Refused) and cause.code == errno.EOPNOTSUPP):
            raise
    else:
        return
    link.add_plain(name, mtu=mtu)
    own, other = link.index(name), link.index(below)
    kind = int.from_bytes(_SERVICE if service else _CUSTOMER, sys.byteorder)
    link.add_program(name, _loaded(_tagging(tag, kind, other)), incoming=False, priority=tag)
    link.add_program(below, _loaded(_untagging(tag, kind, own)), incoming=True, priority=tag)


def remove_vlan(link: Netlink, *, below: str, tag: int) -> None:
    """What `add_vlan` left at the device below, before the VLAN's own device is deleted. Absent is fine."""
    if link.link(below) is not None:
        link.remove_program(below, incoming=True, priority=tag)


def _untagging(tag: int, kind: int, to: int) -> bytes:
    return b"".join(
        (
            _step(_COPY, 6, 1),
            _step(_LOAD_WORD, 2, 6, offset=_HAS_TAG),
            _step(_IF_EQUAL, 2, offset=11, value=0),
            _step(_LOAD_WORD, 2, 6, offset=_TAG),
            _step(_AND, 2, value=0xFFF),
            _step(_UNLESS_EQUAL, 2, offset=8, value=tag),
            _step(_LOAD_WORD, 2, 6, offset=_KIND),
            _step(_UNLESS_EQUAL, 2, offset=6, value=kind),
            _step(_COPY, 1, 6),
            _step(_CALL, value=_VLAN_POP),
            *_redirection(to, _INCOMING),
            _step(_SET, 0, value=_PASS_ON),
            _step(_EXIT),
        )
    )


def _tagging(tag: int, kind: int, to: int) -> bytes:
    steps = (_step(_SET, 2, value=kind), _step(_SET, 3, value=tag))
    return b"".join((*steps, _step(_CALL, value=_VLAN_PUSH), *_redirection(to, 0)))


def _redirection(to: int, flags: int) -> tuple[bytes, ...]:
    return (
        _step(_SET, 1, value=to),
        _step(_SET, 2, value=flags),
        _step(_CALL, value=_REDIRECT),
        _step(_EXIT),
    )


def _step(code: int, to: int = 0, of: int = 0, *, offset: int = 0, value: int = 0) -> bytes:
    return struct.pack("=BBhi", code, of << 4 | to, offset, value)


def _loaded(program: bytes) -> int:
    """The program's descriptor. Raises Unavailable."""
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise Unavailable(f"VLANs need the kernel's 8021q on {platform.machine()} machines.")
    steps = ctypes.create_string_buffer(program)
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    fields = (_CLASSIFIER, len(program) // 8, ctypes.addressof(steps), ctypes.addressof(licence))
    asked = ctypes.create_string_buffer(struct.pack("=IIQQ", *fields), 72)
    libc = ctypes.CDLL(None, use_errno=True)
    made = libc.syscall(number, _LOAD, asked, len(asked))
    if made < 0:
        reason = os.strerror(ctypes.get_errno())
        raise Unavailable(f"VLANs need the kernel's 8021q, or programs for packets: {reason}.")
    return int(made)

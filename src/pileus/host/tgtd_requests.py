"""What a tgtd is asked at its control socket: one request a connection, answered and closed.

tgt 1.0.85 has both in `usr/tgtadm.h`, in the machine's byte order:

    request   u32 mode, u32 op, char driver[64], u32 length of all, i32 tid, u64 sid, u64 lun, six u32 that are 0 here;
              then `name=value` with commas between and a NUL
    answer    u32 error, 0 where it was done; u32 length, which is 8

It listens to processes of exactly its user and group, and `tgtadm` would show passwords to everybody who looks at
processes. So this is a program too, which becomes that user once the interpreter, which he need not reach, is there.
Imports nothing of ours.

    python tgtd_requests.py SOCKET [UID] <requests      ends with 1 and words for the first that was not done
"""

from __future__ import annotations

import os
import socket
import struct
import sys
from enum import IntEnum

_REQUEST, _ANSWER = struct.Struct("=II64sIiQQ24x"), struct.Struct("=II")


class Mode(IntEnum):
    TARGET, UNIT, ACCOUNT = 1, 2, 7


class Op(IntEnum):
    NEW, BIND, UPDATE = 0, 3, 5


def request(mode: Mode, op: Op, tid: int, said: str, lun: int = 0) -> bytes:
    words = said.encode() + b"\0"
    return _REQUEST.pack(mode, op, b"iscsi", _REQUEST.size + len(words), tid, 0, lun) + words


def _ask(path: str, asked: bytes) -> int:
    """The error that it answers."""
    with socket.socket(socket.AF_UNIX) as tgtd:
        tgtd.connect(path)
        tgtd.sendall(asked)
        answer = tgtd.recv(_ANSWER.size, socket.MSG_WAITALL)
    return int(_ANSWER.unpack(answer)[0]) if answer else -1


def _main(path: str, *owner: str) -> None:
    for uid in map(int, owner):
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    said = sys.stdin.buffer.read()
    while said:
        mode, op, _, length, *_ = _REQUEST.unpack_from(said)
        if error := _ask(path, said[:length]):
            sys.exit(f"error {error} of {Op(op).name} {Mode(mode).name}")
        said = said[length:]


if __name__ == "__main__":
    _main(*sys.argv[1:])

"""Ports for servers that tests start, which listen some time after they were told of one."""

from __future__ import annotations

import itertools
import os
import socket

# Below the range from which the kernel takes ports for outgoing connections, and for whoever wants any.
PORTS = range(21000, 29000)
_STRIDE = 101  # processes that were started together ask for ports far apart
_numbers = itertools.count(os.getpid() * _STRIDE)


def free_port(address: str = "127.0.0.1") -> int:
    """A port on which nothing listens now, and that this process was not given a moment ago."""
    for number in itertools.islice(_numbers, len(PORTS)):
        port = PORTS[number % len(PORTS)]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port in {PORTS}")

"""The consoles of a guest that isn't there: a serial line that echoes, and a screen of one pixel (RFC 6143)."""

from __future__ import annotations

import asyncio
import socket
import struct

VNC, SERIAL = "vnc", "serial"
_VERSION = b"RFB 003.008\n"
_NO_SECURITY = 1
# One pixel of 32 bits: red, green and blue have eight each.
_SCREEN = struct.pack(">HHBBBBHHHBBBxxx", 1, 1, 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
# How long each of a viewer's messages is after its first byte; those of two kinds tell it themselves.
_FIXED = {0: 19, 3: 9, 4: 7, 5: 5}


class FakeConsoles:
    """Each caller has a line of its own."""

    def __init__(self) -> None:
        self._lines: set[asyncio.Task[None]] = set()

    def open(self, kind: str, name: str, text: str) -> socket.socket:
        """The caller's end. `text`: what the serial line says first; `name`: the screen's."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        line = asyncio.create_task(self._speak(ours, kind, name, text), name=f"console {name}")
        self._lines.add(line)
        line.add_done_callback(self._lines.discard)
        return theirs

    async def close(self) -> None:
        for line in self._lines:
            line.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)

    async def _speak(self, ours: socket.socket, kind: str, name: str, text: str) -> None:
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            if kind == VNC:
                await _show(reader, writer, name)
            else:
                await _echo(reader, writer, text)
        except (asyncio.IncompleteReadError, OSError):
            return  # the caller has hung up
        finally:
            writer.close()


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: str) -> None:
    writer.write(text.replace("\n", "\r\n").encode())
    while data := await reader.read(4096):
        writer.write(data)
        await writer.drain()


async def _show(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str) -> None:
    writer.write(_VERSION)
    await reader.readexactly(len(_VERSION))
    writer.write(bytes((1, _NO_SECURITY)))
    await reader.readexactly(1)
    writer.write(struct.pack(">I", 0))
    await reader.readexactly(1)  # whether others may look too
    writer.write(_SCREEN + struct.pack(">I", len(name.encode())) + name.encode())
    while True:
        kind = (await reader.readexactly(1))[0]
        if kind == 2:  # encodings
            _, number = struct.unpack(">BH", await reader.readexactly(3))
            await reader.readexactly(4 * number)
        elif kind == 6:  # cut text
            _, length = struct.unpack(">3sI", await reader.readexactly(7))
            await reader.readexactly(length)
        else:
            await reader.readexactly(_FIXED[kind])
        if kind == 3:  # a look: the pixel is black
            writer.write(struct.pack(">BxHHHHHi4x", 0, 1, 0, 0, 1, 1, 0))
            await writer.drain()

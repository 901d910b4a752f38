"""What a guest's agent says, which is whatever the guest likes: read in bounded time, believed where it makes sense."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pileus.host import qemu
from pileus.kernel.faults import Conflict


def guest(folder: Path, answer: Callable[[socket.socket], None]) -> threading.Thread:
    """A guest that hears one question on the agent's socket."""
    server = qemu.listen(folder / "agent.sock")

    def hear() -> None:
        with server, server.accept()[0] as plug:
            plug.recv(1 << 16)
            answer(plug)

    thread = threading.Thread(target=hear, daemon=True)
    thread.start()
    return thread


def ask(
    folder: Path,
    says: Callable[[socket.socket], None],
    agent_s: float = 5,
    done: threading.Event | None = None,
) -> object:
    thread = guest(folder, says)

    async def story() -> object:
        emulator = qemu.Emulator(os.getpid(), folder, lambda event: None, agent_s)
        try:
            return await emulator.ask_agent("guest-ping", secret="hunter2")
        finally:
            await emulator.close()

    try:
        return asyncio.run(story())
    finally:
        if done is not None:
            done.set()
        thread.join(20)


def test_what_the_agent_returns_comes_back(tmp_path: Path) -> None:
    assert ask(tmp_path, lambda plug: plug.sendall(b'{"return": {"a": 1}}\n')) == {"a": 1}


@pytest.mark.parametrize(
    "words",
    [
        b"[]\n",
        b"7\n",
        b'{"error": 7}\n',
        b'{"error": {"desc": ["x"]}}\n',
        b'{"execute": "guest-ping", "arguments": {"secret": "hunter2"}}\n',
        b"not json\n",
        b"",
        b'{"error": {"desc": "' + b"x" * 100_000 + b'"}}\n',
    ],
)
def test_nonsense_is_a_conflict_that_is_short_and_tells_no_secret(
    tmp_path: Path, words: bytes
) -> None:
    with pytest.raises(Conflict) as refused:
        ask(tmp_path, lambda plug: plug.sendall(words))
    text = refused.value.message + refused.value.internal
    assert len(text) < 500 and "hunter2" not in text


def test_a_guest_that_drips_holds_nobody_for_longer_than_an_answer_may_take(
    tmp_path: Path,
) -> None:
    done = threading.Event()

    def drip(plug: socket.socket) -> None:
        for _ in range(100):
            if done.wait(0.05):
                return
            with contextlib.suppress(OSError):  # the host has hung up
                plug.sendall(b" ")

    began = time.monotonic()
    with pytest.raises(Conflict, match="does not answer"):
        ask(tmp_path, drip, agent_s=0.3, done=done)
    assert time.monotonic() - began < 2

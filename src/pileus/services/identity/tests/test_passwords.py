"""Passwords are hashed beside the loop, by threads that give way to it."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from pileus.services.identity.passwords import PASSWORDS
from pileus.services.identity.tests.clouds import Identity, alone


class Waiting:
    """A hasher that has an end only if the loop goes on meanwhile."""

    def __init__(self) -> None:
        self.begun, self.goes_on = threading.Semaphore(0), threading.Event()
        self.niceness: list[int] = []

    def verify(self, hashed: str, password: str) -> bool:
        self.niceness.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        self.begun.release()
        return self.goes_on.wait(30)


@alone
async def test_others_are_served_while_passwords_are_hashed(i: Identity) -> None:
    user = await i.user("somebody", password="a-password")
    passwords: Any = i.cloud.runtime.contracts.get(PASSWORDS)
    passwords._hasher = waiting = Waiting()
    logins = [asyncio.create_task(i.password(user, "a-password")) for _ in range(10)]
    await asyncio.to_thread(waiting.begun.acquire, timeout=30)
    assert (await i.admin.get(f"/users/{user}")).status == 200
    assert not any(login.done() for login in logins)
    waiting.goes_on.set()
    assert {reply.status for reply in await asyncio.gather(*logins)} == {201}


@alone
async def test_who_hashes_gives_way_to_the_loop(i: Identity) -> None:
    user = await i.user("somebody", password="a-password")
    passwords: Any = i.cloud.runtime.contracts.get(PASSWORDS)
    passwords._hasher = waiting = Waiting()
    waiting.goes_on.set()
    assert (await i.password(user, "a-password")).status == 201
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert waiting.niceness == [min(own + 10, 19)]
    assert os.getpriority(os.PRIO_PROCESS, 0) == own

"""A process of the cloud that is told to stop before it is up."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from pileus.node.run import Node, Options

NOBODY = "nats://127.0.0.1:9"


@pytest.mark.parametrize(
    ("role", "given"),
    [
        ({"control": True, "host": False}, {"bus": NOBODY}),
        ({"control": False, "host": True}, {"bus": NOBODY}),
        ({"control": False, "host": True}, {}),
    ],
    ids=["control without a bus", "host without a bus", "host without control"],
)
def test_a_process_that_waits_for_another_ends_when_it_is_told_to(
    tmp_path: Path, role: dict[str, bool], given: dict[str, Any]
) -> None:
    options = Options(state=tmp_path / "state", listen="127.0.0.1:0", driver="fake", **given)
    node = Node(options, **role)

    async def told_to_end() -> None:
        running = asyncio.create_task(node.run())
        await asyncio.sleep(0.3)
        assert not running.done()
        os.kill(os.getpid(), signal.SIGTERM)
        ended, _ = await asyncio.wait({running}, timeout=5)
        assert ended
        await running

    asyncio.run(told_to_end())
    assert node.stop.is_set() and not node.is_up

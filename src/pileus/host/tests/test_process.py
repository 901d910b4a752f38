"""Commands with their limits, and processes that are not our children."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import traceback
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pileus.host import process
from pileus.host.process import Limits, ProcessFailed, masked, run


def test_run_answers_with_the_output() -> None:
    assert asyncio.run(run(["cat"], stdin=b"spoken")) == b"spoken"


def test_run_says_how_a_command_failed() -> None:
    with pytest.raises(ProcessFailed, match="ended with 3: no luck") as failed:
        asyncio.run(run(["sh", "-c", "echo no luck >&2; exit 3"]))
    assert failed.value.returncode == 3


def test_run_says_what_is_not_installed() -> None:
    with pytest.raises(ProcessFailed, match="not installed"):
        asyncio.run(run(["no-such-program-here"]))


def test_a_command_past_its_time_is_killed() -> None:
    async def story() -> None:
        with pytest.raises(ProcessFailed, match="still running"):
            await run(["sleep", "38561"], timeout_s=0.1)

    asyncio.run(story())
    assert not process.find(lambda arguments, cwd: arguments == [b"sleep", b"38561"])


def test_limits_hold() -> None:
    with pytest.raises(ProcessFailed):
        asyncio.run(run(["python3", "-c", "'x' * 2**30"], limits=Limits(address_space=1 << 28)))
    with pytest.raises(ProcessFailed):
        asyncio.run(run(["dd", "if=/dev/zero", "of=/dev/null"], limits=Limits(cpu_s=1)))


def test_threads_of_a_limited_command_share_one_arena_of_its_address_space() -> None:
    """Those of qemu-img on a slow disk took more than the limit between them, and it died in the middle of a copy."""
    assert asyncio.run(run(["printenv", "MALLOC_ARENA_MAX"], limits=Limits())) == b"1\n"


PRINTED = st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="\"'")


@pytest.mark.parametrize(
    "form",
    [
        "--password WORD",
        "--os-password=WORD --user me",
        "-secret WORD more",
        "['mysql', '--password', JSON]",
        "password=WORD",
        "password = JSON",
        "Token: WORD",
        "auth_key: WORD",
        '{"admin_password": JSON, "user": "me"}',
        "{'api-key': JSON}",
        "postgresql://me:WORD@host/db",
        "https://:WORD@host:5000",
    ],
)
@given(secret=st.text(PRINTED, min_size=4))
def test_ossa_2014_036_no_spelling_of_a_password_is_shown(form: str, secret: str) -> None:
    spelled = form.replace("JSON", json.dumps(f'"{secret}')).replace("WORD", secret)
    hidden = form.replace("JSON", "***").replace("WORD", "***")
    assert masked(f"before {spelled}") == f"before {hidden}"


def test_ossa_2014_036_a_command_that_fails_tells_neither_its_arguments_nor_its_input(
    caplog: pytest.LogCaptureFixture,
) -> None:
    script = 'echo "me: bad option --password $1, password=$1" >&2; exit 3'
    secret = "canary"
    command = ["sh", "-c", script, "me", secret]
    with caplog.at_level(logging.DEBUG), pytest.raises(ProcessFailed) as failed:
        asyncio.run(run(command, stdin=secret.encode(), env={"SECRET": secret}))
    told = "".join(traceback.format_exception(failed.value)) + repr(failed.value)
    assert "bad option --password ***" in told
    assert secret not in told + caplog.text


def test_a_launched_process_has_a_session_of_its_own_and_can_be_killed(tmp_path: Path) -> None:
    async def story() -> None:
        child = process.launch(
            ["sh", "-c", "echo ready; exec sleep 60"], cwd=tmp_path, output=tmp_path / "words"
        )
        assert os.getsid(child.pid) == child.pid
        await process.kill(child.pid)
        assert child.wait() == -signal.SIGKILL
        await process.kill(child.pid)

    asyncio.run(story())


def test_several_may_wait_for_one_end() -> None:
    child = subprocess.Popen(["sleep", "60"])

    async def story() -> list[bool]:
        pidfd = os.pidfd_open(child.pid)
        try:
            assert not await process.ended(pidfd, 0.01)
            waiting = [asyncio.create_task(process.ended(pidfd, 20)) for _ in range(3)]
            await asyncio.sleep(0)
            child.kill()
            return await asyncio.gather(*waiting)
        finally:
            os.close(pidfd)
            child.wait()

    assert asyncio.run(story()) == [True, True, True]


def test_the_outcome_of_what_was_launched_is_known_and_what_takes_too_long_is_killed(
    tmp_path: Path,
) -> None:
    def launched(script: str) -> subprocess.Popen[bytes]:
        return process.launch(["sh", "-c", script], cwd=tmp_path, output=tmp_path / "words")

    async def story() -> None:
        assert await process.outcome(launched("exit 3"), 20) == 3
        assert await process.outcome(launched("exec sleep 60"), 0.01) == -signal.SIGKILL

    asyncio.run(story())


def test_who_no_longer_wants_an_outcome_still_waits_for_the_end(tmp_path: Path) -> None:
    async def story() -> None:
        argv = ["sh", "-c", "sleep 0.2; touch made"]
        child = process.launch(argv, cwd=tmp_path, output=tmp_path / "words")
        waiting = asyncio.create_task(process.outcome(child, 20))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (tmp_path / "made").exists()
        assert child.returncode == 0

    asyncio.run(story())

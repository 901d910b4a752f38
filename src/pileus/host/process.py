"""Commands of the host: an argument list with a timeout and limits, never a shell string.

Limits and identity are set by `prlimit` and `setpriv` (both of util-linux, on every Debian) in
front of the command, so nothing of ours runs between fork and exec and any event loop can start it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pileus.kernel.faults import Unavailable
from pileus.kernel.world import Clock

_NAMED = r"[\w-]*(?:passw(?:or)?d|passphrase|pwd|secret|token|credential|(?:api|auth)[-_]?key)"
_VALUE = r"""(?:"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\S+)"""
_SECRETS = (
    re.compile(r"(?i)(\b[a-z][a-z0-9+.-]*://[^\s/:@]*:)\S+(?=@)"),
    re.compile(rf"""(?i)({_NAMED}["']?\s*[=:]\s*){_VALUE}"""),
    re.compile(rf"""(?i)(--?{_NAMED}["']?,?\s+){_VALUE}"""),  # one argument, then another
)
START_S, _LOOK_S = 20, 0.01
OUTPUT_LIMIT = 4 << 20  # bytes of one command's output that we keep; more is a mistake of ours


class ProcessFailed(Exception):
    """A command did not end well.

    `reason` has its last words; it is for the log, not for the caller.
    """

    def __init__(self, argv: Sequence[str], reason: str, returncode: int | None = None) -> None:
        super().__init__(f"{Path(argv[0]).name}: {reason}")
        self.argv = list(argv)
        self.reason = reason
        self.returncode = returncode


@dataclass(frozen=True)
class Limits:
    """What a command may take: bytes of address space and of one file, seconds of CPU."""

    address_space: int = 1 << 30
    cpu_s: int = 60
    file_size: int | None = None

    def prefix(self) -> list[str]:
        """glibc would reserve 64 MiB of address space for each of the threads that qemu-img takes for a slow disk."""
        argv = ["prlimit", f"--as={self.address_space}", f"--cpu={self.cpu_s}", "--core=0"]
        if self.file_size is not None:
            argv.append(f"--fsize={self.file_size}")
        return [*argv, "env", "MALLOC_ARENA_MAX=1"]


def masked(text: str) -> str:
    """The text with `***` for what is said to be a password or the like, in a word or a URL."""
    for secret in _SECRETS:
        text = secret.sub(r"\1***", text)
    return text


def as_user(uid: int, groups: Sequence[int] | None = ()) -> list[str]:
    """The prefix that makes a command an ordinary user's, for good and without capabilities.

    It keeps our own groups where `groups` is None.
    """
    chosen = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
    if groups is None:
        chosen = "--keep-groups"
    return [
        "setpriv",
        f"--reuid={uid}",
        f"--regid={uid}",
        chosen,
        "--no-new-privs",
        "--inh-caps=-all",
        "--bounding-set=-all",
    ]


async def run(
    argv: Sequence[str],
    *,
    timeout_s: float = 60,
    limits: Limits | None = None,
    stdin: bytes | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> bytes:
    """The standard output of a command that ends with 0 in time.

    Anything else raises ProcessFailed.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *(limits.prefix() if limits else []),
            *argv,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env={**os.environ, **env} if env is not None else None,
        )
    except FileNotFoundError as missing:
        raise ProcessFailed(argv, f"not installed ({missing})") from missing
    try:
        output, errors = await asyncio.wait_for(process.communicate(stdin), timeout_s)
    except TimeoutError:
        raise ProcessFailed(argv, f"still running after {timeout_s} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        said = masked(errors.decode(errors="replace")).strip()[-2000:]
        reason = f"ended with {process.returncode}: {said}"
        raise ProcessFailed(argv, reason, process.returncode)
    if len(output) > OUTPUT_LIMIT:
        raise ProcessFailed(argv, f"said {len(output)} bytes, more than {OUTPUT_LIMIT}")
    return output


def launch(
    argv: Sequence[str], *, cwd: Path, output: Path, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start a process that outlives ours, in a session of its own; blocks for the fork only.

    Keep the answer and `poll` it when the process ends, or it stays a zombie while we live.
    """
    output.write_bytes(b"")
    with output.open("ab") as words:  # appending, so that the file may be cut while it is written
        return subprocess.Popen(
            argv,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=words,
            stderr=subprocess.STDOUT,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )


async def serving(
    argv: Sequence[str], is_up: Callable[[], bool], refusal: str, clock: Clock, **ways: Any
) -> subprocess.Popen[bytes]:
    """What `launch` starts, once it `is_up`, which is asked in a thread. Raises Unavailable, `refusal`, for one that ends."""
    child = await asyncio.to_thread(launch, argv, **ways)
    end = clock.monotonic() + START_S
    while not await asyncio.to_thread(is_up):
        if child.poll() is not None or clock.monotonic() > end:
            await kill(child.pid)
            child.poll()
            raise Unavailable(
                refusal, internal=ways["output"].read_text("utf-8", "replace")[-2000:]
            )
        await clock.sleep(_LOOK_S)
    return child


def find(belongs: Callable[[list[bytes], Path], bool]) -> dict[int, list[bytes]]:
    """The processes whose arguments and working directory `belongs` accepts: pid -> arguments."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile, or is not ours to look at
            arguments = Path("/proc", entry, "cmdline").read_bytes().split(b"\0")[:-1]
            if arguments and belongs(arguments, Path(os.readlink(f"/proc/{entry}/cwd"))):
                found[int(entry)] = arguments
    return found


async def ended(pidfd: int, timeout_s: float | None = None) -> bool:
    """Wait for the end of the process behind a pidfd, ours or not; False when time ran out."""
    watched = os.dup(pidfd)  # one reader per descriptor, and there may be several who wait
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(watched, over.set)
    try:
        await asyncio.wait_for(over.wait(), timeout_s)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(watched)
        os.close(watched)
    return True


async def outcome(child: subprocess.Popen[bytes], timeout_s: float) -> int:
    """The exit status of what we launched, which is killed when time runs out. `Popen.wait` would only look now and then.

    Who is cancelled meanwhile still waits for that end: nothing comes into being behind his back.
    """
    pidfd = os.pidfd_open(child.pid)
    waiting = asyncio.create_task(ended(pidfd, timeout_s))
    try:
        await asyncio.shield(waiting)
    finally:
        if not await waiting:
            child.kill()
            await ended(pidfd)
        os.close(pidfd)
        child.wait()
    return child.returncode


async def kill(pid: int) -> None:
    """Kill a process and wait until it is gone; one that is gone already is fine."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        await ended(pidfd)
    finally:
        os.close(pidfd)

"""Calls between control and hosts: a contract's methods as messages on the bus, typed by its Protocol.

A host serves a contract at its own name; controls serve theirs together at `control`. A call carries the saga and
the attempt it belongs to, and an older attempt than one already seen is refused: its runner has been replaced.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast, get_type_hints

import msgspec

from . import faults
from .contracts import Contract
from .faults import Conflict, Fault, Unavailable

if TYPE_CHECKING:
    from .bus import Bus

P = TypeVar("P")
CONTROL = "control"
_REMEMBERED = 20_000
_FAULTS = {n: f for n, f in vars(faults).items() if isinstance(f, type) and issubclass(f, Fault)}


class Fence(msgspec.Struct, frozen=True, array_like=True):
    """Whose call it is. `attempt` counts the runners of the saga."""

    saga: str = ""
    attempt: int = 0


class _Call(msgspec.Struct, frozen=True, array_like=True):
    method: str
    arguments: msgspec.Raw
    fence: Fence


class _Reply(msgspec.Struct, frozen=True, array_like=True):
    result: msgspec.Raw = msgspec.Raw(b"\xc0")
    fault: str = ""
    message: str = ""
    internal: str = ""
    code: str = ""


@dataclass(frozen=True)
class _Method:
    name: str
    parameters: tuple[str, ...]
    arguments: type  # a tuple type
    result: Any


_encode = msgspec.msgpack.Encoder().encode


@cache
def _methods(protocol: type) -> dict[str, _Method]:
    found = {}
    for name, fn in inspect.getmembers(protocol, inspect.isfunction):
        if name.startswith("_"):
            continue
        hints = get_type_hints(fn)
        parameters = tuple(p for p in inspect.signature(fn).parameters if p != "self")
        arguments = cast(type, tuple[tuple(hints[p] for p in parameters)])  # type: ignore[misc]
        found[name] = _Method(
            name, parameters, arguments if parameters else tuple, hints.get("return")
        )
    return found


class Agents:
    """This process's ends of the contracts that cross machines."""

    def __init__(self, bus: Bus, *, timeout_s: float = 120) -> None:
        self.bus, self.timeout_s = bus, timeout_s
        self._local: dict[tuple[str, str], _Server] = {}
        self._waiting: dict[str, set[asyncio.Task[bytes]]] = {}

    async def serve(self, contract: Contract[P], implementation: P, address: str) -> None:
        """Answers the contract's calls to `address` (a host's name, or CONTROL: any one of the controls)."""
        server = _Server(contract, implementation)
        self._local[contract.name, address] = server
        queue = CONTROL if address == CONTROL else ""
        await self.bus.serve(_subject(contract, address), server.answer, queue=queue)

    def proxy(self, contract: Contract[P], address: str, fence: Fence = Fence()) -> P:  # noqa: B008
        """An object whose methods call the contract at `address`. They raise the far side's faults, or Unavailable."""
        return cast(P, _Proxy(self, contract, address, fence))

    async def hint(self, contract: Contract[Any], address: str) -> None:
        """Says to `address` that there is news under the contract; it may be lost."""
        await self.bus.publish(f"hint.{contract.name}.{address}", b"")

    async def on_hint(
        self, contract: Contract[Any], address: str, wake: Callable[[], None]
    ) -> None:
        async def heard(subject: str, payload: bytes) -> None:
            wake()

        await self.bus.subscribe(f"hint.{contract.name}.{address}", heard)

    async def call(
        self,
        contract: Contract[Any],
        address: str,
        method: _Method,
        args: tuple[Any, ...],
        fence: Fence,
    ) -> Any:
        local = self._local.get((contract.name, address))
        if local is not None:
            return await local.invoke(method.name, args, fence)
        payload = _encode(_Call(method.name, msgspec.Raw(_encode(args)), fence))
        raw = await self._request(_subject(contract, address), address, payload)
        reply = msgspec.msgpack.decode(raw, type=_Reply)
        if reply.fault:
            kind = _FAULTS.get(reply.fault, Unavailable)
            fault = kind.__new__(kind)
            Fault.__init__(fault, reply.message, code=reply.code, internal=reply.internal)
            raise fault
        return msgspec.msgpack.decode(reply.result, type=method.result)

    async def _request(self, subject: str, address: str, payload: bytes) -> bytes:
        request = self.bus.request(subject, payload, timeout_s=self.timeout_s)
        task = asyncio.create_task(request, name=f"request {subject}")
        waiting = self._waiting.setdefault(address, set())
        waiting.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            me = asyncio.current_task()
            if me is not None and me.cancelling():
                raise
            raise Unavailable(
                "A part of the cloud started anew and has forgotten what it was asked.",
                internal=f"request to {subject}",
            ) from None
        finally:
            waiting.discard(task)
            if not waiting and self._waiting.get(address) is waiting:
                del self._waiting[address]

    def restarted(self, address: str) -> None:
        """Whoever was there is gone, and what it was asked will not be answered: those calls raise Unavailable."""
        for task in self._waiting.get(address, ()):
            task.cancel()


def _subject(contract: Contract[Any], address: str) -> str:
    return f"agent.{contract.name}.{address}"


class _Proxy:
    def __init__(self, agents: Agents, contract: Contract[Any], address: str, fence: Fence) -> None:
        self._at = (agents, contract, address, fence)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        agents, contract, address, fence = self._at
        method = _methods(cast(Hashable, contract.protocol)).get(name)
        if method is None:
            raise AttributeError(f"{contract.name} has no method {name}")

        async def call(*args: Any, **named: Any) -> Any:
            rest = [named[p] for p in method.parameters[len(args) :]]
            return await agents.call(contract, address, method, (*args, *rest), fence)

        return call


class _Server:
    def __init__(self, contract: Contract[Any], implementation: Any) -> None:
        self.contract, self.implementation = contract, implementation
        self.methods = _methods(cast(Hashable, contract.protocol))
        self._attempts: OrderedDict[str, int] = OrderedDict()

    async def invoke(self, name: str, args: tuple[Any, ...], fence: Fence) -> Any:
        self._check(fence)
        return await getattr(self.implementation, name)(*args)

    async def answer(self, payload: bytes) -> bytes:
        try:
            call = msgspec.msgpack.decode(payload, type=_Call)
            method = self.methods[call.method]
            args: tuple[Any, ...] = msgspec.msgpack.decode(call.arguments, type=method.arguments)
            result = await self.invoke(call.method, args, call.fence)
            return _encode(_Reply(msgspec.Raw(_encode(result))))
        except Fault as e:
            return _encode(
                _Reply(fault=type(e).__name__, message=e.message, internal=e.internal, code=e.code)
            )

    def _check(self, fence: Fence) -> None:
        if not fence.saga:
            return
        seen = self._attempts.get(fence.saga, 0)
        if fence.attempt < seen:
            raise Conflict(
                f"attempt {fence.attempt} of saga {fence.saga} was replaced by attempt {seen}"
            )
        if fence.attempt == 1:
            return  # nothing is older than that
        self._attempts[fence.saga] = fence.attempt
        self._attempts.move_to_end(fence.saga)
        if len(self._attempts) > _REMEMBERED:
            self._attempts.popitem(last=False)

"""Long work: journalled steps with undo, resumed by whichever control finds them.

A step does its outside work first and returns the record's changes; the changes and the journal's move are one
transaction. So every step may run twice, and a step's undo, which runs also when its own step broke half-way, may
use only the record. Steps do not wait for the disk; a call to an agent waits until everything before it is on it.
"""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from .agents import Fence
from .auth import NOBODY, Caller, remembered
from .contracts import Contract
from .events import emit
from .faults import Conflict, Fault, Stale, Unavailable
from .states import Lifecycle
from .store import Page, R, Record, Table, Tx
from .turns import BACKGROUND

if TYPE_CHECKING:
    from .runtime import Runtime

log = logging.getLogger(__name__)
P = TypeVar("P")
Changes = Mapping[str, Any]
_BACKOFF_S = (0.2, 0.5, 1, 2, 5, 10, 30)
_SLOW_S = 60  # who let us wait so long is at it: he is asked again, for `timeout_s`
_UNDO_TRIES = 5
_GIVEN_UP = "It was given up because another request took its place."


class Journal(Record, kw_only=True, frozen=True):
    """Where a saga stands. `attempt` counts its runners: agents refuse a call of an older one."""

    saga: str
    record_id: str
    owner: str
    step: int = 0
    undoing: bool = False
    cancelled: bool = False
    parked: str = ""  # the step whose undo failed for good
    error: str = ""
    detail: str = ""
    error_code: int = 500
    attempt: int = 1
    waits_for: str = ""
    becoming: str = ""
    reserved: dict[str, int] = {}  # quota charged for `becoming` until the end
    request_id: str = ""
    caller: dict[str, Any] = {}


JOURNAL = Table(
    "sagas", Journal, columns=("owner", "record_id", "saga", "parked"), indexes=(("record_id",),)
)


@dataclass
class Run(Generic[R]):
    """What a step sees: the record as it is, and as the caller wants it (`becoming`)."""

    runtime: Runtime
    record: R
    becoming: R
    entry: Journal
    caller: Caller
    step: str = ""

    @property
    def id(self) -> str:
        """The saga's id: with `step` the idempotence key of what a step asks of others."""
        return self.entry.id

    def peer(self, contract: Contract[P]) -> P:
        return self.runtime.contracts.get(contract)

    async def agent(self, contract: Contract[P], *, on: str) -> P:
        """The agent on that host, once all that led here is on disk."""
        await self.runtime.store.sync()
        return self.runtime.agents.proxy(contract, on, Fence(self.id, self.entry.attempt))


@dataclass(frozen=True)
class Step(Generic[R]):
    """`timeout_s` bounds one try. For `patience_s` it is tried again if a host is Unavailable or a row was Stale."""

    do: Callable[[Run[R]], Awaitable[Changes | None]]
    undo: Callable[[Run[R]], Awaitable[None]] | None = None
    timeout_s: float = 300
    patience_s: float = 60

    @property
    def name(self) -> str:
        return self.do.__name__


@dataclass(frozen=True)
class Failure:
    """Why a saga failed: `message` is for the user, `detail` for administrators."""

    message: str
    detail: str
    code: int
    at: str


def _unchanged(record: Any, failure: Failure) -> Changes:
    return {}


class Saga(Generic[R]):
    """`event`: upstream's notification name, to which .start, .end or .error is added.

    `failed` gives the changes that tell the record why; `done` those of success besides the lifecycle's.
    """

    def __init__(
        self,
        event: str,
        table: Table[R],
        lifecycle: Lifecycle,
        verb: str,
        *steps: Step[R],
        failed: Callable[[R, Failure], Changes] = _unchanged,
        done: Callable[[R, str], Changes] = lambda record, now: {},
    ) -> None:
        self.event, self.table, self.lifecycle, self.verb = event, table, lifecycle, verb
        self.steps, self.failed, self.done = steps, failed, done
        self.name = f"{table.name}.{verb}"


@dataclass
class _Live:
    task: asyncio.Task[None]
    in_step: bool = False
    interrupted: bool = False


@dataclass
class Sagas:
    """Begins sagas, runs them, and takes over those whose runner died."""

    runtime: Runtime
    me: str
    known: dict[str, Saga[Any]] = field(default_factory=dict)
    _live: dict[str, _Live] = field(default_factory=dict)
    _ended: dict[str, asyncio.Event] = field(default_factory=dict)  # another saga waits for them
    alive: frozenset[str] = frozenset()  # the controls that live, as last heard
    _stopping: bool = False

    def register(self, *sagas: Saga[Any]) -> None:
        for s in sagas:
            self.known[s.name] = s

    @property
    def running(self) -> int:
        return len(self._live)

    # Beginning

    async def begin(
        self,
        tx: Tx,
        saga: Saga[R],
        record: R,
        *,
        becoming: R | None = None,
        caller: Caller = NOBODY,
        request_id: str = "",
    ) -> tuple[R, Journal]:
        """In the caller's transaction: checks the state, writes the busy record and the journal. Launch after it.

        A record of generation 0 is inserted. Raises Conflict in a wrong state, OverQuota, Stale.
        """
        changes = saga.lifecycle.begin(saga.verb, record)
        waits_for = ""
        if record.generation == 0:
            record = await saga.table.insert(tx, msgspec.structs.replace(record, **changes))
        else:
            record = await saga.table.change(tx, record, **changes)  # first: who begins now is seen
            waits_for = await self._cancel_others(tx, saga, record)
        reserved = await _reserve(tx, saga.table, record, becoming) if becoming is not None else {}
        entry = Journal(
            id=self.runtime.world.new_id(),
            saga=saga.name,
            record_id=record.id,
            owner=self.me,
            waits_for=waits_for,
            becoming=msgspec.json.encode(becoming).decode() if becoming is not None else "",
            reserved=reserved,
            request_id=request_id,
            caller=remembered(caller),
        )
        entry = await JOURNAL.insert(tx, entry)
        await emit(tx, saga.event + ".start", _project(record), id=record.id)
        return record, entry

    async def _cancel_others(self, tx: Tx, saga: Saga[R], record: R) -> str:
        """Tells what is under way on the record to undo itself; the id of the last of it."""
        under_way = await JOURNAL.all(tx, record_id=record.id)
        if not under_way:
            return ""
        if not saga.lifecycle[saga.verb].interrupts:
            raise Conflict(
                f"Cannot '{saga.verb}' {record.id} while another operation on it is under way."
            )
        waits_for = ""
        for entry in under_way:
            if entry.parked:  # nobody runs it any more; this saga cleans up instead
                await JOURNAL.delete(tx, entry)
                continue
            if self.known[entry.saga].verb == saga.verb:
                raise Conflict(f"'{saga.verb}' of {record.id} is already under way.")
            await JOURNAL.change(tx, entry, cancelled=True)
            waits_for = entry.id
        return waits_for

    def launch(self, *entries: Journal) -> None:
        """After the commit that began them; if we die in between, `adopt` finds them."""
        for entry in entries:
            if entry.waits_for:
                self._interrupt(entry.waits_for)
            self._spawn(entry)

    def _spawn(self, entry: Journal) -> None:
        if entry.id not in self._live and not self._stopping:
            task = asyncio.create_task(
                self._run(entry), name=f"saga {entry.saga} {entry.record_id}"
            )
            self._live[entry.id] = _Live(task)
            task.add_done_callback(lambda _: self._live.pop(entry.id, None))

    def _interrupt(self, entry_id: str) -> None:
        live = self._live.get(entry_id)
        if live is not None:
            live.interrupted = True
            if live.in_step:
                live.task.cancel()

    async def adopt(self, alive: frozenset[str]) -> int:
        """Takes over what belongs to no living control; how many."""
        self.alive, taken = alive, 0
        for entry in await JOURNAL.all(self.runtime.store):
            mine = entry.owner == self.me and entry.id in self._live
            if mine or entry.parked or (entry.owner in alive and entry.owner != self.me):
                continue
            try:
                async with self.runtime.store.tx() as tx:
                    entry = await JOURNAL.change(
                        tx, entry, owner=self.me, attempt=entry.attempt + 1
                    )
            except Stale:
                continue  # another control was first, or it ended
            self._spawn(entry)
            taken += 1
        return taken

    async def stop(self) -> None:
        """Leaves everything where it stands; the journal knows."""
        self._stopping = True
        tasks = [live.task for live in self._live.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def settled(self) -> None:
        """Returns when nothing is running here (tests)."""
        while self._live:
            await asyncio.wait([live.task for live in self._live.values()])

    # Running

    async def _run(self, entry: Journal) -> None:
        """One saga to its end. A lost compare-and-swap means news about it: look again."""
        BACKGROUND.set(True)
        tries, found = 0, entry
        while True:
            try:
                if tries:
                    again = await self._still_mine(entry.id)
                    if again is None:
                        return
                    found = again
                await self._drive(found)
                return
            except (Stale, Unavailable) as e:
                log.info(
                    "%s of %s looks again: %s", entry.saga, entry.record_id, e.internal or e.message
                )
                pause = _BACKOFF_S[min(tries - 1, 6)] if tries else 0
            except Exception:  # one of the three places
                log.exception("%s of %s stopped", entry.saga, entry.record_id)
                pause = _BACKOFF_S[min(tries, 6)]
            await self.runtime.world.clock.sleep(pause)
            tries += 1

    async def _still_mine(self, entry_id: str) -> Journal | None:
        """The journal's entry as it stands on disk, if there is anything left to do here."""
        await self.runtime.store.sync()
        found = await JOURNAL.find(self.runtime.store, entry_id)
        return None if found is None or found.owner != self.me or found.parked else found

    async def _drive(self, entry: Journal) -> None:
        store, saga = self.runtime.store, self.known[entry.saga]
        if entry.waits_for:
            await self._wait_for(entry.waits_for)
        record = await saga.table.find(store, entry.record_id)
        if record is None:
            await store.sync()
            record = await saga.table.get(store, entry.record_id)
        caller = msgspec.convert(entry.caller, Caller) if entry.caller else NOBODY
        becoming = saga.table.decode(entry.becoming) if entry.becoming else record
        run = Run(self.runtime, record, becoming, entry, caller)
        while not run.entry.undoing and run.entry.step < len(saga.steps):
            await self._forward(run, saga)
        while run.entry.undoing and run.entry.step >= 0:
            if not await self._backward(run, saga):
                return
        await self._finish(run, saga)

    async def over(self, entry_id: str) -> Journal | None:
        """Returns when that saga has left the journal, whoever runs it, or was parked: then its entry."""
        ended = self._ended.setdefault(entry_id, asyncio.Event())
        store = self.runtime.store
        try:
            while True:
                await store.sync()
                found = await JOURNAL.find(store, entry_id)
                if found is None or found.parked:
                    return found
                try:
                    async with asyncio.timeout(1):
                        await ended.wait()
                except TimeoutError:
                    continue  # another control may be running it
        finally:
            self._ended.pop(entry_id, None)

    async def _wait_for(self, entry_id: str) -> None:
        """Returns when that saga has ended; one whose undo failed for good is cleaned up by ours."""
        parked = await self.over(entry_id)
        if parked is not None:
            async with self.runtime.store.tx() as tx:
                await JOURNAL.delete(tx, parked)

    async def _forward(self, run: Run[Any], saga: Saga[Any]) -> None:
        step = saga.steps[run.entry.step]
        live = self._live[run.entry.id]
        try:
            if run.entry.cancelled or live.interrupted:
                raise Conflict(_GIVEN_UP)
            changes = await self._attempt(run, step, live) or {}
        except Exception as e:  # the saga runner's part of the same place
            await self._turn_back(run, saga, step, e)
            return
        try:
            if run.entry.step + 1 < len(saga.steps):
                await self._move(run, saga, changes, step=run.entry.step + 1)
            else:  # the last step's changes are the end's
                await self._finish(run, saga, changes)
                run.entry = msgspec.structs.replace(run.entry, step=len(saga.steps))
        except (Stale, Unavailable):
            raise
        except Fault as e:  # what the step gave cannot be written: over quota, a duplicate
            await self._turn_back(run, saga, step, e)

    async def _turn_back(
        self, run: Run[Any], saga: Saga[Any], step: Step[Any], error: Exception
    ) -> None:
        failure = self._failure(error)
        unexpected = not isinstance(error, Fault)
        level = logging.ERROR if unexpected else logging.INFO
        text = "%s of %s failed at %s: %s"
        what = failure.message if unexpected else failure.detail
        trace = error if unexpected else None
        log.log(level, text, saga.name, run.record.id, step.name, what, exc_info=trace)
        await self._move(
            run,
            saga,
            {},
            undoing=True,
            error=failure.message,
            detail=failure.detail,
            error_code=failure.code,
        )

    async def _attempt(self, run: Run[Any], step: Step[Any], live: _Live) -> Changes | None:
        """The step's changes; whoever takes this saga's place may break in at any moment."""
        run.step, live.in_step = step.name, True
        try:
            return await self._tried(run, step)
        except asyncio.CancelledError:
            if not live.interrupted or self._stopping:
                raise
            live.task.uncancel()
            raise Conflict(_GIVEN_UP) from None
        finally:
            live.in_step = False

    async def _tried(self, run: Run[Any], step: Step[Any]) -> Changes | None:
        clock, tries = self.runtime.world.clock, 0
        first = clock.monotonic()
        while True:
            began = clock.monotonic()
            try:
                async with asyncio.timeout(step.timeout_s):
                    return await step.do(run)
            except (Unavailable, Stale):
                now = clock.monotonic()
                if now - first > (step.timeout_s if now - began > _SLOW_S else step.patience_s):
                    raise
            except TimeoutError:
                raise Unavailable(
                    f"{step.name} did not end within {step.timeout_s:.0f} s."
                ) from None
            await clock.sleep(_BACKOFF_S[min(tries, 6)])
            tries += 1

    async def _backward(self, run: Run[Any], saga: Saga[Any]) -> bool:
        """Undoes one step; False if it had to be parked."""
        step = saga.steps[run.entry.step]
        if step.undo is not None:
            for tries in range(_UNDO_TRIES):
                run.step = "undo " + step.name
                try:
                    async with asyncio.timeout(step.timeout_s):
                        await step.undo(run)
                    break
                except Exception as e:  # the saga runner's part of the same place
                    log.warning(
                        "%s of %s: undo of %s failed: %r", saga.name, run.record.id, step.name, e
                    )
                    await self.runtime.world.clock.sleep(_BACKOFF_S[tries])
            else:
                await self._park(run, saga, step)
                return False
        await self._move(run, saga, {}, step=run.entry.step - 1)
        return True

    async def _park(self, run: Run[Any], saga: Saga[Any], step: Step[Any]) -> None:
        """Gives up on an undo: the record says it failed, the journal which step still owes its clean-up."""
        async with self.runtime.store.tx() as tx:
            record = await saga.table.get(tx, run.record.id)
            await _give_back(tx, saga.table, record, run.entry.reserved)
            if not run.entry.cancelled:
                await saga.table.change(tx, record, **self._failed(run, saga, record, tx.now))
            await JOURNAL.change(tx, run.entry, parked=step.name, reserved={})

    async def _move(self, run: Run[Any], saga: Saga[Any], changes: Changes, **moved: Any) -> None:
        async with self.runtime.store.tx(wait=False) as tx:
            if changes:
                record = await saga.table.get(tx, run.record.id)
                run.record = await saga.table.change(tx, record, **changes)
            run.entry = await JOURNAL.change(tx, run.entry, **moved)

    async def _finish(self, run: Run[Any], saga: Saga[Any], changes: Changes | None = None) -> None:
        if not run.entry.undoing and changes is None:
            return  # the last step already did
        failed = run.entry.undoing
        async with self.runtime.store.tx(wait=False) as tx:
            record = await saga.table.get(tx, run.record.id)
            await _give_back(tx, saga.table, record, run.entry.reserved)
            if failed and not run.entry.cancelled:
                record = await saga.table.change(
                    tx, record, **self._failed(run, saga, record, tx.now)
                )
            elif not failed:
                record = await self._succeed(tx, saga, record, changes or {})
            await JOURNAL.delete(tx, run.entry)
            kind = f"{saga.event}.{'error' if failed else 'end'}"
            why = {"reason": run.entry.error} if failed else {}
            await emit(tx, kind, _project(record), id=record.id, **why)
        run.record = record
        if run.entry.id in self._ended:
            self._ended[run.entry.id].set()

    async def _succeed(self, tx: Tx, saga: Saga[Any], record: Any, changes: Changes) -> Any:
        end = saga.lifecycle.end(saga.verb, failed=False)
        if end is None:
            if saga.table.tombstone_s:
                record = await saga.table.change(
                    tx, record, **{**changes, **saga.done(record, tx.now)}
                )
            await saga.table.delete(tx, record)
            return record
        return await saga.table.change(
            tx, record, **{**changes, **saga.done(record, tx.now), **end}
        )

    def _failed(self, run: Run[Any], saga: Saga[Any], record: Any, now: str) -> dict[str, Any]:
        e = run.entry
        end = saga.lifecycle.end(saga.verb, failed=True) or {}
        return {**saga.failed(record, Failure(e.error, e.detail, e.error_code, now)), **end}

    def _failure(self, error: Exception) -> Failure:
        now = self.runtime.world.clock.now()
        if isinstance(error, Fault):
            return Failure(error.message, error.internal or error.message, error.status, now)
        detail = "".join(traceback.format_exception(error))[-4000:]
        return Failure("An internal error occurred; the log has the details.", detail, 500, now)

    async def parked(self) -> list[Journal]:
        """Those whose clean-up waits for a delete, for `pileus status`."""
        return [e for e in await JOURNAL.list(self.runtime.store, Page({}, limit=1000)) if e.parked]


async def _reserve(tx: Tx, table: Table[Any], record: Record, becoming: Record) -> dict[str, int]:
    """Charges what the record will cost more when the saga succeeds. Raises OverQuota."""
    reserved = {}
    for quota in table.quotas:
        more = quota.of(becoming) - quota.of(record)
        if more > 0:
            await quota.add(tx, quota.project(record), more)
            reserved[quota.name] = more
    return reserved


async def _give_back(
    tx: Tx, table: Table[Any], record: Record, reserved: Mapping[str, int]
) -> None:
    for quota in table.quotas:
        if quota.name in reserved:
            await quota.add(tx, quota.project(record), -reserved[quota.name])


def _project(record: Record) -> str:
    return str(getattr(record, "project_id", ""))

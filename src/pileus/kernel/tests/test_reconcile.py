"""Reconcilers in virtual time: periods, hints that coalesce, one run at a time, back-off."""

from __future__ import annotations

import asyncio
import logging
from itertools import pairwise

import pytest

from pileus.kernel.faults import Unavailable
from pileus.kernel.reconcile import Reconcilers
from pileus.kernel.turns import BACKGROUND
from pileus.testing.simloop import SimWorld, simulated


class Facts:
    """Work that takes time, notes when it ran and sees to it that two runs do not overlap."""

    def __init__(self, world: SimWorld, takes_s: float = 1.0) -> None:
        self.world, self.takes_s = world, takes_s
        self.began: list[tuple[float, str]] = []
        self.ended: list[str] = []
        self.now: set[str] = set()
        self.to_raise: list[Exception] = []
        self.overlaps = 0

    async def hold(self, key: str) -> None:
        self.overlaps += key in self.now
        self.now.add(key)
        self.began.append((self.world.clock.monotonic(), key))
        try:
            await self.world.clock.sleep(self.takes_s)
            if self.to_raise:
                raise self.to_raise.pop(0)
        finally:
            self.now.discard(key)
        self.ended.append(key)


async def started(facts: Facts, period_s: float = 0) -> Reconcilers:
    reconcilers = Reconcilers(facts.world)
    reconcilers.add("facts", period_s, facts.hold)
    await reconcilers.start()
    return reconcilers


@simulated(seeds=10)
async def test_a_reconciler_looks_at_the_start_and_then_every_period() -> None:
    world = SimWorld()
    facts = Facts(world)
    reconcilers = await started(facts, period_s=60)
    await world.clock.sleep(605)
    times = [at for at, _ in facts.began]
    assert times[0] == 0
    pauses = [later - sooner for sooner, later in pairwise(times)]
    assert 9 <= len(pauses) <= 11
    assert all(54 <= pause <= 66 for pause in pauses)
    assert len(set(pauses)) > 5, "without jitter all controls would look at the same time"
    await reconcilers.stop()


@simulated(seeds=10)
async def test_hints_during_a_run_become_one_more_run() -> None:
    world = SimWorld()
    facts = Facts(world)
    reconcilers = await started(facts)
    for _ in range(5):
        reconcilers.hint("facts", "a")
    await world.clock.sleep(0.5)
    for _ in range(5):
        reconcilers.hint("facts", "a")
    await reconcilers.settled()
    assert facts.began == [(0, "a"), (1, "a")]
    assert facts.overlaps == 0
    await reconcilers.stop()


@simulated(seeds=10)
async def test_other_keys_run_meanwhile() -> None:
    world = SimWorld()
    facts = Facts(world)
    reconcilers = await started(facts)
    for key in ("a", "b", ""):
        reconcilers.hint("facts", key)
    await reconcilers.settled()
    assert sorted(facts.began) == [(0, ""), (0, "a"), (0, "b")]
    assert world.clock.monotonic() == 1
    await reconcilers.stop()


@simulated(seeds=20)
async def test_no_hint_is_lost_whenever_it_comes() -> None:
    """What was true at the last hint has been looked at by a run that began no earlier."""
    world = SimWorld()
    facts = Facts(world)
    reconcilers = await started(facts)
    last: dict[str, float] = {}
    for _ in range(200):
        await world.clock.sleep(world.random.choice((0, 0, 0.3, 1, 1.5)))
        key = world.random.choice("ab")
        reconcilers.hint("facts", key)
        last[key] = world.clock.monotonic()
    await reconcilers.settled()
    for key, at in last.items():
        assert max(began for began, of in facts.began if of == key) >= at
    assert facts.overlaps == 0
    await reconcilers.stop()


@simulated(seeds=10)
async def test_a_run_that_fails_is_tried_again_with_growing_pauses() -> None:
    world = SimWorld()
    facts = Facts(world, takes_s=0)
    facts.to_raise = [Unavailable("The host h1 is away.") for _ in range(8)]
    reconcilers = await started(facts)
    reconcilers.hint("facts", "a")
    await reconcilers.settled()
    times = [at for at, _ in facts.began]
    pauses = [later - sooner for sooner, later in pairwise(times)]
    assert len(pauses) == 8
    assert pauses[:6] == sorted(pauses[:6])
    assert 0.4 <= pauses[0] <= 0.6
    assert all(24 <= pause <= 36 for pause in pauses[5:])
    assert facts.ended == ["a"]
    await reconcilers.stop()


@simulated(seeds=10)
async def test_after_a_success_the_pauses_begin_small_again() -> None:
    world = SimWorld()
    facts = Facts(world)
    facts.to_raise = [LookupError(str(number)) for number in range(5)]
    reconcilers = await started(facts)
    reconcilers.hint("facts", "a")
    while len(facts.began) < 6:
        await world.clock.sleep(0.1)
    reconcilers.hint("facts", "a")  # while the run that will succeed is under way
    await world.clock.sleep(1)
    facts.to_raise = [LookupError("again")]
    await reconcilers.settled()
    (succeeded, _), (failed, _), (retried, _) = facts.began[5:]
    assert failed == succeeded + 1
    assert 0.4 <= retried - failed - 1 <= 0.6
    await reconcilers.stop()


@simulated(seeds=1)
async def test_a_run_is_work_in_the_background_and_whoever_hints_is_not() -> None:
    seen: list[bool] = []

    async def look(key: str) -> None:
        seen.append(BACKGROUND.get())

    reconcilers = Reconcilers(SimWorld())
    reconcilers.add("facts", 0, look)
    await reconcilers.start()
    reconcilers.hint("facts", "a")
    await reconcilers.settled()
    await reconcilers.stop()
    assert seen == [True] and not BACKGROUND.get()


@simulated(seeds=10)
async def test_a_key_that_fails_does_not_hold_up_another() -> None:
    world = SimWorld()
    facts = Facts(world)
    facts.to_raise = [LookupError("x")]
    reconcilers = await started(facts)
    reconcilers.hint("facts", "bad")
    await world.clock.sleep(1.2)
    reconcilers.hint("facts", "good")
    await world.clock.sleep(1.1)
    assert "good" in facts.ended
    await reconcilers.stop()


@simulated(seeds=3)
async def test_status_tells_runs_failures_and_the_error_until_it_is_mended() -> None:
    world = SimWorld()
    facts = Facts(world)
    facts.to_raise = [Unavailable("The host h1 is away."), LookupError("x")]
    reconcilers = await started(facts)
    reconcilers.hint("facts", "a")
    await world.clock.sleep(1.1)
    (report,) = reconcilers.status()
    assert (report.name, report.runs, report.failures) == ("facts", 1, 1)
    assert report.error == "The host h1 is away."
    await world.clock.sleep(1.6)
    assert reconcilers.status()[0].error == "LookupError('x')"
    await reconcilers.settled()
    (report,) = reconcilers.status()
    assert (report.runs, report.failures, report.error) == (3, 2, "")
    await reconcilers.stop()


def test_the_log_says_what_failed_once_per_error(caplog: pytest.LogCaptureFixture) -> None:
    @simulated(seeds=1)
    async def run() -> None:
        world = SimWorld()
        facts = Facts(world)
        facts.to_raise = [Unavailable("The host h1 is away.") for _ in range(4)]
        reconcilers = await started(facts)
        reconcilers.hint("facts", "a")
        await reconcilers.settled()
        await reconcilers.stop()

    run()
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(errors) == 1
    assert "facts a" in errors[0].getMessage()
    assert "The host h1 is away." in errors[0].getMessage()


def test_the_log_has_the_trace_of_what_was_not_foreseen_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @simulated(seeds=1)
    async def run() -> None:
        facts = Facts(SimWorld())
        facts.to_raise = [Unavailable("The host h1 is away."), LookupError("x")]
        reconcilers = await started(facts)
        reconcilers.hint("facts", "a")
        await reconcilers.settled()
        await reconcilers.stop()

    run()
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert [bool(r.exc_info) for r in errors] == [False, True]


@simulated(seeds=10)
async def test_a_stop_cancels_runs_and_a_later_start_looks_again() -> None:
    world = SimWorld()
    facts = Facts(world)
    reconcilers = await started(facts, period_s=60)
    await world.clock.sleep(0.5)
    await reconcilers.stop()
    assert (facts.now, facts.ended) == (set(), [])
    reconcilers.hint("facts")
    await world.clock.sleep(1000)
    assert len(facts.began) == 1, "nothing runs while stopped"
    await reconcilers.start()
    await world.clock.sleep(2)
    assert facts.ended == [""]
    await reconcilers.stop()


@simulated(seeds=1)
async def test_two_reconcilers_of_one_name_are_refused_and_unknown_hints_ignored() -> None:
    reconcilers = await started(Facts(SimWorld()))
    with pytest.raises(ValueError, match="facts"):
        reconcilers.add("facts", 1, Facts(SimWorld()).hold)
    reconcilers.hint("nothing")
    assert [report.runs for report in reconcilers.status()] == [0]
    await asyncio.sleep(0)

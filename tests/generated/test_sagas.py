"""Sagas, generated: fail at every step, run every step twice, die at every step. Nothing leaks."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

from pileus.kernel.resources import Service
from pileus.node.control import find_services
from pileus.testing.cloud import cloud
from pileus.testing.generated.sagas import FAILS, Bench, Sabotage, sabotages
from pileus.testing.grounds import ready, scenarios
from pileus.testing.held import Held
from tests.generated.conftest import IN_MEMORY

SERVICES = find_services()
CASES = [c for c in sabotages(SERVICES) if c[1].saga.name in scenarios(c[0])]


class Benches:
    """A cloud with hosts for the sagas of each service, and what undisturbed runs leave, each once."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self.runner = runner
        self._manager: Any = cloud()
        self.cloud = runner.run(self._manager.__aenter__())
        self._benches: dict[str, Bench] = {}
        self._plain: dict[str, Held] = {}
        self._at_once: dict[str, Held] = {}

    def left_by(self, service: Service, one: Sabotage) -> Held:
        return self._run(service, one)

    def left_undisturbed(self, service: Service, one: Sabotage) -> Held:
        if one.saga.name not in self._plain:
            self._plain[one.saga.name] = self._run(service, None, one.saga.name)
        return self._plain[one.saga.name]

    def left_by_failing_at_once(self, service: Service, one: Sabotage) -> Held:
        if one.saga.name not in self._at_once:
            self._at_once[one.saga.name] = self._run(service, Sabotage(one.saga, FAILS, 0))
        return self._at_once[one.saga.name]

    def _run(self, service: Service, one: Sabotage | None, name: str = "") -> Held:
        async def bounded() -> Held:
            async with asyncio.timeout(20):
                if service.type not in self._benches:
                    self._benches[service.type] = Bench(await ready(service, self.cloud))
                scenario = scenarios(service)[one.saga.name if one else name]
                return await self._benches[service.type].left_by(scenario, one)

        return self.runner.run(bounded())

    def close(self) -> None:
        self.runner.run(self._manager.__aexit__(None, None, None))


@pytest.fixture(scope="module")
def benches() -> Iterator[Benches]:
    before, tempfile.tempdir = tempfile.tempdir, IN_MEMORY or tempfile.tempdir
    with asyncio.Runner() as runner:
        found = Benches(runner)
        try:
            yield found
        finally:
            found.close()
            tempfile.tempdir = before


@pytest.mark.parametrize(
    ("service", "one"), CASES, ids=lambda x: x.id if isinstance(x, Sabotage) else x.type
)
def test_a_saga_leaves_what_it_should_whatever_happens_to_its_steps(
    benches: Benches, service: Service, one: Sabotage
) -> None:
    left = benches.left_by(service, one)  # raises unless a clean-up takes all of it away again
    if one.what != FAILS:
        assert left == benches.left_undisturbed(service, one)
    elif not scenarios(service)[one.saga.name].destroys:
        assert left == benches.left_by_failing_at_once(service, one)


def test_every_saga_has_a_scenario_that_brings_it_about() -> None:
    without = [
        saga.name
        for service in SERVICES
        for saga in service.all_sagas()
        if saga.name not in scenarios(service)
    ]
    assert without == [], "add it to src/pileus/testing/grounds/<service>.py"

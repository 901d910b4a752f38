"""The generated tests notice what they are there for: a rule too wide, a step without its undo, a leak."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pileus.kernel.sagas import JOURNAL
from pileus.kernel.tests.toy import CREATE, DELETE, SERVICE, THINGS, Thing, toy
from pileus.services.placement import SERVICE as PLACEMENT
from pileus.testing.client import Client
from pileus.testing.cloud import Cloud
from pileus.testing.generated.access import Gate, calls
from pileus.testing.generated.policies import MISSING, Defaults, RuleCase, ledger, rule_cases
from pileus.testing.generated.sagas import Bench, Sabotage, difference, sabotages
from pileus.testing.generated.states import anything, wrong_states
from pileus.testing.grounds import Ground, Scenario
from pileus.testing.held import broken, held


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scene)


# Policies


def test_a_rule_that_is_wider_or_narrower_than_upstreams_is_noticed() -> None:
    case = next(c for c in rule_cases([PLACEMENT]) if c.rule == "placement:usages")
    assert Defaults([PLACEMENT]).differences(case) == []
    for text, word in (("@", "allowed"), ("!", "denied")):
        kind = next(type(r) for r in PLACEMENT.made if case.rule in r.rules)
        changed = type("Changed", (kind,), {"rules": {**kind.rules, case.rule: text}})
        resources = tuple(changed if r is kind else r for r in PLACEMENT.resources)
        service = replace(PLACEMENT, resources=resources)
        found = Defaults([service]).differences(replace(case, service=service))
        assert found and all(word in line for line in found)


def test_a_rule_that_upstream_does_not_have_is_noticed() -> None:
    assert Defaults([SERVICE]).differences(RuleCase(SERVICE, "toy:show")) == [MISSING]
    assert Defaults([PLACEMENT]).differences(RuleCase(PLACEMENT, "placement:mine")) == [MISSING]


@pytest.mark.parametrize("line", ["a\tb", "a\tb\t ", "a\tb\tc\td"])
def test_a_line_of_the_ledger_has_a_reason(tmp_path: Path, line: str) -> None:
    path = tmp_path / "policies.tsv"
    path.write_text(f"# heading\nx\ty\tbecause\n{line}\n")
    with pytest.raises(ValueError, match="a service, a rule and a reason"):
        ledger(path)
    path.write_text("x\ty\tbecause\nx\ty\tagain\n")
    with pytest.raises(ValueError, match="stands there twice"):
        ledger(path)


def test_every_operation_is_called() -> None:
    found = {c.id: c for c in calls([SERVICE])}
    assert "GET /toy/v1/things/{thing_id}" in found
    assert "POST /toy/v1/things/{thing_id}/action grow since 1.2" in found


def test_behind_a_shut_gate_nothing_is_done_and_who_came_through_is_noted() -> None:
    gate = Gate([SERVICE])
    gate.is_shut = True
    (call,) = [c for c in calls(gate.services) if c.id == "DELETE /toy/v1/things/{thing_id}"]

    async def ask() -> Any:
        return await call.op.call(None, thing=None)

    assert asyncio.run(ask()) is None
    assert gate.passed
    assert all(call.resource is not resource for resource in SERVICE.made), "it has its own"


# States


def test_wrong_states_are_those_that_a_verb_does_not_start_in() -> None:
    found = {c.id for c in wrong_states([SERVICE])}
    assert "toy_things.grow in error" in found
    assert "toy_things.grow in creating" in found
    assert "toy_things.delete in error_deleting" in found
    assert not any("delete in creating" in id for id in found), "it interrupts"
    record = anything(Thing)
    assert (record.project_id, record.tags) == ("x", [])


# Sagas


def scenario(bench: dict[str, Any]) -> Scenario:
    """A toy thing, made through the sagas themselves."""

    async def nothing(ground: Ground) -> str:
        return ""

    async def create(ground: Ground, id: str) -> str:
        r = ground.cloud.runtime
        id = r.world.new_id()
        async with r.store.tx() as tx:
            thing = Thing(id=id, project_id="p1", name=id)
            _, entry = await r.sagas.begin(tx, CREATE, thing)
        r.sagas.launch(entry)
        return id

    async def clean(ground: Ground, id: str) -> None:
        r = ground.cloud.runtime
        async with r.store.tx() as tx:
            _, entry = await r.sagas.begin(tx, DELETE, await THINGS.get(tx, id))
        r.sagas.launch(entry)
        await ground.cloud.settle()

    return Scenario(nothing, create, clean)


def bench_on(runtime: Any, client: Client) -> Bench:
    control: Any = SimpleNamespace(runtime=runtime)
    return Bench(Ground(Cloud(control, None, client, client), client))


@pytest.mark.parametrize(
    "one", [s for _, s in sabotages([SERVICE]) if s.saga is CREATE], ids=lambda s: s.id
)
def test_the_toys_saga_leaves_the_same_whatever_happens(one: Sabotage) -> None:
    async def scene() -> None:
        async with toy() as (r, client):
            bench, plain = bench_on(r, client), scenario({})
            left = await bench.left_by(plain, one)
            wanted = Sabotage(CREATE, "fails", 0) if one.what == "fails" else None
            assert left == await bench.left_by(plain, wanted)

    run(scene())


def test_a_row_that_a_clean_up_forgets_is_noticed() -> None:
    async def scene() -> None:
        async with toy() as (r, client):
            forgetful = replace(scenario({}), clean=_forget)
            with pytest.raises(AssertionError, match="after the clean-up there is left"):
                await bench_on(r, client).left_by(forgetful)

    run(scene())


async def _forget(ground: Ground, id: str) -> None:
    """Cleans nothing."""


def test_what_must_be_true_of_a_quiet_cloud_is_said_where_it_is_not() -> None:
    async def scene() -> None:
        async with toy() as (r, _):
            assert await broken(r) == []
            async with r.store.tx() as tx:
                thing = Thing(id="t", project_id="p1", name="n")
                await r.sagas.begin(tx, CREATE, thing)
            found = await broken(r)
            assert any("saga toy_things.create of t is left at step 0" in line for line in found)
            assert any("toy_things t is busy (creating)" in line for line in found)
            async with r.store.tx() as tx:
                for entry in await JOURNAL.all(tx):
                    await JOURNAL.delete(tx, entry)
                await tx.run(tx.sql("spoil", _spoil), {})
            assert any("usage of ('toy', 'things', 'p1') is 7" in x for x in await broken(r))

    run(scene())


def _spoil() -> Any:
    import sqlalchemy as sa

    from pileus.kernel.quota import USAGE

    return sa.update(USAGE).where(USAGE.c.resource == "things").values(used=7)


def test_a_difference_is_in_numbers_by_kind() -> None:
    before = {"a": 1, "b": {"x": 1}, "c": 2}
    after = {"a": 3, "b": {"x": 1, "y": 2}, "c": 2, "d": {"z": 1}}
    assert difference(before, after) == {"a": 2, "b": {"y": 2}, "d": {"z": 1}}
    assert difference(after, before) == {"a": -2, "b": {"y": -2}, "d": {"z": -1}}


def test_a_snapshot_counts_records_by_state() -> None:
    async def scene() -> None:
        async with toy() as (r, _):
            async with r.store.tx() as tx:
                for n, status in enumerate(("available", "available", "error")):
                    await THINGS.insert(
                        tx,
                        Thing(id=str(n), project_id="p1", name=str(n), status=status, tags=["t"]),
                    )
            found = await held(r)
            assert found["toy_things"] == {"available": 2, "error": 1}
            assert found["toy_things__tags"] == 3
            assert found["usage"] == {("toy", "things", "p1"): 3, ("toy", "gigabytes", "p1"): 3}

    run(scene())

"""Wrong states, generated from each Lifecycle: Conflict that says which, and nothing begun."""

from __future__ import annotations

import pytest

from pileus.kernel.faults import Conflict
from pileus.kernel.sagas import JOURNAL
from pileus.node.control import find_services
from pileus.testing.generated.states import WrongState, right_states, wrong_states
from tests.generated.conftest import Site

SERVICES = find_services()
WRONG = list(wrong_states(SERVICES))
RIGHT = list(right_states(SERVICES))


class _Undo(Exception):
    """Takes a transaction back."""


async def begun(site: Site, case: WrongState, id: str) -> None:
    """Begins the saga on a record in that state, in a transaction that is never committed."""
    runtime = site.cloud.runtime
    try:
        async with runtime.store.tx() as tx:
            record = await case.saga.table.insert(tx, case.record(id))
            await runtime.sagas.begin(tx, case.saga, record)
            raise _Undo
    except _Undo:
        return


@pytest.mark.parametrize("case", WRONG, ids=lambda c: c.id)
def test_a_verb_in_a_wrong_state_is_a_conflict_that_says_so(site: Site, case: WrongState) -> None:
    with pytest.raises(Conflict) as refused:
        site.run(begun(site, case, "wrong"))
    assert f"Cannot '{case.saga.verb}'" in refused.value.message
    assert f" {case.busy or case.stable}" in refused.value.message

    async def left() -> list[object]:
        store = site.cloud.runtime.store
        rows = await case.saga.table.find(store, "wrong", deleted=None)
        return [rows, *await JOURNAL.all(store, record_id="wrong")]

    assert site.run(left()) == [None]


@pytest.mark.parametrize("case", RIGHT, ids=lambda c: c.id)
def test_a_verb_in_a_right_state_begins(site: Site, case: WrongState) -> None:
    site.run(begun(site, case, "right"))


def test_every_saga_has_a_verb_of_its_lifecycle_and_every_verb_a_saga() -> None:
    for service in SERVICES:
        sagas = service.all_sagas()
        assert [s.name for s in sagas if s.verb not in s.lifecycle.verbs] == []
        by_cycle = {id(s.lifecycle): (s.lifecycle, {t.verb for t in sagas}) for s in sagas}
        for cycle, verbs in by_cycle.values():
            assert set(cycle.verbs) <= verbs, f"{service.type}: verbs that no saga brings about"

"""The search in one tree: its short way and its long way say the same."""

from __future__ import annotations

import itertools

import pytest

from pileus.services.placement.demands import Demands
from pileus.services.placement.fit import Stock
from pileus.services.placement.matching import Wanted
from pileus.services.placement.providers import ResourceProvider
from pileus.services.placement.search import Candidate, Tree, candidates

HOST = ResourceProvider(
    id="host",
    name="host",
    root_id="host",
    inventories={
        "VCPU": Stock(total=8, used=2, max_unit=4),
        "MEMORY_MB": Stock(total=64, step_size=2),
    },
    traits=["HW_CPU_X86_AVX"],
    aggregates=["rack"],
)
IDLE = ResourceProvider(id="idle", name="idle", root_id="idle", aggregates=["rack"])
GROUPS = (
    Wanted({"VCPU": 2}),
    Wanted({"VCPU": 3, "MEMORY_MB": 4}),
    Wanted({"VCPU": 1}, required=(frozenset(("HW_CPU_X86_AVX", "CUSTOM_X")),)),
    Wanted({"MEMORY_MB": 3}),
    Wanted({"VCPU": 1}, forbidden=frozenset(("HW_CPU_X86_AVX",))),
    Wanted({"VCPU": 1}, member_of=(frozenset(("rack",)),)),
    Wanted({"VCPU": 1}, not_member_of=frozenset(("rack",))),
    Wanted({"VCPU": 1}, root_id="elsewhere"),
)
PAIRS = list(itertools.product(range(len(GROUPS)), repeat=2))


def _found(tree: Tree, asked: Demands) -> list[object]:
    found = [one for one in candidates(tree, asked) if isinstance(one, Candidate)]
    return [one.key for one in found]


@pytest.mark.parametrize("isolated", [False, True])
def test_a_lone_host_is_judged_as_one_beside_which_nothing_is_shared(isolated: bool) -> None:
    alone, beside = Tree(HOST, (HOST,)), Tree(HOST, (HOST,), (IDLE,))
    judged = []
    for spread, whole in PAIRS:
        for more in ({}, {"2": GROUPS[0]}):
            groups = {"": GROUPS[spread], "1": GROUPS[whole], **more}
            asked = Demands(groups=groups, isolated=isolated)
            judged.append(bool(_found(alone, asked)))
            assert _found(alone, asked) == _found(beside, asked), groups
    assert any(judged)
    assert not all(judged)


def test_a_search_without_end_lets_others_have_a_turn() -> None:
    ports = tuple(
        ResourceProvider(
            id=f"port{n}",
            name=f"port{n}",
            root_id="host",
            parent_id="host",
            inventories={"SRIOV_NET_VF": Stock(total=1)},
        )
        for n in range(6)
    )
    one = Wanted({"SRIOV_NET_VF": 1})
    groups = {str(n): one for n in range(1, 7)}
    tree = Tree(HOST, (HOST, *ports))
    impossible = Demands(groups=groups, subtrees=(frozenset(groups),))
    assert set(candidates(tree, impossible)) == {None}

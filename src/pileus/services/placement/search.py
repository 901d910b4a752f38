"""The search for allocation candidates in one tree of providers: pure functions over rows that were read before.

Every resource class of the group without suffix, and every group with one, is a *pick*: one provider of the tree, or
one that shares with it through an aggregate. A candidate is one choice for each pick that all rules accept together;
the picks are chosen in turn, so that a choice that can't be is not carried on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from .demands import Demands
from .fit import shortage
from .matching import Wanted
from .providers import ResourceProvider

SHARES = "MISC_SHARES_VIA_AGGREGATE"
TURN = 500  # choices tried before others get a turn of the loop
Choice = tuple[ResourceProvider, ...]


@dataclass(eq=False)  # not frozen: thousands are made for one answer
class Tree:
    """A root provider with all below it, and the providers that share with one of them."""

    root: ResourceProvider
    members: tuple[ResourceProvider, ...]
    sharing: tuple[ResourceProvider, ...] = ()

    @property
    def is_lone(self) -> bool:
        """The usual host: it has one candidate or none."""
        return len(self.members) == 1 and not self.sharing

    @cached_property
    def all(self) -> tuple[ResourceProvider, ...]:
        return (*self.members, *self.sharing)

    @cached_property
    def lines(self) -> Mapping[str, frozenset[str]]:
        """Each provider's id -> its own and its ancestors', as far as they are known here."""
        known = {p.id: p for p in self.all}
        found = {}
        for provider in self.all:
            line, at = set[str](), provider.id
            while at in known and at not in line:
                line.add(at)
                at = known[at].parent_id
            found[provider.id] = frozenset(line)
        return found


@dataclass(frozen=True)
class Pick:
    """What one provider is to give, and who could."""

    suffix: str
    resources: Mapping[str, int]
    options: Sequence[ResourceProvider]


@dataclass(eq=False)
class Candidate:
    """`allocations`: provider -> class -> amount. `mappings`: suffix -> the providers that serve it."""

    allocations: Mapping[str, Mapping[str, int]]
    mappings: Mapping[str, Sequence[str]]
    providers: Choice

    @cached_property
    def key(self) -> object:
        """Equal for the same candidate found from two trees that share a provider."""
        taken = ((p, tuple(sorted(a.items()))) for p, a in self.allocations.items())
        served = ((s, tuple(sorted(m))) for s, m in self.mappings.items())
        return frozenset(taken), frozenset(served)


def linked(
    root: ResourceProvider, members: Sequence[ResourceProvider], sharing: Sequence[ResourceProvider]
) -> Tree:
    """The tree with those of the sharing providers that one of its members has an aggregate in common with."""
    if not sharing:
        return Tree(root, tuple(members))
    groups = {a for member in members for a in member.aggregates}
    shared = (s for s in sharing if s.root_id != root.id and not groups.isdisjoint(s.aggregates))
    return Tree(root, tuple(members), tuple(shared))


def candidates(tree: Tree, asked: Demands) -> Iterator[Candidate | None]:
    """Every candidate whose anchor the tree is. None: nothing yet, others may have a turn."""
    traits = tree.root.traits
    if not asked.root_required.issubset(traits) or not asked.root_forbidden.isdisjoint(traits):
        return iter(())
    if tree.is_lone:
        one = _alone(tree.root, asked)
        return iter(()) if one is None else iter((one,))
    return _of_several(tree, asked)


def _of_several(tree: Tree, asked: Demands) -> Iterator[Candidate | None]:
    picks: list[Pick] = []
    for suffix, group in asked.groups.items():
        more = _whole(tree, suffix, group) if suffix else _spread(tree, group)
        if not all(p.options for p in more):
            return
        picks += more
    rules = _Rules(tree, asked, picks)
    if not rules.enough():
        return
    for chosen in _choices(picks, rules):
        yield _candidate(picks, chosen) if chosen else None


def why_not(tree: Tree, asked: Demands) -> str:
    """Why the tree has no candidate, or "" if it has one."""
    for group in asked.groups.values():
        if why := _missing(tree, group):
            return why
    if any(one is not None for one in candidates(tree, asked)):
        return ""
    return "no choice of its providers gives all of it"


def _missing(tree: Tree, group: Wanted) -> str:
    """The first thing that no provider of the tree has."""
    for resource_class, amount in group.resources.items():
        stocks = [p.inventories.get(resource_class) for p in tree.all]
        there = sorted((s for s in stocks if s is not None), key=lambda s: -s.free)
        whys = [shortage(s, resource_class, amount) for s in there or (None,)]
        if all(whys):
            return whys[0]
    traits = {t for p in tree.all for t in p.traits}
    for one in group.required:
        if one.isdisjoint(traits):
            return f"it lacks the trait {' or '.join(sorted(one))}"
    present = group.forbidden.intersection(tree.root.traits)
    if present and len(tree.all) == 1:
        return f"it has the forbidden trait {', '.join(sorted(present))}"
    if not any(group.in_aggregates(p) for p in tree.all):
        return "it is not in the aggregates asked for"
    return ""


def _alone(root: ResourceProvider, asked: Demands) -> Candidate | None:
    """The candidate of a tree that is one provider: the usual host, so it is worth its own few lines."""
    groups = asked.groups
    for group in groups.values():
        if group.root_id not in (None, root.id) or not group.meets(root):
            return None
    if len(groups) == 1:
        taken: Mapping[str, int] = next(iter(groups.values())).resources
    else:
        if asked.isolated and len(groups.keys() - {""}) > 1:
            return None
        together: dict[str, int] = defaultdict(int)
        for group in groups.values():
            for resource_class, amount in group.resources.items():
                together[resource_class] += amount
        for resource_class, amount in together.items():
            stock = root.inventories[resource_class]
            if amount > stock.free or amount > stock.max_unit:
                return None
        taken = dict(together)
    return Candidate({root.id: taken}, {suffix: [root.id] for suffix in groups}, (root,))


def _spread(tree: Tree, group: Wanted) -> list[Pick]:
    """A pick for each class of the group without suffix. Its aggregates may be the provider's or the root's."""
    if group.root_id is None:
        there = tree.all
    else:
        there = tree.members if group.root_id == tree.root.id else ()
    if not all(any(not one.isdisjoint(p.traits) for p in there) for one in group.required):
        there = ()  # most trees, if a trait is rare
    fit = [
        p
        for p in there
        if group.forbidden.isdisjoint(p.traits)
        and (
            group.in_aggregates(p) or (p.root_id == tree.root.id and group.in_aggregates(tree.root))
        )
        and not group.in_forbidden(p)
        and not group.in_forbidden(tree.root)
    ]
    return [
        Pick("", {c: n}, [p for p in fit if not shortage(p.inventories.get(c), c, n)])
        for c, n in group.resources.items()
    ]


def _whole(tree: Tree, suffix: str, group: Wanted) -> list[Pick]:
    """The one pick of a group with a suffix: its provider meets all of it."""
    fit = [p for p in tree.all if group.root_id in (None, p.root_id) and group.meets(p)]
    return [Pick(suffix, group.resources, fit)]


class _Rules:
    """What the providers chosen so far must meet together; asked after each choice, about the newest."""

    def __init__(self, tree: Tree, asked: Demands, picks: Sequence[Pick]) -> None:
        self.tree, self.asked, self.picks = tree, asked, picks
        at: dict[str, list[int]] = defaultdict(list)
        for n, pick in enumerate(picks):
            at[pick.suffix].append(n)
        self.spread = at.get("", [])
        times = Counter(c for p in picks for c in p.resources)
        self.repeated = frozenset(c for c, n in times.items() if n > 1)  # classes of several picks
        self.subtrees = [[n for s in suffixes for n in at[s]] for suffixes in asked.subtrees]

    def enough(self) -> bool:
        """Whether all options together have what the picks ask together; a full tree is not searched in vain."""
        for resource_class in self.repeated:
            picks = [p for p in self.picks if resource_class in p.resources]
            free = {o.id: o.inventories[resource_class].free for p in picks for o in p.options}
            if sum(free.values()) < sum(p.resources[resource_class] for p in picks):
                return False
        return True

    def accept(self, chosen: Sequence[ResourceProvider]) -> bool:
        newest = len(chosen) - 1
        if not self._fits(chosen) or not self._apart(chosen):
            return False
        if self.spread and newest == self.spread[-1] and not self._traits(chosen):
            return False
        return all(
            self._one_subtree([chosen[n] for n in at]) for at in self.subtrees if newest == max(at)
        )

    def _fits(self, chosen: Sequence[ResourceProvider]) -> bool:
        """Whether the newest provider can give what all the picks it was chosen for ask together."""
        together = self.repeated & self.picks[len(chosen) - 1].resources.keys()
        if not together:
            return True  # its options were tried one by one
        newest = chosen[-1]
        same = [p.resources for p, c in zip(self.picks, chosen, strict=False) if c is newest]
        for resource_class in together:
            stock = newest.inventories[resource_class]
            total = sum(r.get(resource_class, 0) for r in same)
            if total > stock.free or total > stock.max_unit:
                return False
        return True

    def _apart(self, chosen: Sequence[ResourceProvider]) -> bool:
        newest, suffix = chosen[-1], self.picks[len(chosen) - 1].suffix
        for pick, other in zip(self.picks, chosen[:-1], strict=False):
            if other is newest:
                if self.asked.isolated and suffix and pick.suffix:
                    return False
            elif not self.asked.across_tree and other.root_id == newest.root_id:
                return False
        return True

    def _traits(self, chosen: Sequence[ResourceProvider]) -> bool:
        """Whether the providers of the group without suffix have its traits between them."""
        required = self.asked.groups[""].required
        traits = {t for n in self.spread for t in chosen[n].traits} if required else set()
        return all(one & traits for one in required)

    def _one_subtree(self, providers: Sequence[ResourceProvider]) -> bool:
        ids = {p.id for p in providers}
        common = frozenset.intersection(*(self.tree.lines[id] for id in ids))
        return len(ids) == 1 or bool(ids & common)


def _choices(picks: Sequence[Pick], rules: _Rules) -> Iterator[Choice | None]:
    """Every accepted choice, depth first."""
    open_picks = [iter(picks[0].options)]
    chosen: list[ResourceProvider] = []
    tried = 0
    while open_picks:
        tried += 1
        if tried % TURN == 0:
            yield None
        option = next(open_picks[-1], None)
        if option is None:
            open_picks.pop()
            del chosen[-1:]
            continue
        chosen.append(option)
        if not rules.accept(chosen):
            chosen.pop()
        elif len(chosen) < len(picks):
            open_picks.append(iter(picks[len(chosen)].options))
        else:
            yield tuple(chosen)
            chosen.pop()


def _candidate(picks: Sequence[Pick], chosen: Choice) -> Candidate:
    allocations: dict[str, dict[str, int]] = {}
    mappings: dict[str, list[str]] = {}
    for pick, provider in zip(picks, chosen, strict=True):
        served = mappings.setdefault(pick.suffix, [])
        if provider.id not in served:
            served.append(provider.id)
        if pick.resources:
            taken = allocations.setdefault(provider.id, {})
            for resource_class, amount in pick.resources.items():
                taken[resource_class] = taken.get(resource_class, 0) + amount
    return Candidate(allocations, mappings, chosen)

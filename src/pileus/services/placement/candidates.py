"""Allocation candidates: which providers could take a demand. Placement API, "Allocation candidates" (since 1.10).

Trees are read a slice at a time, oldest first, and searched in turn (`search.py`) until the limit is reached: no row is
read twice, and memory is bounded by the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pileus.kernel.faults import Invalid
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Page, Reader
from pileus.kernel.versions import Version

from .answers import answer
from .demands import Demands, demands
from .known import Entry, known
from .media_types import JsonResource
from .providers import PROVIDERS, ResourceProvider
from .search import SHARES, TURN, Candidate, Tree, candidates
from .trees import trees

_SHOWN = 500  # candidates written before others get a turn of the loop
_EVERY = 1_000_000


@dataclass
class Found:
    """Candidates, the providers of the trees they were found from (`whole` by root), and those that share with them."""

    candidates: list[Candidate] = field(default_factory=list)
    known: dict[str, ResourceProvider] = field(default_factory=dict)
    whole: set[str] = field(default_factory=set)

    def add(self, tree: Tree, one: Candidate) -> None:
        self.candidates.append(one)
        if tree.root.id not in self.whole:
            self.whole.add(tree.root.id)
            for member in tree.members:
                self.known[member.id] = member
        for provider in one.providers:
            self.known[provider.id] = provider


class AllocationCandidates(JsonResource[ResourceProvider]):
    table = PROVIDERS
    rules = {"placement:allocation_candidates:list": "rule:admin_or_service_api"}

    @operation(
        "GET", "/allocation_candidates", "placement:allocation_candidates:list", since="1.10"
    )
    async def index(self, ctx: Context) -> Any:
        asked = await demands(ctx)
        found = await search_all(ctx.runtime.store, asked)
        at, requests = ctx.version, []
        for n, one in enumerate(found.candidates):
            requests.append(_request(one, at))
            if n % _SHOWN == _SHOWN - 1:
                await asyncio.sleep(0)
        summaries = await _summaries(ctx, found, asked)
        body = {"allocation_requests": requests, "provider_summaries": summaries}
        return answer(ctx, body)


async def search_all(db: Reader, asked: Demands) -> Found:
    """At most `limit` candidates. Raises Invalid where that takes too long."""
    found = Found()
    seen: set[object] = set()
    tried = 0
    async for some in trees(db, asked):
        for tree, one in _in_turn(some, asked):
            if one is None:
                if (tried := tried + TURN) > asked.most_tried:
                    raise _too_much(asked, found)
                await asyncio.sleep(0)
                continue
            if tree.sharing or SHARES in tree.root.traits:
                if one.key in seen:
                    continue
                seen.add(one.key)
            found.add(tree, one)
            if len(found.candidates) == asked.limit:
                return found
        await asyncio.sleep(0)
    return found


def _too_much(asked: Demands, found: Found) -> Invalid:
    return Invalid(
        f"The search was given up after {asked.most_tried} choices of providers, with "
        f"{len(found.candidates)} candidates found: fewer request groups, a smaller limit or "
        "in_tree would bound it."
    )


def _in_turn(some: Iterable[Tree], asked: Demands) -> Iterator[tuple[Tree, Candidate | None]]:
    """One candidate of each tree, then the next of each: a limit does not leave out the later trees."""
    going = [(tree, candidates(tree, asked)) for tree in some]
    while going:
        still = []
        for tree, found in going:
            for one in found:
                yield tree, one
                if one is not None:
                    if not tree.is_lone:
                        still.append((tree, found))
                    break
        going = still


def _request(found: Candidate, at: Version) -> dict[str, Any]:
    taken = found.allocations
    if at < (1, 12):
        listed = [
            {"resource_provider": {"uuid": p}, "resources": amounts} for p, amounts in taken.items()
        ]
        return {"allocations": listed}
    shown: dict[str, Any] = {"allocations": {p: {"resources": a} for p, a in taken.items()}}
    if at >= (1, 34):
        shown["mappings"] = found.mappings
    return shown


async def _summaries(ctx: Context, found: Found, asked: Demands) -> Mapping[str, Any]:
    """What is known of the providers that give something and, since 1.29, of the rest of their trees."""
    store = ctx.runtime.store
    giving = {p for one in found.candidates for p in one.allocations}
    shown = [found.known[p] for p in giving]
    if ctx.version >= (1, 29):
        roots = {p.root_id for p in shown}
        if unread := sorted(roots - found.whole):  # of providers that share
            page = Page({"root_id": unread}, limit=_EVERY)
            more = await known(store).every(store, PROVIDERS, page)
            found.known |= {p.id: p for p in more}
        shown = [p for p in found.known.values() if p.root_id in roots]
    classes = {c for g in asked.groups.values() for c in g.resources}
    if ctx.version < (1, 29):
        return {p.id: _summary(ctx, p, classes) for p in shown}
    remembered = known(store)
    return {p.id: _remembered(ctx, remembered.entry(p)) for p in shown}


def _remembered(ctx: Context, entry: Entry) -> msgspec.Raw:
    """A summary with all that newer versions show, encoded once for each state of the provider."""
    if entry.shown is None:
        entry.shown = msgspec.Raw(msgspec.json.encode(_summary(ctx, entry.provider, set())))
    return entry.shown


def _summary(ctx: Context, provider: ResourceProvider, asked: set[str]) -> dict[str, Any]:
    every = ctx.version >= (1, 27)
    shown: dict[str, Any] = {
        "resources": {
            c: {"capacity": s.capacity, "used": s.used}
            for c, s in provider.inventories.items()
            if every or c in asked
        }
    }
    if ctx.version >= (1, 17):
        shown["traits"] = provider.traits
    if ctx.version >= (1, 29):
        shown["parent_provider_uuid"] = provider.parent_id or None
        shown["root_provider_uuid"] = provider.root_id
    return shown

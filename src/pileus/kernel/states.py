"""State machines as data: a verb moves a record from stable states through a busy one to a stable one.

The record keeps its stable state in one field and, where the API shows both (servers), the busy one in another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from .faults import Conflict


@dataclass(frozen=True)
class Verb:
    """`frm`: the stable states it starts in (empty: the record is new). `to=None`: the record is gone.

    `to="="` keeps the stable state. `on_error="="` likewise. `interrupts`: it may start while another verb is
    under way, whose saga is then undone first.
    """

    frm: Set[str]
    via: str
    to: str | None
    on_error: str
    interrupts: bool = False


SAME = "="


class Lifecycle:
    """The verbs of a noun. `stable` and `busy` name the record's fields; equal names mean one field for both.

    `observed` are states that hosts report and `reset` those an administrator may set: no verb leads there.
    `noun` stands before the id in what a 409 says.
    """

    def __init__(
        self,
        verbs: Mapping[str, Verb],
        *,
        stable: str = "status",
        busy: str = "",
        idle: str = "",
        observed: Set[str] = frozenset(),
        reset: Set[str] = frozenset(),
        noun: str = "",
    ) -> None:
        self.verbs = MappingProxyType(dict(verbs))
        self.noun = f"{noun} " if noun else ""
        self.stable, self.busy, self.idle = stable, busy or stable, idle
        self.observed, self.reset = frozenset(observed), frozenset(reset)
        self.busy_states = frozenset(v.via for v in verbs.values())
        ends = {s for v in verbs.values() for s in (v.to, v.on_error) if s and s != SAME}
        self.stable_states = frozenset(ends) | self.observed | self.reset
        if self.two_fields:
            return
        both = self.busy_states & self.stable_states
        if both:
            raise ValueError(f"states both busy and stable: {sorted(both)}")

    @property
    def two_fields(self) -> bool:
        return self.busy != self.stable

    def __getitem__(self, verb: str) -> Verb:
        return self.verbs[verb]

    def is_busy(self, record: Any) -> bool:
        value = getattr(record, self.busy)
        return bool(value != self.idle if self.two_fields else value in self.busy_states)

    def begin(self, verb: str, record: Any) -> dict[str, str]:
        """The changes with which the verb starts. Raises Conflict if it may not start now."""
        v = self.verbs[verb]
        if v.frm:
            self.check(verb, record)
        return {self.busy: v.via}

    def check(self, verb: str, record: Any) -> None:
        """Raises Conflict, which says what the state is and what it would have to be."""
        v, state = self.verbs[verb], getattr(record, self.stable)
        if self.is_busy(record) and not v.interrupts:
            raise Conflict(
                f"Cannot '{verb}' {self.noun}{record.id} while it is in "
                f"{self.busy} {getattr(record, self.busy)}"
            )
        if state not in v.frm and not (v.interrupts and self.is_busy(record)):
            allowed = " or ".join(sorted(v.frm))
            raise Conflict(
                f"Cannot '{verb}' {self.noun}{record.id} while it is in {self.stable} {state}; "
                f"it must be {allowed}."
            )

    def end(self, verb: str, *, failed: bool) -> dict[str, str] | None:
        """The changes with which the verb ends; None if the record goes."""
        v = self.verbs[verb]
        state = v.on_error if failed else v.to
        if state is None:
            return None
        changes = {} if state == SAME else {self.stable: state}
        if self.two_fields:
            changes[self.busy] = self.idle
        return changes

    def wrong_states(self) -> Iterator[tuple[str, str]]:
        """(verb, stable state) of each pair that must answer 409: the generated test's matrix."""
        for name, v in self.verbs.items():
            if v.frm:
                for state in sorted(self.stable_states - v.frm):
                    yield name, state

    def mermaid(self) -> str:
        """A state diagram."""
        rows = ["stateDiagram-v2"]
        for name, v in self.verbs.items():
            busy = v.via
            for state in sorted(v.frm) or ["[*]"]:
                rows.append(f"    {state} --> {busy}: {name}")
                rows.append(f"    {busy} --> {_target(v.to, state)}")
                rows.append(f"    {busy} --> {_target(v.on_error, state)}: fails")
        return "\n".join(dict.fromkeys(rows))


def _target(state: str | None, start: str) -> str:
    return "[*]" if state is None else start if state == SAME else state

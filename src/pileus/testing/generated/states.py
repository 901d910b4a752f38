"""Verb x wrong state, from each Lifecycle: what must answer 409, and leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pileus.kernel.resources import Service
from pileus.kernel.sagas import Saga
from pileus.kernel.store import Record


@dataclass(frozen=True)
class WrongState:
    """A verb that may not start while the record's field `stable` or `busy` says so."""

    saga: Saga[Any]
    stable: str
    busy: str = ""

    @property
    def id(self) -> str:
        return f"{self.saga.name} in {self.busy or self.stable}"

    def record(self, id: str) -> Record:
        """A record of the saga's kind in that state; its other fields are anything that fits."""
        cycle, kind = self.saga.lifecycle, self.saga.table.kind
        fields = {cycle.stable: self.stable}
        if cycle.two_fields:
            fields[cycle.busy] = self.busy or cycle.idle
        elif self.busy:
            fields[cycle.stable] = self.busy
        record: Record = msgspec.structs.replace(anything(kind), id=id, **fields)
        return record


def wrong_states(services: Sequence[Service]) -> Iterator[WrongState]:
    """Every pair that must answer 409: stable states the verb does not start in, and busy ones."""
    for service in services:
        for saga in service.all_sagas():
            cycle, verb = saga.lifecycle, saga.lifecycle[saga.verb]
            for name, state in cycle.wrong_states():
                if name == saga.verb:
                    yield WrongState(saga, state)
            if verb.frm and not verb.interrupts:
                for busy in sorted(cycle.busy_states):
                    yield WrongState(saga, sorted(verb.frm)[0], busy)


def right_states(services: Sequence[Service]) -> Iterator[WrongState]:
    """Every pair that may start, to show that the wrong ones are not refused for something else."""
    for service in services:
        for saga in service.all_sagas():
            for state in sorted(saga.lifecycle[saga.verb].frm):
                yield WrongState(saga, state)


def anything(kind: type[Any]) -> Any:
    """A Struct whose required fields hold the emptiest thing of their type."""
    fields = msgspec.structs.fields(kind)
    return kind(**{f.name: _empty(f.type) for f in fields if f.required})


def _empty(hint: Any) -> Any:
    shape = msgspec.inspect.type_info(hint)
    while isinstance(shape, msgspec.inspect.Metadata):
        shape = shape.type
    match shape:
        case msgspec.inspect.UnionType(types=[first, *_]):
            return None if shape.includes_none else _EMPTY.get(type(first))
        case msgspec.inspect.StructType(cls=cls):
            return anything(cls)
        case msgspec.inspect.LiteralType(values=[first, *_]):
            return first
        case msgspec.inspect.StrType():
            return "x"
    return _EMPTY[type(shape)]()


_EMPTY: dict[type, Any] = {
    msgspec.inspect.IntType: int,
    msgspec.inspect.FloatType: float,
    msgspec.inspect.BoolType: bool,
    msgspec.inspect.ListType: list,
    msgspec.inspect.DictType: dict,
    msgspec.inspect.VarTupleType: tuple,
    msgspec.inspect.SetType: set,
    msgspec.inspect.FrozenSetType: frozenset,
    msgspec.inspect.AnyType: str,
    msgspec.inspect.StrType: str,
}

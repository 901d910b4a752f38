"""Where a path leads: declared paths as a tree of segments, in which a name goes before a parameter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .resources import Operation, Resource, Service

_SWAPPED = str.maketrans("-_", "_-")
Found = tuple[Operation, Resource[Any], list[str]]  # and the names of the path's parameters


@dataclass
class Route:
    """What one method does at one path: operations that differ by version or by the body's action key."""

    service: Service
    found: list[Found] = field(default_factory=list)
    takes_stream: bool = False
    is_public: bool = True
    max_body: int = 0

    def add(self, op: Operation, resource: Resource[Any], names: list[str]) -> None:
        self.found.append((op, resource, names))
        self.takes_stream |= bool(op.stream_param)
        self.is_public &= not op.rule
        self.max_body = max(self.max_body, op.max_body)


@dataclass
class Routes:
    """One segment and what may follow it."""

    named: dict[str, Routes] = field(default_factory=dict)
    other: Routes | None = None  # a parameter
    methods: dict[str, Route] = field(default_factory=dict)

    def add(self, service: Service, resource: Resource[Any], op: Operation) -> None:
        node, names = self, list[str]()
        for segment in op.path.split("/"):
            if segment.startswith("{"):
                names.append(segment[1:-1])
                node.other = node = node.other or Routes()
            else:
                named, node = node.named, node.named.setdefault(segment, Routes())
                if service.either_dash:
                    named.setdefault(segment.translate(_SWAPPED), node)
        node.methods.setdefault(op.method, Route(service)).add(op, resource, names)

    def find(self, segments: Sequence[str], values: list[str], at: int = 0) -> dict[str, Route]:
        """The routes of a path by their methods; `values` takes those of its parameters. Empty if it leads nowhere."""
        if at == len(segments):
            return self.methods
        named = self.named.get(segments[at])
        if named and (found := named.find(segments, values, at + 1)):
            return found
        values.append(segments[at])
        found = self.other.find(segments, values, at + 1) if self.other else {}
        if not found:
            values.pop()
        return found

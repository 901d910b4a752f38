"""A table of rules as data: written whole once, then by differences.

A table has a fixed frame (base chains, shared sets and maps) and fragments, one per object, each
with chains and sets of its own and elements in any set. The kernel's rules are never read back (a
second for a large table): what was written last is remembered, and any doubt is settled by writing
the whole table anew, in one transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from pileus.kernel.faults import Unavailable


@dataclass(frozen=True)
class Fragment:
    """The rules of one object."""

    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sets: Mapping[str, str] = field(default_factory=dict)  # name to declaration
    elements: Mapping[str, frozenset[str]] = field(default_factory=dict)  # set or map name to them


Fragments = Mapping[str, Fragment]


@dataclass(frozen=True)
class Table:
    """`sets` and `chains` are the frame: declarations of shared sets, and base chains with their
    rules.
    """

    family: str
    name: str
    sets: Mapping[str, str]
    chains: Mapping[str, tuple[str, ...]]  # name to (hook line, rules...)

    @property
    def title(self) -> str:
        return f"{self.family} {self.name}"

    def whole(self, fragments: Fragments) -> str:
        """The commands that replace the table, whatever it held."""
        lines = [f"add table {self.title}", f"delete table {self.title}", f"add table {self.title}"]
        lines += [f"add {text}" for text in self._declared(self.sets)]
        for fragment in fragments.values():
            lines += self._add_declarations(fragment)
        for fragment in fragments.values():
            lines += self._add_rules(fragment.chains)
        lines += self._elements("add", _gathered(fragments.values()))
        for name, (hook, *rules) in self.chains.items():
            lines.append(f"add chain {self.title} {name} {{ {hook} }}")
            lines += [f"add rule {self.title} {name} {rule}" for rule in rules]
        return "\n".join(lines) + "\n"

    def removal(self) -> str:
        return f"add table {self.title}\ndelete table {self.title}\n"

    def difference(self, old: Fragments, new: Fragments) -> str:
        """The commands from one state to the other; empty when nothing differs."""
        altered = [
            id for id, made in new.items() if (was := old.get(id)) is not made and was != made
        ]
        gone = [id for id in old if id not in new]
        if not altered and not gone:
            return ""
        before = [old[id] for id in (*altered, *gone) if id in old]
        after = [new[id] for id in altered]
        had, has = _gathered(before), _gathered(after)
        lines = [line for fragment in after for line in self._add_declarations(fragment)]
        lines += self._elements("delete", _without(had, has))
        held = {name: rules for fragment in before for name, rules in fragment.chains.items()}
        wanted = {name: rules for fragment in after for name, rules in fragment.chains.items()}
        rewritten = {n: rules for n, rules in wanted.items() if held.get(n) != rules}
        emptied = [n for n in held if n not in wanted or n in rewritten]
        lines += [f"flush chain {self.title} {name}" for name in emptied]
        lines += self._add_rules(rewritten)
        lines += self._elements("add", _without(has, had))
        lines += [f"delete chain {self.title} {name}" for name in held if name not in wanted]
        kept = {name for fragment in after for name in fragment.sets}
        unused = [name for fragment in before for name in fragment.sets if name not in kept]
        lines += [f"delete set {self.title} {name}" for name in unused]
        return "\n".join(lines) + "\n"

    def lacks(self, fragment: Fragment, ask: Callable[[str], str]) -> str:
        """What of a fragment is not in the kernel, "" if all is; `ask` is answered by nft, or raises."""
        for name, items in fragment.elements.items():
            for item in sorted(items):
                if not _answer(ask, f"get element {self.title} {name} {{ {item} }}"):
                    return f"{self.title} has no {item} in {name}"
        for name, rules in fragment.chains.items():
            listed = _answer(ask, f"list chain {self.title} {name}").splitlines()
            found = sum(line.startswith("\t\t") and not line[2].isspace() for line in listed)
            if found != len(rules):
                return f"chain {name} of {self.title} has {found} rules, not {len(rules)}"
        return ""

    def _declared(self, sets: Mapping[str, str]) -> list[str]:
        out = []
        for name, text in sets.items():
            kind = "map" if " : " in text else "set"
            out.append(f"{kind} {self.title} {name} {{ {text} }}")
        return out

    def _add_declarations(self, fragment: Fragment) -> list[str]:
        lines = [f"add {text}" for text in self._declared(fragment.sets)]
        return lines + [f"add chain {self.title} {name}" for name in fragment.chains]

    def _add_rules(self, chains: Mapping[str, tuple[str, ...]]) -> list[str]:
        return [
            f"add rule {self.title} {n} {rule}" for n, rules in chains.items() for rule in rules
        ]

    def _elements(self, verb: str, gathered: Mapping[str, set[str]]) -> list[str]:
        return [
            f"{verb} element {self.title} {name} {{ {', '.join(sorted(items))} }}"
            for name, items in gathered.items()
            if items
        ]


class LiveTable:
    """A table in the kernel. `run` executes commands in one transaction or raises Unavailable."""

    def __init__(self, table: Table, run: Callable[[str], object]) -> None:
        self.table = table
        self._run = run
        self._written: dict[str, Fragment] | None = None
        self.changes = 0

    def write(self, fragments: Fragments) -> dict[str, str]:
        """Make the table hold these fragments; the ids of those that the kernel refused, with its
        words.
        """
        try:
            self._attempt(dict(fragments))
        except Unavailable:
            return self._isolate(fragments)
        return {}

    def alter(self, fragments: Fragments) -> dict[str, str]:
        """As `write`; those that are not named stay as they were written last."""
        assert self._written is not None, "nothing was written yet"
        return self.write({**self._written, **fragments})

    def remove(self) -> None:
        self._run(self.table.removal())
        self._written = None

    def _attempt(self, fragments: dict[str, Fragment]) -> None:
        if self._written is not None:
            commands = self.table.difference(self._written, fragments)
            if not commands:
                return
            try:
                self._run(commands)
            except Unavailable:
                self._run(self.table.whole(fragments))  # somebody else altered our table
        else:
            self._run(self.table.whole(fragments))
        self.changes += 1
        self._written = fragments

    def _isolate(self, fragments: Fragments) -> dict[str, str]:
        """Add the fragments one at a time, so that one odd object costs only itself its rules."""
        errors: dict[str, str] = {}
        good: dict[str, Fragment] = {}
        self._run(self.table.whole(good))
        self._written = {}
        for id, fragment in fragments.items():
            try:
                self._run(self.table.difference(good, {**good, id: fragment}))
            except Unavailable as fault:
                errors[id] = fault.message
            else:
                good[id] = fragment
                self._written = dict(good)
        self.changes += 1
        return errors


def _gathered(fragments: Iterable[Fragment]) -> dict[str, set[str]]:
    out: dict[str, set[str]] = {}
    for fragment in fragments:
        for name, items in fragment.elements.items():
            out.setdefault(name, set()).update(items)
    return out


def _without(left: Mapping[str, set[str]], right: Mapping[str, set[str]]) -> dict[str, set[str]]:
    return {name: items - right.get(name, set()) for name, items in left.items()}


def _answer(ask: Callable[[str], str], question: str) -> str:
    """ "" where nft knows of nothing such."""
    try:
        return ask(question)
    except Unavailable:
        return ""

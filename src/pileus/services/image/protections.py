"""Property protections: which roles may make, see, change and remove which properties, as an operator's file says.

The file is upstream's: a section for each regular expression, the first that matches counts, and what no section
matches is nobody's. https://docs.openstack.org/glance/latest/admin/property-protections.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from configparser import Error, RawConfigParser
from dataclasses import dataclass

from pileus.kernel.auth import Caller
from pileus.kernel.faults import Forbidden, Invalid

VERBS = ("create", "read", "update", "delete")
EVERYBODY, NOBODY = "@", "!"


@dataclass(frozen=True)
class Protections:
    """Without any section everything is allowed."""

    sections: tuple[tuple[re.Pattern[str], Mapping[str, frozenset[str]]], ...] = ()

    @classmethod
    def read(cls, path: str) -> Protections:
        """Raises Invalid for a file that can't be read as one."""
        if not path:
            return cls()
        parser = RawConfigParser()
        try:
            with open(path) as file:
                parser.read_file(file)
            return cls(tuple((re.compile(s), _roles(parser, s)) for s in parser.sections()))
        except (OSError, Error, re.error) as e:
            raise Invalid(f"The property protections in {path} can't be read: {e}.") from None

    def allows(self, caller: Caller, verb: str, name: str) -> bool:
        if not self.sections:
            return True
        for pattern, by_verb in self.sections:
            if pattern.search(name):
                roles = by_verb[verb]
                return NOBODY not in roles and (
                    EVERYBODY in roles or not roles.isdisjoint(caller.roles)
                )
        return False

    def readable(self, caller: Caller, properties: Mapping[str, str]) -> Mapping[str, str]:
        if not self.sections:
            return properties
        return {k: v for k, v in properties.items() if self.allows(caller, "read", k)}

    def check(self, caller: Caller, old: Mapping[str, str], new: Mapping[str, str]) -> None:
        """Raises Forbidden for a change of properties that the caller may not make."""
        for name in old.keys() | new.keys():
            verb = "delete" if name not in new else "create" if name not in old else "update"
            if old.get(name) != new.get(name) and not self.allows(caller, verb, name):
                raise Forbidden(f"Property '{name}' is protected: you may not {verb} it.")


def _roles(parser: RawConfigParser, section: str) -> Mapping[str, frozenset[str]]:
    said = {v: parser.get(section, v, fallback=NOBODY) for v in VERBS}
    return {v: frozenset(r.strip().lower() for r in text.split(",")) for v, text in said.items()}

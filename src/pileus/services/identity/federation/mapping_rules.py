"""The rules of a mapping: what they may say, and what becomes of a provider's claims under them.

A rule holds if all its `remote` parts do; its `local` parts then say who the user is. `{0}` in a local text stands for
the first remote part that asks for no particular value, `{1}` for the second, and so on. Values stay apart from rules:
no claim can bring a rule's syntax, a list or a place holder of its own with it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from pileus.kernel.faults import Invalid
from pileus.kernel.query import check_pattern
from pileus.kernel.schema import explain

FIRST_VERSION = "1.0"
SYNCED_VERSION = "3.0"  # from here on, projects that a provider no longer names are taken away
VERSIONS = (FIRST_VERSION, "2.0", SYNCED_VERSION)
_PLACE = re.compile(r"{(\d{1,4})}")
_LONGEST = (
    1024,
    1024,
    256,
    96,
)  # characters that an expression with so many repetitions may look at
Claims = Mapping[str, Sequence[str]]
Values = Sequence[Sequence[str]]


class Unmapped(Exception):
    """No rule makes a user of these claims; the text goes to the log."""


class DomainRef(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    id: str = ""
    name: str = ""


class RoleRef(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class ProjectRef(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    roles: list[RoleRef]
    domain: DomainRef | None = None


class UserRef(msgspec.Struct, forbid_unknown_fields=True):
    id: str = ""
    name: str = ""
    email: str = ""
    domain: DomainRef | None = None
    type: Literal["ephemeral", "local"] = "ephemeral"


class GroupRef(msgspec.Struct, forbid_unknown_fields=True):
    """By id, or by name and domain."""

    id: str = ""
    name: str = ""
    domain: DomainRef | None = None


class Local(msgspec.Struct, forbid_unknown_fields=True):
    """`projects` is a list, or the place holder of a claim that holds one (from 3.0 on, as `projects_json`)."""

    user: UserRef | None = None
    group: GroupRef | None = None
    groups: str = ""
    group_ids: str = ""
    domain: DomainRef | None = None
    projects: list[ProjectRef] = []
    projects_json: str = ""


class Remote(msgspec.Struct, forbid_unknown_fields=True):
    """At most one condition."""

    type: str
    any_one_of: list[str] | None = None
    not_any_of: list[str] | None = None
    blacklist: list[str] | None = None
    whitelist: list[str] | None = None
    regex: bool = False

    @property
    def conditions(self) -> list[list[str]]:
        every = (self.any_one_of, self.not_any_of, self.blacklist, self.whitelist)
        return [c for c in every if c is not None]


class Rule(msgspec.Struct, forbid_unknown_fields=True):
    local: list[Local]
    remote: list[Remote]


class Mapped(msgspec.Struct):
    """What the rules made of the claims."""

    user: UserRef
    group_ids: list[str] = []
    groups: list[GroupRef] = []
    projects: list[ProjectRef] = []


def check_rules(version: str, rules: Sequence[Any]) -> list[Rule]:
    """The rules as read. Raises Invalid for what a mapping of that version cannot say."""
    if version not in VERSIONS:
        known = ", ".join(VERSIONS)
        raise Invalid(f"Invalid schema_version {version[:16]!r}: there are {known}.")
    try:
        read = msgspec.convert(rules, list[Rule])
    except msgspec.ValidationError as e:
        raise Invalid(f"{explain(str(e))} (in mapping/rules)") from None
    for rule in read:
        _check_rule(version, rule)
    return read


def _check_rule(version: str, rule: Rule) -> None:
    if not rule.remote:
        raise Invalid("Invalid rule: 'remote' must name at least one claim.")
    for remote in rule.remote:
        if len(remote.conditions) > 1 or (remote.regex and not remote.conditions):
            raise Invalid(
                f"Invalid rule: {remote.type!r} may have one of any_one_of, not_any_of, blacklist "
                "and whitelist; regex belongs to one of them."
            )
        if remote.regex:
            for pattern in remote.conditions[0]:
                check_pattern(f"rule {remote.type!r}", pattern)
    values = sum(1 for r in rule.remote if r.any_one_of is None and r.not_any_of is None)
    for local in rule.local:
        _check_local(version, local, values)


def _check_local(version: str, local: Local, values: int) -> None:
    group = local.group
    if group is not None and bool(group.id) == bool(group.name and group.domain):
        raise Invalid("Invalid rule: a group is named by its id, or by its name and domain.")
    if local.projects_json and version != SYNCED_VERSION:
        raise Invalid(f"Invalid rule: projects_json belongs to version {SYNCED_VERSION}.")
    if version == FIRST_VERSION and any(p.domain for p in local.projects):
        raise Invalid("Invalid rule: a project's domain belongs to version 2.0 and later.")
    for place in _PLACE.findall(msgspec.json.encode(local).decode()):
        if int(place) >= values:
            raise Invalid(
                f"Invalid rule: '{{{place}}}' stands for no claim; the rule has {values} without "
                "any_one_of or not_any_of."
            )


def evaluate(version: str, rules: Sequence[Any], claims: Claims) -> Mapped:
    """Who the rules say that somebody with these claims is. Raises Unmapped."""
    found: list[_Part] = []
    for rule in msgspec.convert(rules, list[Rule]):
        values = _values(rule.remote, claims)
        if values is not None:
            found += [_filled(local, values) for local in rule.local]
    if not found:
        raise Unmapped("no rule of the mapping holds for the claims")
    return _put_together(version, found)


def _values(remotes: Sequence[Remote], claims: Claims) -> list[list[str]] | None:
    """What the place holders stand for; None if the rule does not hold."""
    found: list[list[str]] = []
    for remote in remotes:
        given = list(claims.get(remote.type, ()))
        if not given:
            return None
        hits = _hits(remote, given)
        if remote.any_one_of is not None or remote.not_any_of is not None:
            if bool(hits) != (remote.any_one_of is not None):
                return None
            continue
        if remote.blacklist is not None:
            given = [v for v in given if v not in hits]
        elif remote.whitelist is not None:
            given = [v for v in given if v in hits]
        found.append(given)
    return found


def _hits(remote: Remote, given: Sequence[str]) -> set[str]:
    wanted = next(iter(remote.conditions), [])
    if remote.regex:
        return {v for v in given if any(_is_found(remote, pattern, v) for pattern in wanted)}
    return set(wanted).intersection(given)


def _is_found(remote: Remote, pattern: str, value: str) -> bool:
    """Raises Unmapped for a value that could take the pattern too long."""
    longest = _LONGEST[check_pattern(f"rule {remote.type!r}", pattern)]
    if len(value) > longest:
        raise Unmapped(
            f"{remote.type} has {len(value)} characters; {pattern!r} may look at {longest}"
        )
    return re.search(pattern, value) is not None


@dataclass(frozen=True)
class _Part:
    """A local part whose place holders are filled; what stood for a list is one."""

    local: Local
    group_names: Sequence[str]
    group_ids: Sequence[str]
    projects: Sequence[ProjectRef]


def _filled(local: Local, values: Values) -> _Part:
    filled = msgspec.convert(_fill(msgspec.to_builtins(local), values), Local)
    listed = _projects(local.projects_json, values) if local.projects_json else []
    return _Part(
        filled,
        _several(local.groups, values),
        _several(local.group_ids, values),
        [*filled.projects, *listed],
    )


def _fill(part: Any, values: Values) -> Any:
    if isinstance(part, str):
        return _PLACE.sub(lambda m: _text(values[int(m[1])]), part)
    if isinstance(part, dict):
        return {key: _fill(value, values) for key, value in part.items()}
    return [_fill(value, values) for value in part] if isinstance(part, list) else part


def _text(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else str(list(values))


def _several(text: str, values: Values) -> list[str]:
    """A text that stands for a list: one place holder, a list written out, or a single name."""
    if (whole := _PLACE.fullmatch(text)) is not None:
        return list(values[int(whole[1])])
    if _PLACE.search(text) is None and text.startswith("["):
        return _written_out(text)
    return [str(_fill(text, values))] if text else []


def _written_out(text: str) -> list[str]:
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return [text]
    return [str(v) for v in found] if isinstance(found, list) else [text]


def _projects(text: str, values: Values) -> list[ProjectRef]:
    """The projects that a claim lists as JSON. Raises Unmapped."""
    place = _PLACE.fullmatch(text.strip())
    if place is None:
        raise Unmapped(f"projects_json {text!r} is no place holder")
    given = values[int(place[1])]
    try:
        if len(given) == 1:
            return msgspec.json.decode(given[0], type=list[ProjectRef])
        return [msgspec.json.decode(one, type=ProjectRef) for one in given]
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise Unmapped(f"projects_json: {e}") from None


def _put_together(version: str, parts: Sequence[_Part]) -> Mapped:
    """The first user counts, groups add up, and the last list of projects stands."""
    mapped = Mapped(user=next((p.local.user for p in parts if p.local.user), UserRef()))
    ids: dict[str, None] = {}
    for part in parts:
        local = part.local
        ids.update(dict.fromkeys(part.group_ids))
        if local.group is not None and local.group.id:
            ids[local.group.id] = None
        elif local.group is not None:
            mapped.groups.append(local.group)
        mapped.groups += _named_groups(part)
        if part.projects:
            own = local.domain if version != FIRST_VERSION else None
            mapped.projects = [
                msgspec.structs.replace(p, domain=p.domain or own) for p in part.projects
            ]
    if version != FIRST_VERSION:
        mapped.user.domain = mapped.user.domain or parts[-1].local.domain
    mapped.group_ids = list(ids)
    return mapped


def _named_groups(part: _Part) -> list[GroupRef]:
    domain = part.local.domain
    if part.group_names and domain is None:
        raise Unmapped("groups by name need the domain beside them")
    return [GroupRef(name=name, domain=domain) for name in part.group_names]

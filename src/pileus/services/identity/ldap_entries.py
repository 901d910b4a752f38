"""From what a directory says to users and groups, and which questions to ask it. No I/O.

Whatever it says is checked: an entry without id or name, with one too long, or whose id has several values is passed
over, and an account is enabled only if the directory says so in a word that means it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pileus.host.ldap import Entry, dn_key, dn_parts, escaped

from .directory_domains import public_id
from .groups import Group
from .ldap_options import LdapOptions
from .users import User

log = logging.getLogger(__name__)
_LONGEST_NAME = {"user": 255, "group": 64}
_IN_CHAIN = "1.2.840.113556.1.4.1941"  # Active Directory: members of members
# What a mapping of further attributes cannot say.
_OURS = frozenset({"id", "name", "domain_id", "enabled", "options", "links", "password"})


@dataclass(frozen=True)
class SeenUser:
    user: User
    dn: str


@dataclass(frozen=True)
class SeenGroup:
    """`members` are as the directory spells them: names of entries, or ids."""

    group: Group
    dn: str
    members: tuple[str, ...]


def user_attributes(o: LdapOptions) -> list[str]:
    names = [o.user_id_attribute, o.user_name_attribute, *_further(o, "user")]
    names += [
        o.user_mail_attribute or "",
        o.user_description_attribute or "",
        o.user_enabled_attribute or "",
        o.user_default_project_id_attribute or "",
    ]
    return names


def group_attributes(o: LdapOptions) -> list[str]:
    names = [o.group_id_attribute, o.group_name_attribute, o.group_member_attribute]
    return [*names, o.group_desc_attribute or "", *_further(o, "group")]


def users_filter(o: LdapOptions, *, name: str = "", id: str = "") -> str:
    """All users, or the one of that name or id."""
    own = f"({o.user_name_attribute}={escaped(name)})" if name else ""
    own += f"({o.user_id_attribute}={escaped(id)})" if id else ""
    return (
        f"(&{own}{o.user_filter or ''}(objectClass={o.user_objectclass})({o.user_id_attribute}=*))"
    )


def groups_filter(o: LdapOptions, member: SeenUser | None = None) -> str:
    """All groups, or those that somebody is in."""
    own = ""
    if member is not None:
        name = member.user.entry if o.group_members_are_ids else member.dn
        how = f"member:{_IN_CHAIN}:" if o.group_ad_nesting else o.group_member_attribute
        own = f"({how}={escaped(name)})"
    id = o.group_id_attribute
    return f"(&{own}{o.group_filter or ''}(objectClass={o.group_objectclass})({id}=*))"


def emulation_dn(o: LdapOptions) -> str:
    """The group whose members are the enabled users, where no attribute says so; "" if one does."""
    if not o.user_enabled_emulation:
        return ""
    return o.user_enabled_emulation_dn or f"cn=enabled_users,{o.users_dn}"


def user_of(
    o: LdapOptions, domain_id: str, entry: Entry, enabled: Collection[str] | None = None
) -> SeenUser | None:
    """`enabled`: the `dn_key`s or ids of the members of the emulation's group."""
    found = _id_and_name(entry, "user", o.user_id_attribute, o.user_name_attribute)
    if found is None:
        return None
    local_id, name = found
    extra = _extra(
        entry,
        {"email": o.user_mail_attribute, "description": o.user_description_attribute},
        _further(o, "user"),
        o.user_attribute_ignore,
    )
    project = ""
    if "default_project_id" not in o.user_attribute_ignore:
        project = entry.first(o.user_default_project_id_attribute)[:64]
    if enabled is None:
        is_enabled = _says_enabled(o, entry)
    else:
        is_enabled = dn_key(entry.dn) in enabled or local_id in enabled
    user = User(
        id=public_id(domain_id, "user", local_id),
        name=name,
        domain_id=domain_id,
        enabled=is_enabled,
        default_project_id=project,
        extra=extra,
        entry=local_id,
    )
    return SeenUser(user, entry.dn)


def group_of(o: LdapOptions, domain_id: str, entry: Entry) -> SeenGroup | None:
    found = _id_and_name(entry, "group", o.group_id_attribute, o.group_name_attribute)
    if found is None:
        return None
    local_id, name = found
    group = Group(
        id=public_id(domain_id, "group", local_id),
        name=name,
        domain_id=domain_id,
        description="" if "description" in o.group_attribute_ignore else _description(o, entry),
        extra=_extra(entry, {}, _further(o, "group"), o.group_attribute_ignore),
        entry=local_id,
    )
    members = entry.attributes.get(o.group_member_attribute.lower(), ())
    return SeenGroup(group, entry.dn, tuple(members))


def memberships(
    o: LdapOptions, users: Iterable[SeenUser], groups: Iterable[SeenGroup]
) -> set[tuple[str, str]]:
    """Pairs of ids of a group and a user in it; members of members too, where the directory has them."""
    if o.group_members_are_ids:
        by_name = {u.user.entry: u.user.id for u in users}
        return {(g.group.id, by_name[m]) for g in groups for m in g.members if m in by_name}
    by_name = {dn_key(u.dn): u.user.id for u in users}
    members = {dn_key(g.dn): [dn_key(m) for m in g.members] for g in groups}
    found = set()
    for group in groups:
        for member in _nested(dn_key(group.dn), members, o.group_ad_nesting):
            if member in by_name:
                found.add((group.group.id, by_name[member]))
    return found


def _nested(group: str, members: Mapping[str, list[str]], deep: bool) -> set[str]:
    found: set[str] = set()
    left = [group]
    while left:
        for member in members[left.pop()]:
            if member not in found:
                found.add(member)
                if deep and member in members:
                    left.append(member)
    return found


def _id_and_name(entry: Entry, kind: str, id: str, name: str) -> tuple[str, str] | None:
    ids = entry.attributes.get(id.lower(), ())
    local_id = ids[0] if len(ids) == 1 else _from_dn(entry.dn, id) if ids else ""
    shown = entry.first(name).strip()
    good = 0 < len(shown) <= _LONGEST_NAME[kind] and "\0" not in shown + local_id
    if not local_id or not good:
        log.debug("directory: %s is passed over as it has no fitting id or name", entry.dn)
        return None
    return local_id, shown


def _from_dn(dn: str, attribute: str) -> str:
    """The id that an entry's own name gives it, if it does."""
    parts = dn_parts(dn)
    return parts[0][1] if parts and parts[0][0].lower() == attribute.lower() else ""


def _says_enabled(o: LdapOptions, entry: Entry) -> bool:
    """Only a clear word enables: any text was once as good as true."""
    ignored = "enabled" in o.user_attribute_ignore or not o.user_enabled_attribute
    told = "" if ignored else entry.first(o.user_enabled_attribute)
    said = told or o.user_enabled_default
    if o.user_enabled_mask:
        try:
            return int(said) & o.user_enabled_mask != o.user_enabled_mask
        except ValueError:
            return False
    if ignored:
        return True
    return (said.strip().lower() == "true") != o.user_enabled_invert


def _description(o: LdapOptions, entry: Entry) -> str:
    return entry.first(o.group_desc_attribute)


def _further(o: LdapOptions, kind: str) -> dict[str, str]:
    """Directory's attribute -> ours, of what is mapped beside the usual."""
    pairs = getattr(o, f"{kind}_additional_attribute_mapping")
    split = [p.partition(":") for p in pairs]
    return {a.strip(): b.strip() for a, colon, b in split if colon and b.strip() not in _OURS}


def _extra(
    entry: Entry,
    usual: Mapping[str, str | None],
    further: Mapping[str, str],
    ignored: Collection[str],
) -> dict[str, str]:
    wanted = {**{theirs: ours for ours, theirs in usual.items() if theirs}, **further}
    found = {ours: entry.first(theirs) for theirs, ours in wanted.items()}
    return {ours: value for ours, value in found.items() if value and ours not in ignored}

"""Domains whose users stand in a directory: kept as rows, written from what the directory says, never the other way.

A login asks the directory itself. A list asks it too, unless it was asked a moment ago; everything else goes by the
rows, which a reconciler brings up to date. So a token costs the directory nothing, and a directory that is gone stops
logins and lists (503) but nobody who is in. A user who left the directory loses his row and his tokens; what was
granted to him stays under his id, as upstream keeps it, and is his again if he comes back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from pileus.host.ldap import Entry, LdapAddress, LdapFailed, LdapServer, dn_key
from pileus.kernel.faults import Invalid, Unavailable
from pileus.kernel.runtime import Runtime

from .directory_domains import DIRECTORIES
from .domain_configurations import (
    DOMAIN_CONFIGURATIONS,
    RECONCILER,
    DomainConfiguration,
    secrets_of,
)
from .ldap_entries import (
    SeenGroup,
    SeenUser,
    emulation_dn,
    group_attributes,
    group_of,
    groups_filter,
    memberships,
    user_attributes,
    user_of,
    users_filter,
)
from .ldap_options import LdapOptions, read_options
from .ldap_rows import Seen, keep, keep_one
from .users import User

log = logging.getLogger(__name__)
_TIMEOUT_S = 10
_FRESH_S = 5  # a list does not ask again so soon
_RETRY_S = 10


@dataclass
class Directory:
    """One domain's, as configured by the row of that generation."""

    domain_id: str
    generation: int
    options: LdapOptions
    server: LdapServer
    looked_at: float = float("-inf")
    passed_over: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def everything(self) -> Seen:
        o, enabled = self.options, await self._enabled()
        users = await self._entries(o.users_dn, users_filter(o), user_attributes(o))
        groups = await self._entries(o.groups_dn, groups_filter(o), group_attributes(o))
        # There may be many, and the loop has others to serve.
        return await asyncio.to_thread(self._read, users, groups, enabled)

    def _read(
        self, users: list[Entry], groups: list[Entry], enabled: frozenset[str] | None
    ) -> Seen:
        o, domain_id = self.options, self.domain_id
        seen = [u for e in users if (u := user_of(o, domain_id, e, enabled))]
        seen_groups = [g for e in groups if (g := group_of(o, domain_id, e))]
        members = memberships(o, seen, seen_groups)
        odd = len(users) + len(groups) - len(seen) - len(seen_groups)
        if odd != self.passed_over:  # or the log would fill with them
            self.passed_over = odd
            log.warning("directory of domain %s: %d entries lack an id or name", domain_id, odd)
        return Seen([u.user for u in seen], [g.group for g in seen_groups], members)

    async def user(self, *, name: str = "", id: str = "") -> SeenUser | None:
        """The user of that name or local id. Whatever else the directory answers is not he.

        Where two entries go by it, neither is: who may write in a corner of the tree could be anybody.
        """
        o, enabled = self.options, await self._enabled()
        asked = users_filter(o, name=name, id=id)
        entries = await self._entries(o.users_dn, asked, user_attributes(o))
        seen = [u for e in entries if (u := user_of(o, self.domain_id, e, enabled))]
        found = [
            u for u in seen if (u.user.name.lower() == name.lower() if name else u.user.entry == id)
        ]
        return found[0] if len(found) == 1 else None

    async def groups_of(self, user: SeenUser) -> list[SeenGroup]:
        o = self.options
        asked = groups_filter(o, member=user)
        found = await self._entries(o.groups_dn, asked, group_attributes(o))
        return [g for e in found if (g := group_of(o, self.domain_id, e))]

    async def _enabled(self) -> frozenset[str] | None:
        """Who is enabled, where a group says so."""
        dn, o = emulation_dn(self.options), self.options
        if not dn:
            return None
        by_config = o.user_enabled_emulation_use_group_config
        attribute = o.group_member_attribute if by_config else "member"
        found = await self.server.search(dn, "(objectClass=*)", [attribute], scope="base")
        values = [v for e in found for v in e.attributes.get(attribute.lower(), ())]
        by_id = by_config and o.group_members_are_ids
        return frozenset(values if by_id else map(dn_key, values))

    async def _entries(self, base: str, text: str, attributes: list[str]) -> list[Entry]:
        o = self.options
        return await self.server.search(
            base, text, attributes, scope=o.query_scope, page_size=o.page_size
        )


class LdapDirectories:
    """Keeps `directory_domains.DIRECTORIES`."""

    def __init__(
        self, runtime: Runtime, connect: Callable[[LdapAddress], LdapServer] = LdapServer
    ) -> None:
        self.runtime, self._connect = runtime, connect
        self._known: dict[str, Directory] = {}

    async def has(self, domain_id: str) -> bool:
        row = await DOMAIN_CONFIGURATIONS.find(self.runtime.store, domain_id)
        return _is_directory(row)

    async def list_limit(self, domain_id: str) -> int:
        row = await DOMAIN_CONFIGURATIONS.find(self.runtime.store, domain_id)
        said = row.options.get("identity", {}).get("list_limit") if row else None
        text = str(said)
        return int(text) if text.isdecimal() else 0

    async def look(self, domain_id: str, *, user: str = "") -> None:
        directory = await self._of(domain_id) if domain_id else None
        if directory is None:
            return
        try:
            if user:
                await self._look_for(directory, user)
            else:
                await self._look_at_all(directory)
        except LdapFailed as e:
            raise _gone(domain_id, e) from e

    async def is_password(self, user: User | None, password: str, domain_id: str = "") -> bool:
        directory = await self._of(user.domain_id if user else domain_id)
        if directory is None:
            return False
        try:
            if user is None:  # he was looked for before: as much work as for somebody
                nobody = (
                    f"{directory.options.user_id_attribute}=nobody,{directory.options.users_dn}"
                )
                await directory.server.is_password(nobody, password)
                return False
            return await self._is_his(directory, user, password)
        except LdapFailed as e:
            raise _gone(directory.domain_id, e) from e

    async def _is_his(self, directory: Directory, user: User, password: str) -> bool:
        seen = await directory.user(id=user.entry)
        if seen is None or not await directory.server.is_password(seen.dn, password):
            return False
        groups = await directory.groups_of(seen)
        pairs = {(g.group.id, seen.user.id) for g in groups}
        await keep_one(self.runtime, seen.user, Seen([], [g.group for g in groups], pairs))
        return True

    async def _look_for(self, directory: Directory, name: str) -> None:
        seen = await directory.user(name=name)
        if seen is not None:
            await keep_one(self.runtime, seen.user)

    async def _look_at_all(self, directory: Directory) -> None:
        async with directory.turn:
            now = self.runtime.world.clock.monotonic()
            if now - directory.looked_at < _FRESH_S:
                return
            await keep(self.runtime, directory.domain_id, await directory.everything())
            directory.looked_at = now  # it may have changed while we read
            row = await DOMAIN_CONFIGURATIONS.find(self.runtime.store, directory.domain_id)
            if row is None or row.generation != directory.generation:
                self.runtime.reconcilers.hint(RECONCILER, directory.domain_id)

    async def _of(self, domain_id: str) -> Directory | None:
        """The domain's directory, if it has one. Raises Unavailable if its configuration is of no use."""
        row = await DOMAIN_CONFIGURATIONS.find(self.runtime.store, domain_id)
        known = self._known.get(domain_id)
        if row is None or not _is_directory(row):
            self._forget(domain_id)
            return None
        if known is not None and known.generation == row.generation:
            return known
        options = await self._options(row)
        if self._known.get(domain_id) is not known:
            return await self._of(domain_id)  # another was faster, and asks it by now
        self._forget(domain_id)
        made = Directory(domain_id, row.generation, options, self._connect(_address(options)))
        self._known[domain_id] = made
        return made

    async def _options(self, row: DomainConfiguration) -> LdapOptions:
        secrets = (await secrets_of(self.runtime, row)).get("ldap", {})
        try:
            return read_options(row.options.get("ldap", {}), secrets)
        except Invalid as e:
            raise _gone(row.id, e) from e

    def _forget(self, domain_id: str) -> None:
        known = self._known.pop(domain_id, None)
        if known is not None:
            known.server.close()


async def keep_directories(runtime: Runtime, key: str) -> None:
    """The reconciler: rows say what their domain's directory says; without one, there are none."""
    if not key:
        for row in await DOMAIN_CONFIGURATIONS.all(runtime.store):
            if _is_directory(row):
                runtime.reconcilers.hint(RECONCILER, row.id)
        return
    directories = runtime.contracts.get(DIRECTORIES)
    if await directories.has(key):
        await directories.look(key)
    else:
        await keep(runtime, key, Seen([], [], set()))


def _is_directory(row: DomainConfiguration | None) -> bool:
    return row is not None and row.options.get("identity", {}).get("driver") == "ldap"


def _gone(domain_id: str, why: Exception) -> Unavailable:
    return Unavailable(
        f"The directory of domain {domain_id} cannot be asked now. Try again later.",
        internal=f"directory of domain {domain_id}: {why}",
        headers={"retry-after": str(_RETRY_S)},
    )


def _address(o: LdapOptions) -> LdapAddress:
    asked = o.pool_connection_timeout
    is_known = bool(o.user and o.password)
    return LdapAddress(
        urls=tuple(u.strip() for u in o.url.split(",") if u.strip()),
        user=(o.user or "") if is_known else "",
        password=(o.password or "") if is_known else "",
        start_tls=o.use_tls,
        verify=o.tls_req_cert,
        ca_file=o.tls_cacertfile or "",
        ca_folder=o.tls_cacertdir or "",
        follow_referrals=bool(o.chase_referrals),
        aliases=o.alias_dereferencing,
        timeout_s=min(asked, _TIMEOUT_S) if asked > 0 else _TIMEOUT_S,
    )

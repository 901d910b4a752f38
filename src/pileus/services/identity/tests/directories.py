"""Directories to log in by: ldap3's stand-in in this process, and Debian's slapd, with one tree of people."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import ldap3

from pileus.host.ldap import FakeLdap, LdapAddress
from pileus.kernel.world import Clock, World
from pileus.services.identity.directory_domains import DIRECTORIES
from pileus.services.identity.ldap_directories import LdapDirectories
from pileus.services.identity.tests.clouds import Identity, alone_with
from pileus.testing.slapd_server import ADMIN, ADMIN_PASSWORD, SUFFIX, slapd

PEOPLE, GROUPS = f"ou=Users,{SUFFIX}", f"ou=UserGroups,{SUFFIX}"
OPTIONS: dict[str, Any] = {
    "user": ADMIN,
    "password": ADMIN_PASSWORD,
    "suffix": SUFFIX,
    "user_id_attribute": "uid",
    "user_name_attribute": "uid",
    "user_enabled_attribute": "employeeType",
    "group_name_attribute": "cn",
}
Attributes = dict[str, Any]


class Place(Protocol):
    """A directory that a test can write to."""

    url: str

    def put(self, dn: str, attributes: Attributes) -> None: ...
    def drop(self, dn: str) -> None: ...
    def prepare(self, i: Identity) -> None: ...
    def stop(self) -> None: ...


class FakePlace:
    url = "ldap://fake"

    def __init__(self) -> None:
        admin = {"userPassword": ADMIN_PASSWORD, "objectClass": ["person"]}
        self.entries: dict[str, Attributes] = {ADMIN: admin}
        self.servers: list[FakeLdap] = []
        self.is_gone = False

    @property
    def asked(self) -> int:
        """How often it was connected to."""
        return sum(server.asked for server in self.servers)

    def put(self, dn: str, attributes: Attributes) -> None:
        self.entries[dn] = attributes

    def drop(self, dn: str) -> None:
        del self.entries[dn]

    def prepare(self, i: Identity) -> None:
        runtime = i.cloud.runtime
        runtime.contracts.provide(DIRECTORIES, LdapDirectories(runtime, self._connect))

    def stop(self) -> None:
        self.is_gone = True
        for server in self.servers:
            server.is_gone = True

    def _connect(self, address: LdapAddress) -> FakeLdap:
        server = FakeLdap(address, self.entries)
        server.is_gone = self.is_gone
        self.servers.append(server)
        return server


class SlapdPlace:
    def __init__(self, certificate: tuple[Path, Path] | None = None) -> None:
        self._stack = ExitStack()
        self.url = self._stack.enter_context(slapd(certificate))
        server = ldap3.Server(self.url, get_info=ldap3.NONE)
        self._admin = ldap3.Connection(server, ADMIN, ADMIN_PASSWORD, auto_bind=True)
        self._admin.add(SUFFIX, ["dcObject", "organization"], {"dc": "example", "o": "Example"})
        for dn in (PEOPLE, GROUPS):
            self._admin.add(dn, "organizationalUnit")

    def put(self, dn: str, attributes: Attributes) -> None:
        rest = {k: v for k, v in attributes.items() if k != "objectClass"}
        self._admin.delete(dn)
        assert self._admin.add(dn, attributes["objectClass"], rest), self._admin.result

    def drop(self, dn: str) -> None:
        assert self._admin.delete(dn), self._admin.result

    def prepare(self, i: Identity) -> None:
        """It is reached as any would be."""

    def stop(self) -> None:
        self._stack.close()


class Later(Clock):
    """A clock that a test can move."""

    ahead = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead


def person(place: Place, uid: str, enabled: str = "TRUE", **more: Any) -> str:
    """A person of that id and name whose password is `UID-password`; his distinguished name."""
    dn = f"uid={uid},{PEOPLE}"
    fields = {"uid": uid, "cn": uid, "sn": uid, "mail": f"{uid}@example.org"}
    fields |= {"employeeType": enabled, "userPassword": f"{uid}-password", **more}
    fields = {k: v for k, v in fields.items() if v}
    place.put(dn, {"objectClass": ["inetOrgPerson"], **fields})
    return dn


def group(place: Place, name: str, members: Sequence[str]) -> str:
    dn = f"cn={name},{GROUPS}"
    fields = {"cn": name, "description": f"all of {name}", "member": list(members)}
    place.put(dn, {"objectClass": ["groupOfNames"], **fields})
    return dn


class Corner:
    """A cloud's domain whose users stand in the place."""

    def __init__(self, i: Identity, place: Place, domain_id: str, clock: Later) -> None:
        self.i, self.place, self.domain_id, self.clock = i, place, domain_id, clock

    async def users(self, more: str = "") -> dict[str, dict[str, Any]]:
        """By name, as listed anew."""
        self.clock.ahead += 60
        found = await self.i.admin.get(f"/users?domain_id={self.domain_id}{more}")
        assert found.status == 200, found
        return {u["name"]: u for u in found.json["users"]}

    async def groups(self) -> dict[str, dict[str, Any]]:
        self.clock.ahead += 60
        found = await self.i.admin.get(f"/groups?domain_id={self.domain_id}")
        return {g["name"]: g for g in found.json["groups"]}

    async def login(self, name: str, password: str = "", **more: Any) -> Any:
        user = {"name": name, "domain": {"id": self.domain_id}}
        given = {"user": {**user, "password": password or f"{name}-password"}}
        return await self.i.login(password=given, **more)

    async def configure(self, **options: Any) -> None:
        """Other options of the directory."""
        config = {"identity": {"driver": "ldap"}}
        ldap = {"url": self.place.url, **OPTIONS, **options}
        url = f"/domains/{self.domain_id}/config"
        reply = await self.i.admin.put(url, {"config": {**config, "ldap": ldap}})
        assert reply.status in (200, 201), reply


Story = Callable[[Corner], Awaitable[None]]


def tell(place: Place, story: Story, **options: Any) -> None:
    """Runs the story in a cloud with a domain whose users stand in the place."""
    clock = Later()

    async def test(i: Identity) -> None:
        place.prepare(i)
        corner = Corner(i, place, await i.domain("people"), clock)
        await corner.configure(**options)
        await story(corner)

    alone_with(World(clock=clock))(test)()


def places(kind: str) -> Iterator[Place]:
    if kind == "fake":
        yield FakePlace()
        return
    place = SlapdPlace()
    try:
        yield place
    finally:
        place.stop()

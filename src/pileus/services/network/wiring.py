"""Which hosts hold a piece of the network, so that a change wakes those and no others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec
import sqlalchemy as sa
from sqlalchemy.sql.base import Executable

from pileus.kernel.contracts import Contract
from pileus.kernel.runtime import Runtime
from pileus.kernel.sql import member_of
from pileus.kernel.store import Page, Reader

from .driver import Observed, RuleSpec
from .port import PORTS, Port
from .security_group import RULES


class NetworkHost(Protocol):
    """A host's network agent."""

    async def sync(self, port_ids: list[str]) -> Observed:
        """Fetches what the host should be, makes it so, and says how these ports are."""

    async def regroup(self, group_id: str, rules: list[RuleSpec]) -> None:
        """A security group's new rules, ahead of the document that will hold them too."""

    async def examine(self, ids: list[str], addresses: list[str]) -> dict[str, str]:
        """What is amiss, by id, with ports, networks and routers, as `NetworkDriver.examine` sees it."""


NETWORK_HOST = Contract("network_host", NetworkHost)  # type: ignore[type-abstract]


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """Part of an encoded `HostNetwork`. `digest` names the whole; `data` is empty if the host has it already."""

    digest: str
    size: int
    data: bytes = b""


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """What was counted under a label within the last `span_s` seconds."""

    packets: int
    octets: int
    span_s: float


class NetworkControl(Protocol):
    """What hosts ask of control."""

    async def desired(self, host: str, known: str, digest: str, offset: int) -> Piece:
        """What the host should be, from `offset` on. `known`: the digest of what it has; `digest`: of what it is
        fetching ("" for the first piece). Another digest in the answer means: start again."""

    async def observed(self, host: str, up: list[str], down: list[str]) -> None:
        """Tells which ports and floating IPs of the host work, and which do not."""

    async def tenure(self, host: str, ends: bool) -> float:
        """For how long from now on the host may have its routers if it cannot ask again: seconds; none or less if another
        may have them already, `inf` where none could. `ends`: what it was told last does, and its kernel knows.
        """

    async def metered(self, host: str, passed: dict[str, Traffic]) -> None:
        """Tells what the host's routers let pass since it told last, by metering label."""


NETWORK_CONTROL = Contract("network_control", NetworkControl)  # type: ignore[type-abstract]


async def hosts_of_networks(db: Reader, network_ids: Iterable[str]) -> set[str]:
    """The hosts that have a port of any of these networks."""
    return await _hosts(db, "network_id", network_ids)


async def hosts_of_projects(db: Reader, project_ids: Iterable[str]) -> set[str]:
    return await _hosts(db, "project_id", project_ids)


async def hosts_of_ports(db: Reader, port_ids: Iterable[str]) -> set[str]:
    return await _hosts(db, "id", port_ids)


async def _hosts(db: Reader, column: str, values: Iterable[str]) -> set[str]:
    wanted = sorted(set(values))
    if not wanted:
        return set()
    t = PORTS.t

    def build() -> Executable:
        among = member_of(t.c[column], "values")
        return sa.select(t.c.host).distinct().where(among, t.c.host != "")

    sql = db.sql(("network.hosts", column), build)
    rows = await db.rows(sql, {"values": msgspec.json.encode(wanted).decode()})
    return {row[0] for row in rows}


async def hosts_of_groups(db: Reader, group_ids: Iterable[str]) -> set[str]:
    """The hosts with a port in any of these security groups."""
    wanted = sorted(set(group_ids))
    if not wanted:
        return set()
    t, side = PORTS.t, PORTS.many["security_groups"][1]

    def build() -> Executable:
        ids = sa.select(side.c.id).where(member_of(side.c.value, "values"))
        return sa.select(t.c.host).distinct().where(t.c.id.in_(ids), t.c.host != "")

    sql = db.sql("network.hosts.groups", build)
    rows = await db.rows(sql, {"values": msgspec.json.encode(wanted).decode()})
    return {row[0] for row in rows}


WAKER, REGROUPER = "network.wake", "network.regroup"


async def wake(runtime: Runtime, hosts: Iterable[str]) -> None:
    """Hints only: a host that misses one looks again by itself. They go out when there is something to read."""
    for host in sorted(set(hosts) - {""}):
        runtime.reconcilers.hint(WAKER, host)


async def hint_host(runtime: Runtime, host: str) -> None:
    if host:
        await runtime.store.visible()
        await runtime.agents.hint(NETWORK_HOST, host)


def wake_group(runtime: Runtime, group_id: str) -> None:
    """After a change of a group's rules, which is committed: its hosts are told those, and look at no more."""
    runtime.reconcilers.hint(REGROUPER, group_id)


async def wake_networks(runtime: Runtime, *network_ids: str) -> None:
    await wake(runtime, await hosts_of_networks(runtime.store, network_ids))


async def wake_for_ports(runtime: Runtime, *ports: Port) -> None:
    """Wakes the hosts that these ports are on, can be reached from, or are a rule's members on."""
    store = runtime.store
    bound = [p for p in ports if p.host]
    hosts = {p.host for p in bound}
    hosts |= await hosts_of_networks(store, {p.network_id for p in bound})
    # Nobody speaks as an unbound port yet: its address is told to its group's hosts with what they fetch next.
    groups = sorted({g for p in bound for g in p.security_groups})
    if groups:
        page = Page({"remote_group_id": groups}, (("id", False),), limit=1 << 30)
        naming = await RULES.page(store, page, select=("security_group_id",))
        hosts |= await hosts_of_groups(store, {row[0] for row in naming})
    await wake(runtime, hosts)

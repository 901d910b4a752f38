"""Where a server goes: on a host that may have it, in the zone and the group that were asked for, with room."""

from __future__ import annotations

from pileus.kernel.faults import NoCapacity, Stale
from pileus.kernel.sagas import Changes, Run
from pileus.services.compute import nodes, server_groups
from pileus.services.compute.nodes import Place
from pileus.services.compute.server import FlavorCopy, Server
from pileus.services.compute.server_groups import ServerGroup
from pileus.services.compute.servers import noting, states
from pileus.services.placement.contract import PLACEMENT, Demand

NO_HOST = "No valid host was found."


def demand_of(flavor: FlavorCopy) -> Demand:
    """What a flavor needs of a host: `trait:NAME` extra specs count too."""
    disk = flavor.disk + flavor.ephemeral + -(-flavor.swap // 1024)
    wanted = {"VCPU": flavor.vcpus, "MEMORY_MB": flavor.ram, "DISK_GB": disk}
    traits: dict[str, set[str]] = {"required": set(), "forbidden": set()}
    for key, value in flavor.extra_specs.items():
        if key.startswith("trait:") and value in traits:
            traits[value].add(key.removeprefix("trait:"))
    return Demand(
        resources={k: v for k, v in wanted.items() if v},
        required=frozenset(traits["required"]),
        forbidden=frozenset(traits["forbidden"]),
    )


async def place(run: Run[Server]) -> Changes:
    host, zone = await find_place(run, run.record)
    return {"host": host, "zone": zone, "task_state": states.NETWORKING}


async def find_place(run: Run[Server], server: Server, leaving: str = "") -> tuple[str, str]:
    """Takes room on a host for the server as given, and a seat in its group; the host and its zone.

    `leaving`: the host it goes away from. Raises NoCapacity, which names each host and why not.
    """
    group = await server_groups.group_of(run.runtime.store, server.group)
    among, passed_over = [], []
    zones: dict[str, str] = {}
    for p in await nodes.places(run.runtime):
        if why := _why_not(server, group, p, leaving):
            passed_over.append(f"{p.node.host}: {why}")
        else:
            among.append(p.node.host)
            zones[p.node.host] = p.zone
    host = await _claim_best(run, server, group, among, passed_over)
    await sit(run, server, host)
    return host, zones.get(host, "")


def _why_not(server: Server, group: ServerGroup | None, p: Place, leaving: str) -> str:
    if p.node.host == leaving:
        return "the server is leaving it"
    if p.why_not:
        return p.why_not
    if server.pinned_zone and p.zone != server.pinned_zone:
        return f"in zone {p.zone}, not {server.pinned_zone}"
    if server.requested_host and p.node.host != server.requested_host:
        return f"not {server.requested_host}, which was asked for"
    return server_groups.why_not(group, server.id, p.node.host) if group else ""


async def _claim_best(
    run: Run[Server],
    server: Server,
    group: ServerGroup | None,
    among: list[str],
    passed_over: list[str],
) -> str:
    """Where a soft policy likes it best, or else anywhere."""
    best = server_groups.preferred(group, server.id, among) if group else among
    if len(best) < len(among):
        try:
            return await _claim(run, server, best, [])
        except NoCapacity:
            pass  # the others are asked next, and whoever is full says so again
    return await _claim(run, server, among, passed_over)


async def sit(run: Run[Server], server: Server, host: str) -> None:
    """Raises Stale, to be placed anew, where another member was faster."""
    if not server.group:
        return
    async with run.runtime.store.tx(wait=False) as tx:
        seated = await server_groups.sit(tx, server.group, server.id, host)
    if not seated:
        await run.peer(PLACEMENT).release(server.id)
        await run.runtime.store.sync()
        raise Stale(f"Another server of group {server.group} took its place on {host}.")


async def _claim(run: Run[Server], server: Server, among: list[str], passed_over: list[str]) -> str:
    if not among:
        reasons = "; ".join(passed_over) or "there is no compute host"
        raise NoCapacity(f"{NO_HOST} {reasons}.")
    try:
        return await run.peer(PLACEMENT).claim(
            server.id, demand_of(server.flavor), among, server.project_id, server.user_id
        )
    except NoCapacity as e:
        reasons = "; ".join([e.message.removeprefix(NO_HOST).strip(), *passed_over])
        raise NoCapacity(f"{NO_HOST} {reasons}") from None


async def unplace(run: Run[Server]) -> None:
    await vacate(run)
    await noting.failure(run)


async def vacate(run: Run[Server]) -> None:
    """Gives back the room, and the seat in the group."""
    server = run.record
    await run.peer(PLACEMENT).release(server.id)
    if server.group:
        async with run.runtime.store.tx(wait=False) as tx:
            await server_groups.sit(tx, server.group, server.id, "")

"""What the hosts of volumes have, whether they may be given any, and which are alive.

What an administrator says of one (disabled, frozen) is kept; the rest is what its agent told when it joined.
"""

from __future__ import annotations

from collections.abc import Mapping

from pileus.kernel.faults import NotFound
from pileus.kernel.hosts import HOSTS, START_S, Host, hosts_of
from pileus.kernel.quota import usage
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Record, Table

from .agent_contract import VOLUME_HOST
from .scheduling import DOWN, Pool
from .volume import BY_HOST, Volume

ZONE = "nova"
VOLUME = "cinder-volume"


class VolumeService(Record, kw_only=True, frozen=True):
    """A part in `os-services`; its id is its host and the binary: of earlier versions a host's name, without back end."""

    disabled: bool = False
    disabled_reason: str | None = None
    is_frozen: bool = False
    failed_over: str = ""


SERVICES = Table("block_storage_services", VolumeService)


async def hosts(runtime: Runtime) -> list[Host]:
    return await hosts_of(runtime.store, VOLUME_HOST)


async def pools(runtime: Runtime) -> list[Pool]:
    """Every pool, by its place."""
    said = {s.id: s for s in await SERVICES.all(runtime.store)}
    now, found, known = runtime.world.clock.time(), [], await hosts(runtime)
    last = max((host.seen_at for host in known), default=0.0)
    for host in known:
        pools_of_it = host.facts.get("volume_pools", ())
        for pool in pools_of_it:
            places = [f"{host.id}@{pool['name']}"]
            if pool is pools_of_it[0]:
                places.append(host.id)  # of earlier volumes: they name no pool
            promised = sum(
                [(await usage(runtime.store, BY_HOST, p)).get("gigabytes", 0) for p in places]
            )
            service = service_of(said, places[0])
            found.append(
                Pool(
                    host=host.id,
                    name=pool["name"],
                    backend_name=pool.get("backend_name", ""),
                    total_gib=pool["total_gib"],
                    free_gib=max(0, pool["free_gib"] - promised),
                    promised_gib=promised,
                    storage_protocol=pool["storage_protocol"],
                    zone=ZONE,
                    is_thin=pool["is_thin"],
                    why_not=_why_not(service) or ("" if host.is_up(now) else DOWN),
                    is_starting=host.is_up(last, START_S),  # not lost while others went on
                )
            )
    return sorted(found, key=lambda p: p.place)


def service_of(said: Mapping[str, VolumeService], back_end: str) -> VolumeService | None:
    """What was said of `host@backend`."""
    host = back_end.partition("@")[0]
    return said.get(f"{back_end}/{VOLUME}") or said.get(f"{host}/{VOLUME}")


def _why_not(said: VolumeService | None) -> str:
    if said is not None and said.disabled:
        return f"disabled ({said.disabled_reason or 'no reason given'})"
    return "frozen" if said is not None and said.is_frozen else ""


async def place_of(runtime: Runtime, volume: Volume) -> str:
    """Where it lies as Cinder names it, with back end and pool; "" for nowhere."""
    host, name = volume.host, volume.pool
    if host and not name:  # of an earlier version: its host had one pool, which comes first
        found = await HOSTS.find(runtime.store, host)
        there = found.facts.get("volume_pools", ()) if found else ()
        name = there[0]["name"] if there else ""
    return f"{host}@{name}#{name}" if name else host


async def known(runtime: Runtime, place: str) -> Pool:
    """The pool that a place names, of a host its first. Raises NotFound."""
    for pool in await pools(runtime):
        if pool.is_at(place):
            return pool
    raise NotFound(f"Service cinder-volume could not be found on host {place}.")

"""What the hosts of volumes have, whether they may be given any, and which are alive.

What an administrator says of one (disabled, frozen) is kept; the rest is what its agent told when it joined.
"""

from __future__ import annotations

from pileus.kernel.faults import NotFound
from pileus.kernel.hosts import HOSTS, Host, hosts_of
from pileus.kernel.quota import usage
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Record, Table

from .agent_contract import VOLUME_HOST
from .scheduling import Pool
from .volume import BY_HOST

ZONE = "nova"


class VolumeService(Record, kw_only=True, frozen=True):
    """A host's part in `os-services`; its id is the host's name and the binary."""

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
    now, found = runtime.world.clock.time(), []
    for host in await hosts(runtime):
        service = said.get(f"{host.id}/cinder-volume")
        why = "" if host.is_up(now) else "down"
        if service is not None and service.disabled:
            why = f"disabled ({service.disabled_reason or 'no reason given'})"
        elif service is not None and service.is_frozen:
            why = "frozen"
        promised = (await usage(runtime.store, BY_HOST, host.id)).get("gigabytes", 0)
        found += [
            Pool(
                host=host.id,
                backend=pool["name"],
                name=pool["name"],
                total_gib=pool["total_gib"],
                free_gib=max(0, pool["free_gib"] - promised),
                promised_gib=promised,
                storage_protocol=pool["storage_protocol"],
                zone=ZONE,
                is_thin=pool["is_thin"],
                why_not=why,
            )
            for pool in host.facts.get("volume_pools", ())
        ]
    return sorted(found, key=lambda p: p.place)


async def place_of(runtime: Runtime, host: str) -> str:
    """The host as Cinder names it, with back end and pool; "" for none."""
    found = await HOSTS.find(runtime.store, host) if host else None
    for pool in found.facts.get("volume_pools", ()) if found else ():
        return f"{host}@{pool['name']}#{pool['name']}"
    return host


def host_in(place: str) -> str:
    """The host's name in `host@backend#pool`."""
    return place.partition("@")[0].partition("#")[0]


async def known(runtime: Runtime, place: str) -> str:
    """The host that a place names. Raises NotFound."""
    host = host_in(place)
    if not await hosts_of(runtime.store, VOLUME_HOST, id=host):
        raise NotFound(f"Service cinder-volume could not be found on host {place}.")
    return host

"""What must hold where transactions really run at the same time."""

from __future__ import annotations

import asyncio

import pytest

from pileus.kernel.postgres import PostgresStore
from pileus.kernel.world import World
from pileus.services.network.subnet import ALLOCATIONS
from pileus.testing.postgres_server import postgres, programs

from .bench import bench


@pytest.mark.skipif(programs() is None, reason="PostgreSQL is not installed")
def test_on_postgresql_ports_at_once_have_addresses_of_their_own_and_one_default_group() -> None:
    async def body(url: str) -> None:
        async with bench(0, PostgresStore(url, World())) as b:
            api = b.as_("one")
            network, _ = await api.network("10.0.0.0/27")
            asked = {"port": {"network_id": network["id"]}}
            replies = await asyncio.gather(*(api.post("/ports", asked) for _ in range(36)))
            assert sorted(r.status for r in replies) == [201] * 29 + [409] * 7
            made = [r.json["port"] for r in replies if r.status == 201]
            ips = {p["fixed_ips"][0]["ip_address"] for p in made}
            assert len(ips) == 29
            assert {a.ip for a in await ALLOCATIONS.all(b.control.runtime.store)} == ips
            assert len({p["security_groups"][0] for p in made}) == 1
            gone = await asyncio.gather(*(api.delete(f"/ports/{p['id']}") for p in made))
            assert {r.status for r in gone} == {204}
            routed = await asyncio.gather(*(api.routed(f"10.{n}.0.0/24") for n in range(1, 5)))
            assert len(routed) == 4

    with postgres() as url:
        asyncio.run(body(url))

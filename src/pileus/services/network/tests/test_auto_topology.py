"""A network, its subnet and its router for who asks for none."""

from __future__ import annotations

import asyncio

from .bench import Bench, run, said

PATH = "/auto-allocated-topology"
ROOT = "auto_allocated_topology"


def test_a_project_without_a_network_gets_one_that_leads_out_and_the_same_each_time() -> None:
    async def body(b: Bench) -> None:
        one = b.as_("one")
        dry = (await one.get(f"{PATH}/None?fields=dry-run")).json[ROOT]
        assert (dry["id"], dry["project_id"]) == ("dry-run=pass", "one")
        assert await one.rows("/networks?name=auto_allocated_network") == []
        asked = [one.get(f"{PATH}/None") for _ in range(3)]
        ids = {reply.json[ROOT]["id"] for reply in await asyncio.gather(*asked)}
        (network,) = await one.rows("/networks?name=auto_allocated_network")
        assert ids == {network["id"]}
        await b.boot("one", "guest", network["id"])
        await b.settle()
        port = (await one.rows("/ports?device_id=guest"))[0]
        assert b.driver().reaches(port["id"], "8.8.8.8")
        assert (await one.get(f"{PATH}/two")).status in (403, 404)
        assert said(await one.delete(f"{PATH}/None")) == (409, "NetworkInUse")
        await b.contract.detach("guest")
        assert (await one.delete(f"{PATH}/None")).status == 204
        assert await one.rows("/networks?router:external=False") == []
        assert await one.rows("/routers") == await one.rows("/ports") == []
        again = (await one.get(f"{PATH}/one")).json[ROOT]["id"]
        assert again not in ids

    run(body)


def test_a_topology_whose_network_was_deleted_is_made_anew() -> None:
    async def body(b: Bench) -> None:
        one = b.as_("one")
        first = (await one.get(f"{PATH}/None")).json[ROOT]["id"]
        (router,) = await one.rows("/routers")
        (subnet,) = await one.rows(f"/subnets?network_id={first}")
        way = f"/routers/{router['id']}/remove_router_interface"
        assert (await one.put(way, {"subnet_id": subnet["id"]})).status == 200
        assert (await one.delete(f"/networks/{first}")).status == 204
        second = (await one.get(f"{PATH}/None")).json[ROOT]["id"]
        assert second != first

    run(body, hosts=0)


def test_without_default_pools_nothing_is_made_and_the_reason_is_told() -> None:
    async def body(b: Bench) -> None:
        for pool in await b.admin.rows("/subnetpools?is_default=True"):
            assert (await b.admin.delete(f"/subnetpools/{pool['id']}")).status == 204
        for query in ("", "?fields=dry-run"):
            reply = await b.as_("one").get(f"{PATH}/None{query}")
            assert said(reply) == (409, "AutoAllocationFailure")
            assert "No default subnetpools" in reply.json["NeutronError"]["message"]
        assert await b.as_("one").rows("/routers") == []

    run(body, hosts=0)


def test_there_is_one_default_external_network() -> None:
    async def body(b: Bench) -> None:
        public = await b.admin.public()
        asked = {"network": {"name": "x", "router:external": True, "is_default": True}}
        reply = await b.admin.post("/networks", asked)
        assert said(reply) == (409, "DefaultExternalNetworkExists")
        same = {"network": {"is_default": True}}
        assert (await b.admin.put(f"/networks/{public}", same)).status == 200

    run(body, hosts=0)

"""What tests of placement start from."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from pileus.services.placement import SERVICE
from pileus.services.placement.contract import PLACEMENT, Demand, Inventory, Placement
from pileus.services.placement.ledger import CONSUMERS
from pileus.services.placement.providers import PROVIDERS
from pileus.testing.alone import Alone, alone
from pileus.testing.client import Client, Reply

PROVIDERS_URL = "/placement/resource_providers"
CONSUMER = "11111111-2222-3333-4444-555555555555"
SMALL = {
    "VCPU": Inventory(total=4, allocation_ratio=2.0),
    "MEMORY_MB": Inventory(total=1024),
    "DISK_GB": Inventory(total=10, reserved=2),
}
ONE = Demand(resources={"VCPU": 1, "MEMORY_MB": 128, "DISK_GB": 1})


class Operator:
    """An administrator of placement at one version."""

    def __init__(self, cloud: Alone, version: str = "1.39") -> None:
        self.cloud = cloud
        self.client: Client = cloud.user("ops", "admin")
        self.client.headers["openstack-api-version"] = f"placement {version}"

    def at(self, version: str) -> Operator:
        return Operator(self.cloud, version)

    async def provider(self, name: str, **more: Any) -> str:
        """A new provider's UUID."""
        reply = await self.client.post(PROVIDERS_URL, {"name": name, **more})
        assert reply.status == 200, reply
        return str(reply.json["uuid"])

    async def stock(self, provider: str, generation: int = 0, **totals: Any) -> Reply:
        """Sets the provider's inventories; a number is a total."""
        inventories = {c: v if isinstance(v, dict) else {"total": v} for c, v in totals.items()}
        body = {"inventories": inventories, "resource_provider_generation": generation}
        return await self.client.put(f"{PROVIDERS_URL}/{provider}/inventories", body)

    async def allocate(
        self, provider: str, consumer: str = CONSUMER, generation: int | None = None, **amounts: int
    ) -> Reply:
        allocations = {provider: {"resources": amounts}} if amounts else {}
        return await self.put_allocations(allocations, consumer, generation)

    async def put_allocations(
        self, allocations: Any, consumer: str = CONSUMER, generation: int | None = None
    ) -> Reply:
        body = {
            "allocations": allocations,
            "project_id": "p",
            "user_id": "u",
            "consumer_generation": generation,
            "consumer_type": "INSTANCE",
        }
        return await self.client.put(f"/placement/allocations/{consumer}", body)

    async def generation(self, provider: str) -> int:
        return int((await self.client.get(f"{PROVIDERS_URL}/{provider}")).json["generation"])

    async def usages(self, provider: str) -> dict[str, int]:
        reply = await self.client.get(f"{PROVIDERS_URL}/{provider}/usages")
        return dict(reply.json["usages"])


@asynccontextmanager
async def operator() -> AsyncIterator[Operator]:
    async with alone(SERVICE) as cloud:
        yield Operator(cloud)


def placement_of(cloud: Alone) -> Placement:
    return cloud.runtime.contracts.get(PLACEMENT)


def code_of(reply: Reply) -> str:
    return str(reply.json["errors"][0]["code"])


async def check_books(cloud: Alone) -> None:
    """What providers say is used is what consumers hold, and nothing is used beyond its capacity."""
    async with cloud.runtime.store.tx() as tx:
        await tx.lock("placement.allocations")  # or two reads could have a commit between them
        consumers, providers = await CONSUMERS.all(tx), await PROVIDERS.all(tx)
    held: dict[tuple[str, str], int] = {}
    for consumer in consumers:
        for id, amounts in consumer.allocations.items():
            for resource_class, amount in amounts.items():
                key = id, resource_class
                held[key] = held.get(key, 0) + amount
    for provider in providers:
        for resource_class, stock in provider.inventories.items():
            assert stock.used == held.pop((provider.id, resource_class), 0)
            assert 0 <= stock.used <= stock.capacity
    assert not held

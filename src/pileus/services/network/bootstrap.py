"""The first start: the rules that security groups begin with, and an external network."""

from __future__ import annotations

from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Tx
from pileus.services.identity.contract import IDENTITY

from .addressing import Block, address, block, checked_pools
from .checks import OUTSIDE
from .network import NETWORKS, Network, add_network, at_places, segment_of
from .security_group import DEFAULT_RULES, seed_default_rules
from .segment import FLAT, SEGMENTS, Place
from .settings import settings_of
from .subnet import SUBNETS, Subnet, of_network, pools_of
from .subnetpool import SUBNETPOOLS, SubnetPool


async def bootstrap(runtime: Runtime) -> None:
    """Makes the public network if there is none; an operator who wants none says so in the settings."""
    chosen = settings_of(runtime)
    async with runtime.store.tx() as tx:
        await tx.lock("network.default_rules")
        if await DEFAULT_RULES.one(tx) is None:
            await seed_default_rules(tx, runtime.world)
        if await SEGMENTS.one(tx) is None:
            await _segment_rows(tx, runtime)
    if not chosen.public_name:
        return
    store, world = runtime.store, runtime.world
    outside = Place(network_type=FLAT, physical_network=OUTSIDE)
    if await SEGMENTS.one(store, place=outside.key) is not None:
        return
    owner = await runtime.contracts.get(IDENTITY).admin_project()
    network = Network(
        id=world.new_id(),
        project_id=owner.id,
        name=chosen.public_name,
        external=True,
        is_default=True,
        mtu=chosen.underlay_mtu,
        **at_places([outside]),
    )
    of, gateway = block(chosen.public_cidr), address(chosen.public_gateway)
    pool = (chosen.public_pool_start, chosen.public_pool_end)
    subnet = Subnet(
        id=world.new_id(),
        project_id=owner.id,
        name=f"{chosen.public_name}-subnet",
        cidr=str(of),
        ip_version=of.version,
        gateway_ip=str(gateway),
        enable_dhcp=False,
        allocation_pools=pools_of(checked_pools(of, [pool], gateway), of.version),
        **of_network(network),
    )
    async with store.tx() as tx:
        if chosen.default_pool:
            await SUBNETPOOLS.insert(
                tx, _default_pool(runtime, owner.id, block(chosen.default_pool))
            )
        network = await add_network(tx, world, network)
        await SUBNETS.insert(tx, subnet)
        await NETWORKS.change(tx, network, subnets=[subnet.id])


async def _segment_rows(tx: Tx, runtime: Runtime) -> None:
    """For the networks of a cloud from before segments were rows of their own."""
    for network in await NETWORKS.all(tx):
        for index, place in enumerate(network.places):
            await SEGMENTS.insert(tx, segment_of(runtime.world, network, place, index))


def _default_pool(runtime: Runtime, owner: str, of: Block) -> SubnetPool:
    """What auto-allocated topologies are cut from, under DevStack's name and with its lengths."""
    return SubnetPool(
        id=runtime.world.new_id(),
        project_id=owner,
        name=f"shared-default-subnetpool-v{of.version}",
        prefixes=[str(of)],
        ip_version=of.version,
        min_prefixlen=8,
        max_prefixlen=of.max_prefixlen,
        default_prefixlen=26,
        shared=True,
        is_default=True,
    )

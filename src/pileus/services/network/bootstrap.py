"""The first start: the rules that security groups begin with, and an external network."""

from __future__ import annotations

from pileus.kernel.runtime import Runtime
from pileus.services.identity.contract import IDENTITY

from .addressing import Block, address, block, checked_pools
from .network import FLAT, NETWORKS, Network, add_network
from .security_group import DEFAULT_RULES, seed_default_rules
from .settings import settings_of
from .subnet import SUBNETS, Subnet, of_network, pools_of
from .subnetpool import SUBNETPOOLS, SubnetPool

PHYSICAL_NETWORK = "public"


async def bootstrap(runtime: Runtime) -> None:
    """Makes the public network if there is none; an operator who wants none says so in the settings."""
    chosen = settings_of(runtime)
    async with runtime.store.tx() as tx:
        await tx.lock("network.default_rules")
        if await DEFAULT_RULES.one(tx) is None:
            await seed_default_rules(tx, runtime.world)
    if not chosen.public_name:
        return
    store, world = runtime.store, runtime.world
    if await NETWORKS.one(store, segment=f"{FLAT}:{PHYSICAL_NETWORK}") is not None:
        return
    owner = await runtime.contracts.get(IDENTITY).admin_project()
    network = Network(
        id=world.new_id(),
        project_id=owner.id,
        name=chosen.public_name,
        external=True,
        is_default=True,
        mtu=chosen.underlay_mtu,
        network_type=FLAT,
        physical_network=PHYSICAL_NETWORK,
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

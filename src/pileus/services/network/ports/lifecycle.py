"""How ports come, change their addresses and go: inside a transaction that holds their network."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pileus.kernel.events import emit
from pileus.kernel.faults import Conflict, Invalid
from pileus.kernel.store import Tx
from pileus.kernel.world import World

from ..addressing import address, eui64, usable
from ..floating_ip import FLOATING_IPS, disassociate
from ..floating_ip import release as release_floating
from ..network import Network
from ..packet_log import drop_logs
from ..port import PORTS, ROUTER_OWNERS, Fixed, Port
from ..pvlan import taking_part
from ..refusals import bad_input, no_addresses
from ..security_group import default_group
from ..subnet import SUBNETS, Subnet, auto_prefix, give_back, take, take_free
from .bodies import FixedRequest
from .reach import refuse_unreached, within_reach

_MOST_FIXED = 5  # upstream's max_fixed_ips_per_port
_MAC_DRAWS = 32


async def add_port(
    tx: Tx,
    world: World,
    network: Network,
    port: Port,
    fixed: Sequence[FixedRequest] | None,
    *,
    wear_default: bool,
) -> Port:
    """Writes the port with its addresses. `fixed` None: one of each version that the network has.

    Raises Conflict (addresses, MAC), Invalid, OverQuota.
    """
    port = taking_part(network, port)
    mac = port.mac_address or await free_mac(tx, world, network.id)
    port = msgspec.structs.replace(port, mac_address=mac, network_project_id=network.project_id)
    addresses, deferred = await choose(tx, world, port, fixed)
    groups = port.security_groups
    if wear_default:
        groups = [(await default_group(tx, world, port.project_id)).id]
    port = msgspec.structs.replace(
        port, fixed_ips=addresses, deferred=deferred, security_groups=groups
    )
    port = await PORTS.insert(tx, port)
    await tell(tx, "create", port)
    return port


async def tell(tx: Tx, what: str, port: Port) -> None:
    """The event that compute and others listen to."""
    await emit(
        tx,
        f"port.{what}.end",
        port.project_id,
        id=port.id,
        network_id=port.network_id,
        device_id=port.device_id,
        device_owner=port.device_owner,
        status=port.status,
    )


async def remove_port(tx: Tx, port: Port) -> bool:
    """The port goes with its addresses, and floating IPs let go of it: did it have any?"""
    floated = await disassociate(tx, port.id)
    for fixed in port.fixed_ips:
        await give_back(tx, port.network_id, fixed.ip_address)
    await drop_logs(tx, target_id=port.id)
    await PORTS.delete(tx, port)
    await tell(tx, "delete", port)
    return bool(floated)


async def readdress(tx: Tx, world: World, port: Port, fixed: Sequence[FixedRequest]) -> list[Fixed]:
    """The port's addresses after asking for `fixed`: what it has and still wants, it keeps."""
    kept: list[Fixed] = []
    wanted: list[FixedRequest] = []
    left = list(port.fixed_ips)
    for request in sorted(fixed, key=lambda f: not f.ip_address):
        same = next((f for f in left if _meets(f, request)), None)
        if same is None:
            wanted.append(request)
        else:
            left.remove(same)
            kept.append(same)
    for gone in left:
        await give_back(tx, port.network_id, gone.ip_address)
        await _unfloat(tx, port.id, gone.ip_address)
    if len(kept) + len(wanted) > _MOST_FIXED:
        raise bad_input("Exceeded maximum amount of fixed ips per port")
    return [*kept, *((await choose(tx, world, port, wanted))[0] if wanted else [])]


async def addressed_at(tx: Tx, world: World, port: Port, host: str) -> dict[str, list[Fixed]]:
    """What changes with a port's host: it gets the addresses that waited for it. Raises Conflict."""
    if host in ("", port.host):
        return {}
    if port.deferred and not port.host and not port.fixed_ips:
        moved = msgspec.structs.replace(port, host=host)
        return {"fixed_ips": (await choose(tx, world, moved, None))[0]}
    await refuse_unreached(tx, port, host)
    return {}


def _meets(fixed: Fixed, request: FixedRequest) -> bool:
    if request.ip_address and str(address(request.ip_address)) != fixed.ip_address:
        return False
    return not request.subnet_id or request.subnet_id == fixed.subnet_id


async def _unfloat(tx: Tx, port_id: str, ip: str) -> None:
    for fip in await FLOATING_IPS.all(tx, port_id=port_id, fixed_ip_address=ip):
        await release_floating(tx, fip)


async def choose(
    tx: Tx, world: World, port: Port, fixed: Sequence[FixedRequest] | None
) -> tuple[list[Fixed], bool]:
    """Takes addresses for the port; or, where they depend on its host, defers that. Raises Conflict, Invalid."""
    subnets = await SUBNETS.all(tx, network_id=port.network_id)
    if any(s.segment_id for s in subnets):
        subnets = await within_reach(tx, port, subnets, fixed)
        if fixed is None and not subnets:
            return [], True
    if fixed is None:
        return await _any(tx, world, port, subnets), False
    if len(fixed) > _MOST_FIXED:
        raise bad_input("Exceeded maximum amount of fixed ips per port")
    taken = []
    for request in sorted(fixed, key=lambda f: not f.ip_address):  # what is named goes first
        subnet = _subnet_for(port, subnets, request)
        ip = await _one(tx, world, port, subnet, request)
        taken.append(Fixed(subnet_id=subnet.id, ip_address=ip))
    return taken, False


async def _any(tx: Tx, world: World, port: Port, subnets: Sequence[Subnet]) -> list[Fixed]:
    """One IPv4 and one IPv6 address where there are such subnets, and one of each automatic subnet."""
    routes = port.device_owner in ROUTER_OWNERS
    fitting = [s for s in subnets if not s.service_types or port.device_owner in s.service_types]
    special = [s for s in fitting if s.service_types]
    pool = special or fitting
    if subnets and not pool:
        raise Conflict(
            f"No valid service subnet for the given device owner, network {port.network_id}, "
            f"service type {port.device_owner}.",
            code="IpAddressGenerationFailureNoMatchingSubnet",
        )
    taken = []
    for version in (4, 6):
        choice = [s for s in pool if s.ip_version == version and not s.is_auto]
        if choice:
            taken.append(await _first(tx, world, port, choice))
    for subnet in pool:
        if subnet.is_auto and not routes:
            ip = str(eui64(auto_prefix(subnet), port.mac_address))
            await take(tx, port.network_id, subnet, ip, port.id)
            taken.append(Fixed(subnet_id=subnet.id, ip_address=ip))
    return taken


async def _first(tx: Tx, world: World, port: Port, subnets: Sequence[Subnet]) -> Fixed:
    for subnet in subnets:
        ip = await take_free(tx, world, subnet, port.id)
        if ip is not None:
            return Fixed(subnet_id=subnet.id, ip_address=ip)
    raise no_addresses(port.network_id)


def _subnet_for(port: Port, subnets: Sequence[Subnet], request: FixedRequest) -> Subnet:
    if request.subnet_id:
        for subnet in subnets:
            if subnet.id == request.subnet_id:
                return subnet
        raise bad_input(
            f"Failed to create port on network {port.network_id}, because fixed_ips included "
            f"invalid subnet {request.subnet_id[:64]}"
        )
    if not request.ip_address:
        raise bad_input("IP allocation requires subnet_id or ip_address")
    ip = address(request.ip_address, "fixed_ips")
    for subnet in subnets:
        if ip in subnet.block:
            return subnet
    raise Invalid(
        f"IP address {ip} is not a valid IP for any of the subnets on the specified network.",
        code="InvalidIpForNetwork",
    )


async def _one(tx: Tx, world: World, port: Port, subnet: Subnet, request: FixedRequest) -> str:
    routes = port.device_owner in ROUTER_OWNERS
    if request.ip_address:
        ip = address(request.ip_address, "fixed_ips")
        low, high = usable(subnet.block)
        if ip not in subnet.block or not low <= int(ip) <= high:
            raise Invalid(
                f"IP address {ip} is not a valid IP for the specified subnet.",
                code="InvalidIpForSubnet",
            )
        own = subnet.is_auto and ip == eui64(auto_prefix(subnet), port.mac_address)
        if subnet.is_auto and not routes and not own:
            raise bad_input(
                f"IPv6 address {ip} cannot be directly assigned to a port on subnet {subnet.id} "
                "as the subnet is configured for automatic addresses",
                "AllocationOnAutoAddressSubnet",
            )
        await take(tx, port.network_id, subnet, str(ip), port.id)
        return str(ip)
    if subnet.is_auto and not routes:
        made = str(eui64(auto_prefix(subnet), port.mac_address))
        await take(tx, port.network_id, subnet, made, port.id)
        return made
    found = await take_free(tx, world, subnet, port.id)
    if found is None:
        raise no_addresses(port.network_id)
    return found


async def free_mac(tx: Tx, world: World, network_id: str) -> str:
    for _ in range(_MAC_DRAWS):
        digits = f"{world.random.getrandbits(24):06x}"
        mac = f"fa:16:3e:{digits[:2]}:{digits[2:4]}:{digits[4:]}"
        if await PORTS.one(tx, network_id=network_id, mac_address=mac) is None:
            return mac
    raise Conflict(
        f"Unable to generate unique mac on network {network_id}.",
        code="MacAddressGenerationFailure",
    )

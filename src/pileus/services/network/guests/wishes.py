"""What a guest asks of the network, judged as the caller before anything is promised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pileus.kernel.auth import Caller
from pileus.kernel.faults import Conflict, Forbidden, Invalid, NotFound, OverQuota
from pileus.kernel.quota import limit_of, usage
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Page, Reader

from ..addressing import address
from ..contract import NicRequest
from ..network import NETWORKS, Network, network_target
from ..port import PORTS, port_target
from ..ports.cards import refuse_accelerator
from ..security_group import DEFAULT, GROUPS
from ..subnet import ALLOCATIONS, SUBNETS


@dataclass(frozen=True)
class Acting:
    """The caller, to be asked what he may."""

    runtime: Runtime
    caller: Caller

    def allows(self, rule: str, target: Mapping[str, object]) -> bool:
        return self.runtime.rules("network").allows(rule, self.caller, target)

    def require(self, rule: str, target: Mapping[str, object]) -> None:
        if not self.allows(rule, target):
            raise Forbidden(f"(rule:{rule}) is disallowed by policy")


async def networks_of(runtime: Runtime, project_id: str) -> list[Network]:
    """What a project means when it names no network: its own, else those shared with all."""
    for filters in ({"project_id": project_id, "external": 0}, {"shared": 1, "external": 0}):
        found = await NETWORKS.list(runtime.store, Page(filters, limit=2))
        if found:
            return found
    return []


async def settled(acting: Acting, requests: Sequence[NicRequest] | None) -> list[NicRequest]:
    """The requests with every network and port seen to exist and be the caller's to use."""
    if requests is None:
        found = await networks_of(acting.runtime, acting.caller.project_id)
        if len(found) > 1:
            raise Conflict(
                "Multiple possible networks found, use a Network ID to be more specific."
            )
        requests = [NicRequest(network_id=n.id) for n in found]
    for request in requests:
        if request.port_id:
            await _port(acting, request.port_id)
        else:
            await _network(acting, request)
    ports = [r.port_id for r in requests if r.port_id]
    if len(set(ports)) != len(ports):
        raise Invalid("A port can be attached once only; the request names one twice.")
    await _affordable(acting, len(requests) - len(ports))
    return list(requests)


async def _port(acting: Acting, id: str) -> None:
    port = await PORTS.find(acting.runtime.store, id)
    if port is None or not acting.allows("get_port", port_target(port)):
        raise PORTS.missing(id)
    acting.require("update_port", port_target(port))
    if port.guest or port.device_id:
        raise Conflict(f"Port {id} is still in use.", code="PortInUse")
    refuse_accelerator(port)
    if port.deferred or (not port.fixed_ips and not port.port_security_enabled):
        return
    if not port.fixed_ips and await SUBNETS.one(acting.runtime.store, network_id=port.network_id):
        raise Invalid(f"Port {id} requires a FixedIP in order to be used.")


async def _network(acting: Acting, request: NicRequest) -> None:
    store = acting.runtime.store
    network = await NETWORKS.find(store, request.network_id)
    if network is None or not acting.allows(
        "get_network", network_target(network, acting.caller.project_id)
    ):
        raise NETWORKS.missing(request.network_id)
    own = (
        network.is_shared_to(acting.caller.project_id)
        or network.project_id == acting.caller.project_id
    )
    if network.external and not own and not acting.caller.is_admin:
        raise Forbidden(
            f"It is not allowed to create an interface on external network {network.id}"
        )
    if not network.subnets:
        raise Invalid(f"Network {network.id} requires a subnet in order to boot instances on.")
    if request.fixed_ip:
        await _fixed(store, network, request.fixed_ip)


async def _fixed(db: Reader, network: Network, text: str) -> None:
    ip = address(text, "fixed_ip")
    subnets = await SUBNETS.all(db, network_id=network.id)
    if not any(ip in s.block for s in subnets):
        raise Invalid(f"Fixed IP {ip} is not a valid ip address for network {network.id}.")
    if await ALLOCATIONS.find(db, f"{network.id}/{ip}") is not None:
        raise Conflict(f"Fixed IP address {ip} is already in use on network {network.id}.")


async def _affordable(acting: Acting, more: int) -> None:
    """Raises OverQuota before the server is promised; the charge itself is made with the ports."""
    store, project = acting.runtime.store, acting.caller.project_id
    limit = await limit_of(store, "network", "port", project, PORTS.quotas[0].default)
    used = (await usage(store, "network", project)).get("port", 0)
    if 0 <= limit < used + more:
        raise OverQuota("port", more, used, limit)


async def group_ids(db: Reader, project_id: str, wanted: Sequence[str]) -> list[str]:
    """Ids of a project's groups, named by name or id; "default" may not be there yet and is left out.

    Raises NotFound, Conflict for a name that several groups bear.
    """
    found: dict[str, None] = {}
    for name in wanted:
        group = await GROUPS.find(db, name)
        if group is not None and group.project_id == project_id:
            found[group.id] = None
            continue
        named = await GROUPS.list(db, Page({"project_id": project_id, "name": name}, limit=2))
        if len(named) > 1:
            raise Conflict(
                f"Multiple security groups found matching '{name}'. Use an ID to be more specific."
            )
        if named:
            found[named[0].id] = None
        elif name != DEFAULT:
            raise NotFound(
                f"Security group {name} not found for project {project_id}.",
                code="SecurityGroupNotFound",
            )
    return list(found)

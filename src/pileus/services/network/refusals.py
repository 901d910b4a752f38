"""Refusals whose type clients match on: the names and sentences of the API's own errors."""

from __future__ import annotations

from pileus.kernel.faults import Conflict, Invalid, NotFound


def bad_input(message: str, code: str = "InvalidInput") -> Invalid:
    return Invalid(f"Invalid input for operation: {message}.", code=code)


def network_in_use(network_id: str, reason: str = "") -> Conflict:
    why = reason or "There are one or more ports still in use on the network"
    return Conflict(
        f"Unable to complete operation on network {network_id}. {why}.", code="NetworkInUse"
    )


def subnet_in_use(subnet_id: str, reason: str = "") -> Conflict:
    why = reason or "One or more ports have an IP allocation from this subnet"
    return Conflict(
        f"Unable to complete operation on subnet {subnet_id}: {why}.", code="SubnetInUse"
    )


def port_in_use(port_id: str, network_id: str, device_id: str) -> Conflict:
    return Conflict(
        f"Unable to complete operation on port {port_id} for network {network_id}. "
        f"Port already has an attached device {device_id}.",
        code="PortInUse",
    )


def service_port_in_use(port_id: str, owner: str) -> Conflict:
    return Conflict(
        f"Port {port_id} cannot be deleted directly via the port API: has device owner {owner}.",
        code="ServicePortInUse",
    )


def address_taken(ip: str, subnet_id: str) -> Conflict:
    return Conflict(
        f"IP address {ip} already allocated in subnet {subnet_id}", code="IpAddressAlreadyAllocated"
    )


def no_addresses(network_id: str) -> Conflict:
    return Conflict(
        f"No more IP addresses available on network {network_id}.",
        code="IpAddressGenerationFailure",
    )


def router_in_use(router_id: str, reason: str = "still has ports") -> Conflict:
    return Conflict(f"Router {router_id} {reason}", code="RouterInUse")


def missing(code: str, message: str) -> NotFound:
    return NotFound(message, code=code)

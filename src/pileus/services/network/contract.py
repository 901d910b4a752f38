"""What other services may ask of network, and what network asks of whoever runs guests (metadata)."""

from __future__ import annotations

from typing import Protocol

import msgspec

from pileus.kernel.auth import Caller
from pileus.kernel.contracts import Contract


class NicRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One interface asked for: an existing port, or a network on which to make one."""

    network_id: str = ""
    port_id: str = ""
    fixed_ip: str = ""
    tag: str = ""


class FixedIp(msgspec.Struct, frozen=True, kw_only=True):
    subnet_id: str
    ip_address: str
    version: int


class NicInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An interface as it is. `made`: network made the port for the server, so it goes with it."""

    port_id: str
    network_id: str
    network_name: str
    mac: str
    mtu: int
    fixed_ips: list[FixedIp]
    floating_ips: dict[str, str] = {}  # fixed ip -> floating ip
    security_groups: list[str] = []  # names
    made: bool = True
    status: str = "DOWN"
    trusted: bool = False


class GuestRoute(msgspec.Struct, frozen=True, kw_only=True):
    """`nexthop` "" is on the link."""

    destination: str
    nexthop: str


class Reservation(msgspec.Struct, frozen=True, kw_only=True):
    """What a port is to have at least, of one provider with these traits: amounts by resource class."""

    id: str
    required: list[str]
    resources: dict[str, int]


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What interfaces ask of the host that their guest will be on; `hosts`: of which it must be one (None: any)."""

    reservations: list[Reservation]
    hosts: list[str] | None


class Dress(msgspec.Struct, frozen=True, kw_only=True):
    """What stands on a port in a guest. `addresses` are ip/prefix."""

    addresses: list[str]
    routes: list[GuestRoute]
    nameservers: list[str]


class GuestRef(msgspec.Struct, frozen=True, kw_only=True):
    """For whom ports are made or bound. `also`: another host that wires them, which the guest is about to leave."""

    id: str
    name: str
    project_id: str
    host: str
    zone: str = "nova"
    also: str = ""


class SecurityGroupRule(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    direction: str
    ethertype: str
    protocol: str = ""
    port_min: int | None = None
    port_max: int | None = None
    remote_ip_prefix: str = ""
    remote_group_id: str = ""


class SecurityGroup(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    name: str
    description: str
    project_id: str
    rules: list[SecurityGroupRule]


class Network(Protocol):
    async def resolve(
        self, caller: Caller, requests: list[NicRequest] | None, groups: list[str]
    ) -> list[NicRequest]:
        """Checks what a server asks for before anything is promised, as the caller.

        None means "what the project has": its only network (or shared one), none if it has none; raises Conflict if
        there are several. Raises Invalid/NotFound for unknown networks, ports or groups, Conflict for a port in use,
        OverQuota if the ports to be made would pass the quota.
        """

    async def auto_network(self, caller: Caller) -> str:
        """The id of the network that leads out, made for the caller's project if it has none.

        Raises Conflict, saying what is missing; OverQuota.
        """

    async def attach(
        self, caller: Caller, guest: GuestRef, requests: list[NicRequest], groups: list[str]
    ) -> list[NicInfo]:
        """Makes or binds the ports on the guest's host. Asked again for the same guest it gives the same ports."""

    async def expect(self, guest_id: str, host: str) -> None:
        """The guest will be on that host soon: `plug` wires its ports there too. "" takes that back, as `attach` does."""

    async def plug(self, guest_id: str, host: str) -> None:
        """Returns when the host has wired the guest's ports. Raises Unavailable if it does not in time."""

    async def detach(self, guest_id: str, port_id: str = "") -> None:
        """Deletes the ports made for the guest and unbinds the others; the host unwires them.

        `port_id`: that one alone, if it is the guest's.
        """

    async def unbind(self, guest_id: str) -> None:
        """The ports stay the guest's, on no host: `attach` binds them where it will be next."""

    async def nics(self, guest_ids: list[str]) -> dict[str, list[NicInfo]]:
        """The interfaces of each guest, in the order they were asked for; no key for a guest without any."""

    async def needs(self, requests: list[NicRequest]) -> Needs:
        """What these ports, and those that are to be made, need of a host: what QoS policies keep for them, to be claimed
        with whatever else their guest needs, and a way to their networks' segments.
        """

    async def dress(self, guest_id: str) -> dict[str, Dress]:
        """By port, what a guest that does not ask for its addresses is to have."""

    async def guest_of(self, port_id: str) -> str:
        """The device id of a port, "" if it has none."""

    async def security_groups(
        self, caller: Caller, *, everybodys: bool = False
    ) -> list[SecurityGroup]:
        """The caller's project's, the default one made if need be; or those of all projects."""

    async def create_security_group(
        self, caller: Caller, name: str, description: str
    ) -> SecurityGroup: ...
    async def update_security_group(
        self, caller: Caller, id: str, name: str, description: str
    ) -> SecurityGroup: ...
    async def delete_security_group(self, caller: Caller, id: str) -> None: ...
    async def create_security_group_rule(
        self, caller: Caller, group_id: str, rule: SecurityGroupRule
    ) -> SecurityGroupRule: ...
    async def delete_security_group_rule(self, caller: Caller, id: str) -> None: ...
    async def set_guest_group(
        self, caller: Caller, guest_id: str, group: str, present: bool
    ) -> None:
        """Adds a group (by name or id) to the guest's ports, or takes it from them."""


NETWORK = Contract("network", Network)  # type: ignore[type-abstract]


class MetadataReply(msgspec.Struct, frozen=True, kw_only=True):
    status: int
    content_type: str
    body: bytes


class GuestMetadata(Protocol):
    """Kept by the service that runs guests; the hosts' metadata servers ask it."""

    async def answer(
        self, port_id: str, method: str, path: str, body: bytes = b""
    ) -> MetadataReply: ...


GUEST_METADATA = Contract("guest_metadata", GuestMetadata)  # type: ignore[type-abstract]

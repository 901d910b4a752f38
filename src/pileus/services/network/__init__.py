"""The network service."""

from __future__ import annotations

from pileus.kernel import faults
from pileus.kernel.hosts import AgentSpec
from pileus.kernel.resources import Service
from pileus.kernel.runtime import Provided, Standing

from . import reservations
from .address_groups import AddressGroups
from .address_scopes import AddressScopes
from .agent import NetworkAgent
from .agents import Agents, AvailabilityZones
from .auto_topology import AutoTopologies
from .bootstrap import bootstrap
from .contract import NETWORK
from .control import KeptControl, tell_group
from .default_rules import DefaultRules
from .default_statefulness import Statefulnesses
from .discovery import CoreResources, Versions
from .extensions import Extensions
from .flavors import Flavors, ServiceProfiles, ServiceProviders
from .floating_ips import FloatingIps
from .guests.kept import KeptNetwork
from .ip_availability import FloatingIpPools, IpAvailabilities
from .metering import MeteringLabels, MeteringRules
from .networks import Networks
from .packet_logs import LoggableResources, PacketLogs
from .port_forwardings import PortForwardings
from .ports.bindings import PortBindings
from .ports.operations import Ports
from .qos.policies import Policies
from .qos.rules import QOS_RESOURCES
from .quotas import Quotas
from .rbac_policies import RbacPolicies
from .routers.operations import Routers
from .routers.placement import PERIOD_S, RECONCILER, keep_placed
from .rules import BASE_RULES
from .schedules import SCHEDULES
from .security_groups.operations import SecurityGroups
from .security_groups.rules import SecurityGroupRules
from .segments import Segments
from .settings import NetworkSettings
from .subnetpools import SubnetPools
from .subnets.operations import Subnets
from .tags import tags_of
from .trace import Traces
from .trunks import Trunks
from .wiring import NETWORK_CONTROL, NETWORK_HOST, REGROUPER, WAKER, hint_host

SERVICE = Service(
    type="network",
    name="neutron",
    prefix="/network",
    api="/v2.0",
    endpoint="/network",
    dialect=faults.NEUTRON,
    description="OpenStack Networking",
    either_dash=True,
    resources=(
        Versions,
        CoreResources,
        Extensions,
        Networks,
        Segments,
        Subnets,
        Ports,
        PortBindings,
        SubnetPools,
        SecurityGroups,
        SecurityGroupRules,
        Routers,
        FloatingIps,
        PortForwardings,
        Quotas,
        Agents,
        AvailabilityZones,
        AutoTopologies,
        *SCHEDULES,
        AddressGroups,
        AddressScopes,
        Policies,
        *QOS_RESOURCES,
        DefaultRules,
        Statefulnesses,
        Flavors,
        LoggableResources,
        MeteringLabels,
        MeteringRules,
        PacketLogs,
        FloatingIpPools,
        IpAvailabilities,
        RbacPolicies,
        ServiceProfiles,
        ServiceProviders,
        Traces,
        Trunks,
        tags_of(Networks, "networks"),
        tags_of(Subnets, "subnets"),
        tags_of(Ports, "ports"),
        tags_of(SubnetPools, "subnetpools"),
        tags_of(SecurityGroups, "security-groups"),
        tags_of(Routers, "routers"),
        tags_of(FloatingIps, "floatingips"),
        tags_of(Policies, "policies"),
        tags_of(Trunks, "trunks"),
    ),
    rules=BASE_RULES,
    scopes=("project",),
    provides=(Provided(NETWORK, KeptNetwork), Provided(NETWORK_CONTROL, KeptControl, remote=True)),
    agents=(AgentSpec(NETWORK_HOST, NetworkAgent),),
    reconcilers=(
        Standing(RECONCILER, PERIOD_S, keep_placed),
        Standing(WAKER, 0, hint_host),
        Standing(reservations.RECONCILER, reservations.PERIOD_S, reservations.tell_placement),
        Standing(REGROUPER, 0, tell_group),
    ),
    bootstrap=bootstrap,
    settings=NetworkSettings,
)

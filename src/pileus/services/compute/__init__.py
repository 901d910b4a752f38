"""Compute: servers, and what they are made of."""

from pileus.host.consoles_contract import CONSOLES
from pileus.kernel.events import Watch
from pileus.kernel.faults import NOVA
from pileus.kernel.hosts import AgentSpec
from pileus.kernel.resources import Service
from pileus.kernel.runtime import Provided, Standing
from pileus.services.network.contract import GUEST_METADATA

from .agent import ComputeAgent
from .agent_contract import COMPUTE_CONTROL, COMPUTE_HOST
from .aggregates import Aggregates
from .bootstrap import bootstrap
from .consoles import ConsoleAuthTokens, KeptConsoles, ServerConsoles
from .extensions import Extensions
from .external_events import AssistedVolumeSnapshots, ServerExternalEvents
from .flavor_access import FlavorAccess
from .flavor_extra_specs import FlavorExtraSpecs
from .flavors import Flavors
from .host_reports import HostReports
from .hosts import Hosts, UsageAudits
from .hypervisors import Hypervisors
from .images import Images
from .instance_actions import InstanceActions
from .keypairs import Keypairs
from .metadata import Metadata
from .migrations import Migrations
from .networks import FloatingIps, Networks, ServerAddressActions
from .quota_classes import QuotaClassSets
from .quotas import Limits, QuotaSets
from .security_groups import SecurityGroups
from .server_groups import ServerGroups
from .server_password import ServerPassword
from .servers.actions import ServerActions
from .servers.addresses import ServerAddresses, refresh
from .servers.diagnostics import ServerDiagnostics
from .servers.due import PERIOD_S, end_what_is_due
from .servers.evacuation import ServerEvacuation
from .servers.images import ServerImages
from .servers.interfaces import ServerInterfaces
from .servers.live_migration import ServerLiveMigration
from .servers.metadata import ServerMetadata
from .servers.migrations import ServerMigrations
from .servers.moving import ServerMoving
from .servers.operations import Servers
from .servers.pausing import ServerPausing
from .servers.rebuilding import ServerRebuilding
from .servers.resizing import ServerResizing
from .servers.shelving import ServerShelving
from .servers.tags import ServerTags
from .servers.volume_sagas import GROWN, PLACES, RELOCATED, SIZES, changed, tell_places, tell_sizes
from .servers.volumes import ServerVolumes
from .services import ComputeServices
from .settings import Settings
from .usage import TenantUsage
from .versions import VERSIONS, ComputeVersions
from .volumes import Snapshots, Volumes
from .zones import AvailabilityZones

SERVICE = Service(
    type="compute",
    name="nova",
    prefix="/compute",
    api="/v2.1",
    endpoint="/compute/v2.1",
    dialect=NOVA,
    strict=True,
    description="Nova Compute Service",
    versions=VERSIONS,
    resources=(
        ComputeVersions,
        Servers,
        ServerActions,
        ServerPausing,
        ServerDiagnostics,
        ServerImages,
        ServerRebuilding,
        ServerResizing,
        ServerShelving,
        ServerMoving,
        ServerLiveMigration,
        ServerMigrations,
        ServerEvacuation,
        Migrations,
        ServerGroups,
        ServerMetadata,
        ServerTags,
        ServerAddresses,
        ServerInterfaces,
        ServerVolumes,
        ServerPassword,
        InstanceActions,
        Flavors,
        FlavorExtraSpecs,
        FlavorAccess,
        Keypairs,
        Limits,
        QuotaSets,
        QuotaClassSets,
        AvailabilityZones,
        ComputeServices,
        Hypervisors,
        Aggregates,
        SecurityGroups,
        Images,
        TenantUsage,
        Extensions,
        Hosts,
        UsageAudits,
        Networks,
        FloatingIps,
        ServerAddressActions,
        Volumes,
        Snapshots,
        ServerExternalEvents,
        AssistedVolumeSnapshots,
        ServerConsoles,
        ConsoleAuthTokens,
    ),
    rules={
        "context_is_admin": "role:admin",
        "admin_or_owner": "is_admin:True or project_id:%(project_id)s",
        "admin_api": "is_admin:True",
        "project_manager_api": "role:manager and project_id:%(project_id)s",
        "project_member_api": "role:member and project_id:%(project_id)s",
        "project_reader_api": "role:reader and project_id:%(project_id)s",
        "service_api": "role:service",
        "project_manager_or_admin": "rule:project_manager_api or rule:context_is_admin",
        "project_member_or_admin": "rule:project_member_api or rule:context_is_admin",
        "project_reader_or_admin": "rule:project_reader_api or rule:context_is_admin",
        "service_or_admin": "rule:service_api or rule:context_is_admin",
    },
    scopes=("project",),
    provides=(
        Provided(COMPUTE_CONTROL, HostReports, remote=True),
        Provided(CONSOLES, KeptConsoles),
        Provided(GUEST_METADATA, Metadata, remote=True),
    ),
    # A guest that resumes opens its taps, and those are the network agent's to make.
    agents=(AgentSpec(COMPUTE_HOST, ComputeAgent, after=("network_host",)),),
    reconcilers=(
        Standing("compute.due", PERIOD_S, end_what_is_due),
        Standing(SIZES, 0, tell_sizes),
        Standing(PLACES, 0, tell_places),
    ),
    watches=(
        Watch("compute.addresses", ("port.", "floatingip.", "network.update."), refresh),
        Watch(SIZES, (GROWN, RELOCATED), changed),
    ),
    bootstrap=bootstrap,
    settings=Settings,
    optional_project=True,
    request_id_header="x-compute-request-id",
)

"""Block storage: volumes, which outlive the servers that use them."""

from pileus.kernel.faults import CINDER
from pileus.kernel.hosts import AgentSpec
from pileus.kernel.resources import Service
from pileus.kernel.runtime import Provided, Standing

from .agent import VolumeAgent
from .agent_contract import VOLUME_CONTROL, VOLUME_HOST
from .attaching import take_back
from .attachments import Attachments
from .backups import Backups
from .bootstrap import bootstrap
from .consistency_groups import Cgsnapshots, ConsistencyGroups
from .contract import VOLUMES
from .control import KeptVolumes
from .default_types import DefaultTypes
from .discovery import Discovery
from .group_types import GroupTypes
from .groups import Groups, GroupSnapshots
from .keeping import Volumes as KeptForServices
from .managed_snapshots import ManageableSnapshots, SnapshotUnmanaging
from .messages import Messages
from .qos_specs import QosSpecs
from .quotas import Limits, QuotaClassSets, QuotaSets
from .rules import RULES
from .services import Pools, VolumeHosts, VolumeServices, Workers, Zones
from .settings import Settings
from .snapshots import Snapshots
from .tickets import VolumeTickets, sweep
from .transfers import Transfers
from .type_details import TypeAccess, TypeEncryption, TypeExtraSpecs
from .versions import VERSIONS, Versions
from .volume_types import VolumeTypes
from .volumes.actions import VolumeActions
from .volumes.connecting import VolumeConnecting
from .volumes.moving import ManageableVolumes, VolumeMoving
from .volumes.operations import Volumes

SERVICE = Service(
    type="block-storage",
    name="cinder",
    prefix="/volume",
    api="/v3",
    endpoint="/volume/v3",
    dialect=CINDER,
    strict=True,
    description="Cinder Block Storage Service",
    versions=VERSIONS,
    aliases=("volumev3", "block-store"),
    resources=(
        Versions,
        Volumes,
        VolumeActions,
        VolumeConnecting,
        VolumeMoving,
        ManageableVolumes,
        Snapshots,
        SnapshotUnmanaging,
        ManageableSnapshots,
        Attachments,
        Backups,
        Groups,
        GroupSnapshots,
        GroupTypes,
        ConsistencyGroups,
        Cgsnapshots,
        VolumeTypes,
        TypeExtraSpecs,
        TypeAccess,
        TypeEncryption,
        QosSpecs,
        DefaultTypes,
        QuotaSets,
        QuotaClassSets,
        Limits,
        Transfers,
        VolumeServices,
        VolumeHosts,
        Pools,
        Zones,
        Workers,
        Discovery,
        Messages,
        VolumeTickets,
    ),
    rules=RULES,
    provides=(
        Provided(VOLUME_CONTROL, KeptVolumes, remote=True),
        Provided(VOLUMES, KeptForServices),
    ),
    agents=(AgentSpec(VOLUME_HOST, VolumeAgent),),
    reconcilers=(
        Standing("block_storage.sweep", 20, sweep),
        Standing("block_storage.exports", 300, take_back),
    ),
    bootstrap=bootstrap,
    settings=Settings,
    optional_project=True,
    request_id_header="x-compute-request-id",
)

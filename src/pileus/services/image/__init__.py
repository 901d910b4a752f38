"""Image: what guests' disks start from."""

from pileus.kernel.faults import GLANCE
from pileus.kernel.resources import Service
from pileus.kernel.runtime import Provided, Standing

from . import standing
from .actions import ImageActions
from .contract import IMAGES
from .data import ImageData, ImageTickets
from .discovery import Discovery
from .images.operations import Images
from .keeping import make
from .members import ImageMembers
from .metadefs.contents import (
    MetadefObjects,
    MetadefProperties,
    MetadefResourceTypes,
    MetadefTags,
)
from .metadefs.namespaces import MetadefNamespaces
from .metadefs.schemas import MetadefSchemas
from .schemas import Schemas
from .settings import ImageSettings
from .tags import ImageTags
from .versions import Versions

SERVICE = Service(
    type="image",
    name="glance",
    prefix="/image",
    api="/v2",
    endpoint="/image",
    dialect=GLANCE,
    description="OpenStack Image",
    resources=(
        Versions,
        Images,
        ImageData,
        ImageTags,
        ImageMembers,
        ImageActions,
        ImageTickets,
        Discovery,
        Schemas,
        MetadefNamespaces,
        MetadefObjects,
        MetadefProperties,
        MetadefTags,
        MetadefResourceTypes,
        MetadefSchemas,
    ),
    rules={"context_is_admin": "role:admin", "metadef_admin": "rule:context_is_admin"},
    scopes=("project",),
    provides=(Provided(IMAGES, make),),
    reconcilers=(
        Standing("image.first", 3.0, standing.register_first_image),
        Standing("image.sweep", 60.0, standing.sweep),
    ),
    settings=ImageSettings,
)

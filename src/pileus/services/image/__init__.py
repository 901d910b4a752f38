"""Image: what guests' disks start from."""

from pileus.kernel.faults import GLANCE
from pileus.kernel.resources import Service
from pileus.kernel.runtime import Provided, Standing

from . import cache, limits, standing
from .actions import ImageActions
from .cache import ImageCache
from .contract import IMAGES
from .data import ImageData, ImageTickets
from .discovery import Discovery
from .images.operations import Images
from .imports import ImageImports
from .keeping import make
from .locations import ImageLocations
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
from .tasks import Tasks
from .versions import Versions

SERVICE = Service(
    type="image",
    name="glance",
    prefix="/image",
    api="/v2",
    endpoint="/image",
    dialect=GLANCE,
    strict=True,
    description="OpenStack Image",
    resources=(
        Versions,
        Images,
        ImageData,
        ImageTags,
        ImageMembers,
        ImageActions,
        ImageTickets,
        ImageImports,
        ImageLocations,
        ImageCache,
        Tasks,
        Discovery,
        Schemas,
        MetadefNamespaces,
        MetadefObjects,
        MetadefProperties,
        MetadefTags,
        MetadefResourceTypes,
        MetadefSchemas,
    ),
    rules={
        "context_is_admin": "role:admin",
        "metadef_admin": "rule:context_is_admin",
    },
    scopes=("project",),
    provides=(Provided(IMAGES, make),),
    reconcilers=(
        Standing("image.first", 3.0, standing.register_first_image),
        Standing(cache.FILL, 60.0, cache.fill),
        Standing("image.sweep", 60.0, standing.sweep),
    ),
    watches=(limits.WATCH,),
    settings=ImageSettings,
)

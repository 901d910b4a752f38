"""Placement: what there is, who holds how much of it, and where there is room."""

from pileus.kernel.faults import PLACEMENT as DIALECT
from pileus.kernel.resources import Service
from pileus.kernel.runtime import Provided
from pileus.kernel.versions import Microversions

from .aggregates import ProviderAggregates
from .allocations import Allocations, ProviderAllocations
from .candidates import AllocationCandidates
from .claims import Claims
from .contract import PLACEMENT
from .inventories import Inventories
from .providers import ResourceProviders
from .reshaper import Reshaper
from .resource_classes import ResourceClasses
from .traits import ProviderTraits, Traits
from .usages import ProviderUsages, Usages
from .versions import HIGHEST, LOWEST, Versions

SERVICE = Service(
    type="placement",
    name="placement",
    prefix="/placement",
    api="",
    endpoint="/placement",
    dialect=DIALECT,
    description="Placement",
    versions=Microversions(("placement",), LOWEST, HIGHEST),
    resources=(
        Versions,
        ResourceProviders,
        Inventories,
        ProviderTraits,
        ProviderAggregates,
        ProviderUsages,
        ProviderAllocations,
        ResourceClasses,
        Traits,
        Allocations,
        AllocationCandidates,
        Reshaper,
        Usages,
    ),
    rules={
        "admin_api": "role:admin",
        "service_api": "role:service",
        "admin_or_service_api": "role:admin or role:service",
        "project_reader_api": "role:reader and project_id:%(project_id)s",
        "admin_or_project_reader_or_service_api": (
            "role:admin or rule:project_reader_api or role:service"
        ),
    },
    scopes=("project",),
    provides=(Provided(PLACEMENT, Claims),),
    hides_unknown=True,
)

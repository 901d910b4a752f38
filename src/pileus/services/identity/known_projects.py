"""What other services may ask of identity: projects, the region, unified limits."""

from __future__ import annotations

from pileus.kernel.faults import Unavailable
from pileus.kernel.runtime import Runtime

from .bootstrap import REGION
from .catalog import SERVICES
from .contract import EVERYBODY, ProjectInfo
from .tree import PROJECTS, Project, named
from .unified_limits import LIMITS, REGISTERED_LIMITS
from .wire import DEFAULT_DOMAIN


class KnownProjects:
    """Keeps `contract.IDENTITY`."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    async def project(self, project_id: str) -> ProjectInfo | None:
        found = await PROJECTS.find(self.runtime.store, project_id)
        return _info(found) if found is not None else None

    async def region(self) -> str:
        return REGION

    async def limits(self, service_type: str) -> dict[str, dict[str, int]]:
        db, found = self.runtime.store, dict[str, dict[str, int]]()
        for service in await SERVICES.all(db, type=service_type):
            for default in await REGISTERED_LIMITS.all(db, service_id=service.id):
                found.setdefault(EVERYBODY, {})[default.resource_name] = default.default_limit
            for own in await LIMITS.all(db, service_id=service.id):
                if own.project_id:
                    found.setdefault(own.project_id, {})[own.resource_name] = own.resource_limit
        return found

    async def admin_project(self) -> ProjectInfo:
        """Raises Unavailable before the first start is done."""
        found = await named(self.runtime.store, "admin", DEFAULT_DOMAIN)
        if found is None:
            raise Unavailable("The project 'admin' of the first start is not there.")
        return _info(found)


def _info(p: Project) -> ProjectInfo:
    return ProjectInfo(
        id=p.id, name=p.name, domain_id=p.domain_id, parent_id=p.parent_id, enabled=p.enabled
    )

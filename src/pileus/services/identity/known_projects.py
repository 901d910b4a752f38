"""The projects of which other services may ask."""

from __future__ import annotations

from pileus.kernel.faults import Unavailable
from pileus.kernel.runtime import Runtime

from .bootstrap import REGION
from .contract import ProjectInfo
from .tree import PROJECTS, Project, named
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

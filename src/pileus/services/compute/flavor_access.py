"""Which projects may use a flavor that is not public.

https://docs.openstack.org/api-ref/compute/#flavors-access-flavors-os-flavor-access-addtenantaccess-removetenantaccess
"""

from __future__ import annotations

from typing import Any, ClassVar

from pileus.kernel.faults import Conflict, NotFound
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import Body
from pileus.services.compute.checks import Name
from pileus.services.compute.flavors import FLAVORS, Flavor, OfFlavor

_ACCESS = "os_compute_api:os-flavor-access"


class AddAccess(Body):
    root: ClassVar[str] = "addTenantAccess"
    tenant: Name


class RemoveAccess(Body):
    root: ClassVar[str] = "removeTenantAccess"
    tenant: Name


def _view(flavor: Flavor) -> dict[str, Any]:
    found = [{"flavor_id": flavor.id, "tenant_id": p} for p in flavor.projects]
    return {"flavor_access": found}


class FlavorAccess(OfFlavor):
    rules = {
        _ACCESS: "rule:context_is_admin",
        _ACCESS + ":add_tenant_access": "rule:context_is_admin",
        _ACCESS + ":remove_tenant_access": "rule:context_is_admin",
    }

    async def load(self, ctx: Context, id: str) -> Flavor:
        """Whoever may not is told so before anything is looked up."""
        ctx.require(_ACCESS)
        return await super().load(ctx, id)

    @operation("GET", "/flavors/{flavor_id}/os-flavor-access", _ACCESS)
    async def access(self, ctx: Context, flavor: Flavor) -> dict[str, Any]:
        if flavor.is_public:
            raise NotFound("Access list not available for public flavors.")
        return _view(flavor)

    @operation(
        "POST",
        "/flavors/{flavor_id}/action",
        _ACCESS + ":add_tenant_access",
        action="addTenantAccess",
    )
    async def add(self, ctx: Context, flavor: Flavor, body: AddAccess) -> dict[str, Any]:
        if flavor.is_public and ctx.version >= (2, 7):
            raise Conflict("Can not add access to a public flavor.")
        if body.tenant in flavor.projects:
            raise Conflict(
                f"Flavor access already exists for flavor {flavor.id} and project {body.tenant} "
                "combination."
            )
        return await self._change(ctx, flavor, [*flavor.projects, body.tenant])

    @operation(
        "POST",
        "/flavors/{flavor_id}/action",
        _ACCESS + ":remove_tenant_access",
        action="removeTenantAccess",
    )
    async def remove(self, ctx: Context, flavor: Flavor, body: RemoveAccess) -> dict[str, Any]:
        if body.tenant not in flavor.projects:
            raise NotFound(f"Flavor access not found for {flavor.id} / {body.tenant} combination.")
        return await self._change(ctx, flavor, [p for p in flavor.projects if p != body.tenant])

    async def _change(self, ctx: Context, flavor: Flavor, projects: list[str]) -> dict[str, Any]:
        async with ctx.runtime.store.tx() as tx:
            flavor = await FLAVORS.change(tx, flavor, projects=projects)
        return _view(flavor)

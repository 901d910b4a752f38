"""Domains: https://docs.openstack.org/api-ref/identity/v3/#domains"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from msgspec import UNSET, UnsetType

from pileus.kernel import auth
from pileus.kernel.faults import Forbidden, NotFound
from pileus.kernel.query import TAG_FILTERS, Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Reader

from .revocations import revoke
from .tree import PROJECTS, Project, checked_tags, place_changes
from .wire import (
    NAME,
    Noun,
    NounBody,
    PlainId,
    ShortName,
    changed,
    extras,
    linked,
    listing,
    own_domain,
    refuse_immutable,
    removed,
    resource_options,
)


class CreateDomain(NounBody, kw_only=True):
    root: ClassVar[str] = "domain"
    name: ShortName
    description: str | None = None
    enabled: bool = True
    tags: list[str] = []
    options: dict[str, Any] = {}
    explicit_domain_id: PlainId | None = None


class UpdateDomain(NounBody, kw_only=True):
    root: ClassVar[str] = "domain"
    name: ShortName | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    enabled: bool | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET
    options: dict[str, Any] | UnsetType = UNSET


def view(ctx: Context, d: Project) -> dict[str, Any]:
    shown = {
        **d.extra,
        "id": d.id,
        "name": d.name,
        "description": d.description,
        "enabled": d.enabled,
        "tags": d.tags,
        "options": d.options,
    }
    return linked(ctx, "domains", shown)


async def get_domain(db: Reader, id: str) -> Project:
    """Raises NotFound, for a project that is no domain too."""
    found = await PROJECTS.find(db, id)
    if found is None or not found.is_domain:
        raise NotFound(f"Could not find domain: {id}.")
    return found


class Domains(Noun[Project]):
    table = PROJECTS
    id_param = "domain_id"
    listed_as = "target.domain.id"
    rules = {
        "identity:get_domain": (
            "rule:admin_required or (role:reader and system_scope:all) or "
            "token.domain.id:%(target.domain.id)s or token.project.domain.id:%(target.domain.id)s"
        ),
        "identity:list_domains": (
            "rule:admin_required or (role:reader and system_scope:all) or "
            "(role:reader and domain_id:%(target.domain.id)s)"
        ),
        "identity:create_domain": "rule:admin_required",
        "identity:update_domain": "rule:admin_required",
        "identity:delete_domain": "rule:admin_required",
    }
    discloses = frozenset({"identity:update_domain", "identity:delete_domain"})
    scopes = {
        "identity:create_domain": ("system", "project"),
        "identity:update_domain": ("system", "project"),
        "identity:delete_domain": ("system", "project"),
    }
    listing = listing({"name": NAME, "enabled": Filter(kind=bool), **TAG_FILTERS})

    async def load(self, ctx: Context, id: str) -> Project:
        return await get_domain(ctx.runtime.store, id)

    def target(self, ctx: Context, record: Project) -> Mapping[str, object]:
        return {"target.domain.id": record.id}

    @operation("GET", "/domains", "identity:list_domains")
    async def index(self, ctx: Context) -> dict[str, Any]:
        own = {"id": ctx.caller.domain_id} if own_domain(ctx) else {}
        return await self.index_of(ctx, "domains", view, is_domain=1, domain_id="", **own)

    @operation("POST", "/domains", "identity:create_domain", status=201)
    async def create(self, ctx: Context, body: CreateDomain) -> dict[str, Any]:
        domain = Project(
            id=body.explicit_domain_id or ctx.runtime.world.new_hex(),
            name=body.name.strip(),
            is_domain=True,
            description=body.description or "",
            enabled=body.enabled,
            tags=checked_tags(body.tags),
            options=resource_options({}, body.options),
            extra=extras(ctx, body),
        )
        async with ctx.runtime.store.tx() as tx:
            domain = await PROJECTS.insert(tx, domain)
            await changed(tx, "domain", domain.id, "created")
        return {"domain": view(ctx, domain)}

    @operation("GET", "/domains/{domain_id}", "identity:get_domain")
    async def show(self, ctx: Context, domain: Project) -> dict[str, Any]:
        return {"domain": view(ctx, domain)}

    @operation("PATCH", "/domains/{domain_id}", "identity:update_domain")
    async def update(self, ctx: Context, domain: Project, body: UpdateDomain) -> dict[str, Any]:
        refuse_immutable("domain", domain.id, domain.options, ctx.document["domain"])
        changes = place_changes(ctx, domain, body)
        async with ctx.runtime.store.tx() as tx:
            new = await PROJECTS.change(tx, domain, **changes)
            await changed(tx, "domain", new.id, "updated")
            if domain.enabled and not new.enabled:
                await revoke(tx, "domain", new.id)
                await changed(tx, "domain", new.id, "disabled")
            await auth.revise(tx, "auth")
        return {"domain": view(ctx, new)}

    @operation("DELETE", "/domains/{domain_id}", "identity:delete_domain")
    async def delete(self, ctx: Context, domain: Project) -> None:
        refuse_immutable("domain", domain.id, domain.options)
        if domain.enabled:
            raise Forbidden("Cannot delete a domain that is enabled, please disable it first.")
        async with ctx.runtime.store.tx() as tx:
            await removed(ctx, tx, "domain", domain.id)
            await PROJECTS.delete(tx, domain)

"""Domains: https://docs.openstack.org/api-ref/identity/v3/#domains"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from msgspec import field

from pileus.kernel.query import TAG_FILTERS, Filter
from pileus.kernel.resources import Context
from pileus.kernel.store import Tx

from .kept import ANY_SCOPE, Kept, changing
from .tree import PROJECTS, Project, checked_tags, follow_change, get_domain, refuse_enabled
from .wire import ADMIN_OR_SYSTEM_READER, NAME, NounBody, PlainId, ShortName, listing


class CreateDomain(NounBody, kw_only=True):
    root: ClassVar[str] = "domain"
    name: ShortName
    description: str | None = None
    enabled: bool = True
    tags: list[str] = []
    options: dict[str, Any] = {}
    id: PlainId | None = field(default=None, name="explicit_domain_id")


class Domains(Kept[Project]):
    table = PROJECTS
    path = "domains"
    id_param = "domain_id"
    creates, updates = CreateDomain, changing(CreateDomain, "id")
    hidden = ("domain_id", "parent_id", "is_domain")
    listed_as = "target.domain.id"
    rules = {
        "identity:get_domain": (
            f"{ADMIN_OR_SYSTEM_READER} or token.domain.id:%(target.domain.id)s or "
            "token.project.domain.id:%(target.domain.id)s"
        ),
        "identity:list_domains": (
            f"{ADMIN_OR_SYSTEM_READER} or (role:reader and domain_id:%(target.domain.id)s)"
        ),
    }
    discloses = frozenset({"identity:update_domain", "identity:delete_domain"})
    scopes = {"identity:get_domain": ANY_SCOPE, "identity:list_domains": ANY_SCOPE}
    listing = listing({"name": NAME, "enabled": Filter(kind=bool), **TAG_FILTERS})

    async def load(self, ctx: Context, id: str) -> Project:
        return await get_domain(ctx.runtime.store, id)

    def target(self, ctx: Context, record: Project) -> Mapping[str, object]:
        return {"target.domain.id": record.id}

    async def index(self, ctx: Context, **fixed: Any) -> dict[str, Any]:
        own = {"id": ctx.caller.domain_id} if ctx.caller.domain_id else {}
        return await super().index(ctx, is_domain=1, domain_id="", **own)

    async def fields(
        self, ctx: Context, given: dict[str, Any], old: Project | None
    ) -> dict[str, Any]:
        if old is None:
            given["is_domain"] = True
        checked_tags(given.get("tags", []))
        return await super().fields(ctx, given, old)

    async def check(self, ctx: Context, tx: Tx, new: Project, old: Project | None) -> None:
        if old is not None:
            await follow_change(tx, "domain", new, old)

    async def delete(self, ctx: Context, record: Project) -> None:
        await self.ask(ctx, "delete", record)
        refuse_enabled(record)
        await super().delete(ctx, record)

"""Where the caller's user can go: GET /v3/auth/projects, domains and system."""

from __future__ import annotations

from typing import Any

from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Page

from .assignments import held_on, projects_of
from .claims import Claims, opened
from .domains import Domains
from .projects import Projects
from .tree import PROJECTS, Project
from .wire import OLDEST, Noun, listed


class AuthScopes(Noun[Project]):
    table = PROJECTS
    rules = {
        "identity:get_auth_projects": "",
        "identity:get_auth_domains": "",
        "identity:get_auth_system": "",
    }
    scopes = {name: () for name in rules}

    @operation("GET", "/auth/projects", "identity:get_auth_projects")
    @operation("GET", "/OS-FEDERATION/projects", "identity:get_auth_projects")
    async def projects(self, ctx: Context) -> dict[str, Any]:
        found = await self._open_to(ctx, is_domain=0)
        return listed(ctx, "projects", [Projects.view(ctx, p) for p in found])

    @operation("GET", "/auth/domains", "identity:get_auth_domains")
    @operation("GET", "/OS-FEDERATION/domains", "identity:get_auth_domains")
    async def domains(self, ctx: Context) -> dict[str, Any]:
        found = await self._open_to(ctx, is_domain=1)
        return listed(ctx, "domains", [Domains.view(ctx, d) for d in found])

    @operation("GET", "/auth/system", "identity:get_auth_system")
    async def system(self, ctx: Context) -> dict[str, Any]:
        claims = await opened(ctx.runtime, ctx.caller.token)
        lent = claims is not None and claims.is_delegated
        store, user_id = ctx.runtime.store, ctx.caller.user_id
        open_ = not lent and await held_on(store, user_id, None, _also(claims))
        links = {"self": f"{ctx.base}/auth/system"}
        return {"system": [{"all": True}] if open_ else [], "links": links}

    async def _open_to(self, ctx: Context, is_domain: int) -> list[Project]:
        """Enabled ones on which the user holds a role; a lent token goes nowhere but where it is."""
        store, caller = ctx.runtime.store, ctx.caller
        claims = await opened(ctx.runtime, caller.token)
        if claims is not None and claims.is_delegated:
            ids = [caller.project_id]
        else:
            ids = await projects_of(store, caller.user_id, _also(claims))
        asked = Page({"id": ids, "is_domain": is_domain, "enabled": 1}, OLDEST, limit=100_000)
        return await PROJECTS.list(store, asked)


def _also(claims: Claims | None) -> tuple[str, ...]:
    """The groups in which the caller is for his identity provider, by this token."""
    return claims.federation.group_ids if claims is not None and claims.federation else ()

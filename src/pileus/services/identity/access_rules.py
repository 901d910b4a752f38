"""Access rules of application credentials: https://docs.openstack.org/api-ref/identity/v3/#access-rules"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pileus.kernel.faults import Forbidden
from pileus.kernel.query import Filter
from pileus.kernel.resources import Context, operation
from pileus.kernel.store import Tx

from .access_rule import ACCESS_RULES, AccessRule, view
from .application_credentials import APPLICATION_CREDENTIALS
from .claims import forbid_delegated
from .users import USERS
from .wire import AUTHENTICATED, Noun, changed, dropping, linked, listed, listing, page

_PATH = "/users/{user_id}/access_rules"
_READ = "(role:reader and system_scope:all) or user_id:%(target.user.id)s"


async def _is_used(tx: Tx, rule: AccessRule) -> bool:
    found = await APPLICATION_CREDENTIALS.all(tx, user_id=rule.user_id)
    return any(rule.id in (kept.id for kept in credential.access_rules) for credential in found)


class AccessRules(Noun[AccessRule]):
    table = ACCESS_RULES
    id_param = "access_rule_id"
    follows = {"user": dropping(ACCESS_RULES, "user_id")}
    rules = {
        "identity:get_access_rule": _READ,
        "identity:list_access_rules": _READ,
        "identity:delete_access_rule": (
            "(role:admin and system_scope:all) or user_id:%(target.user.id)s"
        ),
    }
    scopes = {name: ("system", "project") for name in rules}
    listing = listing({"service": Filter(), "path": Filter(), "method": Filter()})

    def scope_target(self, ctx: Context, params: Mapping[str, str]) -> Mapping[str, object]:
        return {**params, "target.user.id": params["user_id"]}

    @operation("GET", _PATH, "identity:list_access_rules")
    async def index(self, ctx: Context, user_id: str) -> dict[str, Any]:
        await forbid_delegated(ctx, "read access rules", unrestricted_credential=True)
        await USERS.get(ctx.runtime.store, user_id)
        asked = page(self.listing, ctx.query, user_id=user_id)
        found = await ACCESS_RULES.list(ctx.runtime.store, asked)
        views = [linked(ctx, "access_rules", view(rule)) for rule in found]
        return listed(ctx, "access_rules", views, asked)

    @operation("GET", _PATH + "/{access_rule_id}", AUTHENTICATED)
    async def show(self, ctx: Context, user_id: str, access_rule_id: str) -> dict[str, Any]:
        rule = await self._of(ctx, "identity:get_access_rule", user_id, access_rule_id)
        return {"access_rule": linked(ctx, "access_rules", view(rule))}

    @operation("DELETE", _PATH + "/{access_rule_id}", AUTHENTICATED)
    async def delete(self, ctx: Context, user_id: str, access_rule_id: str) -> None:
        rule = await self._of(ctx, "identity:delete_access_rule", user_id, access_rule_id)
        async with ctx.runtime.store.tx() as tx:
            if await _is_used(tx, rule):
                raise Forbidden(
                    "May not delete access rule in use: an application credential has it."
                )
            await ACCESS_RULES.delete(tx, rule)
            await changed(tx, "access_rule", rule.id, "deleted")

    async def _of(self, ctx: Context, name: str, user_id: str, id: str) -> AccessRule:
        """One of the user's; somebody else's is as if it were not there. Raises Forbidden, NotFound."""
        ctx.require(name, {"target.user.id": user_id})
        await forbid_delegated(ctx, "manage access rules", unrestricted_credential=True)
        rule = await ACCESS_RULES.get(ctx.runtime.store, id)
        if rule.user_id != user_id:
            raise ACCESS_RULES.missing(id)
        return rule

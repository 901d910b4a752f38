"""Quota classes: the class `default` is what projects have that were given nothing of their own.

Other classes are kept and shown, as upstream does, and are nobody's.
https://docs.openstack.org/api-ref/compute/#quota-class-sets-os-quota-class-sets
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pileus.kernel.faults import Invalid
from pileus.kernel.quota import DEFAULTS, limits, set_limits
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.store import Record
from pileus.services.compute.quotas import BUILT_IN, QuotaNumbers, asked, shown
from pileus.services.compute.server import SERVERS

_RULE = "os_compute_api:os-quota-class-sets:"
_PATH = "/os-quota-class-sets/{quota_class}"
_SINCE_2_50 = frozenset(("server_groups", "server_group_members"))


class QuotaClassBody(QuotaNumbers):
    root: ClassVar[str] = "quota_class_set"


def _names(ctx: Context) -> list[str]:
    """Networks' resources left this API later than the project's own, and groups came then."""
    gone = frozenset() if ctx.version >= (2, 50) else _SINCE_2_50
    return [name for name in shown(ctx, networks_until=(2, 50)) if name not in gone]


def _holder(quota_class: str) -> str:
    return DEFAULTS if quota_class == "default" else f"class:{quota_class}"


class QuotaClassSets(Resource[Record]):
    table = SERVERS  # it names no record
    rules: ClassVar[Mapping[str, str]] = {
        _RULE + "show": "rule:context_is_admin",
        _RULE + "update": "rule:context_is_admin",
    }

    @operation("GET", _PATH, _RULE + "show")
    async def show(self, ctx: Context, quota_class: str) -> dict[str, Any]:
        return {"quota_class_set": {"id": quota_class, **await self._view(ctx, quota_class)}}

    @operation("PUT", _PATH, _RULE + "update")
    async def update(self, ctx: Context, quota_class: str, body: QuotaClassBody) -> dict[str, Any]:
        if len(quota_class) > 255:
            raise Invalid(f"quota_class_name has {len(quota_class)} characters, more than 255.")
        numbers = asked(body, _names(ctx))
        async with ctx.runtime.store.tx() as tx:
            await set_limits(tx, "compute", _holder(quota_class), numbers)
        return {"quota_class_set": await self._view(ctx, quota_class)}

    async def _view(self, ctx: Context, quota_class: str) -> dict[str, int]:
        own = await limits(ctx.runtime.store, "compute", _holder(quota_class))
        return {name: own.get(name, BUILT_IN[name]) for name in _names(ctx)}

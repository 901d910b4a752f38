"""Extra specs: what a flavor asks of its host besides sizes.

https://docs.openstack.org/api-ref/compute/#flavors-extra-specs-flavors-os-flavor-extra-specs
"""

from __future__ import annotations

from typing import Any, ClassVar

from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.resources import Context, operation
from pileus.kernel.schema import KEEP, Body, Extra
from pileus.services.compute import checks
from pileus.services.compute.flavors import FLAVORS, Flavor, OfFlavor

_SPECS = "os_compute_api:os-flavor-extra-specs:"
_MEMBER, _ADMIN = "rule:project_reader_or_admin", "rule:context_is_admin"
_ONE = "/flavors/{flavor_id}/os-extra_specs/{key}"
_ALL = "/flavors/{flavor_id}/os-extra_specs"


class AddSpecs(Body):
    root: ClassVar[str] = "extra_specs"
    unknown: ClassVar[Extra] = KEEP


class PutSpec(Body):
    unknown: ClassVar[Extra] = KEEP


def _specs(given: object) -> dict[str, str]:
    if not isinstance(given, dict) or not given:
        raise Invalid("extra_specs must be an object with at least one key.")
    for key, value in given.items():
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            raise checks.wrong(f"extra_specs/{key}", value, "It is not of type 'string', 'number'")
    return checks.metadata({k: str(v) for k, v in given.items()}, "extra_specs")


class FlavorExtraSpecs(OfFlavor):
    rules = {
        _SPECS + "index": _MEMBER,
        _SPECS + "show": _MEMBER,
        _SPECS + "create": _ADMIN,
        _SPECS + "update": _ADMIN,
        _SPECS + "delete": _ADMIN,
    }

    def target(self, ctx: Context, record: Flavor) -> dict[str, object]:
        """Flavors belong to nobody: the caller's own project is asked about."""
        return ctx.own

    @operation("GET", _ALL, _SPECS + "index")
    async def index(self, ctx: Context, flavor: Flavor) -> dict[str, Any]:
        return {"extra_specs": flavor.extra_specs}

    @operation("GET", _ONE, _SPECS + "show")
    async def show(self, ctx: Context, flavor: Flavor, key: str) -> dict[str, str]:
        return {key: _value(flavor, key)}

    @operation("POST", _ALL, _SPECS + "create", status=200)
    async def create(self, ctx: Context, flavor: Flavor, body: AddSpecs) -> dict[str, Any]:
        given = ctx.document["extra_specs"]
        await self._change(ctx, flavor, flavor.extra_specs | _specs(given))
        return {"extra_specs": given}

    @operation("PUT", _ONE, _SPECS + "update")
    async def update(self, ctx: Context, flavor: Flavor, key: str, body: PutSpec) -> dict[str, Any]:
        given: dict[str, Any] = ctx.document
        if list(given) != [key]:
            raise Invalid("Request body and URI mismatch")
        await self._change(ctx, flavor, flavor.extra_specs | _specs(given))
        return given

    @operation("DELETE", _ONE, _SPECS + "delete", status=200)
    async def delete(self, ctx: Context, flavor: Flavor, key: str) -> None:
        _value(flavor, key)
        left = {k: v for k, v in flavor.extra_specs.items() if k != key}
        await self._change(ctx, flavor, left)

    async def _change(self, ctx: Context, flavor: Flavor, specs: dict[str, str]) -> None:
        async with ctx.runtime.store.tx() as tx:
            await FLAVORS.change(tx, flavor, extra_specs=specs)


def _value(flavor: Flavor, key: str) -> str:
    if key not in flavor.extra_specs:
        raise NotFound(f"Flavor {flavor.id} has no extra specs with key {key}.")
    return flavor.extra_specs[key]

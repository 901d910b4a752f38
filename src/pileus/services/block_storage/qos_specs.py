"""QoS specs: what volumes of a type may do in a second.

https://docs.openstack.org/api-ref/block-storage/v3/#quality-of-service-qos-specifications-qos-specs
"""

from __future__ import annotations

from typing import Any, ClassVar

from pileus.kernel.faults import Invalid
from pileus.kernel.query import Listing
from pileus.kernel.resources import Context, Resource, operation
from pileus.kernel.schema import KEEP, Body, Extra

from . import checks
from .qos import QOS_SPECS, QosSpec
from .volume_type import VOLUME_TYPES, VolumeType

_PATH, _RULE = "/qos-specs/{qos_id}", "volume_extension:qos_specs_manage:"
_CONSUMERS = ("front-end", "back-end", "both")


class CreateQos(Body):
    root: ClassVar[str] = "qos_specs"
    unknown: ClassVar[Extra] = KEEP
    name: str


class PutQos(Body):
    root: ClassVar[str] = "qos_specs"
    unknown: ClassVar[Extra] = KEEP


class DeleteKeys(Body):
    keys: list[str]


def _view(q: QosSpec) -> dict[str, Any]:
    return {"id": q.id, "name": q.name, "consumer": q.consumer, "specs": q.specs}


def _given(ctx: Context) -> dict[str, str]:
    given = ctx.document["qos_specs"]
    found = checks.metadata({k: v for k, v in given.items() if k != "name"}, "qos_specs")
    if found.get("consumer", "back-end") not in _CONSUMERS:
        raise Invalid(f"Valid consumer of QoS specs are: {', '.join(_CONSUMERS)}.")
    return found


class QosSpecs(Resource[QosSpec]):
    table = QOS_SPECS
    id_param = "qos_id"
    listing = Listing(sorts={"id": "id", "name": "name", "created_at": "created_at"})

    @operation("GET", "/qos-specs", _RULE + "get_all")
    async def index(self, ctx: Context) -> dict[str, Any]:
        page, each = self.listing.parse(ctx.query), checks.each(_view)
        return await checks.listed(ctx, QOS_SPECS, page, "qos_specs", each, counts=(9, 9))

    @operation("POST", "/qos-specs", _RULE + "create", status=200)
    async def create(self, ctx: Context, body: CreateQos) -> dict[str, Any]:
        specs = _given(ctx)
        name = body.name.strip()
        if not 1 <= len(name) <= 255:
            raise checks.wrong("name", body.name, "A name has 1 to 255 characters")
        consumer = specs.pop("consumer", "back-end")
        made = QosSpec(id=ctx.runtime.world.new_id(), name=name, consumer=consumer, specs=specs)
        async with ctx.runtime.store.tx() as tx:
            made = await QOS_SPECS.insert(tx, made)
        return {"qos_specs": _view(made), "links": checks.links(ctx, "qos-specs", made)}

    @operation("GET", _PATH, _RULE + "get")
    async def show(self, ctx: Context, spec: QosSpec) -> dict[str, Any]:
        return {"qos_specs": _view(spec), "links": checks.links(ctx, "qos-specs", spec)}

    @operation("PUT", _PATH, _RULE + "update")
    async def update(self, ctx: Context, spec: QosSpec, body: PutQos) -> dict[str, Any]:
        specs = _given(ctx)
        consumer = specs.pop("consumer", spec.consumer)
        async with ctx.runtime.store.tx() as tx:
            await QOS_SPECS.change(tx, spec, consumer=consumer, specs=spec.specs | specs)
        return {"qos_specs": ctx.document["qos_specs"]}

    @operation("PUT", _PATH + "/delete_keys", _RULE + "delete", status=202)
    async def delete_keys(self, ctx: Context, spec: QosSpec, body: DeleteKeys) -> None:
        for key in body.keys:
            if key not in spec.specs:
                raise Invalid(f"QoS specs {spec.id} has no spec with key {key}.")
        left = {k: v for k, v in spec.specs.items() if k not in body.keys}
        async with ctx.runtime.store.tx() as tx:
            await QOS_SPECS.change(tx, spec, specs=left)

    @operation("DELETE", _PATH, _RULE + "delete", status=202)
    async def delete(self, ctx: Context, spec: QosSpec) -> None:
        used = await self._types(ctx, spec)
        if used and not ctx.query.flag("force"):
            raise Invalid(f"QoS Specs {spec.id} is still associated with entities.")
        async with ctx.runtime.store.tx() as tx:
            for kind in used:
                await VOLUME_TYPES.change(tx, kind, qos_specs_id=None)
            await QOS_SPECS.delete(tx, spec)

    async def _types(self, ctx: Context, spec: QosSpec) -> list[VolumeType]:
        return await VOLUME_TYPES.all(ctx.runtime.store, qos_specs_id=spec.id)

    # Volume types that have them

    @operation("GET", _PATH + "/associations", _RULE + "get_all")
    async def associations(self, ctx: Context, spec: QosSpec) -> dict[str, Any]:
        found = await self._types(ctx, spec)
        rows = [{"association_type": "volume_type", "name": t.name, "id": t.id} for t in found]
        return {"qos_associations": rows}

    @operation("GET", _PATH + "/associate", _RULE + "update", status=202)
    async def associate(self, ctx: Context, spec: QosSpec) -> None:
        kind = await self._asked(ctx)
        if kind.qos_specs_id not in (None, spec.id):
            raise Invalid(f"Type {kind.id} is already associated with another qos specs.")
        await self._set(ctx, kind, spec.id)

    @operation("GET", _PATH + "/disassociate", _RULE + "update", status=202)
    async def disassociate(self, ctx: Context, spec: QosSpec) -> None:
        await self._set(ctx, await self._asked(ctx), None)

    @operation("GET", _PATH + "/disassociate_all", _RULE + "update", status=202)
    async def disassociate_all(self, ctx: Context, spec: QosSpec) -> None:
        for kind in await self._types(ctx, spec):
            await self._set(ctx, kind, None)

    async def _asked(self, ctx: Context) -> VolumeType:
        id = ctx.query.get("vol_type_id")
        if not id:
            raise Invalid("Volume Type id must not be None.")
        return await VOLUME_TYPES.get(ctx.runtime.store, id)

    async def _set(self, ctx: Context, kind: VolumeType, spec_id: str | None) -> None:
        async with ctx.runtime.store.tx() as tx:
            await VOLUME_TYPES.change(tx, kind, qos_specs_id=spec_id)

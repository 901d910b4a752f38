"""What all below `/v2/metadefs/namespaces/{name}` share: who sees the namespace, and how what it holds is changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from pileus.kernel.faults import Conflict, Forbidden, Invalid, NotFound, TooLarge
from pileus.kernel.resources import Context, Resource
from pileus.kernel.schema import Body, extras_of

from .namespace import LIMIT, NAMESPACES, Namespace, missing

ADMIN = "rule:metadef_admin"
SEEN = (
    "rule:context_is_admin or "
    "(role:reader and (project_id:%(project_id)s or 'public':%(visibility)s))"
)
Held = dict[str, Any]


class InNamespace(Resource[Namespace]):
    """`held` is the field of the namespace with what this resource is about, `noun` what one of those is called."""

    table = NAMESPACES
    id_param = "namespace_name"
    see = "get_metadef_namespace"
    held: ClassVar[str] = ""
    noun: ClassVar[str] = ""

    async def load(self, ctx: Context, id: str) -> Namespace:
        found = await NAMESPACES.one(ctx.runtime.store, namespace=id)
        if found is None or not ctx.allows(self.see, self.target(ctx, found)):
            raise missing(id)
        return found

    def target(self, ctx: Context, record: Namespace) -> Mapping[str, object]:
        return {"project_id": record.owner, "visibility": record.visibility}

    def scope_target(self, ctx: Context, params: Mapping[str, str]) -> Mapping[str, object]:
        return {"project_id": ctx.caller.project_id, "visibility": "private"}

    def one(self, namespace: Namespace, name: str) -> Any:
        """Raises NotFound."""
        found = getattr(namespace, self.held).get(name)
        if found is None:
            raise self._absent(namespace, name)
        return found

    async def add(self, ctx: Context, namespace: Namespace, name: str, item: Any) -> Any:
        """The item with its times. Raises Conflict, TooLarge."""
        return await self._put(ctx, namespace, name, item, "")

    async def replace(
        self, ctx: Context, namespace: Namespace, was: str, name: str, item: Any
    ) -> Any:
        """In the place of what was there, perhaps under another name. Raises NotFound, Conflict."""
        return await self._put(ctx, namespace, name, item, was)

    async def drop(self, ctx: Context, namespace: Namespace, name: str) -> None:
        """Raises NotFound."""
        self.one(namespace, name)

        def without(held: Held, now: str) -> Held:
            return {n: item for n, item in held.items() if n != name}

        await self.write(ctx, namespace, without)

    async def clear(self, ctx: Context, namespace: Namespace) -> None:
        await self.write(ctx, namespace, lambda held, now: {})

    async def write(
        self, ctx: Context, namespace: Namespace, change: Callable[[Held, str], Held]
    ) -> None:
        """What it holds is no change of the namespace itself, so its time of change stays."""
        async with ctx.runtime.store.tx() as tx:
            old = await NAMESPACES.get(tx, namespace.id)
            held = change(getattr(old, self.held), tx.now)
            if len(held) > LIMIT:
                raise TooLarge(f"A namespace may hold {LIMIT} of each kind, not {len(held)}.")
            changes: dict[str, Any] = {self.held: held, "updated_at": old.updated_at}
            await NAMESPACES.change(tx, old, **changes)

    async def _put(self, ctx: Context, namespace: Namespace, name: str, item: Any, was: str) -> Any:
        def put(held: Held, now: str) -> Held:
            if was and was not in held:
                raise self._absent(namespace, was)
            if name in held and name != was:
                raise Conflict(
                    f"A metadata definition {self.noun} with name={name} already exists in "
                    f"namespace={namespace.namespace}."
                )
            item.created_at, item.updated_at = held[was].created_at if was else now, now
            if not was:
                return {**held, name: item}
            return {(name if n == was else n): item if n == was else old for n, old in held.items()}

        await self.write(ctx, namespace, put)
        return item

    def _absent(self, namespace: Namespace, name: str) -> NotFound:
        return NotFound(
            f"The metadata definition {self.noun} with name={name} was not found in "
            f"namespace={namespace.namespace}."
        )


def refuse_others(ctx: Context, body: Body) -> None:
    """Keys that the body does not have. Raises Forbidden for those that answers have, Invalid."""
    for name in extras_of(type(body), ctx.document):
        if name in ("self", "schema", "created_at", "updated_at"):
            raise Forbidden(f"Attribute '{name}' is read-only.")
        raise Invalid(
            f"Provided object does not match schema: Additional properties are not allowed ('{name}' "
            "was unexpected)"
        )

"""Tags on networks, subnets, ports, routers, floating IPs, security groups and subnet pools (API reference: tags)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pileus.kernel.faults import Invalid, NotFound
from pileus.kernel.resources import Context, Resource, operation

from .attributes import Attributes
from .resource import NetworkResource, Noun

_LONGEST, _MOST = 255, 50


class ReplaceTags(Attributes):
    root: ClassVar[str] = ""
    creates = False

    tags: list[str]


def _tag(value: str) -> str:
    if not 1 <= len(value) <= _LONGEST:
        raise Invalid(f"Invalid input for tags. Reason: a tag has 1 to {_LONGEST} characters.")
    return value


def checked_tags(values: list[str]) -> list[str]:
    found = list(dict.fromkeys(_tag(v) for v in values))
    if len(found) > _MOST:
        raise Invalid(f"Invalid input for tags. Reason: {_MOST} tags at most, not {len(found)}.")
    return found


def _there(record: Noun, tag: str) -> None:
    if tag not in record.tags:
        raise NotFound(f"Tag {tag} could not be found.", code="TagNotFound")


def tags_of(kind: type[NetworkResource[Any]], path: str) -> type[Resource[Any]]:
    """The tag operations of a noun: loaded, seen and judged as the noun itself, by its own `:tags` rules."""
    noun, plain = kind.noun, kind()
    seen, changed, dropped = (f"{verb}_{noun}:tags" for verb in ("get", "update", "delete"))
    created = f"create_{noun}:tags"
    all_of_them = f"/{path}/{{{kind.id_param}}}/tags"
    one_of_them = all_of_them + "/{tag}"

    class Tags(Resource[Any]):
        table = kind.table
        id_param = kind.id_param
        see = kind.see
        rules = {created: kind.rules[changed]}

        def target(self, ctx: Context, record: Any) -> Mapping[str, object]:
            return plain.target(ctx, record)

        async def write(self, ctx: Context, record: Any, tags: list[str]) -> None:
            async with ctx.runtime.store.tx() as tx:
                await self.table.revise(tx, record, tags=checked_tags(tags))  # type: ignore[attr-defined]

        @operation("POST", all_of_them, created)
        async def extend(self, ctx: Context, record: Noun, body: ReplaceTags) -> None:
            await self.write(ctx, record, [*record.tags, *body.tags])

        @operation("GET", all_of_them, seen)
        async def index(self, ctx: Context, record: Noun) -> Any:
            return {"tags": record.tags}

        @operation("PUT", all_of_them, changed)
        async def replace(self, ctx: Context, record: Noun, body: ReplaceTags) -> Any:
            await self.write(ctx, record, body.tags)
            return {"tags": checked_tags(body.tags)}

        @operation("DELETE", all_of_them, dropped)
        async def clear(self, ctx: Context, record: Noun) -> None:
            await self.write(ctx, record, [])

        @operation("GET", one_of_them, seen)
        async def show(self, ctx: Context, record: Noun, tag: str) -> None:
            _there(record, tag)

        @operation("PUT", one_of_them, changed, status=201)
        async def add(self, ctx: Context, record: Noun, tag: str) -> None:
            await self.write(ctx, record, [*record.tags, tag])

        @operation("DELETE", one_of_them, dropped)
        async def remove(self, ctx: Context, record: Noun, tag: str) -> None:
            _there(record, tag)
            await self.write(ctx, record, [t for t in record.tags if t != tag])

    Tags.__name__ = f"{kind.__name__}Tags"
    return Tags

"""Every operation over HTTP by every persona: who is let in, held against upstream's defaults.

The operations are those of the services, but behind a gate: once it is shut nothing is done or loaded, a path names a
record of the caller's own or of a stranger's, and what is noted is who asked, what was asked of, and whether he came
through.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, get_type_hints

import msgspec

from pileus.kernel.auth import NOBODY, Caller
from pileus.kernel.resources import PUBLIC, Context, Operation, Resource, Service
from pileus.kernel.versions import NO_VERSION, spelled
from pileus.testing import personas
from pileus.testing.client import Client, Reply
from pileus.testing.generated.policies import operations
from pileus.testing.generated.states import anything

NOWHERE = "0" * 32
OWN, OTHER = "own", "other"
_PARAM = re.compile(r"{(\w+)}")
_OWNERS = {"owner": "project_id", "target_id": "project_id", "actor_id": "user_id"}


@dataclass(frozen=True)
class Call:
    """One operation, as it is asked for."""

    service: Service
    resource: Resource[Any]
    op: Operation

    @property
    def id(self) -> str:
        action = f" {self.op.action}" if self.op.action else ""
        since = f" since {spelled(self.op.since)}" if self.op.since != NO_VERSION else ""
        return f"{self.op.method} {self.op.path}{action}{since}"

    @property
    def url(self) -> str:
        """A path whose ids lead nowhere."""
        return _PARAM.sub(NOWHERE, self.op.path)

    @property
    def is_public(self) -> bool:
        return self.op.rule == PUBLIC

    async def make(self, client: Client, ids: Mapping[str, str] | None = None) -> Reply:
        """Asks with an empty body; `ids` are what the path's parameters stand for."""
        given = ids or {}
        body: Any = None
        if self.op.method in ("POST", "PUT", "PATCH"):
            body = {self.op.action: {}} if self.op.action else {}
        headers = {}
        if self.service.versions is not None:
            low = self.service.versions.low
            at = spelled(self.op.since) if self.op.since != NO_VERSION else low
            headers["openstack_api_version"] = f"{self.service.versions.names[0]} {at}"
        url = _PARAM.sub(lambda m: given.get(m[1], NOWHERE), self.op.path)
        return await client.request(self.op.method, url, body, headers=headers)

    def lets(self, caller: Caller, target: Mapping[str, object]) -> bool:
        """Whether upstream's defaults let the caller do it to what the target says, and see that at all."""
        asked = [self.op.rule]
        if self.op.record_param and self.resource.see:
            asked.append(self.resource.see)
        rules = personas.upstream(self.service.type)
        return all(rules.allows(rule, caller, target) for rule in asked)


def calls(services: Sequence[Service]) -> Iterator[Call]:
    """Every operation of every service; where several share a path and method, each."""
    for service, resource, op in operations(services):
        yield Call(service, resource, op)


def is_judged(call: Call) -> bool:
    """Upstream has its rule, so that there is an answer to compare with."""
    return call.service.type in personas.SERVICES and call.op.rule in personas.policies(
        call.service.type
    )


def shared_with_public(call: Call, every: Sequence[Call]) -> bool:
    """A public operation stands on the same path and method (another version of it)."""
    twin = [c for c in every if c.op.path == call.op.path and c.op.method == call.op.method]
    return any(c.is_public for c in twin)


@dataclass
class Gate:
    """What stands before every operation of `services`; they work until it is shut, and then ask for no body."""

    services: list[Service]
    is_shut: bool = False
    home: str = OWN  # whose things paths name
    project_id: str = ""  # of the personas
    caller: Caller = NOBODY  # the last who was judged,
    target: Mapping[str, object] = field(default_factory=dict)  # against what,
    passed: bool = False  # and whether he got to the operation

    def __post_init__(self) -> None:
        self.services = [replace(one) for one in self.services]  # with resources of their own
        for service in self.services:
            for resource in service.made:
                self._watch(resource)
            behind = [(r, replace(op, call=self._before(op))) for r, op in service.operations()]
            vars(service)["_operations"] = tuple(behind)

    async def ask(self, call: Call, client: Client, who: Caller, home: str) -> Reply:
        """One request of `who` for a thing of his own, or of somebody else's."""
        self.home, self.caller, self.target, self.passed = home, NOBODY, {}, False
        names = _PARAM.findall(call.op.path)
        return await call.make(client, {n: self._owner(who, n) or NOWHERE for n in names})

    def _owner(self, who: Caller, name: str) -> str:
        """What the field says that names an owner; "" for other fields."""
        owner = _OWNERS.get(name, name)
        if owner == "project_id":
            return (who.project_id or self.project_id) if self.home == OWN else NOWHERE
        if owner == "domain_id":
            return (who.domain_id or who.user_domain_id) if self.home == OWN else NOWHERE
        return (who.user_id if self.home == OWN else NOWHERE) if owner == "user_id" else ""

    def _before(self, op: Operation) -> Callable[..., Awaitable[Any]]:
        async def pass_by(ctx: Context, **given: Any) -> Any:
            if not self.is_shut:
                return await op.call(ctx, **given)
            self.passed = True
            return None

        return pass_by

    def _watch(self, resource: Resource[Any]) -> None:
        """Samples take the place of records, and what policy is asked about is noted."""
        load, call = resource.load, resource.call

        async def bodiless(ctx: Context, op: Operation, *more: Any) -> Any:
            return await call(ctx, replace(op, body=None) if self.is_shut else op, *more)

        async def sample(ctx: Context, id: str) -> Any:
            if not self.is_shut:
                return await load(ctx, id)
            empty = _empty(resource)
            owners = {
                n: owner for n in empty.__struct_fields__ if (owner := self._owner(ctx.caller, n))
            }
            return msgspec.structs.replace(empty, id=id, **owners)

        def noted(judged: Callable[..., Any]) -> Callable[..., Any]:
            def judge(ctx: Context, what: Any) -> Any:
                self.caller, self.target = ctx.caller, judged(ctx, what)
                return self.target

            return judge

        kept = {"target": noted(resource.target), "scope_target": noted(resource.scope_target)}
        vars(resource).update(kept, load=sample, call=bodiless)


@cache
def _empty(resource: Resource[Any]) -> Any:
    """A record as its paths name; a resource without a table of its own says what it loads."""
    if hasattr(resource, "table"):
        return anything(resource.table.kind)
    return anything(get_type_hints(type(resource).load)["return"])

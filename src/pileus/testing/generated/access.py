"""Every operation over HTTP: nothing without a token, and to whom the rule says no it is not done.

Paths get ids that lead nowhere, so a call that is let in ends at the body or at the record. What is asked is only
whether it was let in.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pileus.kernel.resources import PUBLIC, Operation, Resource, Service
from pileus.kernel.versions import NO_VERSION, spelled
from pileus.testing import personas
from pileus.testing.client import Client, Reply
from pileus.testing.generated.policies import operations

NOWHERE = "0" * 32
_PARAM = re.compile(r"{\w+}")


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
        return _PARAM.sub(NOWHERE, self.op.path)

    @property
    def is_public(self) -> bool:
        return self.op.rule == PUBLIC

    @property
    def asks_before_it_looks(self) -> bool:
        """Its rule is asked about the caller's own scope, as no record is loaded."""
        own = type(self.resource).scope_target is Resource.scope_target
        return not self.is_public and not self.op.record_param and own

    async def make(self, client: Client) -> Reply:
        body: Any = None
        if self.op.method in ("POST", "PUT", "PATCH"):
            body = {self.op.action: {}} if self.op.action else {}
        headers = {}
        if self.service.versions is not None:
            at = (
                spelled(self.op.since) if self.op.since != NO_VERSION else self.service.versions.low
            )
            headers["openstack_api_version"] = f"{self.service.versions.names[0]} {at}"
        return await client.request(self.op.method, self.url, body, headers=headers)


def calls(services: Sequence[Service]) -> Iterator[Call]:
    """Every operation of every service; where several share a path and method, each."""
    for service, resource, op in operations(services):
        yield Call(service, resource, op)


def is_judged(call: Call) -> bool:
    """Upstream has its rule, so that there is an answer to compare with."""
    return call.service.type in personas.SERVICES and call.op.rule in personas.policies(
        call.service.type
    )


def upstream_lets(call: Call, persona: str) -> bool:
    """Whether upstream's default lets the persona do it to what is the persona's own."""
    who = personas.PERSONAS[persona]
    own = {**personas.OWN, "user_id": who.user_id, "target.user.id": who.user_id}
    return personas.upstream(call.service.type).check(call.op.rule)(who, own)


def shared_with_public(call: Call, every: Sequence[Call]) -> bool:
    """A public operation stands on the same path and method (another version of it)."""
    twin = [c for c in every if c.op.path == call.op.path and c.op.method == call.op.method]
    return any(c.is_public for c in twin)

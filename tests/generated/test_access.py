"""Who gets in, generated: every operation of every service, by every persona, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from pileus.kernel.auth import Caller
from pileus.kernel.resources import Resource
from pileus.node.control import find_services
from pileus.testing.client import Client
from pileus.testing.cloud import PASSWORD, Cloud
from pileus.testing.generated.access import (
    OTHER,
    OWN,
    Call,
    Gate,
    calls,
    is_judged,
    shared_with_public,
)
from pileus.testing.generated.policies import ledger
from tests.generated.conftest import Site, started

CALLS = list(calls(find_services()))
CLOSED = [c for c in CALLS if not c.is_public and not shared_with_public(c, CALLS)]
KNOWN = ledger(Path(__file__).parent / "policies.tsv")
ROLES = ("reader", "member", "manager", "admin")
SCOPES = ("project", "domain", "system")
UNSCOPED = "unscoped"


class Door(Site):
    """The cloud behind the gate, and who stands before it: a client and a caller by persona."""

    gate: Gate
    who: dict[str, tuple[Client, Caller]]


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    gate = Gate(find_services())
    with asyncio.Runner() as runner, started(Door, runner, services=gate.services) as found:
        found.gate, found.who = gate, {}
        found.run(_arrive(found))
        gate.is_shut = True
        yield found


async def _arrive(door: Door) -> None:
    """One user for each role and scope, all at home in one project of the default domain."""
    cloud = door.cloud
    door.gate.project_id = cloud.admin.project_id
    door.who[UNSCOPED] = await _caller(cloud, cloud.admin.user_id, UNSCOPED)
    roles = (await cloud.admin.get("/identity/v3/roles")).json["roles"]
    ids = {role["name"]: role["id"] for role in roles}
    places = {"project": f"projects/{cloud.admin.project_id}", "domain": "domains/default"}
    for scope in SCOPES:
        for role in ROLES:
            name = f"{scope}_{role}"
            body = {"user": {"name": name, "password": PASSWORD}}
            user = (await cloud.admin.post("/identity/v3/users", body)).json["user"]["id"]
            place = places.get(scope, "system")
            granted = await cloud.admin.put(f"/identity/v3/{place}/users/{user}/roles/{ids[role]}")
            assert granted.status == 204, granted
            door.who[name] = await _caller(cloud, user, scope)


async def _caller(cloud: Cloud, user: str, scope: str) -> tuple[Client, Caller]:
    scopes = {
        "project": {"project": {"id": cloud.admin.project_id}},
        "domain": {"domain": {"id": "default"}},
        "system": {"system": {"all": True}},
        UNSCOPED: UNSCOPED,
    }
    password = {"user": {"id": user, "password": PASSWORD}}
    identity = {"methods": ["password"], "password": password}
    body = {"auth": {"identity": identity, "scope": scopes[scope]}}
    reply = await cloud.client.post("/identity/v3/auth/tokens", body)
    assert reply.status == 201, reply
    token = reply.headers["x-subject-token"]
    return cloud.client.as_(token), await cloud.runtime.callers.of(token)


@pytest.mark.parametrize("call", CLOSED, ids=lambda c: c.id)
def test_without_a_token_nothing_that_has_a_rule_is_answered(door: Door, call: Call) -> None:
    reply = door.run(call.make(door.cloud.client))
    assert reply.status == 401, reply
    assert reply.headers["www-authenticate"].startswith("Keystone uri=")


@pytest.mark.parametrize("scope", [*SCOPES, UNSCOPED])
@pytest.mark.parametrize("call", CALLS, ids=lambda c: c.id)
def test_an_operation_is_open_exactly_to_whom_upstreams_default_opens_it(
    door: Door, call: Call, scope: str
) -> None:
    names = [UNSCOPED] if scope == UNSCOPED else [f"{scope}_{role}" for role in ROLES]

    async def each() -> None:
        for name in names:
            for home in (OWN, OTHER) if "{" in call.op.path else (OWN,):
                await _ask(door, call, name, home)

    door.run(each())


async def _ask(door: Door, call: Call, name: str, home: str) -> None:
    client, who = door.who[name]
    reply = await door.gate.ask(call, client, who, home)
    is_in = door.gate.passed
    if call.is_public:
        assert is_in, reply
        return
    assert door.gate.caller == who, f"no rule was asked about {name}: {reply}"
    if is_judged(call):
        assert is_in == call.lets(who, door.gate.target), (name, home, door.gate.target, reply)
    else:
        assert (call.service.type, call.op.rule) in KNOWN
    assert is_in or reply.status in (403, 404), reply


def test_every_operation_that_is_written_down_is_asked_for() -> None:
    """Those of a resource that no service lists would be reached by nobody."""
    written = {
        kind
        for kind in _below(Resource)
        if kind.__module__.startswith("pileus.services")
        and any(hasattr(getattr(kind, name), "__operations__") for name in dir(kind))
    }
    asked = tuple({type(call.resource) for call in CALLS})
    assert [kind for kind in written if not any(issubclass(a, kind) for a in asked)] == []
    assert {c.op.rule for c in CLOSED if not is_judged(c)} == {rule for _, rule in KNOWN}


def _below(kind: type) -> Iterator[type]:
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)

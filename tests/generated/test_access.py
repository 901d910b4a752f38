"""Who gets in, generated: every operation of every service over HTTP."""

from __future__ import annotations

import pytest

from pileus.node.control import find_services
from pileus.testing.generated.access import (
    Call,
    calls,
    is_judged,
    shared_with_public,
    upstream_lets,
)
from tests.generated.conftest import Site

CALLS = list(calls(find_services()))
CLOSED = [c for c in CALLS if not c.is_public and not shared_with_public(c, CALLS)]
SCOPED = [
    c
    for c in CLOSED
    if c.service.all_scopes().get(c.op.rule) == ("project",)
    and is_judged(c)
    and not upstream_lets(c, "nobody")
]
ROLES = ("reader", "member", "manager")
JUDGED = [c for c in CLOSED if c.asks_before_it_looks and is_judged(c)]


@pytest.mark.parametrize("call", CLOSED, ids=lambda c: c.id)
def test_without_a_token_nothing_that_has_a_rule_is_answered(site: Site, call: Call) -> None:
    reply = site.run(call.make(site.client("nobody")))
    assert reply.status == 401, reply
    assert reply.headers["www-authenticate"].startswith("Keystone uri=")


@pytest.mark.parametrize("call", SCOPED, ids=lambda c: c.id)
def test_a_token_without_scope_does_nothing_where_a_project_is_needed(
    site: Site, call: Call
) -> None:
    reply = site.run(call.make(site.client("unscoped")))
    assert 400 <= reply.status < 500, reply


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("call", JUDGED, ids=lambda c: c.id)
def test_a_role_is_let_in_exactly_where_upstreams_default_lets_it(
    site: Site, call: Call, role: str
) -> None:
    reply = site.run(call.make(site.client(role)))
    assert reply.status not in (401, 500), reply
    if not upstream_lets(call, f"project_{role}"):
        assert reply.status in (403, 404), reply
    else:
        assert reply.status != 403 or call.op.rule.encode() not in reply.body, reply

"""Who may do what in placement, compared with upstream's own defaults."""

from __future__ import annotations

import pytest

from pileus.kernel.policy import Rules
from pileus.services.placement import SERVICE
from pileus.testing.alone import alone, in_loop
from pileus.testing.personas import OTHER, OWN, PERSONAS, allowed, policies

RULES = Rules(SERVICE.all_rules(), scopes=SERVICE.all_scopes())
OPERATIONS = [op for _, op in SERVICE.operations() if op.rule]


@pytest.mark.parametrize("rule", sorted({op.rule for op in OPERATIONS}))
def test_a_rule_allows_whom_upstream_allows(rule: str) -> None:
    for target in (OWN, OTHER):
        mine = {name for name, one in PERSONAS.items() if RULES.allows(rule, one, target)}
        assert mine == allowed("placement", rule, target)


def test_every_rule_of_upstream_guards_an_operation() -> None:
    named = {r for r in policies("placement") if r.startswith("placement:")}
    assert named == {op.rule for op in OPERATIONS}


@in_loop
async def test_every_operation_refuses_who_has_no_right_before_it_looks_for_anything() -> None:
    async with alone(SERVICE) as cloud:
        nobody = cloud.persona("foreign_member")
        for op in OPERATIONS:
            path = op.path.replace("{provider_id}", "none").replace("{name}", "none")
            path = path.replace("{consumer_id}", "none").replace("{resource_class}", "none")
            version = "placement 1.11" if op.until < (1, 39) else "placement 1.39"
            reply = await nobody.request(
                op.method, path, {}, headers={"openstack-api-version": version}
            )
            assert reply.status == 403, (op.method, path, reply)


@in_loop
async def test_a_reader_sees_the_usage_of_his_own_project_only() -> None:
    async with alone(SERVICE) as cloud:
        reader = cloud.persona("project_reader")
        reader.headers["openstack-api-version"] = "placement 1.9"
        own = await reader.get("/placement/usages?project_id=project-own")
        other = await reader.get("/placement/usages?project_id=project-other")
        assert (own.status, other.status) == (200, 403)


@in_loop
async def test_the_version_document_needs_no_token() -> None:
    async with alone(SERVICE) as cloud:
        for path in ("/placement", "/placement/"):
            reply = await cloud.client.get(path)
            assert reply.status == 200
            version = reply.json["versions"][0]
            assert (version["min_version"], version["max_version"]) == ("1.0", "1.39")
            assert version["links"] == [{"rel": "self", "href": ""}]
        assert (await cloud.client.get("/placement/resource_providers")).status == 401

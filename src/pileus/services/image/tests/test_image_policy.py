"""Who may do what with images, compared with upstream's own defaults."""

from __future__ import annotations

import pytest

from pileus.kernel.policy import Rules
from pileus.services.image import SERVICE
from pileus.testing.alone import alone, in_loop
from pileus.testing.personas import OTHER, OWN, PERSONAS, allowed, policies

RULES = Rules(SERVICE.all_rules(), scopes=SERVICE.all_scopes())
NAMED = sorted(SERVICE.all_rules().keys() & policies("image").keys() - {"context_is_admin"})
VISIBILITIES = ("private", "shared", "community", "public")


@pytest.mark.parametrize("rule", NAMED)
def test_a_rule_allows_whom_upstream_allows(rule: str) -> None:
    for home in (OWN, OTHER):
        for visibility in VISIBILITIES:
            for member in ("project-none", "project-own"):
                target = {**home, "visibility": visibility, "member_id": member}
                mine = {n for n, one in PERSONAS.items() if RULES.allows(rule, one, target)}
                assert mine == allowed("image", rule, target), (visibility, member)


def test_the_rules_are_upstreams_but_for_one() -> None:
    assert SERVICE.all_rules().keys() - policies("image").keys() == {"image:discover"}
    assert len(NAMED) == 57


@in_loop
async def test_every_operation_but_versions_and_tickets_needs_a_token() -> None:
    async with alone(SERVICE) as cloud:
        public = set()
        for _, op in SERVICE.operations():
            path = op.path.replace("{image_id}", "x").replace("{tag}", "x")
            path = path.replace("{member_id}", "x").replace("{ticket}", "x")
            reply = await cloud.client.request(op.method, path)
            if reply.status != 401:
                public.add(op.path)
        assert public == {"/image", "/image/versions", "/image/tickets/{ticket}"}

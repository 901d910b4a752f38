"""Trusts that are passed on."""

from __future__ import annotations

from typing import Any

from pileus.kernel.world import stamp
from pileus.services.identity.tests.clouds import Identity, Who, alone
from pileus.services.identity.tests.test_delegation import by_trust, trusted
from pileus.testing.client import Reply

TRUSTS = "/OS-TRUST/trusts"


async def used(i: Identity, trust: dict[str, Any], trustee: Who) -> Who:
    """The trustee with a token by the trust."""
    reply = await by_trust(i, trust, trustee)
    assert reply.status == 201, reply
    token = reply.headers["x-subject-token"]
    user = reply.json["token"]["user"]["id"]
    return Who(i.anybody.client.as_(token), user, trust["project_id"], "", token)


async def passed_on(who: Who, trust: dict[str, Any], to: Who, **changes: Any) -> Reply:
    asked = {
        "trustor_user_id": who.user_id,
        "trustee_user_id": to.user_id,
        "project_id": trust["project_id"],
        "roles": [{"name": "member"}],
        "impersonation": True,
        **changes,
    }
    return await who.post(TRUSTS, {"trust": asked})


@alone
async def test_a_trust_is_passed_on_as_often_as_it_says(i: Identity) -> None:
    trust, trustor, trustee = await trusted(i, allow_redelegation=True)
    assert trust["redelegation_count"] == 3 and trust["redelegated_trust_id"] is None
    at, holder = trust, trustee
    for n in (2, 1, 0):
        to = await i.who(f"trustee-{n}")
        lent = await used(i, at, holder)
        reply = await passed_on(lent, at, to, allow_redelegation=n > 0)
        assert reply.status == 201, reply
        made = reply.json["trust"]
        assert made["redelegation_count"] == n and made["redelegated_trust_id"] == at["id"]
        assert made["trustor_user_id"] == trustor.user_id
        at, holder = made, to
    last = await used(i, at, holder)
    shown = (await last.get("/auth/tokens", x_subject_token=last.token)).json["token"]
    assert shown["user"]["id"] == trustor.user_id
    assert shown["project"]["id"] == trustor.project_id
    reply = await passed_on(last, at, await i.who("nobody-more"))
    assert reply.status == 403 and b"Remaining redelegation depth of 0" in reply.body


@alone
async def test_what_is_passed_on_only_shrinks(i: Identity) -> None:
    soon, later = (stamp(i.cloud.runtime.world.clock.time() + s) for s in (3600, 7200))
    trust, trustor, trustee = await trusted(i, allow_redelegation=True, expires_at=soon)
    project = await i.project("elsewhere")
    await i.grant("manager", f"projects/{trust['project_id']}", trustor.user_id)
    await i.grant("member", f"projects/{project}", trustor.user_id)
    lent, to = await used(i, trust, trustee), await i.who("third")
    for changes, status in (
        ({"expires_at": later}, 403),
        ({"roles": [{"name": "manager"}]}, 403),
        ({"remaining_uses": 1}, 403),
        ({"project_id": project}, 403),
        ({"allow_redelegation": True, "redelegation_count": 1}, 403),
        ({"allow_redelegation": True, "redelegation_count": 4}, 403),
        ({"trustor_user_id": trustee.user_id}, 403),
        ({"roles": []}, 403),
        ({"roles": [{"name": "reader"}]}, 201),
        ({"allow_redelegation": True, "redelegation_count": 2}, 201),
    ):
        reply = await passed_on(lent, trust, to, **changes)
        assert reply.status == status, (changes, reply)
    made = (await passed_on(lent, trust, to)).json["trust"]
    assert made["expires_at"] == trust["expires_at"] and made["redelegation_count"] == 0


@alone
async def test_a_trust_that_impersonates_is_not_made_of_one_that_does_not(i: Identity) -> None:
    trust, _, trustee = await trusted(i, allow_redelegation=True, impersonation=False)
    await i.grant("member", f"projects/{trust['project_id']}", trustee.user_id)
    lent, to = await used(i, trust, trustee), await i.who("third")
    assert lent.user_id == trustee.user_id
    assert (await passed_on(lent, trust, to)).status == 403
    assert (await passed_on(lent, trust, to, impersonation=False)).status == 201


@alone
async def test_the_terms_of_a_trust_to_be_passed_on_are_checked(i: Identity) -> None:
    _, trustor, trustee = await trusted(i)
    trust = {"project_id": trustor.project_id}
    for changes, status in (
        ({"allow_redelegation": True, "redelegation_count": 4}, 403),
        ({"allow_redelegation": True, "remaining_uses": 2}, 400),
        ({"allow_redelegation": True, "redelegation_count": -1}, 400),
        ({"allow_redelegation": True, "redelegation_count": 0, "remaining_uses": 2}, 201),
        ({"redelegation_count": 2}, 201),
    ):
        reply = await passed_on(trustor, trust, trustee, **changes)
        assert reply.status == status, (changes, reply)
        if status == 201:
            assert reply.json["trust"]["redelegation_count"] == 0


@alone
async def test_a_chain_ends_with_each_of_its_links(i: Identity) -> None:
    trust, trustor, trustee = await trusted(i, allow_redelegation=True)
    to = await i.who("third")
    lent = await used(i, trust, trustee)
    made = (await passed_on(lent, trust, to)).json["trust"]
    token = await used(i, made, to)
    await i.admin.patch(f"/users/{trustee.user_id}", {"user": {"enabled": False}})
    assert (await token.get("/auth/projects")).status == 401
    assert (await by_trust(i, made, to)).status in (401, 403)
    await i.admin.patch(f"/users/{trustee.user_id}", {"user": {"enabled": True}})
    token = await used(i, made, to)
    assert (await trustor.delete(f"{TRUSTS}/{trust['id']}")).status == 204
    assert (await token.get("/auth/projects")).status == 401
    assert (await trustor.get(f"{TRUSTS}/{made['id']}")).status == 404


@alone
async def test_who_was_lent_something_may_look_at_his_trusts(i: Identity) -> None:
    trust, _, trustee = await trusted(i, impersonation=False)
    lent = await used(i, trust, trustee)
    mine = await lent.get(f"{TRUSTS}?trustee_user_id={trustee.user_id}")
    assert [t["id"] for t in mine.json["trusts"]] == [trust["id"]]
    assert (await lent.get(f"{TRUSTS}/{trust['id']}")).status == 200
    assert (await lent.delete(f"{TRUSTS}/{trust['id']}")).status == 403


@alone
async def test_who_acts_for_a_trustor_ends_none_of_his_other_trusts(i: Identity) -> None:
    trust, trustor, trustee = await trusted(i, allow_redelegation=True)
    to = await i.who("third")
    other = (await passed_on(trustor, trust, to)).json["trust"]
    lent = await used(i, trust, trustee)
    below = (await passed_on(lent, trust, to)).json["trust"]
    assert (await lent.delete(f"{TRUSTS}/{other['id']}")).status == 403
    assert (await trustor.get(f"{TRUSTS}/{other['id']}")).status == 200
    for mine in (below, trust):
        assert (await lent.delete(f"{TRUSTS}/{mine['id']}")).status == 204
    assert (await lent.get("/auth/projects")).status == 401

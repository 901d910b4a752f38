"""What may be lent: application credentials, trusts, and what they never become. Credentials beside them."""

from __future__ import annotations

import json
from typing import Any

from pileus.kernel.auth import revise
from pileus.kernel.world import Clock, stamp
from pileus.services.identity.application_credentials import APPLICATION_CREDENTIALS
from pileus.services.identity.credentials import CREDENTIALS
from pileus.services.identity.rotation import rotate
from pileus.services.identity.tests.clouds import Identity, Who, alone
from pileus.services.identity.trust import TRUSTS
from pileus.testing.client import Reply


class Later(Clock):
    """A quarter of an hour ahead."""

    def time(self) -> float:
        return super().time() + 900


async def lent(i: Identity, owner: Who, **fields: Any) -> tuple[dict[str, Any], Who]:
    """An application credential of the owner, and a caller who uses it."""
    path = f"/users/{owner.user_id}/application_credentials"
    made = await owner.make(path, name=f"ci-{i.cloud.runtime.world.new_hex()}", **fields)
    reply = await by_credential(i, made)
    assert reply.status == 201, reply
    token = reply.headers["x-subject-token"]
    who = Who(i.anybody.client.as_(token), owner.user_id, owner.project_id, "", token)
    return made, who


async def by_credential(i: Identity, made: dict[str, Any], **more: Any) -> Reply:
    part = {"id": made["id"], "secret": made["secret"]}
    return await i.login(application_credential=part, **more)


async def trusted(i: Identity, **fields: Any) -> tuple[dict[str, Any], Who, Who]:
    """A trust, its trustor and its trustee."""
    project = await i.project("lent")
    trustor = await i.who("trustor", "member", f"projects/{project}")
    trustee = await i.who("trustee")
    asked = {
        "trustor_user_id": trustor.user_id,
        "trustee_user_id": trustee.user_id,
        "project_id": project,
        "roles": [{"name": "member"}],
        "impersonation": True,
        **fields,
    }
    return await trustor.make("/OS-TRUST/trusts", **asked), trustor, trustee


async def by_trust(i: Identity, trust: dict[str, Any], trustee: Who) -> Reply:
    scope = {"OS-TRUST:trust": {"id": trust["id"]}}
    return await i.login(token={"id": trustee.token}, scope=scope)


@alone
async def test_an_application_credential_logs_in_to_its_project_with_its_roles(
    i: Identity,
) -> None:
    project = await i.project("p")
    owner = await i.who("u", "admin", f"projects/{project}")
    made, who = await lent(i, owner, roles=[{"name": "member"}], description="d")
    assert made["project_id"] == project and made["unrestricted"] is False
    assert [r["name"] for r in made["roles"]] == ["member", "reader"]
    shown = (await who.get("/auth/tokens", x_subject_token=who.token)).json["token"]
    assert shown["methods"] == ["application_credential"]
    assert [r["name"] for r in shown["roles"]] == ["member", "reader"]
    assert shown["application_credential"] == {
        "id": made["id"],
        "name": made["name"],
        "restricted": True,
    }
    part = {
        "name": made["name"],
        "secret": made["secret"],
        "user": {"name": "U", "domain": {"id": "default"}},
    }
    assert (await i.login(application_credential=part)).status == 201
    listed = (await owner.get(f"/users/{owner.user_id}/application_credentials")).json
    found = listed["application_credentials"][0]
    assert "secret" not in found and found["id"] == made["id"]


@alone
async def test_an_application_credential_has_no_more_than_its_maker(i: Identity) -> None:
    owner = await i.who("u", "member", f"projects/{await i.project('p')}")
    path = f"/users/{owner.user_id}/application_credentials"
    body = {"application_credential": {"name": "a", "roles": [{"name": "admin"}]}}
    assert (await owner.post(path, body)).status == 400
    made, _ = await lent(i, owner)
    assert [r["name"] for r in made["roles"]] == ["member", "reader"]
    other = await i.who("o", "member", f"projects/{owner.project_id}")
    assert (await other.post(path, {"application_credential": {"name": "b"}})).status == 403
    assert (await other.get(f"{path}/{made['id']}")).status == 403
    mine = f"/users/{other.user_id}/application_credentials/{made['id']}"
    assert (await other.get(mine)).status == 403
    assert (await other.delete(mine)).status == 403
    for time in ("2001-01-01T00:00:00", "9999-12-31T23:59:59-12:00", "soon"):
        past = {"application_credential": {"name": "c", "expires_at": time}}
        assert (await owner.post(path, past)).status == 400, time
    twice = {"application_credential": {"name": made["name"]}}
    assert (await owner.post(path, twice)).status == 409


@alone
async def test_an_application_credential_ends_with_the_role_the_user_or_itself(
    i: Identity,
) -> None:
    project = await i.project("p")
    owner = await i.who("u", "member", f"projects/{project}")
    made, who = await lent(i, owner)
    path = f"/users/{owner.user_id}/application_credentials/{made['id']}"
    assert (await owner.delete(path)).status == 204
    assert (await who.get("/auth/projects")).status == 401
    assert (await by_credential(i, made)).status == 401
    made, who = await lent(i, owner)
    role = f"/projects/{project}/users/{owner.user_id}/roles/{await i.role('member')}"
    assert (await i.admin.delete(role)).status == 204
    assert (await i.admin.put(role)).status == 204
    assert (await who.get("/auth/projects")).status == 401
    assert (await by_credential(i, made)).status == 401
    owner = await i.token(owner.user_id, f"projects/{project}")
    made, who = await lent(i, owner)
    await i.admin.patch(f"/users/{owner.user_id}", {"user": {"enabled": False}})
    assert (await by_credential(i, made)).status == 401


@alone
async def test_what_is_lent_ends_with_its_lender_even_where_its_token_is_remembered(
    i: Identity,
) -> None:
    trust, trustor, trustee = await trusted(i)
    reply = await by_trust(i, trust, trustee)
    by_trustee = Who(i.anybody.client.as_(reply.headers["x-subject-token"]), trustor.user_id)
    made, by_cred = await lent(i, trustor)
    end = stamp(i.cloud.runtime.world.clock.time() + 600)
    async with i.cloud.runtime.store.tx() as tx:
        await TRUSTS.change(tx, await TRUSTS.get(tx, trust["id"]), expires_at=end)
        credential = await APPLICATION_CREDENTIALS.get(tx, made["id"])
        await APPLICATION_CREDENTIALS.change(tx, credential, expires_at=end)
        await revise(tx, "auth")
    for status in (200, 401):
        for who in (by_trustee, by_cred):
            assert (await who.get("/auth/projects")).status == status
            token = who.client.headers["x-auth-token"]
            shown = await i.admin.get("/auth/tokens", x_subject_token=token)
            assert shown.status == (200 if status == 200 else 404)
        i.cloud.runtime.world.clock = Later()


@alone
async def test_only_an_unrestricted_application_credential_manages_others(i: Identity) -> None:
    owner = await i.who("u", "member", f"projects/{await i.project('p')}")
    path = f"/users/{owner.user_id}/application_credentials"
    body = {"application_credential": {"name": "more"}}
    made, who = await lent(i, owner)
    assert (await who.post(path, body)).status == 403
    assert (await who.delete(f"{path}/{made['id']}")).status == 403
    assert (await who.get(path)).status == 200
    _, free = await lent(i, owner, unrestricted=True)
    assert (await free.post(path, body)).status == 201


@alone
async def test_a_trust_lends_roles_and_impersonates(i: Identity) -> None:
    trust, trustor, trustee = await trusted(i)
    assert "v3/OS-TRUST/trusts" in trust["links"]["self"]
    assert trust["expires_at"] is None and trust["remaining_uses"] is None
    reply = await by_trust(i, trust, trustee)
    token = reply.json["token"]
    assert token["user"]["id"] == trustor.user_id
    assert token["project"]["id"] == trustor.project_id
    assert [r["name"] for r in token["roles"]] == ["member", "reader"]
    assert token["OS-TRUST:trust"]["trustee_user"]["id"] == trustee.user_id
    listed = (await i.admin.get("/OS-TRUST/trusts/")).json["trusts"]
    assert [t["id"] for t in listed] == [trust["id"]] and "roles" not in listed[0]
    mine = f"/OS-TRUST/trusts?trustor_user_id={trustor.user_id}"
    assert len((await trustor.get(mine)).json["trusts"]) == 1
    roles = (await trustee.get(f"/OS-TRUST/trusts/{trust['id']}/roles")).json["roles"]
    assert [r["name"] for r in roles] == ["member"]
    assert (await trustee.delete(f"/OS-TRUST/trusts/{trust['id']}")).status == 403
    assert (await trustor.delete(f"/OS-TRUST/trusts/{trust['id']}")).status == 204
    assert (await trustor.get(f"/OS-TRUST/trusts/{trust['id']}")).status == 404
    used = i.anybody.client.as_(reply.headers["x-subject-token"])
    assert (await used.get("/identity/v3/auth/projects")).status == 401


@alone
async def test_a_trust_is_used_as_often_as_it_says_and_by_whom_it_says(i: Identity) -> None:
    trust, trustor, trustee = await trusted(i, remaining_uses=2, impersonation=False)
    assert (await by_trust(i, trust, trustor)).status == 403
    replies = [await by_trust(i, trust, trustee) for _ in range(3)]
    assert [r.status for r in replies] == [201, 201, 401]
    assert replies[0].json["token"]["user"]["id"] == trustee.user_id
    assert (await trustor.get(f"/OS-TRUST/trusts/{trust['id']}")).status == 404
    assert (await by_trust(i, {"id": "no-such-trust"}, trustee)).status == 401


@alone
async def test_a_trust_lends_only_what_the_trustor_has(i: Identity) -> None:
    trust, trustor, trustee = await trusted(i)
    asked = {k: trust[k] for k in ("trustor_user_id", "trustee_user_id", "project_id")}
    asked |= {"impersonation": False, "roles": [{"name": "admin"}]}
    assert (await trustor.post("/OS-TRUST/trusts", {"trust": asked})).status == 404
    assert (await trustee.post("/OS-TRUST/trusts", {"trust": asked})).status == 403
    none = {"trust": {**asked, "roles": []}}
    assert (await trustor.post("/OS-TRUST/trusts", none)).status == 403


@alone
async def test_a_credential_is_kept_encrypted_and_survives_new_keys(i: Identity) -> None:
    project = await i.project("p")
    who = await i.who("u", "member", f"projects/{project}")
    blob = json.dumps({"access": "a" * 32, "secret": "s3cret"})
    made = await who.make(
        "/credentials", user_id=who.user_id, project_id=project, type="ec2", blob=blob
    )
    assert made["blob"] == blob and len(made["id"]) == 64
    row = await CREDENTIALS.get(i.cloud.runtime.store, made["id"])
    assert "s3cret" not in row.sealed
    await rotate(i.cloud.runtime)
    again = await CREDENTIALS.get(i.cloud.runtime.store, made["id"])
    assert again.sealed != row.sealed
    url = f"/credentials/{made['id']}"
    assert (await who.get(url)).json["credential"]["blob"] == blob
    new = json.dumps({"access": "a" * 32, "secret": "n"})
    changed = await who.patch(url, {"credential": {"blob": new}})
    assert changed.json["credential"]["blob"] == new
    bound = json.dumps({"access": "a" * 32, "secret": "n", "trust_id": "t"})
    assert (await who.patch(url, {"credential": {"blob": bound}})).status == 400
    assert (await who.delete(url)).status == 204
    assert (await who.get(url)).status == 403


@alone
async def test_credentials_go_with_their_user_and_project(i: Identity) -> None:
    project = await i.project("p")
    user = await i.user("u")
    for type in ("cert", "totp"):
        fields = {"user_id": user, "type": type, "blob": "b", "project_id": project}
        await i.admin.make("/credentials", **fields)
    assert len((await i.admin.get(f"/credentials?user_id={user}")).json["credentials"]) == 2
    assert len((await i.admin.get("/credentials?type=totp")).json["credentials"]) == 1
    assert (await i.admin.delete(f"/projects/{project}")).status == 204
    assert (await i.admin.get("/credentials")).json["credentials"] == []
    for bad in ({"type": "ec2", "blob": "no json"}, {"type": "ec2", "blob": '{"access":"a"}'}):
        body = {"credential": {"user_id": user, **bad}}
        assert (await i.admin.post("/credentials", body)).status == 400

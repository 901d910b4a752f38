"""Users of a directory: the same stories on the stand-in and, where it is installed, on Debian's slapd."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pileus.services.identity.directory_domains import public_id
from pileus.services.identity.tests.directories import (
    PEOPLE,
    Corner,
    FakePlace,
    Place,
    SlapdPlace,
    group,
    person,
    places,
    tell,
)
from pileus.testing.slapd_server import program

SLAPD = [pytest.mark.e2e, pytest.mark.skipif(program() is None, reason="slapd is not installed")]


@pytest.fixture(params=["fake", pytest.param("slapd", marks=SLAPD)])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    yield from places(request.param)


def test_who_stands_in_the_directory_logs_in_and_works_with_his_groups_roles(
    place: Place,
) -> None:
    bob = person(place, "bob")
    person(place, "eve")
    group(place, "crew", [bob])

    async def story(c: Corner) -> None:
        crew = (await c.groups())["crew"]
        assert crew["description"] == "all of crew"
        project = await c.i.project("p")
        role = await c.i.role("member")
        url = f"/projects/{project}/groups/{crew['id']}/roles/{role}"
        assert (await c.i.admin.put(url)).status == 204
        scope = {"project": {"id": project}}
        got = await c.login("BOB", "bob-password", scope=scope)
        assert got.status == 201, got
        token = got.json["token"]
        assert [r["name"] for r in token["roles"]] == ["member", "reader"]
        assert token["user"]["name"] == "bob"
        assert token["user"]["id"] == public_id(c.domain_id, "user", "bob")
        mine = c.i.anybody.client.as_(got.headers["x-subject-token"])
        found = (await mine.get("/identity/v3/auth/projects")).json["projects"]
        assert [p["id"] for p in found] == [project]
        assert (await c.login("eve", scope=scope)).status == 401
        assert (await c.login("eve")).status == 201

    tell(place, story)


def test_wrong_passwords_and_unknown_users_are_refused_alike(place: Place) -> None:
    person(place, "bob")

    async def story(c: Corner) -> None:
        replies = [await c.login("bob", "wrong"), await c.login("nobody", "wrong")]
        replies.append(await c.login("*", "bob-password"))
        replies.append(await c.login("bob)(uid=*", "bob-password"))
        assert {(r.status, r.body) for r in replies} == {(401, replies[0].body)}

    tell(place, story)


def test_who_makes_an_entry_with_anothers_id_does_not_become_him(place: Place) -> None:
    person(place, "bob")
    eve = person(place, "eve")

    async def story(c: Corner) -> None:
        assert (await c.login("bob")).status == 201
        twin: dict[str, object] = {"uid": "bob", "cn": "bob", "sn": "bob", "employeeType": "TRUE"}
        twin |= {"objectClass": ["inetOrgPerson"], "userPassword": "of-eve"}
        place.put(f"uid=bob,{eve}", twin)
        await c.users()
        for password in ("of-eve", "bob-password"):
            assert (await c.login("bob", password)).status == 401
        place.drop(f"uid=bob,{eve}")
        assert (await c.login("bob")).status == 201

    tell(place, story, query_scope="sub")


def test_an_unknown_user_costs_the_directory_as_much_as_a_wrong_password() -> None:
    place = FakePlace()
    person(place, "bob")

    async def story(c: Corner) -> None:
        await c.users()
        costs = []
        for name in ("bob", "nobody"):
            before = place.asked
            assert (await c.login(name, "wrong")).status == 401
            costs.append(place.asked - before)
        assert costs[0] == costs[1] > 1

    tell(place, story)


def test_ossa_2013_015_an_empty_password_lets_nobody_of_a_directory_in(place: Place) -> None:
    bob = person(place, "bob")

    async def story(c: Corner) -> None:
        assert (await c.login("bob")).status == 201
        for empty in ("", None):
            user = {"name": "bob", "domain": {"id": c.domain_id}, "password": empty}
            assert (await c.i.login(password={"user": user})).status == 401
        by_id = {"id": public_id(c.domain_id, "user", "bob"), "password": ""}
        assert (await c.i.login(password={"user": by_id})).status == 401

    assert bob.endswith(PEOPLE)
    tell(place, story)


def test_ossa_2026_007_only_a_clear_word_enables_an_account(place: Place) -> None:
    said = {
        "yes": "TRUE",
        "lower": "true",
        "no": "FALSE",
        "small": "false",
        "zero": "0",
        "odd": "x",
    }
    for uid, word in said.items():
        person(place, uid, word)

    async def story(c: Corner) -> None:
        users = await c.users()
        assert {n for n, u in users.items() if u["enabled"]} == {"yes", "lower"}
        for uid in said:
            status = 201 if uid in ("yes", "lower") else 401
            assert (await c.login(uid)).status == status, uid

    tell(place, story)


def test_active_directorys_way_to_disable_an_account_is_a_bit(place: Place) -> None:
    for uid, flags in (("on", "512"), ("off", "514"), ("odd", "x"), ("none", "")):
        person(place, uid, flags)

    async def story(c: Corner) -> None:
        enabled = {n for n, u in (await c.users()).items() if u["enabled"]}
        assert enabled == {"on", "none"}
        assert (await c.login("off")).status == 401

    tell(place, story, user_enabled_mask=2, user_enabled_default="512")


def test_an_inverted_attribute_or_a_group_can_say_who_is_enabled(place: Place) -> None:
    bob = person(place, "bob", "FALSE")
    person(place, "eve", "TRUE")
    group(place, "enabled", [bob])

    async def story(c: Corner) -> None:
        assert {n for n, u in (await c.users()).items() if u["enabled"]} == {"bob"}
        dn = "cn=enabled,ou=UserGroups,dc=example,dc=org"
        await c.configure(user_enabled_emulation=True, user_enabled_emulation_dn=dn)
        assert {n for n, u in (await c.users()).items() if u["enabled"]} == {"bob"}
        group(place, "enabled", [bob, f"uid=eve,{PEOPLE}"])
        assert {n for n, u in (await c.users()).items() if u["enabled"]} == {"bob", "eve"}

    tell(place, story, user_enabled_invert=True)


def test_users_are_shown_with_what_the_directory_says_of_them(place: Place) -> None:
    person(place, "bob", description="a builder", telephoneNumber="12345")
    person(place, "Zoë Ångström", mail="zoe@example.org")

    async def story(c: Corner) -> None:
        users = await c.users()
        bob = users["bob"]
        assert bob["email"] == "bob@example.org" and bob["description"] == "a builder"
        assert bob["phone"] == "12345" and bob["domain_id"] == c.domain_id
        assert bob["password_expires_at"] is None and "entry" not in bob
        assert "Zoë Ångström" in users
        one = await c.users("&name=BOB")
        assert list(one) == ["bob"]
        shown = await c.i.admin.get(f"/users/{bob['id']}")
        assert shown.json["user"] == bob

    mapping = ["telephoneNumber:phone", "mail:enabled"]
    tell(place, story, user_additional_attribute_mapping=mapping)


def test_the_directory_is_read_only(place: Place) -> None:
    bob = person(place, "bob")
    group(place, "crew", [bob])

    async def story(c: Corner) -> None:
        user, crew = (await c.users())["bob"]["id"], (await c.groups())["crew"]["id"]
        mine = (await c.i.admin.make("/groups", name="ours"))["id"]
        local = await c.i.user("local")
        admin = c.i.admin
        change = {"user": {"original_password": "bob-password", "password": "another-one"}}
        for reply in (
            await admin.post("/users", {"user": {"name": "x", "domain_id": c.domain_id}}),
            await admin.post("/groups", {"group": {"name": "x", "domain_id": c.domain_id}}),
            await admin.patch(f"/users/{user}", {"user": {"enabled": False}}),
            await admin.delete(f"/users/{user}"),
            await admin.patch(f"/groups/{crew}", {"group": {"description": "x"}}),
            await admin.delete(f"/groups/{crew}"),
            await admin.put(f"/groups/{crew}/users/{user}"),
            await admin.delete(f"/groups/{crew}/users/{user}"),
            await admin.put(f"/groups/{mine}/users/{user}"),
            await admin.put(f"/groups/{crew}/users/{local}"),
            await c.i.anybody.post(f"/users/{user}/password", change),
        ):
            assert reply.status == 403, reply
        assert (await admin.head(f"/groups/{crew}/users/{user}")).status == 204
        assert (await c.login("bob")).status == 201

    tell(place, story)


def test_who_left_the_directory_is_out_and_has_his_roles_again_if_he_comes_back(
    place: Place,
) -> None:
    bob = person(place, "bob")
    person(place, "eve")

    async def story(c: Corner) -> None:
        user = (await c.users())["bob"]["id"]
        project = await c.i.project("p")
        await c.i.grant("member", f"projects/{project}", user)
        scope = {"project": {"id": project}}
        got = await c.login("bob", scope=scope)
        token = c.i.anybody.client.as_(got.headers["x-subject-token"])
        assert (await token.get("/identity/v3/auth/projects")).status == 200
        place.drop(bob)
        assert list(await c.users()) == ["eve"]
        assert (await token.get("/identity/v3/auth/projects")).status == 401
        assert (await c.i.admin.get(f"/users/{user}")).status == 404
        assert (await c.login("bob", scope=scope)).status == 401
        person(place, "bob")
        assert (await c.login("bob", scope=scope)).status == 201

    tell(place, story)


def test_a_group_left_in_the_directory_is_left_at_the_next_login(place: Place) -> None:
    bob, eve = person(place, "bob"), person(place, "eve")
    group(place, "crew", [bob, eve])

    async def story(c: Corner) -> None:
        crew = (await c.groups())["crew"]["id"]
        project = await c.i.project("p")
        url = f"/projects/{project}/groups/{crew}/roles/{await c.i.role('member')}"
        await c.i.admin.put(url)
        scope = {"project": {"id": project}}
        assert (await c.login("bob", scope=scope)).status == 201
        members = (await c.i.admin.get(f"/groups/{crew}/users")).json["users"]
        assert {u["name"] for u in members} == {"bob", "eve"}
        group(place, "crew", [eve])
        assert (await c.login("bob", scope=scope)).status == 401
        assert (await c.login("eve", scope=scope)).status == 201

    tell(place, story)


def test_accounts_that_swap_their_names_keep_their_ids(place: Place) -> None:
    for uid, name in (("1", "ann"), ("2", "bea")):
        person(place, uid, sn=name)

    async def story(c: Corner) -> None:
        before = {n: u["id"] for n, u in (await c.users()).items()}
        for uid, name in (("1", "bea"), ("2", "ann")):
            person(place, uid, sn=name)
        after = {n: u["id"] for n, u in (await c.users()).items()}
        assert after == {"ann": before["bea"], "bea": before["ann"]}
        person(place, "3", sn="ANN")
        now = {n: u["id"] for n, u in (await c.users()).items()}
        assert now == after, "a second one of a name is passed over"

    tell(place, story, user_name_attribute="sn")


def test_a_directory_that_is_gone_stops_logins_but_nobody_who_is_in(place: Place) -> None:
    person(place, "bob")

    async def story(c: Corner) -> None:
        got = await c.login("bob")
        token = c.i.anybody.client.as_(got.headers["x-subject-token"])
        place.stop()
        for reply in (await c.login("bob"), await c.login("nobody")):
            assert reply.status == 503, reply
            assert reply.headers["retry-after"]
            assert b"127.0.0.1" not in reply.body
        c.clock.ahead += 60
        listed = await c.i.admin.get(f"/users?domain_id={c.domain_id}")
        assert listed.status == 503
        assert (await token.get("/identity/v3/auth/projects")).status == 200
        assert (await c.i.admin.get("/users")).status == 200
        assert (
            await c.i.password(await c.i.user("u", password="local-one"), "local-one")
        ).status == 201

    tell(place, story)


def test_without_its_configuration_the_directorys_users_go(place: Place) -> None:
    person(place, "bob")

    async def story(c: Corner) -> None:
        user = (await c.users())["bob"]["id"]
        assert (await c.login("bob")).status == 201
        assert (await c.i.admin.delete(f"/domains/{c.domain_id}/config")).status == 204
        await c.i.cloud.runtime.reconcilers.settled()
        assert (await c.login("bob")).status == 401
        assert await c.users() == {}
        assert (await c.i.admin.get(f"/users/{user}")).status == 404
        made = await c.i.admin.post("/users", {"user": {"name": "x", "domain_id": c.domain_id}})
        assert made.status == 201

    tell(place, story)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of 127.0.0.1 that vouches for itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files


@pytest.mark.e2e
@pytest.mark.skipif(program() is None, reason="slapd is not installed")
def test_over_tls_a_directory_must_show_a_certificate_that_is_trusted(tmp_path: Path) -> None:
    files = certificate(tmp_path)
    place = SlapdPlace(files)
    person(place, "bob")

    async def story(c: Corner) -> None:
        assert (await c.login("bob")).status == 503, "nobody vouches for it"
        await c.configure(use_tls=True, tls_req_cert="never")
        assert (await c.login("bob")).status == 201
        await c.configure(use_tls=True, tls_cacertfile=str(files[0]))
        assert (await c.login("bob")).status == 201

    try:
        tell(place, story, use_tls=True)
    finally:
        place.stop()


def test_the_reconciler_brings_rows_up_to_date_without_a_list(place: Place) -> None:
    person(place, "bob")

    async def story(c: Corner) -> None:
        runtime = c.i.cloud.runtime
        await runtime.reconcilers.settled()
        user = public_id(c.domain_id, "user", "bob")
        assert (await c.i.admin.get(f"/users/{user}")).status == 200
        person(place, "bob", "FALSE")
        c.clock.ahead += 60
        runtime.reconcilers.hint("identity.directories")
        await runtime.reconcilers.settled()
        await runtime.reconcilers.settled()
        shown = await c.i.admin.get(f"/users/{user}")
        assert shown.json["user"]["enabled"] is False

    tell(place, story)


def test_a_domain_with_a_directory_can_be_deleted(place: Place) -> None:
    person(place, "bob")

    async def story(c: Corner) -> None:
        user = (await c.users())["bob"]["id"]
        await c.i.admin.patch(f"/domains/{c.domain_id}", {"domain": {"enabled": False}})
        assert (await c.i.admin.delete(f"/domains/{c.domain_id}")).status == 204
        assert (await c.i.admin.get(f"/users/{user}")).status == 404

    tell(place, story)

"""Domain configuration: groups and options, what is hidden, defaults, and what everybody may know of passwords."""

from __future__ import annotations

import msgspec

from pileus.services.identity.domain_configurations import DOMAIN_CONFIGURATIONS, secrets_of
from pileus.services.identity.rotation import rotate
from pileus.services.identity.tests.clouds import Identity, alone, alone_with

FIRST = {
    "identity": {"driver": "sql"},
    "ldap": {"url": "ldap://127.0.0.1:9", "user_tree_dn": "ou=Users,o=x", "password": "secret"},
}


@alone
async def test_a_configuration_is_shown_without_its_secrets(i: Identity) -> None:
    domain = await i.domain("d")
    url = f"/domains/{domain}/config"
    shown = {**FIRST, "ldap": {k: v for k, v in FIRST["ldap"].items() if k != "password"}}
    assert (await i.admin.get(url)).status == 404
    made = await i.admin.put(url, {"config": FIRST})
    assert (made.status, made.json) == (201, {"config": shown})
    assert (await i.admin.get(url)).json == {"config": shown}
    assert (await i.admin.head(url)).status == 200
    assert (await i.admin.get(f"{url}/ldap")).json == {"config": {"ldap": shown["ldap"]}}
    one = await i.admin.get(f"{url}/ldap/url")
    assert one.json == {"config": {"url": "ldap://127.0.0.1:9"}}
    assert (await i.admin.get(f"{url}/ldap/password")).status == 404
    again = await i.admin.put(url, {"config": {"identity": {"driver": "sql"}}})
    assert (again.status, again.json) == (200, {"config": {"identity": {"driver": "sql"}}})
    assert (await i.admin.get(f"{url}/ldap")).status == 404


@alone
async def test_secrets_of_a_configuration_are_encrypted_and_outlive_a_rotation(
    i: Identity,
) -> None:
    domain, store = await i.domain("d"), i.cloud.runtime.store
    await i.admin.put(f"/domains/{domain}/config", {"config": FIRST})
    row = await DOMAIN_CONFIGURATIONS.get(store, domain)
    assert b"secret" not in msgspec.json.encode(row)
    await rotate(i.cloud.runtime)
    after = await DOMAIN_CONFIGURATIONS.get(store, domain)
    assert after.sealed != row.sealed
    assert await secrets_of(i.cloud.runtime, after) == {"ldap": {"password": "secret"}}


@alone
async def test_parts_of_a_configuration_change_and_go(i: Identity) -> None:
    domain = await i.domain("d")
    url = f"/domains/{domain}/config"
    await i.admin.put(url, {"config": FIRST})
    changed = await i.admin.patch(f"{url}/ldap", {"config": {"ldap": {"suffix": "o=x"}}})
    assert changed.json["config"]["ldap"]["suffix"] == "o=x"
    assert changed.json["config"]["ldap"]["url"] == FIRST["ldap"]["url"], "the rest stays"
    await i.admin.patch(f"{url}/ldap/url", {"config": {"url": "ldap://127.0.0.1:8"}})
    await i.admin.patch(url, {"config": {"identity": {"list_limit": 7}}})
    found = (await i.admin.get(url)).json["config"]
    assert found["ldap"]["url"] == "ldap://127.0.0.1:8"
    assert found["identity"] == {"driver": "sql", "list_limit": 7}
    assert (await i.admin.delete(f"{url}/ldap/url")).status == 204
    assert (await i.admin.delete(f"{url}/ldap/url")).status == 404
    assert (await i.admin.delete(f"{url}/identity")).status == 204
    assert (await i.admin.get(f"{url}/identity")).status == 404
    assert (await i.admin.delete(url)).status == 204
    assert (await i.admin.get(url)).status == 404
    assert (await i.admin.delete(url)).status == 204, "as upstream"


@alone
async def test_what_no_domain_can_have_is_refused_and_said(i: Identity) -> None:
    domain = await i.domain("d")
    url = f"/domains/{domain}/config"
    await i.admin.put(url, {"config": FIRST})
    for path, body in (
        ("", {}),
        ("", {"token": {"expiration": 1}}),
        ("", {"ldap": {"colour": 1}}),
        ("", {"ldap": {}}),
        ("", {"ldap": "url"}),
        ("/ldap", {"identity": {"driver": "ldap"}}),
        ("/ldap", {"ldap": {"url": "x"}, "identity": {"driver": "ldap"}}),
        ("/ldap/url", {"suffix": "x"}),
        ("/ldap/url", {"url": "x", "suffix": "x"}),
        ("/token", {"token": {"expiration": 1}}),
    ):
        reply = await i.admin.patch(url + path, {"config": body})
        assert reply.status == 403, (path, body, reply)
        message = reply.json["error"]["message"]
        assert message.startswith("Invalid domain specific configuration: "), message
    for path in ("/token", "/ldap/colour"):
        assert (await i.admin.get(url + path)).status == 403
        assert (await i.admin.delete(url + path)).status == 403
    gone = await i.admin.patch(f"{url}/ldap/suffix", {"config": {"suffix": "x"}})
    assert gone.json["error"]["message"] == (
        f"Could not find option suffix in group ldap in domain configuration for domain {domain}."
    )
    assert (await i.admin.put("/domains/nope/config", {"config": FIRST})).status == 404
    assert (await i.admin.get(url)).json["config"]["ldap"]["url"] == FIRST["ldap"]["url"]


@alone
async def test_defaults_are_upstreams_and_leave_out_secrets(i: Identity) -> None:
    found = (await i.admin.get("/domains/config/default")).json["config"]
    assert found["identity"] == {"driver": "sql", "list_limit": None}
    assert found["ldap"]["user_enabled_default"] == "True"
    assert found["ldap"]["user_attribute_ignore"] == ["default_project_id"]
    assert "password" not in found["ldap"]
    group = await i.admin.get("/domains/config/ldap/default")
    assert group.json["config"] == {"ldap": found["ldap"]}
    option = await i.admin.get("/domains/config/ldap/page_size/default")
    assert option.json == {"config": {"page_size": 0}}
    for path in ("ldap/password", "ldap/colour", "token"):
        assert (await i.admin.get(f"/domains/config/{path}/default")).status == 403


@alone_with(password_regex=r"\d", password_regex_description="a digit")
async def test_everybody_may_know_what_a_password_must_be_like(i: Identity) -> None:
    who = await i.who("u", "reader", f"projects/{await i.project('p')}")
    url = "/domains/default/config/security_compliance"
    told = {"password_regex": r"\d", "password_regex_description": "a digit"}
    assert (await who.get(url)).json == {"config": {"security_compliance": told}}
    one = await who.get(f"{url}/password_regex")
    assert one.json == {"config": {"password_regex": r"\d"}}
    assert (await who.get(f"{url}/lockout_duration")).status == 403
    other = f"/domains/{await i.domain('d')}/config/security_compliance"
    assert (await who.get(other)).status == 403
    for path in ("/domains/default/config", "/domains/config/default"):
        assert (await who.get(path)).status == 403


@alone
async def test_lists_of_a_domain_are_no_longer_than_it_says(i: Identity) -> None:
    domain = await i.domain("d")
    for n in range(3):
        await i.user(f"u{n}", domain)
        await i.admin.make("/groups", name=f"g{n}", domain_id=domain)
    options = {"identity": {"list_limit": 2}}
    await i.admin.put(f"/domains/{domain}/config", {"config": options})
    for noun in ("users", "groups"):
        first = (await i.admin.get(f"/{noun}?domain_id={domain}")).json
        assert len(first[noun]) == 2 and first["truncated"] is True
        marker = first[noun][-1]["id"]
        rest = (await i.admin.get(f"/{noun}?domain_id={domain}&marker={marker}")).json
        assert len(rest[noun]) == 1 and "truncated" not in rest
        assert len((await i.admin.get(f"/{noun}")).json[noun]) >= 3


@alone
async def test_a_configuration_goes_with_its_domain(i: Identity) -> None:
    domain, store = await i.domain("d"), i.cloud.runtime.store
    await i.admin.put(f"/domains/{domain}/config", {"config": FIRST})
    await i.admin.patch(f"/domains/{domain}", {"domain": {"enabled": False}})
    assert (await i.admin.delete(f"/domains/{domain}")).status == 204
    assert await DOMAIN_CONFIGURATIONS.find(store, domain) is None

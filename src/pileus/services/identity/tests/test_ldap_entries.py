"""What a directory says is checked: entries that lie, lack or exceed are passed over."""

from __future__ import annotations

from typing import Any

from pileus.host.ldap import Entry
from pileus.services.identity.directory_domains import public_id
from pileus.services.identity.ldap_entries import (
    group_of,
    groups_filter,
    memberships,
    user_of,
    users_filter,
)
from pileus.services.identity.ldap_options import LdapOptions, read_options

O = LdapOptions(user_id_attribute="uid", user_name_attribute="cn", group_name_attribute="cn")  # noqa: E741


def entry(*dn: str, **attributes: Any) -> Entry:
    """By default of Bob's name."""
    return Entry(dn[0] if dn else "uid=bob,ou=Users,o=x", attributes)


def test_an_entry_without_a_fitting_id_or_name_is_passed_over() -> None:
    for bad in (
        {"uid": ["bob"]},
        {"cn": ["Bob"]},
        {"uid": [], "cn": ["Bob"]},
        {"uid": ["bob"], "cn": ["  "]},
        {"uid": ["bob"], "cn": ["x" * 256]},
        {"uid": ["bob"], "cn": ["a\0b"]},
    ):
        assert user_of(O, "d", entry(**bad)) is None, bad
    assert group_of(O, "d", entry(cn=["x" * 65])) is None
    good = user_of(O, "d", entry(uid=["bob"], cn=["Ⅷ" * 255]))
    assert good is not None and good.user.name == "Ⅷ" * 255


def test_of_several_ids_the_one_in_the_entrys_own_name_counts() -> None:
    several = {"uid": ["robert", "bob"], "cn": ["Bob"]}
    seen = user_of(O, "d", entry(**several))
    assert seen is not None and seen.user.entry == "bob"
    assert user_of(O, "d", entry("cn=Bob,o=x", **several)) is None


def test_a_mapping_of_further_attributes_makes_nobody_more_than_he_is() -> None:
    pairs = ["mail:id", "title:domain_id", "sn:enabled", "l:options", "street:place", "junk"]
    o = read_options(
        {
            **{"user_id_attribute": "uid", "user_name_attribute": "cn"},
            "user_additional_attribute_mapping": pairs,
        }
    )
    said = {"mail": ["m"], "title": ["t"], "sn": ["TRUE"], "l": ["l"], "street": ["s"]}
    seen = user_of(o, "d", entry(uid=["bob"], cn=["Bob"], enabled=["FALSE"], **said))
    assert seen is not None
    assert seen.user.domain_id == "d" and not seen.user.enabled
    assert seen.user.extra == {"email": "m", "place": "s"}


def test_what_somebody_types_cannot_change_the_question() -> None:
    assert users_filter(O, name="*)(uid=*") == (
        r"(&(cn=\2a\29\28uid=\2a)(objectClass=inetOrgPerson)(uid=*))"
    )
    seen = user_of(O, "d", entry("uid=b\\28b,o=x", uid=["b(b"], cn=["B"]))
    assert seen is not None
    assert r"(member=uid=b\5c28b,o=x)" in groups_filter(O, seen)


def test_ids_are_upstreams() -> None:
    assert public_id("default", "user", "bob") == (
        "9238b942d077e3178bb06a7ce8bef6aec1f389aabb9e0f957ebaeb3c4be733f8"
    )


def test_members_of_members_count_where_the_directory_has_them() -> None:
    users = [user_of(O, "d", entry(f"uid={u},o=x", uid=[u], cn=[u])) for u in ("a", "b")]
    groups = [
        group_of(O, "d", entry(f"cn={name},o=x", cn=[name], member=members))
        for name, members in (("in", ["UID=a, O=x", "cn=out,o=x"]), ("out", ["cn=in,o=x"]))
    ]
    seen_users, seen_groups = [u for u in users if u], [g for g in groups if g]
    a, inner, outer = (
        public_id("d", *of) for of in (("user", "a"), ("group", "in"), ("group", "out"))
    )
    assert memberships(O, seen_users, seen_groups) == {(inner, a)}
    nested = read_options({"group_ad_nesting": "true"})
    assert memberships(nested, seen_users, seen_groups) == {(inner, a), (outer, a)}


def test_members_can_be_ids() -> None:
    o = read_options(
        {
            "group_members_are_ids": True,
            "group_member_attribute": "memberUid",
            "user_id_attribute": "uid",
            "user_name_attribute": "cn",
            "group_name_attribute": "cn",
        }
    )
    bob = user_of(o, "d", entry(uid=["bob"], cn=["Bob"]))
    group = group_of(o, "d", entry("cn=g,o=x", cn=["g"], memberuid=["bob", "gone"]))
    assert bob is not None and group is not None
    assert memberships(o, [bob], [group]) == {(group.group.id, bob.user.id)}
    assert "(memberUid=bob)" in groups_filter(o, bob)


def test_options_are_read_as_an_operator_writes_them() -> None:
    o = read_options({"page_size": "50", "use_tls": "True", "user_attribute_ignore": "tenant, x"})
    assert (o.page_size, o.use_tls, o.user_attribute_ignore) == (50, True, ["tenant", "x"])


def test_an_option_may_refer_to_the_password_and_asks_for_no_more_than_that() -> None:
    given = {"suffix": "cn=%(password)s", "user_filter": "%(password)999999999s %(user)s 100%"}
    options = read_options(given, {"password": "hush"})
    assert (options.suffix, options.password) == ("cn=hush", "hush")
    assert options.user_filter == given["user_filter"]

"""What holds a secret does not tell it to a log."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from pileus.host.ldap import LdapAddress
from pileus.kernel.auth import Caller
from pileus.services.identity import SERVICE
from pileus.services.identity.auth_methods import PasswordUser
from pileus.services.identity.credentials import Credentials
from pileus.services.identity.users import User

SECRETS = frozenset(
    {
        "client_secret",
        "identity",
        "original_password",
        "passcode",
        "password",
        "password_hash",
        "secret",
        "secret_hash",
        "verifier",
    }
)


def below(kind: type[Any]) -> Iterator[type[msgspec.Struct]]:
    for one in kind.__subclasses__():
        yield one
        yield from below(one)


def test_whatever_has_a_field_for_a_secret_is_discreet() -> None:
    assert SERVICE.resources
    found = {
        one
        for one in below(msgspec.Struct)
        if one.__module__.startswith("pileus.services.identity")
        and not SECRETS.isdisjoint(one.__struct_fields__)
    }
    assert len(found) > 10
    assert [one for one in found if one.__repr__ is msgspec.Struct.__repr__] == []


def test_only_the_kind_is_told() -> None:
    user = User(id="u", name="n", domain_id="d", password_hash="hush", former_hashes=["hush"])
    asked = PasswordUser(id="u", password="hush")
    assert [repr(user), f"{asked}"] == ["User(...)", "PasswordUser(...)"]
    for kept in (
        Caller(user_id="u", token="hush"),
        LdapAddress(("ldap://x",), password="hush"),
        Credentials.updates.take({"blob": "hush"}),
    ):
        assert "hush" not in repr(kept)

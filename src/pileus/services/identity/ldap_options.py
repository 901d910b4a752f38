"""What a domain's configuration can say about its directory: upstream's options, with upstream's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from pileus.kernel.faults import Invalid

from .wire import Discreet


class LdapOptions(Discreet, msgspec.Struct, frozen=True, kw_only=True):
    """https://docs.openstack.org/keystone/latest/configuration/config-options.html#ldap"""

    url: str = "ldap://localhost"
    user: str | None = None
    password: str | None = None
    suffix: str = "cn=example,cn=com"
    query_scope: Literal["one", "sub"] = "one"
    page_size: int = 0
    alias_dereferencing: Literal["never", "searching", "always", "finding", "default"] = "default"
    debug_level: int | None = None
    chase_referrals: bool | None = None
    user_tree_dn: str | None = None
    user_filter: str | None = None
    user_objectclass: str = "inetOrgPerson"
    user_id_attribute: str = "cn"
    user_name_attribute: str = "sn"
    user_mail_attribute: str | None = "mail"
    user_description_attribute: str | None = "description"
    user_pass_attribute: str | None = "userPassword"
    user_enabled_attribute: str | None = "enabled"
    user_enabled_invert: bool = False
    user_enabled_mask: int = 0
    user_enabled_default: str = "True"
    user_attribute_ignore: list[str] = msgspec.field(default_factory=lambda: ["default_project_id"])
    user_default_project_id_attribute: str | None = None
    user_enabled_emulation: bool = False
    user_enabled_emulation_dn: str | None = None
    user_enabled_emulation_use_group_config: bool = False
    user_additional_attribute_mapping: list[str] = []
    group_tree_dn: str | None = None
    group_filter: str | None = None
    group_objectclass: str = "groupOfNames"
    group_id_attribute: str = "cn"
    group_name_attribute: str = "ou"
    group_members_are_ids: bool = False
    group_member_attribute: str = "member"
    group_desc_attribute: str | None = "description"
    group_attribute_ignore: list[str] = []
    group_additional_attribute_mapping: list[str] = []
    group_ad_nesting: bool = False
    tls_cacertfile: str | None = None
    tls_cacertdir: str | None = None
    use_tls: bool = False
    tls_req_cert: Literal["demand", "never", "allow"] = "demand"
    use_pool: bool = True
    pool_size: int = 10
    pool_retry_max: int = 3
    pool_retry_delay: float = 0.1
    pool_connection_timeout: int = -1
    pool_connection_lifetime: int = 600
    use_auth_pool: bool = True
    auth_pool_size: int = 100
    auth_pool_connection_lifetime: int = 60

    @property
    def users_dn(self) -> str:
        return self.user_tree_dn or f"ou=Users,{self.suffix}"

    @property
    def groups_dn(self) -> str:
        return self.group_tree_dn or f"ou=UserGroups,{self.suffix}"


_LISTS = frozenset(f.name for f in msgspec.structs.fields(LdapOptions) if f.type == list[str])


def read_options(given: Mapping[str, Any], secrets: Mapping[str, Any] | None = None) -> LdapOptions:
    """The options of a configuration, where a number or a list may be written as text. Raises Invalid.

    A text may refer to a secret one: `cn=%(password)s`.
    """
    secret = dict(secrets or {})
    filled = {name: _filled(value, secret) for name, value in given.items()} | secret
    values = {
        name: _split(value) if name in _LISTS and isinstance(value, str) else value
        for name, value in filled.items()
    }
    try:
        return msgspec.convert(values, LdapOptions, strict=False)
    except msgspec.ValidationError as e:
        raise Invalid(f"The configuration of the directory is of no use: {e}.") from e


def _filled(value: Any, secrets: Mapping[str, Any]) -> Any:
    """Nothing but names is replaced: formats can ask for a text of any length."""
    if isinstance(value, str):
        for name, secret in secrets.items():
            value = value.replace(f"%({name})s", str(secret))
    return value


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]

"""Domain configuration: https://docs.openstack.org/api-ref/identity/v3/#domain-configuration

A domain may have a directory of its own, and a limit to its lists. What is secret of it is encrypted and never shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import msgspec

from pileus.kernel.faults import Forbidden, NotFound
from pileus.kernel.resources import Answer, Context, operation
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Record, Table

from . import settings
from .domains import get_domain
from .keys import CREDENTIAL, KEYRING
from .ldap_options import LdapOptions
from .tree import Project
from .wire import ADMIN_OR_SYSTEM_READER, Noun, NounBody, drop_all, dropping

Options = dict[str, dict[str, Any]]  # group -> option -> value
RECONCILER = "identity.directories"

DEFAULTS: Options = {
    "identity": {"driver": "sql", "list_limit": None},
    "ldap": {k: v for k, v in msgspec.to_builtins(LdapOptions()).items() if k != "password"},
}
_SECRETS = {"ldap": ("password",)}
_COMPLIANCE = "security_compliance"
_READABLE = ("password_regex", "password_regex_description")


class DomainConfiguration(Record, kw_only=True, frozen=True):
    """The id is the domain's. `sealed` holds what is secret, encrypted; "" if nothing is."""

    options: Options = {}
    sealed: str = ""


DOMAIN_CONFIGURATIONS = Table(
    "identity_domain_configurations", DomainConfiguration, noun="domain configuration"
)


class Configuration(NounBody, kw_only=True):
    """Whatever the path leaves open: groups of options, or one option and its value."""

    root: ClassVar[str] = "config"


async def secrets_of(runtime: Runtime, known: DomainConfiguration | None) -> Options:
    """What is not shown. Nothing, if the key that could read it is gone."""
    if known is None or not known.sealed:
        return {}
    content = await runtime.contracts.get(KEYRING).open(CREDENTIAL, known.sealed)
    return msgspec.json.decode(content, type=Options) if content is not None else {}


class DomainConfigurations(Noun[Project]):
    id_param = "domain_id"
    follows = {"domain": dropping(DOMAIN_CONFIGURATIONS, "id")}
    rules = {
        "identity:create_domain_config": "rule:admin_required",
        "identity:get_domain_config": ADMIN_OR_SYSTEM_READER,
        "identity:get_security_compliance_domain_config": "",
        "identity:update_domain_config": "rule:admin_required",
        "identity:delete_domain_config": "rule:admin_required",
        "identity:get_domain_config_default": ADMIN_OR_SYSTEM_READER,
    }
    scopes = {
        "identity:create_domain_config": ("system", "project"),
        "identity:get_domain_config": ("system", "project"),
        "identity:update_domain_config": ("system", "project"),
        "identity:delete_domain_config": ("system", "project"),
        "identity:get_domain_config_default": ("system", "project"),
    }

    async def load(self, ctx: Context, id: str) -> Project:
        return await get_domain(ctx.runtime.store, id)

    @operation("PUT", "/domains/{domain_id}/config", "identity:create_domain_config")
    async def create(self, ctx: Context, domain: Project, body: Configuration) -> Answer:
        """Takes the place of whatever was there."""
        given = _checked(ctx.document["config"])
        known = await DOMAIN_CONFIGURATIONS.find(ctx.runtime.store, domain.id)
        written = await _write(ctx, domain, known, *_parted(given))
        return Answer({"config": written.options}, status=200 if known else 201)

    @operation("GET", "/domains/{domain_id}/config", "identity:get_domain_config")
    async def show(self, ctx: Context, domain: Project) -> dict[str, Any]:
        return await _shown(ctx, domain)

    @operation("PATCH", "/domains/{domain_id}/config", "identity:update_domain_config")
    async def update(self, ctx: Context, domain: Project, body: Configuration) -> dict[str, Any]:
        return await _updated(ctx, domain, _checked(ctx.document["config"]))

    @operation("DELETE", "/domains/{domain_id}/config", "identity:delete_domain_config")
    async def delete(self, ctx: Context, domain: Project) -> None:
        async with ctx.runtime.store.tx() as tx:
            await drop_all(tx, DOMAIN_CONFIGURATIONS, id=domain.id)
        ctx.runtime.reconcilers.hint(RECONCILER, domain.id)

    @operation("GET", "/domains/{domain_id}/config/{group}", "identity:get_domain_config")
    async def show_group(self, ctx: Context, domain: Project, group: str) -> dict[str, Any]:
        return await _shown(ctx, domain, group)

    @operation("PATCH", "/domains/{domain_id}/config/{group}", "identity:update_domain_config")
    async def update_group(
        self, ctx: Context, domain: Project, group: str, body: Configuration
    ) -> dict[str, Any]:
        given = _only(_checked(ctx.document["config"]), group)
        await _there(ctx, domain, group)
        return await _updated(ctx, domain, given)

    @operation("DELETE", "/domains/{domain_id}/config/{group}", "identity:delete_domain_config")
    async def delete_group(self, ctx: Context, domain: Project, group: str) -> None:
        await _removed(ctx, domain, group)

    @operation("GET", "/domains/{domain_id}/config/{group}/{option}", "identity:get_domain_config")
    async def show_option(
        self, ctx: Context, domain: Project, group: str, option: str
    ) -> dict[str, Any]:
        return await _shown(ctx, domain, group, option)

    @operation(
        "PATCH", "/domains/{domain_id}/config/{group}/{option}", "identity:update_domain_config"
    )
    async def update_option(
        self, ctx: Context, domain: Project, group: str, option: str, body: Configuration
    ) -> dict[str, Any]:
        given = _only(_checked({group: ctx.document["config"]}), group, option)
        await _there(ctx, domain, group, option)
        return await _updated(ctx, domain, given)

    @operation(
        "DELETE", "/domains/{domain_id}/config/{group}/{option}", "identity:delete_domain_config"
    )
    async def delete_option(self, ctx: Context, domain: Project, group: str, option: str) -> None:
        await _removed(ctx, domain, group, option)

    @operation("GET", "/domains/config/default", "identity:get_domain_config_default")
    async def defaults(self, ctx: Context) -> dict[str, Any]:
        return {"config": DEFAULTS}

    @operation("GET", "/domains/config/{group}/default", "identity:get_domain_config_default")
    async def group_defaults(self, ctx: Context, group: str) -> dict[str, Any]:
        _check_name(group)
        return {"config": {group: DEFAULTS[group]}}

    @operation(
        "GET", "/domains/config/{group}/{option}/default", "identity:get_domain_config_default"
    )
    async def option_default(self, ctx: Context, group: str, option: str) -> dict[str, Any]:
        _check_name(group, option)
        if option in _SECRETS.get(group, ()):
            raise _refused(
                f"Reading the default for option {option} in group {group} is not supported"
            )
        return {"config": {option: DEFAULTS[group][option]}}

    @operation(
        "GET",
        f"/domains/{{domain_id}}/config/{_COMPLIANCE}",
        "identity:get_security_compliance_domain_config",
    )
    async def compliance(self, ctx: Context, domain: Project) -> dict[str, Any]:
        """What everybody may know: what a password must be like."""
        return {"config": {_COMPLIANCE: _compliance(ctx, domain)}}

    @operation(
        "GET",
        f"/domains/{{domain_id}}/config/{_COMPLIANCE}/{{option}}",
        "identity:get_security_compliance_domain_config",
    )
    async def compliance_option(self, ctx: Context, domain: Project, option: str) -> dict[str, Any]:
        found = _compliance(ctx, domain)
        if option not in found:
            raise _refused(
                "Reading security compliance values other than password_regex and "
                "password_regex_description is not allowed"
            )
        return {"config": {option: found[option]}}


def _compliance(ctx: Context, domain: Project) -> dict[str, Any]:
    if domain.id != "default":
        raise _refused(
            "Reading security compliance information for any domain other than the default domain "
            "is not allowed or supported"
        )
    rules = settings.of(ctx.runtime)
    return {name: getattr(rules, name) or None for name in _READABLE}


def _refused(reason: str) -> Forbidden:
    return Forbidden(f"Invalid domain specific configuration: {reason}.")


def _missing(domain: Project, group: str = "", option: str = "") -> NotFound:
    what = f"option {option} in group {group}" if option else f"group {group}"
    return NotFound(
        f"Could not find {what if group else 'any options'} in domain configuration for domain "
        f"{domain.id}."
    )


def _check_name(group: str, option: str = "") -> None:
    """Raises Forbidden for a group or option that no domain can have."""
    if group not in DEFAULTS:
        raise _refused(f"Group {group} is not supported for domain specific configurations")
    if option and option not in DEFAULTS[group] and option not in _SECRETS.get(group, ()):
        raise _refused(
            f"Option {option} in group {group} is not supported for domain specific configurations"
        )


def _checked(given: Any) -> Options:
    """What a body says, if a domain can have all of it."""
    if not given:
        raise _refused("No options specified")
    for group, options in given.items():
        if not isinstance(options, dict) or not options:
            raise _refused(
                f"The value of group {group} specified in the config should be a dictionary of "
                "options"
            )
        for option in options:
            _check_name(group, option)
    return dict(given)


def _only(given: Options, group: str, option: str = "") -> Options:
    """The body of a change to one group or option may speak of nothing else."""
    _check_name(group, option)
    named = f"option {option} in group {group}" if option else f"group {group}"
    told = list(given[group] if option and group in given else given)
    wanted = option or group
    if len(told) != 1:
        kind = "option" if option else "group"
        raise _refused(
            f"Trying to update {named}, so that, and only that, {kind} must be specified in the "
            "config"
        )
    if told[0] != wanted:
        raise _refused(f"request to update {named}, but config provided contains {told[0]} instead")
    return given


def _parted(given: Mapping[str, Mapping[str, Any]]) -> tuple[Options, Options]:
    """What can be shown, and what is secret."""
    shown: Options = {}
    secret: Options = {}
    for group, options in given.items():
        for option, value in options.items():
            kind = secret if option in _SECRETS.get(group, ()) else shown
            kind.setdefault(group, {})[option] = value
    return shown, secret


async def _shown(
    ctx: Context, domain: Project, group: str = "", option: str = ""
) -> dict[str, Any]:
    if group:
        _check_name(group, option)
    known = await DOMAIN_CONFIGURATIONS.find(ctx.runtime.store, domain.id)
    found: dict[str, Any] = known.options if known else {}
    if group:
        found = {group: found[group]} if group in found else {}
    if option:
        found = {option: found[group][option]} if option in found.get(group, {}) else {}
    if not found:
        raise _missing(domain, group, option)
    return {"config": found}


async def _all(ctx: Context, domain: Project) -> tuple[DomainConfiguration | None, Options]:
    """The row, and all it says."""
    known = await DOMAIN_CONFIGURATIONS.find(ctx.runtime.store, domain.id)
    shown = known.options if known else {}
    return known, _merged(shown, await secrets_of(ctx.runtime, known))


async def _there(ctx: Context, domain: Project, group: str, option: str = "") -> None:
    """Raises NotFound."""
    _, found = await _all(ctx, domain)
    if group not in found or (option and option not in found[group]):
        raise _missing(domain, group, option)


async def _updated(ctx: Context, domain: Project, given: Options) -> dict[str, Any]:
    known, found = await _all(ctx, domain)
    written = await _write(ctx, domain, known, *_parted(_merged(found, given)))
    return {"config": written.options}


async def _removed(ctx: Context, domain: Project, group: str, option: str = "") -> None:
    _check_name(group, option)
    known, found = await _all(ctx, domain)
    if group not in found or (option and option not in found[group]):
        raise _missing(domain, group, option)
    left = {k: v for k, v in found[group].items() if option and k != option}
    rest = {**found, group: left}
    await _write(ctx, domain, known, *_parted(rest))


def _merged(one: Options, other: Options) -> Options:
    return {g: {**one.get(g, {}), **other.get(g, {})} for g in {**one, **other}}


async def _write(
    ctx: Context,
    domain: Project,
    known: DomainConfiguration | None,
    shown: Options,
    secret: Options,
) -> DomainConfiguration:
    content = msgspec.json.encode(secret)
    sealed = await ctx.peer(KEYRING).seal(CREDENTIAL, content) if secret else ""
    async with ctx.runtime.store.tx() as tx:
        if known is None:
            new = DomainConfiguration(id=domain.id, options=shown, sealed=sealed)
            new = await DOMAIN_CONFIGURATIONS.insert(tx, new)
        else:
            new = await DOMAIN_CONFIGURATIONS.change(tx, known, options=shown, sealed=sealed)
    ctx.runtime.reconcilers.hint(RECONCILER, domain.id)
    return new

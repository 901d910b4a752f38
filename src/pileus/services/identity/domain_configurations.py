"""Domain configuration: https://docs.openstack.org/api-ref/identity/v3/#domain-configuration

A domain may have a directory of its own, and a limit to its lists. What is secret of it is encrypted and never shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import msgspec

from pileus.kernel.faults import Forbidden, NotFound
from pileus.kernel.resources import Answer, Context, Operation, operation
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Record, Table

from . import settings
from .kept import answered_by
from .keys import CREDENTIAL, KEYRING
from .ldap_options import LdapOptions
from .tree import Project, get_domain
from .wire import ADMIN_OR_SYSTEM_READER, Noun, NounBody, drop_all, dropping

Options = dict[str, dict[str, Any]]  # group -> option -> value
RECONCILER = "identity.directories"

DEFAULTS: Options = {
    "identity": {"driver": "sql", "list_limit": None},
    "ldap": {k: v for k, v in msgspec.to_builtins(LdapOptions()).items() if k != "password"},
}
_SECRETS = {"ldap": ("password",)}
_CONFIG = "/domains/{domain_id}/config"
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
    """What can be asked of all options, of a group of them, and of one, is one operation each."""

    id_param = "domain_id"
    follows = {"domain": dropping(DOMAIN_CONFIGURATIONS, "id")}
    rules = {
        "identity:create_domain_config": "rule:admin_required",
        "identity:get_domain_config": ADMIN_OR_SYSTEM_READER,
        "identity:update_domain_config": "rule:admin_required",
        "identity:delete_domain_config": "rule:admin_required",
        "identity:get_domain_config_default": ADMIN_OR_SYSTEM_READER,
    }
    scopes = dict.fromkeys(rules, ("system", "project"))
    rules["identity:get_security_compliance_domain_config"] = ""

    def operations(self) -> Iterator[Operation]:
        yield from super().operations()
        for path in (_CONFIG, _CONFIG + "/{group}", _CONFIG + "/{group}/{option}"):
            for method, verb, call in (
                ("GET", "get", self.show),
                ("PATCH", "update", self.update),
                ("DELETE", "delete", self.delete),
            ):
                rule, loads = f"identity:{verb}_domain_config", (self.id_param, "domain")
                body = Configuration if method == "PATCH" else None
                yield answered_by(call, method, path, rule, loads=loads, body=body)
        for path in ("", "/{group}", "/{group}/{option}"):
            whole, rule = f"/domains/config{path}/default", "identity:get_domain_config_default"
            yield answered_by(self.default, "GET", whole, rule)

    async def load(self, ctx: Context, id: str) -> Project:
        return await get_domain(ctx.runtime.store, id)

    @operation("PUT", _CONFIG, "identity:create_domain_config")
    async def create(self, ctx: Context, domain: Project, body: Configuration) -> Answer:
        """Takes the place of whatever was there."""
        given = _checked(ctx.document["config"])
        known = await DOMAIN_CONFIGURATIONS.find(ctx.runtime.store, domain.id)
        written = await _write(ctx, domain, known, given)
        return Answer({"config": written.options}, status=200 if known else 201)

    async def show(
        self, ctx: Context, domain: Project, group: str = "", option: str = ""
    ) -> dict[str, Any]:
        _check_name(group, option)
        known = await DOMAIN_CONFIGURATIONS.find(ctx.runtime.store, domain.id)
        return {"config": _picked(domain, known.options if known else {}, group, option)}

    async def update(
        self, ctx: Context, domain: Project, body: Configuration, group: str = "", option: str = ""
    ) -> dict[str, Any]:
        given = ctx.document["config"]
        given = _checked({group: given} if option else given)
        known, found = await _all(ctx, domain)
        if group:
            _check_only(given, group, option)
            _picked(domain, found, group, option)
        written = await _write(ctx, domain, known, _merged(found, given))
        return {"config": written.options}

    async def delete(
        self, ctx: Context, domain: Project, group: str = "", option: str = ""
    ) -> None:
        _check_name(group, option)
        if group:
            known, found = await _all(ctx, domain)
            _picked(domain, found, group, option)
            left = {k: v for k, v in found[group].items() if option and k != option}
            await _write(ctx, domain, known, {**found, group: left})
            return
        async with ctx.runtime.store.tx() as tx:
            await drop_all(tx, DOMAIN_CONFIGURATIONS, id=domain.id)
        ctx.runtime.reconcilers.hint(RECONCILER, domain.id)

    async def default(self, ctx: Context, group: str = "", option: str = "") -> dict[str, Any]:
        _check_name(group, option)
        if option in _SECRETS.get(group, ()):
            raise _refused(
                f"Reading the default for option {option} in group {group} is not supported"
            )
        if option:
            return {"config": {option: DEFAULTS[group][option]}}
        return {"config": {group: DEFAULTS[group]} if group else DEFAULTS}

    @operation("GET", f"{_CONFIG}/{_COMPLIANCE}", "identity:get_security_compliance_domain_config")
    async def compliance(self, ctx: Context, domain: Project) -> dict[str, Any]:
        """What everybody may know: what a password must be like."""
        return {"config": {_COMPLIANCE: _compliance(ctx, domain)}}

    @operation(
        "GET",
        f"{_CONFIG}/{_COMPLIANCE}/{{option}}",
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


def _check_name(group: str, option: str = "") -> None:
    """Raises Forbidden for a group or option that no domain can have."""
    if group and group not in DEFAULTS:
        raise _refused(f"Group {group} is not supported for domain specific configurations")
    if option and option not in DEFAULTS[group] and option not in _SECRETS.get(group, ()):
        raise _refused(
            f"Option {option} in group {group} is not supported for domain specific configurations"
        )


def _picked(domain: Project, found: Options, group: str, option: str) -> dict[str, Any]:
    """All options, those of a group, or one. Raises NotFound if there is none."""
    picked: dict[str, Any] = found
    if group:
        picked = {group: found[group]} if group in found else {}
    if option:
        picked = {option: found[group][option]} if option in found.get(group, {}) else {}
    if not picked:
        what = f"option {option} in group {group}" if option else f"group {group}"
        raise NotFound(
            f"Could not find {what if group else 'any options'} in domain configuration for domain "
            f"{domain.id}."
        )
    return picked


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


def _check_only(given: Options, group: str, option: str) -> None:
    """The body of a change to one group or option may speak of nothing else. Raises Forbidden."""
    _check_name(group, option)
    named = f"option {option} in group {group}" if option else f"group {group}"
    told = list(given[group] if option and group in given else given)
    if len(told) != 1:
        raise _refused(
            f"Trying to update {named}, so that, and only that, {'option' if option else 'group'} "
            "must be specified in the config"
        )
    if told[0] != (option or group):
        raise _refused(f"request to update {named}, but config provided contains {told[0]} instead")


def _parted(given: Mapping[str, Mapping[str, Any]]) -> tuple[Options, Options]:
    """What can be shown, and what is secret."""
    shown: Options = {}
    secret: Options = {}
    for group, options in given.items():
        for option, value in options.items():
            kind = secret if option in _SECRETS.get(group, ()) else shown
            kind.setdefault(group, {})[option] = value
    return shown, secret


async def _all(ctx: Context, domain: Project) -> tuple[DomainConfiguration | None, Options]:
    """The row, and all it says."""
    known = await DOMAIN_CONFIGURATIONS.find(ctx.runtime.store, domain.id)
    shown = known.options if known else {}
    return known, _merged(shown, await secrets_of(ctx.runtime, known))


def _merged(one: Options, other: Options) -> Options:
    return {g: {**one.get(g, {}), **other.get(g, {})} for g in {**one, **other}}


async def _write(
    ctx: Context, domain: Project, known: DomainConfiguration | None, options: Options
) -> DomainConfiguration:
    shown, secret = _parted(options)
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

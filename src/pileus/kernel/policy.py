"""Who may: rules in oslo.policy's syntax, compiled once to closures; what is not allowed is denied.

The syntax (docs.openstack.org/oslo.policy/latest/reference/api/oslo_policy.policy.html): `@` and
the empty rule allow, `!` denies; `not`, `and`, `or` bind in that order, `( )` group; the checks are
`rule:NAME`, `role:NAME`, `field:COLLECTION:KEY=VALUE` (`=~` for a regular expression) and
`LEFT:RIGHT`, where LEFT is a literal (`True`, `None`, `12`, `'public'`) or an attribute of the
credentials (`user_id`, `token.is_admin`) and RIGHT is text in which `%(key)s` stands for a value of
the target.

Where it differs from oslo.policy, it denies or complains more:
- credentials without a value (None, "") never equal a target's value, be that None too;
- a rule that can't be understood, or refers to a rule that isn't there, raises: at start-up, not at
  the first request;
- a rule that takes part in a cycle, or refers to one that does, denies, also under a `not`;
- checks that ask a remote machine (`http:`, `https:`) are refused.
`tenant_id` in a rule means `project_id`, so that targets bear one spelling.
"""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import yaml

from pileus.kernel.faults import Bug, Fault, Invalid
from pileus.kernel.world import World

log = logging.getLogger(__name__)

Target = Mapping[str, object]
"""Flat: `project_id`, `target.user.domain_id`, `system_scope` and the like."""


class Credentials(Protocol):
    """What rules may ask about a caller. `roles` are lower-case and hold the implied ones."""

    @property
    def user_id(self) -> str | None: ...
    @property
    def user_domain_id(self) -> str | None: ...
    @property
    def project_id(self) -> str | None: ...
    @property
    def project_domain_id(self) -> str | None: ...
    @property
    def domain_id(self) -> str | None: ...
    @property
    def system_scope(self) -> str | None: ...
    @property
    def roles(self) -> frozenset[str]: ...
    @property
    def is_admin_project(self) -> bool: ...
    @property
    def service_roles(self) -> frozenset[str]: ...


Check = Callable[[Credentials, Target], bool]
Resolve = Callable[[str], Check]

_ALIASES = {
    "system": "system_scope",
    "tenant": "project_id",
    "tenant_id": "project_id",
    "token.domain.id": "domain_id",
    "token.project.id": "project_id",
    "token.project.domain.id": "project_domain_id",
}
_REMOTE = frozenset({"http", "https", "opa", "remote"})
_PLACE = re.compile(r"%\(([^()]+)\)s|(%%)")
_ATTRIBUTE = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)*")


def scope_of(creds: Credentials) -> str:
    """`system`, `domain` or `project`: what `scope_types` of a rule are compared with."""
    if creds.system_scope:
        return "system"
    return "domain" if creds.domain_id else "project"


class Rules:
    """Compiled rules. `overrides` replace defaults of the same name and may add their own.

    `scopes` holds the scope types of a rule, if it has any: they bind where the rule is asked for
    by name, not where another rule refers to it. Raises Invalid, with the rule's name, for one that
    can't be compiled.
    """

    def __init__(
        self,
        defaults: Mapping[str, str],
        overrides: Mapping[str, str] | None = None,
        *,
        scopes: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self._texts = {**defaults, **(overrides or {})}
        self._checks = _Checks(_compiled(tuple(self._texts.items())))
        for name, allowed in (scopes or {}).items():
            if allowed and name in self._checks:
                self._checks[name] = _scoped(frozenset(allowed), self._checks[name])

    def check(self, name: str) -> Check:
        """The compiled rule. Raises Bug if there is none: operations name rules in code."""
        return self._checks[name]

    def allows(self, name: str, creds: Credentials, target: Target) -> bool:
        return self._checks[name](creds, target)

    def names(self) -> list[str]:
        return list(self._texts)


class _Checks(dict[str, Check]):
    def __missing__(self, name: str) -> Check:
        raise Bug(internal=f"no policy rule is named {name!r}")


class _Unreadable(Exception):
    """What is wrong with a rule, before its name is known."""


@lru_cache(64)
def _compiled(texts: tuple[tuple[str, str], ...]) -> Mapping[str, Check]:
    return _Compiler(dict(texts)).compile()


class _Compiler:
    """Depth first, so that a reference is the referred closure itself and costs one call."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts
        self._done: dict[str, Check] = {}
        self._open: list[str] = []
        self._cyclic: set[str] = set()

    def compile(self) -> dict[str, Check]:
        for name in self._texts:
            self._resolve(name)
        if self._cyclic:
            log.error("Policy rules that refer to a cycle deny everyone: %s", sorted(self._cyclic))
        return self._done

    def _resolve(self, name: str) -> Check:
        if name in self._open or name in self._cyclic:
            self._cyclic.update(self._open)
            return _never
        if name in self._done:
            return self._done[name]
        self._open.append(name)
        try:
            check = _Parser(self._texts[name], self._reference).parse()
        except _Unreadable as error:
            raise Invalid(f"Policy rule {name!r}: {error}") from error
        finally:
            self._open.pop()
        self._done[name] = _never if name in self._cyclic else check
        return self._done[name]

    def _reference(self, name: str) -> Check:
        if name not in self._texts:
            raise _Unreadable(f"it refers to rule {name!r}, which is not defined.")
        return self._resolve(name)


def _tokens(text: str) -> list[str]:
    """Words, and the parentheses at their ends; those inside, as in `%(key)s`, stay in the word."""
    tokens: list[str] = []
    for word in text.split():
        inner = word.lstrip("(")
        tokens += "(" * (len(word) - len(inner))
        core = inner.rstrip(")")
        if core:
            tokens.append(core)
        tokens += ")" * (len(inner) - len(core))
    return tokens


class _Parser:
    """Recursive descent: either > both > one > leaf."""

    def __init__(self, text: str, resolve: Resolve) -> None:
        if not isinstance(text, str):
            raise _Unreadable(f"it must be text, not {text!r}.")
        self._text, self._resolve = text, resolve
        self._tokens = _tokens(text)
        self._at = 0

    def parse(self) -> Check:
        if self._text == "":
            return _always
        check = self._either()
        if self._at < len(self._tokens):
            raise self._unexpected()
        return check

    def _either(self) -> Check:
        check = self._both()
        while self._take("or"):
            check = _or(check, self._both())
        return check

    def _both(self) -> Check:
        check = self._one()
        while self._take("and"):
            check = _and(check, self._one())
        return check

    def _one(self) -> Check:
        if self._take("not"):
            return _not(self._one())
        if self._take("("):
            check = self._either()
            if not self._take(")"):
                raise self._unexpected()
            return check
        word = self._tokens[self._at] if self._at < len(self._tokens) else ")"
        if word == ")" or word.lower() in ("and", "or"):
            raise self._unexpected()
        self._at += 1
        return _leaf(word, self._resolve)

    def _take(self, word: str) -> bool:
        found = self._at < len(self._tokens) and self._tokens[self._at].lower() == word
        self._at += found
        return found

    def _unexpected(self) -> _Unreadable:
        if self._at >= len(self._tokens):
            return _Unreadable(f"{self._text!r} ends where a check or ')' should follow.")
        place = " ".join(self._tokens[: self._at])
        return _Unreadable(
            f"{self._text!r} has {self._tokens[self._at]!r} unexpectedly after {place!r}."
        )


def _leaf(word: str, resolve: Resolve) -> Check:
    if word in ("@", "!"):
        return _always if word == "@" else _never
    kind, colon, value = word.partition(":")
    if not colon:
        raise _Unreadable(f"{word!r} is not a check; it should be like 'role:member', '@' or '!'.")
    if kind == "rule":
        return resolve(value)
    if kind == "role":
        return _role(value)
    if kind == "field":
        return _field(word, value)
    if kind in _REMOTE:
        raise _Unreadable(f"{word!r} asks a remote machine, which is not supported.")
    is_literal, literal = _literal(kind)
    if is_literal:
        return _literal_is(literal, value)
    if not _ATTRIBUTE.fullmatch(kind):
        raise _Unreadable(f"{kind!r} in {word!r} is neither a literal nor an attribute's name.")
    return _attribute_is(_ALIASES.get(kind, kind), value)


def _literal(text: str) -> tuple[bool, str]:
    """Whether `text` is a Python literal, and its value as text."""
    if text.isidentifier() and text not in ("True", "False", "None"):
        return False, ""  # most are, and to ask the compiler takes long
    try:
        return True, str(ast.literal_eval(text))
    except (ValueError, SyntaxError, TypeError):
        return False, ""


def _always(creds: Credentials, target: Target) -> bool:
    return True


def _never(creds: Credentials, target: Target) -> bool:
    return False


def _or(left: Check, right: Check) -> Check:
    return lambda creds, target: left(creds, target) or right(creds, target)


def _and(left: Check, right: Check) -> Check:
    return lambda creds, target: left(creds, target) and right(creds, target)


def _not(inner: Check) -> Check:
    return lambda creds, target: not inner(creds, target)


def _scoped(allowed: frozenset[str], inner: Check) -> Check:
    return lambda creds, target: scope_of(creds) in allowed and inner(creds, target)


def _role(value: str) -> Check:
    wanted = _template(value)
    if isinstance(wanted, str):
        role = wanted.lower()
        return lambda creds, target: role in creds.roles
    render = wanted

    def role_of_target(creds: Credentials, target: Target) -> bool:
        name = render(target)
        return name is not None and name.lower() in creds.roles

    return role_of_target


def _field(word: str, value: str) -> Check:
    """`field:COLLECTION:KEY=VALUE`: a property of the target alone."""
    key, equals, wanted = value.partition(":")[2].partition("=")
    if not key or not equals:
        raise _Unreadable(f"{word!r} should be like 'field:things:shared=True'.")
    if not wanted.startswith("~"):
        return lambda creds, target: key in target and str(target[key]) == wanted
    try:
        pattern = re.compile(wanted[1:])
    except re.error as error:
        raise _Unreadable(f"{word!r} holds a bad regular expression: {error}.") from error
    return lambda creds, target: key in target and pattern.match(str(target[key])) is not None


def _literal_is(literal: str, value: str) -> Check:
    wanted = _template(value)
    if isinstance(wanted, str):
        return _always if wanted == literal else _never
    render = wanted
    return lambda creds, target: render(target) == literal


def _attribute_is(path: str, value: str) -> Check:
    wanted = _template(value)
    if isinstance(wanted, str):
        text = wanted
        if text == "None":  # callers spell what they do not have as ""
            return lambda creds, target: _dig(creds, path) in (None, "")
        if "." in path:
            return lambda creds, target: _says(_dig(creds, path), text)
        return lambda creds, target: _says(getattr(creds, path, _ABSENT), text)
    key = _single_key(value)
    if key and "." not in path:
        return _attribute_is_key(path, key)
    render = wanted

    def attribute_is_text(creds: Credentials, target: Target) -> bool:
        name, actual = render(target), _dig(creds, path)
        return name is not None and actual is not None and actual != "" and _says(actual, name)

    return attribute_is_text


def _attribute_is_key(name: str, key: str) -> Check:
    """`project_id:%(project_id)s`, nine checks of ten: without a template's cost."""

    def attribute_is_key(creds: Credentials, target: Target) -> bool:
        actual = getattr(creds, name, None)
        wanted = target.get(key)
        if actual.__class__ is str and wanted.__class__ is str:
            return actual == wanted and actual != ""
        return wanted is not None and actual is not None and _says(actual, str(wanted))

    return attribute_is_key


_ABSENT = object()


def _dig(creds: object, path: str) -> object:
    found: object = creds
    for name in path.split("."):
        if isinstance(found, Mapping):
            found = found.get(name, _ABSENT)
        else:
            found = getattr(found, name, _ABSENT)
    return found


def _says(actual: object, wanted: str) -> bool:
    """Whether a value of the credentials, or one in a collection of them, is spelled `wanted`."""
    if actual.__class__ is str:
        return actual == wanted
    if isinstance(actual, list | tuple | set | frozenset):
        return any(_says(one, wanted) for one in actual)
    return actual is not _ABSENT and str(actual) == wanted


def _single_key(value: str) -> str:
    """The key, if `value` is one `%(key)s` and nothing else."""
    match = _PLACE.fullmatch(value)
    return _spelling(match[1]) if match and match[1] else ""


def _spelling(key: str) -> str:
    return re.sub(r"(?<![A-Za-z0-9])tenant_id$", "project_id", key)


def _template(value: str) -> str | Callable[[Target], str | None]:
    """Plain text, or a function that fills it from a target and gives None if a key is missing."""
    rest = _PLACE.sub("", value)
    if "%" in rest:
        raise _Unreadable(
            f"{value!r} has a '%' that is not part of '%(name)s'; '%%' stands for one."
        )
    keys = [_spelling(match[1]) for match in _PLACE.finditer(value) if match[1]]
    if not keys:
        return value.replace("%%", "%")
    form = _PLACE.sub(lambda m: f"%({_spelling(m[1])})s" if m[1] else "%%", value)

    def render(target: Target) -> str | None:
        if not all(key in target for key in keys):
            return None
        return form % target

    return render


class PolicyFile:
    """The rules in force: defaults under a `policy.yaml`, which is read again when it changes.

    An absent file overrides nothing. At the start an invalid file raises; later it keeps the rules
    of before and logs an error, so a slip of the pen neither opens nor stops a running cloud. Looks
    at most once in `period_s`.
    """

    def __init__(
        self,
        world: World,
        defaults: Mapping[str, str],
        path: Path | None = None,
        *,
        scopes: Mapping[str, Collection[str]] | None = None,
        period_s: float = 1.0,
    ) -> None:
        self._world, self._defaults, self._path = world, dict(defaults), path
        self._scopes, self._period_s = dict(scopes or {}), period_s
        self._seen = self._signature()
        self._rules = self._read()
        self._next_look = world.clock.monotonic() + period_s

    @property
    def rules(self) -> Rules:
        now = self._world.clock.monotonic()
        if self._path is not None and now >= self._next_look:
            self._next_look = now + self._period_s
            self._look()
        return self._rules

    def _look(self) -> None:
        signature = self._signature()
        if signature == self._seen:
            return
        self._seen = signature
        try:
            self._rules = self._read()
        except Fault as fault:
            log.error("%s; the policy of before stays in force.", fault.message.rstrip("."))
        else:
            log.info("Policy was read from %s.", self._path)

    def _signature(self) -> tuple[int, int, int] | None:
        if self._path is None:
            return None
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            log.error("Cannot look at the policy file %s: %s", self._path, error)
            return None
        return stat.st_mtime_ns, stat.st_size, stat.st_ino

    def _read(self) -> Rules:
        overrides = {} if self._path is None else _overrides(self._path)
        rules = Rules(self._defaults, overrides, scopes=self._scopes)
        used = " ".join(overrides.values())
        for name in overrides.keys() - self._defaults.keys():
            if f"rule:{name}" not in used:
                log.warning("Policy rule %r in %s is not one that is asked for.", name, self._path)
        return rules


def _overrides(path: Path) -> dict[str, str]:
    """The rules of a YAML or JSON file, {} if it is absent. Raises Invalid."""
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise Invalid(f"Policy file {path} cannot be read: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise Invalid(f"Policy file {path} must hold a mapping of rule names to rules.")
    for name, text in content.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise Invalid(f"Policy file {path}: rule {name!r} must be text, not {text!r}.")
    return content

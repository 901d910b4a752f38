"""What an operator turned: `SERVICE.NAME=VALUE` words, each checked against that service's settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from pileus.kernel.faults import Invalid
from pileus.kernel.resources import Service


def chosen(words: Sequence[str], services: Sequence[Service]) -> dict[str, Any]:
    """The settings of the services named, by type. Raises Invalid with what would be right."""
    by_type = {s.type: s for s in services}
    values: dict[str, dict[str, str]] = {}
    for word in words:
        name, equals, value = word.partition("=")
        type, _, field = name.partition(".")
        if not equals or not field:
            raise Invalid(f"{word!r} is not a setting; SERVICE.NAME=VALUE would be.")
        if type not in by_type:
            raise Invalid(f"There is no service {type!r}; there are {', '.join(by_type)}.")
        values.setdefault(type, {})[field] = value
    return {type: _settings(by_type[type], given) for type, given in values.items()}


def _settings(service: Service, given: dict[str, str]) -> Any:
    defaults = service.settings()
    known = msgspec.to_builtins(defaults)
    if strange := sorted(given.keys() - known.keys()):
        names = ", ".join(known) or "none"
        raise Invalid(f"{service.type} has no setting {strange[0]!r}; it has {names}.")
    try:
        return msgspec.convert({**known, **given}, type(defaults), strict=False)
    except msgspec.ValidationError as e:
        raise Invalid(f"Setting of {service.type}: {e}.") from e

"""What a server needs of a host, out of its flavor's extra specs and its image's properties.

https://docs.openstack.org/nova/latest/configuration/extra-specs.html: `resources`, `trait`, their numbered groups and
`group_policy`.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

from pileus.services.compute.server import FlavorCopy, ImageCopy
from pileus.services.placement.contract import Demand, Group

_KEY = re.compile(r"(resources|trait)([a-zA-Z0-9_-]{0,64}):([A-Z0-9_]+)")
_SAYS = ("required", "forbidden")


def demand_of(flavor: FlavorCopy, image: ImageCopy | None = None) -> Demand:
    """`resources:CLASS` replaces what the flavor's sizes ask (0: nothing); an image may require traits."""
    root = 0 if image and image.is_volume else flavor.disk  # a volume is no host's
    disk = root + flavor.ephemeral + -(-flavor.swap // 1024)
    amounts: dict[str, dict[str, int]] = defaultdict(dict)
    amounts[""] = {"VCPU": flavor.vcpus, "MEMORY_MB": flavor.ram, "DISK_GB": disk}
    traits: dict[tuple[str, str], set[str]] = defaultdict(set)
    for word, suffix, name, value in _said(flavor.extra_specs):
        if word == "resources" and value.isdecimal():
            amounts[suffix][name] = int(value)
        elif word == "trait" and value in _SAYS:
            traits[suffix, value].add(name)
    for word, suffix, name, value in _said(image.properties if image else {}):
        if word == "trait" and value == "required":
            traits[suffix, value].add(name)
    groups = {
        suffix: Group(
            resources={c: n for c, n in amounts[suffix].items() if n},
            required=frozenset(traits[suffix, "required"]),
            forbidden=frozenset(traits[suffix, "forbidden"]),
        )
        for suffix in sorted({*amounts, *(s for s, _ in traits)})
    }
    own = groups.pop("")
    return Demand(
        resources=own.resources,
        required=own.required,
        forbidden=own.forbidden,
        groups=groups,
        isolated=flavor.extra_specs.get("group_policy") == "isolate",
    )


def _said(words: Mapping[str, str]) -> Iterable[tuple[str, str, str, str]]:
    for key, value in words.items():
        if match := _KEY.fullmatch(key):
            yield (*match.groups(), value)  # type: ignore[misc]

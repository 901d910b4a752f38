"""What an operator says that a host has besides: resource classes and traits, in the words of Nova's provider.yaml.

https://docs.openstack.org/nova/latest/admin/managing-resource-providers.html. A provider is a host, by its name, or
every host that reads the file (`$COMPUTE_NODE`).
"""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec.structs import asdict, replace

from pileus.kernel.faults import Invalid
from pileus.services.compute.driver import Inventory
from pileus.services.placement.contract import Inventory as Amount

_OWN = frozenset(("VCPU", "PCPU", "MEMORY_MB", "DISK_GB"))  # what drivers count
_EVERY = "$COMPUTE_NODE"


class _Amount(Amount, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class _Inventories(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    additional: list[dict[str, _Amount]] = []


class _Traits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    additional: list[str] = []


class _Provider(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    identification: dict[str, str]  # `name` or `uuid`
    inventories: _Inventories = _Inventories()
    traits: _Traits = _Traits()


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    meta: dict[str, str]
    providers: list[_Provider]


class Besides(msgspec.Struct, frozen=True):
    """What a host has besides what its driver finds."""

    amounts: dict[str, Amount] = {}
    traits: frozenset[str] = frozenset()

    def added_to(self, found: Inventory) -> Inventory:
        traits = dict.fromkeys((*found.traits, *sorted(self.traits)))
        return replace(found, besides=self.amounts, traits=tuple(traits))


def besides(path: str, host: str) -> Besides:
    """What the file says of the host ("": there is no file). Raises Invalid with what is wrong in it."""
    if not path:
        return Besides()
    try:
        file = msgspec.yaml.decode(Path(path).read_bytes(), type=_File)
    except (OSError, msgspec.DecodeError) as e:
        raise Invalid(f"{path} is not a provider.yaml that can be read: {e}.") from e
    mine = [p for p in file.providers if {_EVERY, host}.intersection(p.identification.values())]
    said = [
        (name, a) for p in mine for some in p.inventories.additional for name, a in some.items()
    ]
    amounts = {name: Amount(**asdict(amount)) for name, amount in said}
    traits = frozenset(t for p in mine for t in p.traits.additional)
    if len(amounts) < len(said):
        raise Invalid(f"{path} names a resource class of {host} twice; once would be right.")
    own = _OWN.intersection(amounts) | {t for t in traits if t.startswith("COMPUTE_")}
    if own:
        raise Invalid(
            f"{path} says {sorted(own)[0]}, which compute itself says of a host; other resource "
            "classes and traits would be right, CUSTOM_ ones say."
        )
    return Besides(amounts, traits)

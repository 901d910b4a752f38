"""What services and agents offer each other: a typed name, and whoever answers to it in this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from .faults import Unavailable

P = TypeVar("P")


@dataclass(frozen=True)
class Contract(Generic[P]):
    """`protocol` is the Protocol that P is; agents encode and decode by its annotations. `version` is N."""

    name: str
    protocol: type[P]
    version: int = 1


class Contracts:
    """The contracts that the enabled services of this process keep."""

    def __init__(self) -> None:
        self._kept: dict[str, Any] = {}

    def provide(self, contract: Contract[P], implementation: P) -> None:
        self._kept[contract.name] = implementation

    def has(self, contract: Contract[Any]) -> bool:
        return contract.name in self._kept

    def get(self, contract: Contract[P]) -> P:
        """Raises Unavailable if no enabled service keeps it."""
        if contract.name not in self._kept:
            raise Unavailable(f"The {contract.name} service is not enabled in this cloud.")
        return cast(P, self._kept[contract.name])

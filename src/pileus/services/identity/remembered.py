"""What was looked up since something was last revised, of so many things at most."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Remembered(Generic[V]):
    """Who looks up while it is revised writes into what nobody reads any more."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: Hashable = None
        self._known: dict[Hashable, V] = {}

    def at(self, revision: Hashable) -> dict[Hashable, V]:
        """What is known at a revision; take it before looking anything up, and put there what was found."""
        if revision != self._of or len(self._known) >= self._most:
            self._of, self._known = revision, {}
        return self._known

"""What holds a secret and might end in a log: it says its kind there, and nothing of what it holds."""

from __future__ import annotations


class Discreet:
    """Comes before the other bases of a Struct."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"

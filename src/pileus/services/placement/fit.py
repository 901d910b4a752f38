"""Whether a provider has room: arithmetic on inventories, without any I/O.

A capacity is `(total - reserved) * allocation_ratio`, rounded down, as the placement API reference defines it.
"""

from __future__ import annotations

import msgspec

MAX_INT = 0x7FFFFFFF


class Stock(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An inventory of one resource class, and how much of it is allocated."""

    total: int
    reserved: int = 0
    min_unit: int = 1
    max_unit: int = MAX_INT
    step_size: int = 1
    allocation_ratio: float = 1.0
    used: int = 0

    @property
    def capacity(self) -> int:
        return int((self.total - self.reserved) * self.allocation_ratio)

    @property
    def free(self) -> int:
        """What can still be allocated; 0 if more is used than there is."""
        return max(0, self.capacity - self.used)

    @property
    def room(self) -> int:
        """The free part of the capacity, in millionths: what hosts are ranked by."""
        return self.free * 1_000_000 // self.capacity if self.capacity > 0 else 0

    def divides(self, amount: int) -> bool:
        """Whether one allocation may have this size."""
        return self.min_unit <= amount <= self.max_unit and amount % self.step_size == 0

    def gives(self, amount: int) -> bool:
        """Whether this much can be allocated: `shortage` without its words, for searches ask it of every provider."""
        return (
            self.min_unit <= amount <= self.max_unit
            and amount % self.step_size == 0
            and amount + self.used <= int((self.total - self.reserved) * self.allocation_ratio)
        )


NOTHING = Stock(total=0)


def shortage(stock: Stock | None, resource_class: str, amount: int) -> str:
    """Why the amount can't be allocated, or "" if it can."""
    if stock is None:
        return f"it has no {resource_class}"
    if amount > stock.free:
        return (
            f"too little {resource_class} ({amount} asked, {stock.free} of {stock.capacity} free)"
        )
    if not stock.divides(amount):
        return (
            f"{resource_class} is not given in that amount ({stock.min_unit} to {stock.max_unit} "
            f"in steps of {stock.step_size}, not {amount})"
        )
    return ""

"""Clock and identifiers."""

from __future__ import annotations

import random
import uuid

import pytest

from pileus.kernel.world import Clock, World, seconds_of, stamp


def test_time_is_text_of_fixed_width_whose_order_is_times() -> None:
    assert stamp(0) == "1970-01-01T00:00:00.000000Z"
    assert stamp(1_700_000_000.5) == "2023-11-14T22:13:20.500000Z"
    times = [0.0, 1.5, 10.25, 1e9, 1.7e9]
    assert sorted(map(stamp, times)) == [stamp(t) for t in times]
    assert len({len(stamp(t)) for t in times}) == 1


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:01:00Z", 60),
        ("1970-01-01T00:01:00", 60),
        ("1970-01-01T01:01:00+01:00", 60),
        ("1970-01-01T00:01:00.5Z", 60.5),
        ("1970-01-01", 0),
    ],
)
def test_a_time_without_a_zone_is_utc(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


def test_what_is_no_time_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="Invalid isoformat"):
        seconds_of("yesterday")


def test_ids_are_random_uuids_and_come_from_the_worlds_chance() -> None:
    a, b = World(random=random.Random(1)), World(random=random.Random(1))
    first = a.new_id()
    assert first == b.new_id() != a.new_id()
    assert str(uuid.UUID(first)) == first and uuid.UUID(first).version == 4
    hex_id = a.new_hex()
    assert len(hex_id) == 32 and uuid.UUID(hex_id).version == 4
    assert uuid.UUID(first).variant == uuid.RFC_4122


def test_now_is_the_clocks_time() -> None:
    class Set(Clock):
        def time(self) -> float:
            return 86_400.0

    assert Set().now() == "1970-01-02T00:00:00.000000Z"

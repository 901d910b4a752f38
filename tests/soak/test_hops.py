"""A guest's memory while it goes from host to host, compared by the guest itself all the time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.test_moves import LIVE, pair

HOPS = 20
_COPIES = (
    "cd /tmp; dd if=/dev/urandom of=one bs=1M count=8 2>/dev/null; "
    "(while :; do cp one two; cmp -s one two || echo lost >>lost; echo >>rounds; done) "
    "</dev/null >/dev/null 2>&1 & md5sum /tmp/one"
)


@pytest.mark.slow
def test_a_guest_that_copies_and_compares_all_the_time_loses_nothing_on_its_way(
    tmp_path: Path,
) -> None:
    with pair(tmp_path) as both:
        first, before = both.here.log_in(_COPIES).split()[0], 0
        for _ in range(HOPS):
            other = both.other
            both.act(LIVE)
            both.settled("ACTIVE", on=other)
            rounds = int(both.here.log_in("wc -l </tmp/rounds"))
            assert rounds > before, "it went on"
            before = rounds
        assert both.here.log_in("cat /tmp/lost 2>/dev/null; md5sum /tmp/one").split()[0] == first

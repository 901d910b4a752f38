"""Every filter and sort key that a list declares, asked for: a name that is no column would be a 500."""

from __future__ import annotations

import pytest

from pileus.node.control import find_services
from pileus.testing.generated.access import Call, calls
from tests.generated.conftest import Site

LISTS = [
    call
    for call in calls(find_services())
    if call.op.method == "GET"
    and not call.op.record_param
    and (call.resource.listing.filters or call.resource.listing.sorts)
]
VALUES = {bool: "true", int: "1", str: "x"}


@pytest.mark.parametrize("call", LISTS, ids=lambda c: c.id)
def test_a_list_takes_every_filter_and_sort_key_that_it_declares(site: Site, call: Call) -> None:
    declared, admin = call.resource.listing, site.client("admin")
    asked = [f"{name}={VALUES[one.kind]}" for name, one in declared.filters.items()]
    asked += [f"sort_key={name}&sort_dir=desc" for name in declared.sorts]
    broken = [q for q in asked if site.run(admin.get(f"{call.url}?{q}")).status >= 500]
    assert broken == []

"""Published advisories that can be asked of every operation there is."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

import pytest

from pileus.node.control import find_services
from pileus.testing.generated.access import Call, calls
from tests.generated.conftest import Site

WRITES = [c for c in calls(find_services()) if c.op.body is not None]
BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "' + b"x" * 512 + b'">'
    b'<!ENTITY f SYSTEM "file:///etc/passwd">]><a>' + b"&b;" * 512 + b"&f;</a>"
)


@pytest.mark.parametrize("call", WRITES, ids=lambda c: c.id)
def test_ossa_2013_004_a_body_of_entities_is_not_read(site: Site, call: Call) -> None:
    client = site.client("admin")
    headers = {"content-type": "application/xml"}
    reply = site.run(client.request(call.op.method, call.url, raw=BOMB, headers=headers))
    assert 400 <= reply.status < 500, reply
    assert b"root:" not in reply.body and len(reply.body) < 2048


def test_ossa_2021_006_paths_that_lead_nowhere_are_not_remembered(site: Site) -> None:
    client = site.client("member")

    async def ask(first: int) -> None:
        for n in range(first, first + 400):
            root = ("/network/v2.0", "/compute/v2.1", "/image/v2", "")[n % 4]
            assert (await client.get(f"{root}/nowhere-{n}/at-all?x={n}")).status == 404
        for _ in range(5):
            await asyncio.sleep(0)  # what the client's own generators leave is not the cloud's

    site.run(ask(0))
    gc.collect()
    tracemalloc.start()
    try:
        site.run(ask(400))
        gc.collect()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 40_000, "a hundred bytes a path would be noticed"

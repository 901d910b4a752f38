"""What clients rely on in every service alike: headers, spellings, what is hidden, extensions, deletes.

`client_rules.tsv` (in `pileus.testing`) says which test stands for which rule; the page of them is docs/client_rules.md.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from typing import Any

import pytest

from pileus.node.status import Operations
from pileus.testing.client import Client, Reply
from pileus.testing.cloud import cloud
from tests.generated.conftest import Site

LISTS = [
    "/identity/v3/projects",
    "/image/v2/images",
    "/placement/resource_providers",
    "/network/v2.0/networks",
    "/compute/v2.1/servers",
    "/volume/v3/volumes",
]
# What a member makes in each service without a host: path, body, where its id stands.
THINGS: dict[str, tuple[str, dict[str, Any], str]] = {
    "image": ("/image/v2/images", {"name": "rule"}, ""),
    "network": ("/network/v2.0/networks", {"network": {"name": "rule"}}, "network"),
    "compute": (
        "/compute/v2.1/os-server-groups",
        {"server_group": {"name": "rule", "policies": ["affinity"]}},
        "server_group",
    ),
    "volume": ("/volume/v3/volumes", {"volume": {"size": 1, "name": "rule"}}, "volume"),
}
_DAY = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"


async def made(client: Client, kind: str) -> dict[str, Any]:
    path, body, key = THINGS[kind]
    reply = await client.post(path, body)
    assert 200 <= reply.status < 300, reply
    found: dict[str, Any] = reply.json[key] if key else reply.json
    return found


def url(kind: str, thing: dict[str, Any]) -> str:
    return f"{THINGS[kind][0]}/{thing['id']}"


@pytest.mark.parametrize("path", LISTS)
def test_a_request_id_is_answered_and_one_that_comes_in_is_kept(site: Site, path: str) -> None:
    ours = f"req-{uuid.uuid4()}"
    admin = site.client("admin")
    for where in (path, f"{path}/{uuid.uuid4()}"):
        first, second = [
            site.run(admin.request("GET", where, headers={"x-openstack-request-id": ours}))
            for _ in range(2)
        ]
        ids = [r.headers["x-openstack-request-id"] for r in (first, second)]
        assert all(re.fullmatch(r"req-[0-9a-f-]{36}", id) for id in ids), ids
        assert ids[0] != ids[1], "two requests of one caller are told apart in the log"
        if path.startswith("/compute"):
            assert first.headers["x-compute-request-id"] == ids[0]


@pytest.mark.parametrize("path", LISTS)
def test_a_method_that_a_path_has_not_is_told_which_it_has(site: Site, path: str) -> None:
    reply = site.run(site.client("admin").request("PUT", path))
    assert reply.status == 405, reply
    assert "GET" in reply.headers["allow"].replace(" ", "").split(",")


def test_each_service_spells_the_time_as_its_clients_read_it(site: Site) -> None:
    member = site.client("member")
    image, network, volume = [
        site.run(made(member, kind)) for kind in ("image", "network", "volume")
    ]
    assert re.fullmatch(_DAY + "Z", image["created_at"])
    assert re.fullmatch(_DAY + "Z", network["created_at"])
    assert re.fullmatch(_DAY + r"\.\d{6}", volume["created_at"])


@pytest.mark.parametrize("kind", THINGS)
def test_what_is_anothers_is_answered_as_each_service_does(site: Site, kind: str) -> None:
    thing = site.run(made(site.client("member"), kind))
    other = site.run(site.cloud.project(f"rules-{kind}", "member"))
    for method in ("GET", "DELETE"):
        mine = site.run(other.request(method, url(kind, thing)))
        nothing = site.run(other.request(method, f"{THINGS[kind][0]}/{uuid.uuid4()}"))
        assert (mine.status, nothing.status) == (404, 404), (mine, nothing)
        assert thing["name"].encode() not in mine.body
    assert site.run(site.client("member").get(url(kind, thing))).status == 200


@pytest.mark.parametrize(
    ("path", "key", "least"),
    [
        ("/network/v2.0/extensions", "alias", 80),
        ("/compute/v2.1/extensions", "alias", 50),
        ("/volume/v3/extensions", "alias", 20),
    ],
)
def test_every_alias_is_answered_one_by_one(site: Site, path: str, key: str, least: int) -> None:
    member = site.client("member")
    listed = site.run(member.get(path)).json["extensions"]
    aliases = [one[key] for one in listed]
    assert len(aliases) == len(set(aliases)) >= least
    if path.startswith("/volume"):
        return  # Cinder has no page of one
    for one in listed:
        assert site.run(member.get(f"{path}/{one[key]}")).json["extension"] == one
    assert site.run(member.get(f"{path}/no-such-alias")).status == 404


def test_project_and_tenant_are_one_word_and_all_of_them_an_administrators(site: Site) -> None:
    member, admin = site.client("member"), site.client("admin")
    network = site.run(made(member, "network"))
    assert network["project_id"] == network["tenant_id"] == member.project_id
    for word in ("project_id", "tenant_id"):
        found = site.run(admin.get(f"/network/v2.0/networks?{word}={member.project_id}")).json
        assert network["id"] in {n["id"] for n in found["networks"]}
        none = site.run(admin.get(f"/network/v2.0/networks?{word}={uuid.uuid4().hex}")).json
        assert none["networks"] == []
    volume = site.run(made(member, "volume"))

    def volumes(client: Client, query: str = "") -> set[str]:
        listed = site.run(client.get(f"/volume/v3/volumes{query}")).json["volumes"]
        return {v["id"] for v in listed}

    assert volume["id"] not in volumes(admin)
    assert volume["id"] in volumes(admin, "?all_tenants=1")
    other = site.run(site.cloud.project("rules-tenants", "member"))
    assert volume["id"] not in volumes(other, "?all_tenants=1"), "for administrators only"


@pytest.mark.parametrize("kind", ["image", "network", "compute"])
def test_a_second_delete_finds_nothing(site: Site, kind: str) -> None:
    member = site.client("member")
    thing = site.run(made(member, kind))
    replies: list[Reply] = [site.run(member.delete(url(kind, thing))) for _ in range(2)]
    assert [r.status for r in replies] == [204, 404], replies


def test_the_health_of_a_process_is_anybodys_to_ask_and_its_state_is_not(site: Site) -> None:
    async def look(persona: str, path: str) -> Reply:
        asking = site.client(persona)
        ops = Operations(asking.app, site.cloud.runtime)
        return await Client(ops, asking.headers).get(path)

    for persona in ("nobody", "member", "admin"):
        site.client(persona)
    assert site.run(look("nobody", "/healthcheck")).status == 200
    answers = [site.run(look(p, "/status")).status for p in ("nobody", "member", "admin")]
    assert answers == [401, 403, 200]


def test_services_bear_upstreams_names_and_are_up() -> None:
    asyncio.run(asyncio.wait_for(look_at_services(), 30))


async def look_at_services() -> None:
    async with cloud(hosts=2) as c:
        for service, least in (("compute", "nova-compute"), ("volume", "cinder-volume")):
            rows: list[dict[str, Any]] = []
            while len(rows) < 2:  # each host tells of what it has
                path = f"/{service}/{'v2.1' if service == 'compute' else 'v3'}/os-services"
                found = (await c.admin.get(path)).json["services"]
                rows = [row for row in found if row["binary"] == least]
                await asyncio.sleep(0)
            assert {row["state"] for row in found} == {"up"} and len(rows) == 2
        agents = (await c.admin.get("/network/v2.0/agents")).json["agents"]
        assert agents and all(a["alive"] for a in agents)
        assert {a["host"] for a in agents} == {"fake-1", "fake-2"}
        pools: list[dict[str, Any]] = []
        while len(pools) < 2:  # each host tells of its own
            pools = (await c.admin.get("/volume/v3/scheduler-stats/get_pools")).json["pools"]
            await asyncio.sleep(0)
        assert len(pools) == 2 and all("@" in p["name"] and "#" in p["name"] for p in pools)

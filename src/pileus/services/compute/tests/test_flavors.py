"""Flavors: who sees them, what changes them."""

from __future__ import annotations

from pileus.services.compute.tests.scene import Scene, Stage

URL = "/compute/v2.1/flavors"


def test_the_flavors_that_clients_expect_are_there(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        found = (await s.get("/flavors/detail")).json["flavors"]
        names = {f["id"]: f["name"] for f in found}
        assert {"1": "m1.tiny", "5": "m1.xlarge", "42": "m1.nano", "84": "m1.micro"}.items() <= (
            names.items()
        )
        one = (await s.get("/flavors/42")).json["flavor"]
        assert one == next(f for f in found if f["id"] == "42")
        assert one["swap"] == "" and one["OS-FLV-DISABLED:disabled"] is False
        assert [f["id"] for f in found] == sorted(f["id"] for f in found)

    stage.play(story)


def test_a_flavors_view_follows_the_version(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        async def keys(version: str) -> set[str]:
            return set((await s.get("/flavors/42", version)).json["flavor"])

        assert "description" not in await keys("2.54") and "description" in await keys("2.55")
        assert "extra_specs" not in await keys("2.60") and "extra_specs" in await keys("2.61")
        assert "rxtx_factor" in await keys("2.101") and "rxtx_factor" not in await keys("2.102")
        assert (await s.get("/flavors/42", "2.75")).json["flavor"]["swap"] == 0
        assert (await s.get("/flavors?x=1", "2.75")).status == 400
        assert (await s.get("/flavors?x=1", "2.74")).status == 200

    stage.play(story)


def test_an_administrator_makes_changes_and_drops_a_flavor(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        body = {"name": "c1", "ram": "256", "vcpus": 2, "disk": 0, "id": "c-1", "swap": 64}
        assert (await s.member.post(URL, {"flavor": body})).status == 403
        made = await s.admin.post(URL, {"flavor": body})
        assert made.status == 200 and made.json["flavor"]["ram"] == 256, made
        assert (await s.admin.post(URL, {"flavor": body})).status == 409
        assert (await s.admin.post(URL, {"flavor": body | {"id": "c-2"}})).status == 409
        assert (await s.admin.post(URL, {"flavor": body | {"vcpus": 0}})).status == 400
        version = {"openstack_api_version": "compute 2.61"}
        specs = {"extra_specs": {"hw:cpu_policy": "shared"}}
        assert (await s.admin.post(f"{URL}/c-1/os-extra_specs", specs)).json == specs
        put = await s.admin.put(f"{URL}/c-1", {"flavor": {"description": "fast"}}, **version)
        assert put.json["flavor"]["description"] == "fast"
        assert put.json["flavor"]["extra_specs"] == specs["extra_specs"]
        one = f"{URL}/c-1/os-extra_specs/hw:cpu_policy"
        assert (await s.member.get(one)).json == {"hw:cpu_policy": "shared"}
        assert (await s.admin.put(one, {"other": "1"})).status == 400
        assert (await s.admin.put(one, {"hw:cpu_policy": "dedicated"})).status == 200
        assert (await s.admin.delete(one)).status == 200
        assert (await s.member.get(one)).status == 404
        assert (await s.admin.delete(f"{URL}/c-1")).status == 202
        assert (await s.admin.delete(f"{URL}/c-1")).status == 404

    stage.play(story)


def test_a_private_flavor_is_for_its_projects(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        body = {"name": "p1", "ram": 64, "vcpus": 1, "disk": 1, "id": "p-1"}
        body["os-flavor-access:is_public"] = False
        await s.admin.post(URL, {"flavor": body})
        assert (await s.member.get(f"{URL}/p-1")).status == 404
        give = {"addTenantAccess": {"tenant": s.member.project_id}}
        assert (await s.member.post(f"{URL}/p-1/action", give)).status == 403
        assert (await s.admin.post(f"{URL}/p-1/action", give)).status == 200
        assert (await s.admin.post(f"{URL}/p-1/action", give)).status == 409
        assert (await s.member.get(f"{URL}/p-1")).status == 200
        assert "p-1" in [f["id"] for f in (await s.member.get(URL)).json["flavors"]]
        assert "p-1" not in [f["id"] for f in (await (await s.other()).get(URL)).json["flavors"]]
        everything = (await s.admin.get(URL + "?is_public=None")).json["flavors"]
        assert {"p-1", "42"} <= {f["id"] for f in everything}
        private = (await s.admin.get(URL + "?is_public=false")).json["flavors"]
        assert "42" not in {f["id"] for f in private}
        listed = (await s.admin.get(f"{URL}/p-1/os-flavor-access")).json["flavor_access"]
        assert listed == [{"flavor_id": "p-1", "tenant_id": s.member.project_id}]
        take = {"removeTenantAccess": {"tenant": s.member.project_id}}
        assert (await s.admin.post(f"{URL}/p-1/action", take)).json == {"flavor_access": []}
        assert (await s.member.get(f"{URL}/p-1")).status == 404
        assert (await s.admin.get(f"{URL}/42/os-flavor-access")).status == 404
        await s.admin.delete(f"{URL}/p-1")

    stage.play(story)


def test_lists_of_flavors_are_paged_filtered_and_sorted(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        first = (await s.get("/flavors?limit=2")).json
        assert len(first["flavors"]) == 2
        href = first["flavors_links"][0]["href"]
        second = (await s.member.get(href)).json["flavors"]
        assert {f["id"] for f in second}.isdisjoint(f["id"] for f in first["flavors"])
        big = (await s.get("/flavors/detail?minRam=4096&sort_key=memory_mb&sort_dir=desc")).json
        sizes = [f["ram"] for f in big["flavors"]]
        assert min(sizes) >= 4096 and sizes == sorted(sizes, reverse=True)
        assert (await s.get("/flavors?minRam=x")).status == 400
        assert (await s.get("/flavors?marker=nothing")).status == 400

    stage.play(story)

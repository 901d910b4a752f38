"""Networks through the API, and what all nouns of this API have in common."""

from __future__ import annotations

import asyncio

from .bench import Bench, run, said


def test_names_are_in_their_networks_domain_with_its_keywords_replaced() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _ = await api.network()
        path = f"/networks/{network['id']}"
        for domain, status in (
            ("<project_id>.<user_id>.example.org.", 200),
            ("<host>.example.org.", 400),
            ("<project_id>..org", 400),
        ):
            assert (await api.put(path, {"network": {"dns_domain": domain}})).status == status

        async def named(id: str) -> list[str]:
            shown = (await b.admin.get(f"/ports/{id}")).json["port"]
            return [a["fqdn"] for a in shown["dns_assignment"]]

        port = await api.make("port", network_id=network["id"], dns_name="web")
        assert await named(port["id"]) == ["web.one.user-of-one.example.org."]
        (nic,) = await b.boot("one", "guest", network["id"])
        assert await named(nic.port_id) == ["guest.one.user-of-one.example.org."]
        own = {"port": {"dns_domain": "own.example.org."}}
        assert (await b.admin.put(f"/ports/{nic.port_id}", own)).status == 200
        assert await named(nic.port_id) == ["guest.own.example.org."]
        await b.settle()
        assert await b.driver().resolve(nic.port_id, "guest.own.example.org") is not None
        nameless = {
            "network": {"dns_domain": "<user_name>.example.org."}
        }  # as the callers here are
        assert (await api.put(path, nameless)).status == 200
        (other,) = await b.boot("one", "other", network["id"])
        assert await named(other.port_id) == ["other.openstacklocal."]

    run(body)


def test_a_member_makes_sees_changes_and_deletes_a_network() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        made = await api.make("network", name="a")
        assert (made["status"], made["mtu"], made["shared"]) == ("ACTIVE", 1450, False)
        assert made["tenant_id"] == made["project_id"] == "one"
        assert "provider:network_type" not in made
        path = f"/networks/{made['id']}"
        changed = (await api.put(path, {"network": {"name": "b"}})).json["network"]
        assert (changed["name"], changed["revision_number"]) == ("b", 2)
        assert (await api.delete(path)).status == 204
        assert said(await api.get(path)) == (404, "NetworkNotFound")

    run(body)


def test_what_is_invisible_is_not_found_and_what_is_shared_cannot_be_changed() -> None:
    async def body(b: Bench) -> None:
        private = await b.as_("one").make("network")
        shared = await b.admin.make("network", shared=True)
        two = b.as_("two")
        assert (await two.get(f"/networks/{private['id']}")).status == 404
        assert (await two.delete(f"/networks/{private['id']}")).status == 404
        assert (await two.get(f"/networks/{shared['id']}")).status == 200
        assert said(await two.delete(f"/networks/{shared['id']}")) == (403, "PolicyNotAuthorized")
        seen = {n["id"] for n in await two.rows("/networks")}
        assert seen == {shared["id"], await two.public()}
        assert (await b.as_("one", "reader").delete(f"/networks/{private['id']}")).status == 403

    run(body)


def test_only_administrators_see_and_set_provider_attributes() -> None:
    async def body(b: Bench) -> None:
        mine = await b.admin.make("network", provider__segmentation_id=77)
        assert (mine["provider:network_type"], mine["provider:segmentation_id"]) == ("vxlan", 77)
        asked = {"network": {"provider:segmentation_id": 78}}
        assert (await b.as_("one").post("/networks", asked)).status == 403
        twin = {"network": {"provider:segmentation_id": 77}}
        assert said(await b.admin.post("/networks", twin)) == (409, "TunnelIdInUse")
        found = await b.as_("one").rows("/networks?provider:segmentation_id=77&shared=False")
        assert mine["id"] not in {n["id"] for n in found}

    run(body)


def test_unknown_fixed_and_misspelt_attributes_are_named() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        reply = await api.post("/networks", {"network": {"nme": "x"}})
        assert (reply.status, reply.json["NeutronError"]["message"]) == (
            400,
            "Unrecognized attribute(s) 'nme'",
        )
        reply = await api.post("/networks", {"network": {"status": "x"}})
        assert "Attribute 'status' not allowed in POST" in reply.json["NeutronError"]["message"]
        made = await api.make("network")
        reply = await api.put(f"/networks/{made['id']}", {"network": {"project_id": "two"}})
        assert (
            "Cannot update read-only attribute project_id" in reply.json["NeutronError"]["message"]
        )
        assert (await api.post("/networks", {"network": {"name": "x" * 256}})).status == 400
        assert (await api.post("/networks", {"network": {"mtu": 9000}})).status == 400

    run(body)


def test_a_network_for_another_project_needs_an_administrator() -> None:
    async def body(b: Bench) -> None:
        made = await b.admin.make("network", tenant_id="one")
        assert made["project_id"] == "one"
        reply = await b.as_("two").post("/networks", {"network": {"project_id": "one"}})
        assert reply.status == 400
        both = {"network": {"project_id": "one", "tenant_id": "two"}}
        assert (await b.admin.post("/networks", both)).status == 400

    run(body)


def test_bulk_is_all_or_nothing() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        reply = await api.post("/networks", {"networks": [{"name": "a"}, {"name": "b"}]})
        assert [n["name"] for n in reply.json["networks"]] == ["a", "b"]
        await b.admin.put("/quotas/one", {"quota": {"network": 3}})
        reply = await api.post("/networks", {"networks": [{"name": "c"}, {"name": "d"}]})
        assert said(reply) == (409, "OverQuota")
        assert len(await api.rows("/networks?project_id=one")) == 2

    run(body)


def test_lists_filter_sort_page_and_project() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        for name in ("b", "a", "c"):
            await api.make("network", name=name)
        rows = await api.rows("/networks?name=a&name=c&fields=name&sort_key=name&sort_dir=desc")
        assert rows == [{"name": "c"}, {"name": "a"}]
        url = "/networks?project_id=one&sort_key=name&sort_dir=asc&limit=2"
        first = (await api.get(url)).json
        assert [n["name"] for n in first["networks"]] == ["a", "b"]
        link = next(x["href"] for x in first["networks_links"] if x["rel"] == "next")
        second = (await api.client.get(link)).json
        assert [n["name"] for n in second["networks"]] == ["c"]
        back = next(x["href"] for x in second["networks_links"] if x["rel"] == "previous")
        again = (await api.client.get(back)).json
        assert [n["name"] for n in again["networks"]] == ["a", "b"]
        assert "networks_links" not in (await api.get("/networks")).json

    run(body)


def test_if_match_keeps_two_writers_apart() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        path = f"/networks/{(await api.make('network'))['id']}"
        change = {"network": {"name": "new"}}
        assert (await api.put(path, change, if_match="revision_number=1")).status == 200
        stale = await api.put(path, change, if_match="revision_number=1")
        assert said(stale) == (412, "RevisionNumberConstraintFailed")
        assert (await api.delete(path, if_match="revision_number=9")).status == 412
        assert (await api.put(path, change, if_match="nonsense")).status == 400

    run(body)


def test_tags_are_set_listed_filtered_and_removed() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        red, both = await api.make("network", name="red"), await api.make("network", name="both")
        assert (await api.put(f"/networks/{red['id']}/tags", {"tags": ["red"]})).status == 200
        for tag in ("red", "blue"):
            assert (await api.put(f"/networks/{both['id']}/tags/{tag}")).status == 201

        async def names(query: str) -> set[str]:
            return {n["name"] for n in await api.rows(f"/networks?project_id=one&{query}")}

        assert await names("tags=red,blue") == {"both"}
        assert await names("tags-any=red,blue") == {"red", "both"}
        assert await names("not-tags=red,blue") == {"red"}
        assert await names("not-tags-any=blue") == {"red"}
        assert (await api.get(f"/networks/{red['id']}/tags/red")).status == 204
        assert (await api.get(f"/networks/{red['id']}/tags/blue")).status == 404
        assert (await api.delete(f"/networks/{both['id']}/tags/red")).status == 204
        assert (await api.delete(f"/networks/{both['id']}/tags")).status == 204
        assert (await api.get(f"/networks/{both['id']}/tags")).json == {"tags": []}

    run(body)


def test_a_network_goes_with_its_subnets_but_not_from_under_ports() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, subnet = await api.network()
        port = await api.make("port", network_id=network["id"])
        assert said(await api.delete(f"/networks/{network['id']}")) == (409, "NetworkInUse")
        assert (await api.delete(f"/ports/{port['id']}")).status == 204
        assert (await api.delete(f"/networks/{network['id']}")).status == 204
        assert (await api.get(f"/subnets/{subnet['id']}")).status == 404

    run(body)


def test_a_network_others_use_stays_shared_and_an_external_one_in_use_external() -> None:
    async def body(b: Bench) -> None:
        network = await b.admin.make("network", shared=True)
        await b.as_("one").make("port", network_id=network["id"])
        path = f"/networks/{network['id']}"
        reply = await b.admin.put(path, {"network": {"shared": False}})
        assert said(reply) == (409, "InvalidSharedSetting")
        await b.as_("one").routed()
        public = f"/networks/{await b.admin.public()}"
        reply = await b.admin.put(public, {"network": {"router:external": False}})
        assert said(reply) == (409, "ExternalNetworkInUse")

    run(body)


def test_sharing_a_network_shows_its_subnets() -> None:
    async def body(b: Bench) -> None:
        network, subnet = await b.admin.network()
        assert (await b.as_("one").get(f"/subnets/{subnet['id']}")).status == 404
        await b.admin.put(f"/networks/{network['id']}", {"network": {"shared": True}})
        assert (await b.as_("one").get(f"/subnets/{subnet['id']}")).status == 200

    run(body)


def test_fifty_networks_at_once_have_fifty_segments() -> None:
    async def body(b: Bench) -> None:
        made = await asyncio.gather(*(b.admin.make("network") for _ in range(50)))
        assert len({n["provider:segmentation_id"] for n in made}) == 50

    run(body)


def test_discovery_says_what_is_there() -> None:
    async def body(b: Bench) -> None:
        root = (await b.client.get("/network/")).json
        assert [v["id"] for v in root["versions"]] == ["v2.0"]
        core = (await b.client.get("/network/v2.0/")).json["resources"]
        assert {r["name"] for r in core} == {"network", "subnet", "port"}
        api = b.as_("one", "reader")
        listed = (await api.get("/extensions")).json["extensions"]
        for extension in listed:
            shown = (await api.get(f"/extensions/{extension['alias']}")).json["extension"]
            assert shown == extension
        assert (await api.get("/extensions/l2-gateway")).status == 404

    run(body)


def test_a_filter_that_is_none_is_refused_and_an_empty_one_finds_what_has_nothing() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        await api.make("network", name="named")
        await api.make("network", name="")
        for path in ("/networks", "/ports", "/agents", "/availability_zones"):
            reply = await api.get(f"{path}?no_such=1&limit=1&fields=id")
            assert said(reply) == (400, "HTTPBadRequest"), path
            assert "['no_such'] is invalid attribute for filtering" in str(reply.json)
        mine = await api.rows("/networks?name=&router:external=False")
        assert [n["name"] for n in mine] == [""]
        assert (
            await api.get("/networks?fields=id&limit=1&sort_key=name&sort_dir=asc")
        ).status == 200

    run(body, hosts=0)

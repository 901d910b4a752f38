"""What one project shows another: RBAC policies, and the nouns that exist to be shared."""

from __future__ import annotations

from .bench import Bench, run, said

TWO = "2" * 32


def test_a_network_is_shown_to_one_project_while_a_policy_says_so() -> None:
    async def body(b: Bench) -> None:
        one, two, three = b.as_("one"), b.as_(TWO), b.as_("three")
        network, subnet = await one.network()
        path = f"/networks/{network['id']}"
        assert (await two.get(path)).status == 404
        asked = {"object_type": "network", "object_id": network["id"], "action": "access_as_shared"}
        policy = await one.make("rbac_policy", "/rbac-policies", **asked, target_tenant=TWO)
        assert policy["target_tenant"] == TWO
        twin = {"rbac_policy": {**asked, "target_tenant": TWO}}
        assert said(await one.post("/rbac-policies", twin)) == (409, "DuplicateRbacPolicy")
        everybody = {"rbac_policy": {**asked, "target_tenant": "*"}}
        assert (await one.post("/rbac-policies", everybody)).status == 403
        assert (await two.get(path)).json["network"]["shared"] is True
        assert (await one.get(path)).json["network"]["shared"] is False
        assert (await two.get(f"/subnets/{subnet['id']}")).status == 200
        assert network["id"] in {n["id"] for n in await two.rows("/networks")}
        assert (await three.get(path)).status == 404
        port = await two.make("port", network_id=network["id"])
        gone = f"/rbac-policies/{policy['id']}"
        assert said(await one.delete(gone)) == (409, "RbacPolicyInUse")
        assert (await two.delete(f"/ports/{port['id']}")).status == 204
        assert (await two.delete(gone)).status == 404
        assert (await one.delete(gone)).status == 204
        assert (await two.get(path)).status == 404

    run(body, hosts=0)


def test_sharing_with_everybody_is_a_policy_too_and_goes_with_its_object() -> None:
    async def body(b: Bench) -> None:
        network = await b.admin.make("network", shared=True)
        found = await b.admin.rows(f"/rbac-policies?object_id={network['id']}")
        assert [(p["action"], p["target_tenant"]) for p in found] == [("access_as_shared", "*")]
        changed = {"network": {"shared": False, "router:external": True}}
        assert (await b.admin.put(f"/networks/{network['id']}", changed)).status == 200
        found = await b.admin.rows(f"/rbac-policies?object_id={network['id']}")
        assert [p["action"] for p in found] == ["access_as_external"]
        assert (await b.admin.delete(f"/rbac-policies/{found[0]['id']}")).status == 204
        assert (await b.as_("one").get(f"/networks/{network['id']}")).status == 404
        assert (await b.admin.delete(f"/networks/{network['id']}")).status == 204
        assert await b.admin.rows(f"/rbac-policies?object_id={network['id']}") == []

    run(body, hosts=0)


def test_a_shared_security_group_is_worn_by_another_project() -> None:
    async def body(b: Bench) -> None:
        group = await b.as_("one").make("security_group", name="web")
        network = await b.as_(TWO).make("network")
        asked = {"port": {"network_id": network["id"], "security_groups": [group["id"]]}}
        assert (await b.as_(TWO).post("/ports", asked)).status == 404
        await b.as_("one").make(
            "rbac_policy", "/rbac-policies", object_type="security_group", target_tenant=TWO,
            object_id=group["id"], action="access_as_shared",
        )  # fmt: skip
        assert (await b.as_(TWO).post("/ports", asked)).status == 201
        assert said(await b.as_("one").delete(f"/security-groups/{group['id']}"))[0] == 409

    run(body, hosts=0)


def test_pools_of_a_scope_do_not_overlap_and_their_networks_are_in_it() -> None:
    async def body(b: Bench) -> None:
        one = b.as_("one")
        scope = await one.make("address_scope", "/address-scopes", name="s", ip_version=4)
        pool = await one.make(
            "subnetpool", name="p", prefixes=["10.1.0.0/16"], address_scope_id=scope["id"]
        )
        overlapping = {"name": "q", "prefixes": ["10.1.2.0/24"], "address_scope_id": scope["id"]}
        reply = await one.post("/subnetpools", {"subnetpool": overlapping})
        assert said(reply) == (409, "AddressScopePrefixConflict")
        network = await one.make("network")
        subnet = {"network_id": network["id"], "subnetpool_id": pool["id"], "prefixlen": 24}
        made = await one.make("subnet", ip_version=4, **subnet)
        path = f"/networks/{network['id']}"
        assert (await one.get(path)).json["network"]["ipv4_address_scope"] == scope["id"]
        used = await one.delete(f"/address-scopes/{scope['id']}")
        assert said(used) == (409, "AddressScopeInUse")
        assert (await one.delete(f"/subnets/{made['id']}")).status == 204
        assert (await one.get(path)).json["network"]["ipv4_address_scope"] is None

    run(body, hosts=0)


def test_a_pool_gains_and_loses_prefixes_and_takes_in_subnets() -> None:
    async def body(b: Bench) -> None:
        one = b.as_("one")
        network, subnet = await one.network("10.9.0.0/24")
        pool = await one.make("subnetpool", name="p", prefixes=["10.1.0.0/16"])
        path = f"/subnetpools/{pool['id']}"
        reply = await one.put(f"{path}/add_prefixes", {"prefixes": ["10.3.0.0/16"]})
        assert reply.json == {"prefixes": ["10.1.0.0/16", "10.3.0.0/16"]}
        reply = await one.put(f"{path}/remove_prefixes", {"prefixes": ["10.1.0.0/17"]})
        assert reply.json == {"prefixes": ["10.1.128.0/17", "10.3.0.0/16"]}
        onboard = {"network_id": network["id"]}
        reply = await one.put(f"{path}/onboard_network_subnets", onboard)
        assert reply.json == [{"id": subnet["id"], "cidr": "10.9.0.0/24"}]
        seen = (await one.get(f"/subnets/{subnet['id']}")).json["subnet"]
        assert seen["subnetpool_id"] == pool["id"]
        reply = await one.put(f"{path}/remove_prefixes", {"prefixes": ["10.9.0.0/24"]})
        assert said(reply) == (400, "IllegalSubnetPoolPrefixUpdate")

    run(body, hosts=0)


def test_rules_name_address_groups_whose_changes_reach_the_hosts() -> None:
    async def body(b: Bench) -> None:
        one = b.as_("one")
        addresses = await one.make(
            "address_group", "/address-groups", name="a", addresses=["10.7.0.9/24"]
        )
        assert addresses["addresses"] == ["10.7.0.0/24"]
        default = (await one.rows("/security-groups?name=default"))[0]
        rule = {"security_group_id": default["id"], "direction": "ingress", "protocol": "tcp"}
        await one.make("security_group_rule", **rule, remote_address_group_id=addresses["id"])
        network, _ = await one.network()
        await b.boot("one", "guest", network["id"])
        await b.settle()

        def members() -> tuple[str, ...]:
            groups = {g.id: g for g in b.driver("fake-1").applied.groups}
            return tuple(groups[addresses["id"]].members)

        assert members() == ("10.7.0.0/24",)
        path = f"/address-groups/{addresses['id']}"
        more = {"addresses": ["192.0.2.7"]}
        assert (await one.put(f"{path}/add_addresses", more)).status == 200
        await b.settle()
        assert members() == ("10.7.0.0/24", "192.0.2.7/32")
        assert said(await one.put(f"{path}/add_addresses", more)) == (400, "AddressesAlreadyExist")
        assert (await one.put(f"{path}/remove_addresses", more)).status == 200
        assert said(await one.put(f"{path}/remove_addresses", more)) == (404, "AddressesNotFound")
        assert said(await one.delete(path)) == (409, "AddressGroupInUse")

    run(body, hosts=1)


def test_a_wrong_body_is_called_so_before_its_sender_is_refused() -> None:
    async def body(b: Bench) -> None:
        api, long = b.as_("one"), "z" * 256
        reply = await api.post("/qos/policies", {"policy": {"name": long}})
        assert (reply.status, "maximum length of 255" in str(reply.json)) == (400, True)
        assert (await api.post("/qos/policies", {"policy": {"name": "fits"}})).status == 403
        pool = await b.admin.make("subnetpool", name="p", prefixes=["10.0.0.0/8"])
        for id in (pool["id"], "0" * 32):  # alike, so that it tells nothing of what is there
            reply = await api.put(f"/subnetpools/{id}", {"subnetpool": {"shared": True}})
            assert "Cannot update read-only attribute shared" in str(reply.json)
            assert reply.status == 400
            reply = await api.put(f"/subnetpools/{id}", {"subnetpool": {"name": "mine"}})
            assert reply.status == 404

    run(body)

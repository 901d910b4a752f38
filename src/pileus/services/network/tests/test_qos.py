"""QoS policies through the API, down to what hosts are told."""

from __future__ import annotations

from pileus.services.network.contract import NicRequest
from pileus.services.network.driver import Limit

from .bench import Bench, run, said


def test_a_policys_rules_reach_the_ports_networks_and_floating_ips_under_it() -> None:
    async def body(b: Bench) -> None:
        manager = b.as_("one", "manager")
        policy = await manager.make("policy", "/qos/policies", name="slow")
        path = f"/qos/policies/{policy['id']}"
        limit = await manager.make(
            "bandwidth_limit_rule", f"{path}/bandwidth_limit_rules", max_kbps=800
        )
        assert limit["direction"] == "egress"
        await manager.make("dscp_marking_rule", f"{path}/dscp_marking_rules", dscp_mark=10)
        network, _ = await b.as_("one").network()
        under = {"network": {"qos_policy_id": policy["id"]}}
        reply = await b.as_("one").put(f"/networks/{network['id']}", under)
        assert reply.status == 200
        await b.boot("one", "guest", network["id"])
        await b.settle()
        told = b.driver("fake-1").applied.ports[0]
        assert told.limits == (Limit(direction="egress", rate=100_000, burst=80_000),)
        assert told.dscp == 10
        changed = {"alias_bandwidth_limit_rule": {"max_kbps": 8000}}
        reply = await manager.put(f"/qos/alias-bandwidth-limit-rules/{limit['id']}", changed)
        assert reply.json["alias_bandwidth_limit_rule"]["max_kbps"] == 8000
        await b.settle()
        assert b.driver("fake-1").applied.ports[0].limits[0].rate == 1_000_000
        assert said(await manager.delete(path)) == (409, "QosPolicyInUse")

    run(body, hosts=1)


def test_rules_that_contradict_or_that_no_host_can_keep_are_refused() -> None:
    async def body(b: Bench) -> None:
        manager = b.as_("one", "manager")
        policy = await manager.make("policy", "/qos/policies", name="p")
        path = f"/qos/policies/{policy['id']}"
        await manager.make("bandwidth_limit_rule", f"{path}/bandwidth_limit_rules", max_kbps=100)
        twin = {"bandwidth_limit_rule": {"max_kbps": 7}}
        reply = await manager.post(f"{path}/bandwidth_limit_rules", twin)
        assert said(reply) == (409, "QoSRulesConflict")
        more = {"minimum_bandwidth_rule": {"min_kbps": 200}}
        reply = await manager.post(f"{path}/minimum_bandwidth_rules", more)
        assert said(reply) == (409, "QoSRuleParameterConflict")
        less = {"minimum_bandwidth_rule": {"min_kbps": 50}}
        assert (await manager.post(f"{path}/minimum_bandwidth_rules", less)).status == 201
        outer = {"network_id": await b.admin.public(), "qos_policy_id": policy["id"]}
        reply = await b.as_("one").post("/routers", {"router": {"external_gateway_info": outer}})
        assert said(reply) == (409, "QosRuleNotSupported"), "nothing is kept for a gateway"
        odd = {"dscp_marking_rule": {"dscp_mark": 58}}
        assert (await manager.post(f"{path}/dscp_marking_rules", odd)).status == 400
        member = b.as_("one")
        assert (await member.post(f"{path}/dscp_marking_rules", odd)).status == 403
        assert (await b.as_("two").get(f"{path}/bandwidth_limit_rules")).status == 404
        stranger = b.as_("two", "manager")
        mark = {"dscp_marking_rule": {"dscp_mark": 8}}
        assert (await stranger.post(f"{path}/dscp_marking_rules", mark)).status == 403

    run(body, hosts=0)


def test_a_project_has_one_default_policy_and_its_new_networks_are_under_it() -> None:
    async def body(b: Bench) -> None:
        manager = b.as_("one", "manager")
        policy = await manager.make("policy", "/qos/policies", name="p", is_default=True)
        second = {"policy": {"name": "q", "is_default": True}}
        reply = await manager.post("/qos/policies", second)
        assert said(reply) == (409, "QoSPolicyDefaultAlreadyExists")
        network = await b.as_("one").make("network")
        assert network["qos_policy_id"] == policy["id"]
        port = await b.as_("one").make("port", network_id=network["id"])
        assert (port["qos_policy_id"], port["qos_network_policy_id"]) == (None, policy["id"])
        assert (await b.as_("two").make("network"))["qos_policy_id"] is None

    run(body, hosts=0)


def test_what_a_policy_promises_is_asked_of_placement_and_stays_as_claimed() -> None:
    async def body(b: Bench) -> None:
        manager = b.as_("one", "manager")
        policy = await manager.make("policy", "/qos/policies", name="p")
        path = f"/qos/policies/{policy['id']}"
        rules = f"{path}/minimum_bandwidth_rules"
        out = await manager.make("minimum_bandwidth_rule", rules, min_kbps=1000)
        await manager.make("minimum_bandwidth_rule", rules, min_kbps=2000, direction="ingress")
        await manager.make(
            "minimum_packet_rate_rule", f"{path}/minimum_packet_rate_rules", min_kpps=5,
            direction="any",
        )  # fmt: skip
        network, _ = await b.as_("one").network()
        port = await b.as_("one").make("port", network_id=network["id"], qos_policy_id=policy["id"])
        assert "resource_request" not in port
        shown = (await b.admin.get(f"/ports/{port['id']}")).json["port"]["resource_request"]
        first, second = shown["request_groups"]
        assert shown["same_subtree"] == [first["id"], second["id"]]
        assert first["required"] == ["CUSTOM_NETWORK_TUNNEL_PROVIDER", "CUSTOM_VNIC_TYPE_NORMAL"]
        assert first["resources"] == {
            "NET_BW_EGR_KILOBIT_PER_SEC": 1000,
            "NET_BW_IGR_KILOBIT_PER_SEC": 2000,
        }
        assert second["resources"] == {"NET_PACKET_RATE_KILOPACKET_PER_SEC": 5}
        kept = await b.contract.needs([NicRequest(port_id=port["id"])])
        assert [r.id for r in kept.reservations] == shown["same_subtree"]
        assert kept.hosts is None, "all are on a tunnelled network"

        await b.boot("one", "guest", requests=[NicRequest(port_id=port["id"])])
        more = {"minimum_bandwidth_rule": {"min_kbps": 1}}
        assert said(await manager.put(f"{rules}/{out['id']}", more)) == (409, "QosPolicyInUse")
        bare = {"port": {"qos_policy_id": None}}
        assert said(await b.as_("one").put(f"/ports/{port['id']}", bare)) == (409, "PortInUse")
        await b.contract.detach("guest")
        assert (await b.as_("one").put(f"/ports/{port['id']}", bare)).status == 200
        shown = (await b.admin.get(f"/ports/{port['id']}")).json["port"]
        assert shown["resource_request"] is None
        assert (await manager.put(f"{rules}/{out['id']}", more)).status == 200

    run(body, hosts=1)

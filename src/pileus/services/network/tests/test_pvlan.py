"""Private networks through the API, down to what hosts are told."""

from __future__ import annotations

from .bench import Bench, Row, run, said


def _part(port: Row) -> tuple[object, object]:
    return port["pvlan_type"], port["pvlan_community"]


def test_ports_of_a_private_network_have_a_part_in_it_and_others_none() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        private = await api.make("network", pvlan=True)
        plain = await api.make("network")
        assert (private["pvlan"], plain["pvlan"]) == (True, False)
        assert await api.rows("/networks?pvlan=True&fields=id") == [{"id": private["id"]}]

        async def refused(network: Row, **more: object) -> str:
            asked = {"port": {"network_id": network["id"], **more}}
            status, code = said(await api.post("/ports", asked))
            assert status == 400
            return code

        port = await api.make("port", network_id=private["id"])
        assert _part(port) == ("promiscuous", None)
        assert _part(await api.make("port", network_id=plain["id"])) == (None, None)
        named = {"pvlan_type": "community", "pvlan_community": "c1"}
        member = await api.make("port", network_id=private["id"], **named)
        assert _part(member) == ("community", "c1")
        assert await refused(plain, pvlan_type="isolated") == "PVLANNotEnabledOnNetwork"
        assert await refused(private, pvlan_type="community") == "PVLANCommunityNameRequired"
        assert await refused(private, pvlan_community="c1") == "PVLANCannotSetCommunityName"
        assert await refused(private, port_security_enabled=False) == "PVLANPortSecurityDisabled"
        for strange in ({"pvlan_type": "lonely"}, {**named, "pvlan_community": "1st"}):
            assert await refused(private, **strange) == "HTTPBadRequest"
        found = await api.rows("/ports?pvlan_type=community&pvlan_community=c1&fields=id")
        assert found == [{"id": member["id"]}]

    run(body, hosts=0)


def test_a_port_changes_its_part_and_a_network_takes_and_gives_up_its_privacy() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _ = await api.network()
        (nic,) = await b.boot("one", "guest", network["id"])
        path, of_network = f"/ports/{nic.port_id}", f"/networks/{network['id']}"

        async def changed(**more: object) -> tuple[object, object]:
            reply = await api.put(path, {"port": more})
            assert reply.status == 200, reply
            await b.settle()
            return _part(reply.json["port"])

        async def toggled(on: bool) -> tuple[object, object]:
            assert (await api.put(of_network, {"network": {"pvlan": on}})).status == 200
            return _part((await api.get(path)).json["port"])

        assert await toggled(True) == ("promiscuous", None)
        assert await changed(pvlan_type="isolated") == ("isolated", None)
        assert b.driver().port(nic.port_id).pvlan == "isolated"
        community = {"pvlan_type": "community", "pvlan_community": "c1"}
        assert await changed(**community) == ("community", "c1")
        assert await changed(pvlan_community="c2") == ("community", "c2")
        assert b.driver().port(nic.port_id).pvlan == "community c2"
        assert await changed(name="other") == ("community", "c2")
        assert await changed(pvlan_type=None) == ("promiscuous", None)
        assert await toggled(False) == (None, None)
        unsafe = {"port": {"port_security_enabled": False, "security_groups": []}}
        assert (await api.put(path, unsafe)).status == 200
        private = await api.put(of_network, {"network": {"pvlan": True}})
        assert said(private) == (400, "PVLANPortSecurityDisabled")
        both = {"network": {"pvlan": True, "port_security_enabled": False}}
        assert said(await api.put(of_network, both)) == (400, "PVLANNetworkPortSecurityDisabled")

    run(body)


def test_only_the_owner_of_a_port_sees_its_part_in_a_private_network() -> None:
    async def body(b: Bench) -> None:
        network = await b.admin.make("network", shared=True, pvlan=True)
        port = await b.as_("two").make("port", network_id=network["id"])
        path = f"/ports/{port['id']}"
        assert "pvlan_type" in (await b.as_("two").get(path)).json["port"]
        of_network = (await b.as_("two").get(f"/networks/{network['id']}")).json["network"]
        assert "pvlan" not in of_network, "that is the network's owner's"

    run(body, hosts=0)


def test_hosts_know_every_mac_by_which_a_private_networks_port_may_speak() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _ = await api.network()
        (nic,) = await b.boot("one", "far", network["id"], host="fake-2")
        await b.boot("one", "near", network["id"])
        pair = {"mac_address": "fa:16:3e:00:00:99", "ip_address": "10.0.0.99"}
        shared = {"port": {"allowed_address_pairs": [pair, {"ip_address": "10.0.0.98"}]}}
        assert (await api.put(f"/ports/{nic.port_id}", shared)).status == 200

        async def told() -> object:
            await b.settle()
            (remote,) = b.driver().network(network["id"]).remote_ports
            return remote.pvlan, remote.other_macs

        assert await told() == ("", ())
        await api.put(f"/networks/{network['id']}", {"network": {"pvlan": True}})
        assert await told() == ("promiscuous", (pair["mac_address"],))

    run(body, hosts=2)

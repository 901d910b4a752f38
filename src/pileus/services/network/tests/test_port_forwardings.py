"""Port forwardings through the API, down to what hosts are told."""

from __future__ import annotations

from pileus.services.network.driver import ForwardingSpec

from .bench import Bench, run, said


def test_ports_of_a_floating_ip_lead_to_ports_and_bind_what_they_need() -> None:
    async def body(b: Bench) -> None:
        one = b.as_("one")
        network, subnet, router = await one.routed()
        port = await one.make("port", network_id=network["id"])
        ip = port["fixed_ips"][0]["ip_address"]
        fip = await one.make("floatingip", floating_network_id=await one.public())
        path = f"/floatingips/{fip['id']}/port_forwardings"
        asked = {"internal_port_id": port["id"], "internal_ip_address": ip, "protocol": "TCP"}
        made = await one.make(
            "port_forwarding", path, **asked, external_port=80, internal_port=8080
        )
        assert (made["protocol"], made["external_port_range"]) == ("tcp", "80:80")
        await b.settle()
        told = b.driver("fake-1").applied.routers[0].forwardings
        outer = fip["floating_ip_address"]
        assert told == (
            ForwardingSpec(
                floating_ip=outer, protocol="tcp", low=80, high=80, fixed_ip=ip, fixed_low=8080
            ),
        )
        shown = (await one.get(f"/floatingips/{fip['id']}")).json["floatingip"]
        assert shown["router_id"] == router["id"]
        brief = {n: v for n, v in made.items() if n != "description" and "range" not in n}
        assert shown["port_forwardings"] == [brief]
        twin = {"port_forwarding": {**asked, "external_port": 80, "internal_port": 22}}
        assert said(await one.post(path, twin)) == (400, "BadRequest")
        uneven = {**asked, "external_port_range": "90:99", "internal_port_range": "90:91"}
        assert (await one.post(path, {"port_forwarding": uneven})).status == 400
        busy = (409, "FipInUseByPortForwarding")
        assert said(await one.delete(f"/floatingips/{fip['id']}")) == busy
        associate = {"floatingip": {"port_id": port["id"]}}
        assert said(await one.put(f"/floatingips/{fip['id']}", associate)) == busy
        leave = await one.put(
            f"/routers/{router['id']}/remove_router_interface", {"subnet_id": subnet["id"]}
        )
        assert said(leave) == (409, "RouterInterfaceInUseByFloatingIP")
        second = await one.make("floatingip", floating_network_id=await one.public())
        reply = await one.put(f"/floatingips/{second['id']}", associate)
        assert said(reply) == (400, "PortHasPortForwarding")
        assert (await b.as_("two").get(path)).status == 404
        changed = {"port_forwarding": {"internal_port": 22}}
        reply = await one.put(f"{path}/{made['id']}", changed)
        assert reply.json["port_forwarding"]["internal_port_range"] == "22:22"
        assert (await one.delete(f"/ports/{port['id']}")).status == 204
        assert (await one.get(path)).json["port_forwardings"] == []
        shown = (await one.get(f"/floatingips/{fip['id']}")).json["floatingip"]
        assert shown["router_id"] is None
        assert (await one.delete(f"/floatingips/{fip['id']}")).status == 204

    run(body)

"""Trunks through the API, down to what hosts are told."""

from __future__ import annotations

from pileus.services.network.contract import NicRequest

from .bench import Bench, run, said


def test_what_a_trunk_carries_lives_where_its_parents_guest_lives() -> None:
    async def body(b: Bench) -> None:
        one = b.as_("one")
        network, _ = await one.network()
        second, _ = await one.network("10.2.0.0/24")
        parent = await one.make("port", network_id=network["id"])
        carried = await one.make("port", network_id=second["id"])
        tagged = {"port_id": carried["id"], "segmentation_type": "vlan", "segmentation_id": 7}
        trunk = await one.make("trunk", port_id=parent["id"], sub_ports=[tagged])
        assert (trunk["status"], trunk["sub_ports"]) == ("DOWN", [tagged])
        await b.boot("one", "guest", requests=[NicRequest(port_id=parent["id"])])
        await b.settle()
        told = {p.id: p for p in b.driver("fake-1").applied.ports}
        assert (told[carried["id"]].parent, told[carried["id"]].vlan) == (parent["id"], 7)
        assert (await one.get(f"/trunks/{trunk['id']}")).json["trunk"]["status"] == "ACTIVE"
        shown = (await one.get(f"/ports/{parent['id']}")).json["port"]["trunk_details"]
        assert shown["sub_ports"] == [{**tagged, "mac_address": carried["mac_address"]}]
        assert await b.contract.guest_of(carried["id"]) == "guest"
        for id, code in (
            (parent["id"], "PortInUseAsTrunkParent"),
            (carried["id"], "PortInUseAsSubPort"),
        ):
            assert said(await b.admin.delete(f"/ports/{id}")) == (409, code)
        gone = {"sub_ports": [{"port_id": carried["id"]}]}
        path = f"/trunks/{trunk['id']}/remove_subports"
        assert (await one.put(path, gone)).json["sub_ports"] == []
        assert said(await one.put(path, gone)) == (404, "SubPortNotFound")
        await b.settle()
        assert carried["id"] not in {p.id for p in b.driver("fake-1").applied.ports}

    run(body)


def test_a_port_is_in_one_trunk_and_a_tag_means_one_port() -> None:
    async def body(b: Bench) -> None:
        one = b.as_("one")
        network = await one.make("network")
        ports = [(await one.make("port", network_id=network["id"]))["id"] for _ in range(4)]

        def tagged(port: str, tag: int) -> dict[str, object]:
            return {"port_id": port, "segmentation_type": "vlan", "segmentation_id": tag}

        trunk = await one.make("trunk", port_id=ports[0], sub_ports=[tagged(ports[1], 7)])
        path = f"/trunks/{trunk['id']}/add_subports"
        for sub, answer in (
            (tagged(ports[2], 7), (409, "DuplicateSubPort")),
            (tagged(ports[1], 8), (409, "TrunkPortInUse")),
            (tagged(ports[0], 8), (409, "ParentPortInUse")),
            (tagged(ports[2], 4095), (400, "InvalidInput")),
            ({"port_id": ports[2], "segmentation_id": 9}, (400, "InvalidInput")),
        ):
            assert said(await one.put(path, {"sub_ports": [sub]})) == answer
        again = {"trunk": {"port_id": ports[1]}}
        assert said(await one.post("/trunks", again)) == (409, "TrunkPortInUse")
        assert (
            await one.put(f"/trunks/{trunk['id']}", {"trunk": {"admin_state_up": False}})
        ).status == 200
        assert said(await one.delete(f"/trunks/{trunk['id']}")) == (409, "TrunkDisabled")
        assert (await b.as_("two").get(f"/trunks/{trunk['id']}")).status == 404

    run(body, hosts=0)

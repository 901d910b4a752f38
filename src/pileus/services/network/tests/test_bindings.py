"""The bindings of a guest's port, as a Nova of somebody else's uses them; `test_guests` has compute's own moves."""

from __future__ import annotations

from .bench import Api, Bench, run, said


async def _seen(api: Api, port_id: str) -> dict[str, str]:
    return {
        r["host"]: r["status"]
        for r in (await api.get(f"/ports/{port_id}/bindings")).json["bindings"]
    }


def test_a_service_binds_a_port_a_second_time_activates_that_and_drops_the_first() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        (nic,) = await b.boot("one", "guest", network["id"])
        nova, path = b.as_("service", "service"), f"/ports/{nic.port_id}/bindings"
        wanted = {"binding": {"host": "fake-2", "vnic_type": "normal", "profile": {"moving": "1"}}}
        assert (await b.admin.post(path, wanted)).status == 403
        assert (await b.as_("one").get(path)).status == 403
        made = await nova.post(path, wanted)
        assert (made.status, made.json["binding"]["status"]) == (201, "INACTIVE")
        assert said(await nova.post(path, wanted)) == (409, "PortBindingAlreadyExists")
        await b.settle()
        assert b.driver("fake-2").port(nic.port_id), "it is wired there before the guest comes"
        assert said(await nova.put(f"{path}/fake-1/activate")) == (409, "PortBindingAlreadyActive")
        assert said(await nova.put(f"{path}/fake-9/activate")) == (404, "PortBindingNotFound")
        assert (await nova.put(f"{path}/fake-2/activate")).json["profile"] == {"moving": "1"}
        assert await _seen(nova, nic.port_id) == {"fake-2": "ACTIVE", "fake-1": "INACTIVE"}
        port = (await nova.get(f"/ports/{nic.port_id}")).json["port"]
        assert (port["binding:host_id"], port["binding:profile"]) == ("fake-2", {"moving": "1"})
        assert (await nova.delete(f"{path}/fake-1")).status == 204
        await b.settle()
        assert b.driver("fake-1").port(nic.port_id) is None
        assert (await nova.get(f"/ports/{nic.port_id}")).json["port"]["status"] == "ACTIVE"
        assert (await nova.delete(f"{path}/fake-2")).status == 204
        assert await _seen(nova, nic.port_id) == {}
        again = await nova.post(path, {"binding": {"host": "fake-1"}})
        assert again.json["binding"]["status"] == "ACTIVE"

    run(body, hosts=2)


def test_bindings_are_of_guests_ports_and_of_hosts_that_there_are() -> None:
    async def body(b: Bench) -> None:
        api, nova = b.as_("one"), b.as_("service", "service")
        network, _ = await api.network()
        port = await api.make("port", network_id=network["id"])
        refused = await nova.get(f"/ports/{port['id']}/bindings")
        assert said(refused) == (400, "InvalidInput")
        (nic,) = await b.boot("one", "guest", network["id"])
        path = f"/ports/{nic.port_id}/bindings"
        assert said(await nova.post(path, {"binding": {"host": "nowhere"}})) == (
            400, "PortBindingError",
        )  # fmt: skip
        other = {"binding": {"host": "fake-2", "vnic_type": "direct"}}
        assert said(await nova.post(path, other)) == (400, "InvalidInput")

    run(body, hosts=2)

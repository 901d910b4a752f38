"""What ports say of cards that hosts hand to guests: kept and shown as upstream's, and no guest here gets one."""

from __future__ import annotations

from typing import Any

import pytest

from pileus.kernel.faults import Invalid
from pileus.services.network.contract import NicRequest

from .bench import Api, Bench, Row, run, said

_UNSAID: Row = {
    "numa_affinity_policy": None,
    "device_profile": None,
    "hardware_offload_type": None,
    "propagate_uplink_status": True,
}


def _of(port: Row, *names: str) -> Row:
    return {n: port[n] for n in names or _UNSAID}


async def _change(api: Api, port: Row, **changes: Any) -> Any:
    return await api.put(f"/ports/{port['id']}", {"port": changes})


def test_a_port_keeps_what_its_owner_says_of_cards() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _ = await api.network()
        plain = await api.make("port", network_id=network["id"])
        assert _of(plain) == _UNSAID
        told: Row = {
            "numa_affinity_policy": "required",
            "device_profile": "fpga",
            "hardware_offload_type": "switchdev",
            "propagate_uplink_status": False,
        }
        port = await api.make("port", network_id=network["id"], **told)
        assert _of(port) == told == _of((await api.get(f"/ports/{port['id']}")).json["port"])
        profile = (await b.admin.get(f"/ports/{port['id']}")).json["port"]["binding:profile"]
        assert profile == {"capabilities": ["switchdev"]}
        for policy in ("preferred", "legacy", "socket", None):
            changed = await _change(api, port, numa_affinity_policy=policy)
            assert changed.json["port"]["numa_affinity_policy"] == policy
        changed = await _change(api, port, propagate_uplink_status="true")
        assert changed.json["port"]["propagate_uplink_status"] is True

    run(body, hosts=0)


def test_capabilities_that_a_service_knows_stay_beside_that_of_offloading() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        nova = b.as_("one", "service")
        for known in ({"capabilities": ["gso"], "a": 1}, {"capabilities": ["gso", "switchdev"]}):
            asked: Row = {"binding__profile": known, "hardware_offload_type": "switchdev"}
            port = await nova.make("port", network_id=network["id"], **asked)
            expected = {**known, "capabilities": ["gso", "switchdev"]}
            assert port["binding:profile"] == expected

    run(body, hosts=0)


@pytest.mark.parametrize(
    "bad",
    [
        {"numa_affinity_policy": "near"},
        {"hardware_offload_type": "smart"},
        {"hardware_offload_type": None},
        {"device_profile": "x" * 256},
        {"propagate_uplink_status": None},
        {"propagate_uplink_status": "perhaps"},
        {"trusted": None},
    ],
    ids=str,
)
def test_what_upstream_does_not_know_is_refused(bad: Row) -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.admin.network()
        asked = {"port": {"network_id": network["id"], **bad}}
        assert (await b.admin.post("/ports", asked)).status == 400
        port = await b.admin.make("port", network_id=network["id"])
        assert (await _change(b.admin, port, **bad)).status == 400

    run(body, hosts=0)


def test_what_a_port_is_made_with_cannot_be_changed_and_lists_do_not_ask_for_it() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.admin.network()
        port = await b.admin.make("port", network_id=network["id"])
        for name, value in {"device_profile": "d", "hardware_offload_type": "switchdev"}.items():
            refused = await _change(b.admin, port, **{name: value})
            assert refused.status == 400 and name in refused.json["NeutronError"]["message"]
        for name in (*_UNSAID, "trusted"):
            assert (await b.admin.get(f"/ports?{name}=x")).status == 400
            assert (await b.admin.get(f"/ports?sort_key={name}&sort_dir=asc")).status == 400

    run(body, hosts=0)


def test_only_administrators_trust_a_port_and_see_that_they_do() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        port = await b.admin.make("port", network_id=network["id"], project_id="one")
        assert port["trusted"] is None and port["binding:profile"] == {}
        for trusted in (True, False):
            new = (await _change(b.admin, port, trusted=trusted)).json["port"]
            assert new["trusted"] is trusted and new["binding:profile"] == {"trusted": trusted}
        again = (await _change(b.admin, port, name="n")).json["port"]
        assert (again["trusted"], again["binding:profile"]) == (False, {"trusted": False})
        one = b.as_("one")
        assert (await _change(one, port, trusted=True)).status == 403
        asked = {"port": {"network_id": network["id"], "trusted": False}}
        assert (await one.post("/ports", asked)).status == 403
        assert "trusted" not in (await one.get(f"/ports/{port['id']}")).json["port"]

    run(body, hosts=0)


def test_a_bound_port_keeps_its_numa_policy_and_each_of_its_bindings_says_that_it_is_trusted() -> (
    None
):
    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        (nic,) = await b.boot("one", "guest", network["id"])
        port: Row = {"id": nic.port_id}
        refused = await _change(b.as_("one"), port, numa_affinity_policy=None)
        assert said(refused) == (409, "PortBoundNUMAAffinityPolicy")
        assert (await _change(b.admin, port, trusted=True)).status == 200
        nova, path = b.as_("service", "service"), f"/ports/{nic.port_id}/bindings"
        wanted = {"binding": {"host": "fake-2", "profile": {"a": 1}}}
        made = (await nova.post(path, wanted)).json["binding"]
        assert made["profile"] == {"a": 1, "trusted": True}
        (found,) = (await b.contract.nics(["guest"]))["guest"]
        assert found.trusted

    run(body, hosts=2)


def test_a_port_that_is_a_whole_card_wears_the_cards_mac_while_it_is_bound() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        nova = b.as_("one", "service")
        first, second = "0c:42:a1:00:00:01", "0c:42:a1:00:00:02"

        def bound(mac: str) -> Row:
            return {"binding:host_id": "fake-1", "binding:profile": {"device_mac_address": mac}}

        kind: Row = {"network_id": network["id"], "binding__vnic_type": "direct-physical"}
        one = {"network_id": network["id"], "binding:vnic_type": "direct-physical", **bound(first)}
        made = (await nova.post("/ports", {"port": one})).json["port"]
        assert made["mac_address"] == first
        port = await nova.make("port", **kind)
        guest = {"device_id": "g", "device_owner": "compute:nova"}
        refused = await _change(nova, port, **guest, **bound(first))
        assert said(refused) == (409, "MacAddressInUse")
        wrong = await _change(nova, port, **guest, **bound("01:00:5e:00:00:01"))
        assert wrong.status == 400
        changed = (await _change(nova, port, **guest, **bound(second))).json["port"]
        assert changed["mac_address"] == second
        renamed = (await _change(nova, port, name="n")).json["port"]
        assert renamed["mac_address"] == second
        free: Row = {"device_id": "", "device_owner": "", "binding:host_id": None}
        freed = (await _change(nova, port, **free, **{"binding:profile": {}})).json["port"]
        assert (
            freed["mac_address"].startswith("fa:16:3e:")
            and freed["mac_address"] != port["mac_address"]
        )
        normal = await nova.make("port", network_id=network["id"])
        unmoved = (await _change(nova, normal, **bound(second))).json["port"]
        assert unmoved["mac_address"] == normal["mac_address"]

    run(body, hosts=1)


def test_a_whole_card_that_moves_wears_the_mac_of_the_one_it_is_then() -> None:
    async def body(b: Bench) -> None:
        network, _ = await b.as_("one").network()
        nova = b.as_("one", "service")
        port = await nova.make(
            "port", network_id=network["id"], binding__vnic_type="direct-physical",
            device_id="g", device_owner="compute:nova",
        )  # fmt: skip
        path = f"/ports/{port['id']}/bindings"
        for host, mac in (("fake-1", "0c:42:a1:00:00:01"), ("fake-2", "0c:42:a1:00:00:02")):
            asked = {"host": host, "profile": {"device_mac_address": mac}}
            before = (await nova.get(f"/ports/{port['id']}")).json["port"]["mac_address"]
            made = (await nova.post(path, {"binding": asked})).json["binding"]
            if made["status"] == "INACTIVE":
                assert (await nova.get(f"/ports/{port['id']}")).json["port"][
                    "mac_address"
                ] == before
                assert (await nova.put(f"{path}/{host}/activate")).status == 200
            assert (await nova.get(f"/ports/{port['id']}")).json["port"]["mac_address"] == mac

    run(body, hosts=2)


def test_no_guest_gets_a_card_and_whoever_asks_is_told_what_is_missing() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network, _ = await api.network()

        async def asked(kind: str, **more: str) -> list[NicRequest]:
            port = await api.make("port", network_id=network["id"], binding__vnic_type=kind, **more)
            return [NicRequest(port_id=port["id"])]

        for profile, why in ((None, "No device profile"), ("fpga", "Could not communicate")):
            more = {"device_profile": profile} if profile else {}
            with pytest.raises(Invalid, match=why):
                await b.boot("one", "g", requests=await asked("accelerator-direct", **more))
        for kind in ("direct", "macvtap", "direct-physical", "virtio-forwarder", "vdpa"):
            requests = await asked(kind)
            assert (await b.contract.needs(requests)).hosts == []
            with pytest.raises(Invalid, match="Failed to claim PCI device"):
                await b.boot("one", "g", requests=requests)
        requests = await asked("normal", device_profile="fpga")
        assert (await b.contract.needs(requests)).hosts is None
        assert await b.boot("one", "g", requests=requests)

    run(body)


def test_a_network_may_be_called_highly_available_which_nobody_sees() -> None:
    async def body(b: Bench) -> None:
        api = b.as_("one")
        network = await api.make("network", ha=True)
        assert "ha" not in network
        assert (await api.post("/networks", {"network": {"ha": "so"}})).status == 400
        path = f"/networks/{network['id']}"
        assert (await api.put(path, {"network": {"ha": False}})).status == 400
        assert (await api.get("/networks?ha=True")).status == 400

    run(body, hosts=0)

"""Packet logs: whose they are, what becomes of them on a host, and how a packet is told."""

from __future__ import annotations

import pytest

from pileus.host.nflog import described

from .bench import Bench, run, said
from .linux_bench import udp_frame

LOGS = "/log/logs"


def test_a_log_is_of_a_group_or_a_port_and_goes_with_it() -> None:
    async def body(b: Bench) -> None:
        manager = b.as_("one", "manager")
        network, _ = await manager.network()
        group = await manager.make("security_group", name="web")
        (nic,) = await b.boot("one", "guest", network["id"], groups=[group["id"]])
        of_group = await manager.make(
            "log", LOGS, resource_type="security_group", resource_id=group["id"], event="DROP"
        )
        asked = {"resource_type": "security_group", "target_id": nic.port_id, "event": "ACCEPT"}
        of_port = await manager.make("log", LOGS, **asked)
        await manager.make("log", LOGS, resource_type="security_group", enabled=False)
        await b.settle()
        port = b.driver().port(nic.port_id)
        assert {(n.id, n.accepted, n.dropped, n.group) for n in port.logs} == {
            (of_group["id"], False, True, group["id"]),
            (of_port["id"], True, False, ""),
        }
        path = f"{LOGS}/{of_port['id']}"
        off = await manager.put(path, {"log": {"enabled": False, "name": "x"}})
        assert (off.json["log"]["enabled"], off.json["log"]["name"]) == (False, "x")
        assert (await manager.put(path, {"log": {"event": "DROP"}})).status == 400
        await b.settle()
        assert [n.id for n in b.driver().port(nic.port_id).logs] == [of_group["id"]]
        await b.contract.detach("guest")
        await b.settle()
        assert (await manager.get(path)).status == 404
        assert (await manager.delete(f"/security-groups/{group['id']}")).status == 204
        assert (await manager.get(f"{LOGS}/{of_group['id']}")).status == 404
        assert len((await manager.get(LOGS)).json["logs"]) == 1

    run(body)


def test_a_log_of_what_is_not_there_or_not_the_callers_is_refused() -> None:
    async def body(b: Bench) -> None:
        manager, other = b.as_("one", "manager"), b.as_("two", "manager")
        group = await manager.make("security_group", name="web")
        network, _ = await manager.network()
        port = await manager.make("port", network_id=network["id"])
        base = {"resource_type": "security_group"}
        for api, more, refusal in (
            (manager, {"resource_type": "router"}, (400, "InvalidLogResourceType")),
            (manager, {"event": "MAYBE"}, (400, "HTTPBadRequest")),
            (manager, {"resource_id": port["id"]}, (404, "ResourceNotFound")),
            (manager, {"target_id": group["id"]}, (404, "TargetResourceNotFound")),
            (other, {"resource_id": group["id"]}, (404, "ResourceNotFound")),
            (other, {"target_id": port["id"]}, (404, "TargetResourceNotFound")),
            (
                manager,
                {"resource_id": group["id"], "target_id": port["id"]},
                (400, "InvalidResourceConstraint"),
            ),
        ):
            assert said(await api.post(LOGS, {"log": base | more})) == refusal, more
        assert (await b.as_("one").post(LOGS, {"log": base})).status == 403
        found = (await manager.get("/log/loggable-resources")).json
        assert found == {"loggable_resources": [{"type": "security_group"}]}

    run(body, hosts=0)


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (
            udp_frame("fa:16:3e:00:00:01", "fa:16:3e:00:00:02", "10.0.0.1", "10.0.0.2", b"x")[14:],
            "ipv4(src=10.0.0.1, dst=10.0.0.2, proto=udp, src_port=4000, dst_port=9)",
        ),
        (
            b"\x60" + bytes(5) + b"\x3a\xff" + bytes(15) + b"\x01" + bytes(15) + b"\x02\x80\x00",
            "ipv6(src=::1, dst=::2, proto=icmpv6, type=128, code=0)",
        ),
        (b"\x45" + bytes(10), "other(4500000000000000000000)"),
        (b"", "other()"),
    ],
)
def test_a_packet_is_told_in_words_as_far_as_it_was_copied(packet: bytes, words: str) -> None:
    assert described(packet) == words

"""Metering labels: their rules, and how what hosts count becomes events of the project."""

from __future__ import annotations

from typing import Any

import pytest

from pileus.kernel.agents import CONTROL
from pileus.kernel.events import START, after
from pileus.kernel.faults import Unavailable
from pileus.services.network.control import KeptControl
from pileus.services.network.driver import MeterRule
from pileus.services.network.wiring import NETWORK_CONTROL, Traffic

from .bench import Api, Bench, Row, run, said

LABELS, RULES = "/metering/metering-labels", "/metering/metering-label-rules"


class _Deaf(KeptControl):
    async def metered(self, host: str, passed: dict[str, Traffic]) -> None:
        raise Unavailable("Not now.")


async def _label(api: Api, **more: Any) -> Row:
    return await api.make("metering_label", LABELS, name="out", **more)


async def _rule(api: Api, label: Row, **more: Any) -> Row:
    asked = {"direction": "egress", "destination_ip_prefix": "0.0.0.0/0"} | more
    asked = {k: v for k, v in asked.items() if v}
    return await api.make("metering_label_rule", RULES, metering_label_id=label["id"], **asked)


def test_what_hosts_count_is_told_as_events_of_the_labels_project() -> None:
    async def body(b: Bench) -> None:
        manager = b.as_("one", "manager")
        network, _, _ = await b.as_("one").routed()
        await b.boot("one", "guest", network["id"])
        label = await _label(manager)
        await _rule(manager, label)
        await _rule(manager, label, destination_ip_prefix="10.0.0.0/8", excluded=True)
        shared = await _label(b.admin, shared=True)
        await _label(b.as_("two", "manager"))
        await b.settle()
        (router,) = b.driver().routers()
        meters = {m.id: m.rules for m in router.meters}
        assert set(meters) == {label["id"], shared["id"]}, "not those of another project"
        assert set(meters[label["id"]]) == {
            MeterRule(direction="egress", destination="0.0.0.0/0"),
            MeterRule(direction="egress", destination="10.0.0.0/8", excluded=True),
        }
        b.driver().traffic = {label["id"]: (3, 4500), "gone": (1, 1)}
        agent = next(a for _, a in b.hosts._agents)
        serve = b.control.runtime.agents.serve
        await serve(NETWORK_CONTROL, _Deaf(b.control.runtime), CONTROL)
        with pytest.raises(Unavailable):
            await agent._tell_metered("")
        await serve(NETWORK_CONTROL, KeptControl(b.control.runtime), CONTROL)
        for _ in range(2):
            await agent._tell_metered("")
        await b.control.runtime.store.sync()
        events = await after(b.control.runtime.store, START, 1000)
        (told,) = [e for e in events if e.kind == "l3.meter"]
        assert told.project_id == "one"
        seen = {n: told.payload[n] for n in ("label_id", "pkts", "bytes", "host")}
        assert seen == {"label_id": label["id"], "pkts": 3, "bytes": 4500, "host": "fake-1"}

        assert (await manager.delete(f"{LABELS}/{label['id']}")).status == 204
        found = (await b.admin.get(RULES)).json["metering_label_rules"]
        assert found == [], "rules go with their label"
        await b.settle()
        assert [m.id for r in b.driver().routers() for m in r.meters] == [shared["id"]]

    run(body)


def test_a_rule_says_what_it_counts_once_and_belongs_to_the_labels_project() -> None:
    async def body(b: Bench) -> None:
        manager = b.as_("one", "manager")
        label = await _label(manager)
        rule = await _rule(manager, label, destination_ip_prefix="", remote_ip_prefix="10.0.1.7/24")
        assert (rule["remote_ip_prefix"], rule["excluded"]) == ("10.0.1.0/24", False)
        assert rule["source_ip_prefix"] is rule["destination_ip_prefix"] is None
        base = {"metering_label_id": label["id"], "direction": "egress"}
        for more, refusal in (
            ({"remote_ip_prefix": "10.0.0.0/16"}, (409, "MeteringLabelRuleOverlaps")),
            ({}, (400, "HTTPBadRequest")),
            ({"remote_ip_prefix": "x"}, (400, "HTTPBadRequest")),
            ({"remote_ip_prefix": "::/0", "source_ip_prefix": "::/0"}, (400, "HTTPBadRequest")),
            ({"source_ip_prefix": "::/0", "destination_ip_prefix": "1.0.0.0/8"}, (400, "HTTPBadRequest")),
            ({"remote_ip_prefix": "::/0", "direction": "up"}, (400, "HTTPBadRequest")),
            ({"remote_ip_prefix": "::/0", "metering_label_id": "x"}, (404, "MeteringLabelNotFound")),
        ):  # fmt: skip
            reply = await manager.post(RULES, {"metering_label_rule": base | more})
            assert said(reply) == refusal, more
        reply = await b.as_("two", "manager").post(
            RULES, {"metering_label_rule": base | {"remote_ip_prefix": "::/0"}}
        )
        assert said(reply) == (404, "MeteringLabelNotFound")
        assert (await b.as_("one").delete(f"{LABELS}/{label['id']}")).status == 403
        assert (await b.as_("two").get(f"{LABELS}/{label['id']}")).status == 404
        assert (await b.as_("one").get(f"{LABELS}/{label['id']}")).status == 200

    run(body, hosts=0)

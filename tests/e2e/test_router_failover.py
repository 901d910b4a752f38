"""A highly available router by what passes it: its host is lost with all that was on it, and comes back.

The guest is on the other host, which is the standby. It goes out through the router all the time, and is reached at its
floating IP. What the gap is made of: the lease of a host (20 s), the look for routers without one (every 5 s), and the
standby's work.
"""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pileus.kernel.hosts import LEASE_S
from pileus.kernel.world import Clock
from pileus.services.network.routers.placement import PERIOD_S
from pileus.testing.places import Place, forget
from pileus.testing.roles import Host
from tests.e2e.shell import until
from tests.e2e.test_moves import Pair, pair

TAKEN_OVER_S = LEASE_S + PERIOD_S + 10  # ten of them for the work on a busy machine
AT_ONCE_S = 2.0  # how long both may have a router that goes back
OUTSIDE = "172.24.4.1"


def call(both: Pair, method: str, path: str, body: object = None) -> Any:
    return both.here.client.call(method, "network", f"/v2.0/{path}", body)


def states(both: Pair, router: str) -> dict[str, str]:
    """What each of the router's hosts is for it."""
    found = call(both, "GET", f"routers/{router}/l3-agents")["agents"]
    return {a["host"]: a["ha_state"] for a in found}


def answers(both: Pair, at: str) -> bool:
    """Whether the guest's floating IP does, from that host's outside."""
    ping = ["ping", "-c1", "-W1", both.here.guest.floating_ip]
    line = both.outsides[at].inside(ping)
    return subprocess.run(line, capture_output=True, check=False).returncode == 0


def holders(both: Pair, router: str) -> list[str]:
    """The hosts that have the router: who answers for its addresses."""
    spaces = {name: f"{scope.prefix}-router-{router}" for name, scope in both.scopes.items()}
    return [name for name, space in spaces.items() if (Path("/run/netns") / space).exists()]


def stand_by(both: Pair) -> str:
    """The router lives on the host that the guest is not on, whose own is the standby: its id."""
    (router,) = call(both, "GET", "routers")["routers"]
    id = str(router["id"])
    call(both, "PUT", f"routers/{id}", {"router": {"admin_state_up": False}})
    call(both, "PUT", f"routers/{id}", {"router": {"ha": True, "admin_state_up": True}})
    agents = call(both, "GET", "agents?agent_type=L3%20agent&host=two")["agents"]
    path = f"agents/{agents[0]['id']}/l3-routers/{id}"
    call(both, "PUT", path, {"ha_chassis_priority": 9})
    assert states(both, id) == {"one": "standby", "two": "active"}
    asyncio.run(until("it is reached by its second host", partial(answers, both, "two"), 60))
    return id


def lose(both: Pair, host: str) -> None:
    """As a power cut of the machine: its process, and all that it had made of the network."""
    both.hosts[host].kill()
    machine = both.hosts[host].machine
    assert machine is not None
    forget(machine)
    forget(replace(both.outsides[host], prefix=machine.prefix))


@contextmanager
def going_out(both: Pair) -> Iterator[list[int]]:
    """The guest asks the outside once a second meanwhile; then the numbers of those that were answered."""
    heard: list[int] = []
    both.here.log_in(f"'ping {OUTSIDE} >heard 2>&1 </dev/null &'")
    yield heard
    said = both.here.log_in("'killall ping; cat heard'")
    heard += [int(n) for n in re.findall(r"seq=(\d+)", said)]


async def came_back(both: Pair, router: str, to: str) -> float:
    """Starts the host again and waits until the router is there alone; how long it was on both at once, seconds."""
    clock = Clock()
    starting = asyncio.create_task(asyncio.to_thread(both.hosts[to].start))
    begun, both_s, before = clock.monotonic(), 0.0, clock.monotonic()
    while (on := holders(both, router)) != [to]:
        now = clock.monotonic()
        both_s += now - before if len(on) > 1 else 0.0
        before = now
        assert now < begun + 2 * TAKEN_OVER_S, f"the router is on {on}"
        await clock.sleep(0.05)
    await starting
    return both_s


@pytest.mark.e2e
def test_a_router_whose_host_is_lost_goes_on_on_its_standby_and_comes_back(tmp_path: Path) -> None:
    clock = Clock()
    with pair(tmp_path) as both:
        assert both.here.log_in() == "first"
        router = stand_by(both)
        both.here.outside = both.outsides["two"]
        with going_out(both) as heard:
            both.here.log_in("'sleep 2'")
            lose(both, "two")
            begun = clock.monotonic()
            asyncio.run(until("it is reached by the standby", partial(answers, both, "one"), 90))
            inward_s = clock.monotonic() - begun
            both.here.outside = both.outsides["one"]
            both.here.log_in("'sleep 2'")
        outward_s = max(after - before for before, after in pairwise(heard))
        assert holders(both, router) == ["one"]

        both_s = asyncio.run(came_back(both, router, "two"))
        asyncio.run(until("it is reached by its own again", partial(answers, both, "two"), 30))
        assert states(both, router) == {"one": "standby", "two": "active"}
        assert not answers(both, "one"), "nobody else answers for its addresses"
        both.here.outside = both.outsides["two"]
        assert both.here.log_in() == "first"
        assert max(inward_s, outward_s) < TAKEN_OVER_S
        assert both_s < AT_ONCE_S


def owners(both: Pair) -> dict[str, int]:
    """Where the floating IP's owner is asked for by ARP, a second long, and how often it is answered there."""
    ip, found = both.here.guest.floating_ip, {}
    for host, outside in both.outsides.items():
        for device in bridges(outside, both.scopes[host].prefix):
            line = outside.inside(["busybox", "arping", "-c3", "-w2", "-I", device, ip])
            said = subprocess.run(line, capture_output=True, text=True, check=False).stdout
            found[host] = len(re.findall(r"reply from", said))
    return {host: count for host, count in found.items() if count}


def bridges(outside: Place, prefix: str) -> list[str]:
    """The outer networks' bridges of that host."""
    line = outside.inside(["ip", "-o", "link", "show", "type", "bridge"])
    said = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    return re.findall(rf"\d+: ({prefix}e\S+):", said)


async def never_both(both: Pair, router: str, lost: str, heir: str) -> float:
    """Asks for the floating IP's owner until the heir answers; seconds. Never do both."""
    clock = Clock()
    begun = clock.monotonic()
    while (on := await asyncio.to_thread(owners, both)).keys() != {heir}:
        assert len(on) <= 1, f"two answer for one address: {on}"
        assert clock.monotonic() < begun + 2 * TAKEN_OVER_S, on
    await until("it answers again", partial(answers, both, heir), 30)
    took_s = clock.monotonic() - begun
    assert lost in holders(both, router) and not answers(both, lost)
    return took_s


def lost_pings(both: Pair, at: str, meanwhile: Callable[[], None]) -> int:
    """How many of ten a second the floating IP does not answer meanwhile."""
    line = both.outsides[at].inside(["ping", "-i0.1", both.here.guest.floating_ip])
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as ping:
        meanwhile()
        ping.send_signal(signal.SIGINT)
        said = ping.communicate()[0]
    sent, heard = re.findall(r"(\d+) packets transmitted, (\d+) received", said)[0]
    assert int(sent) > 10
    return int(sent) - int(heard)


@pytest.mark.e2e
@pytest.mark.slow
def test_a_host_that_nobody_hears_answers_no_more_when_another_has_its_router(
    tmp_path: Path,
) -> None:
    """Its process hangs, dies and is started anew; the namespaces and the guests live on."""
    with pair(tmp_path) as both:
        assert both.here.log_in() == "first"
        router = stand_by(both)
        two = both.hosts["two"]
        assert owners(both).keys() == {"two"}

        def restart() -> None:
            two.kill()
            two.start()

        assert lost_pings(both, "two", restart) == 0
        assert holders(both, router) == ["two"]
        for halt, resume in (
            (partial(signalled, two, signal.SIGSTOP), partial(signalled, two, signal.SIGCONT)),
            (two.kill, two.start),
        ):
            halt()
            assert asyncio.run(never_both(both, router, "two", "one")) < TAKEN_OVER_S
            resume()
            asyncio.run(until("it is back", lambda: owners(both).keys() == {"two"}, 90))
            asyncio.run(until("it is there alone", lambda: holders(both, router) == ["two"], 30))


def signalled(host: Host, number: int) -> None:
    assert host.process is not None
    host.process.send_signal(number)

"""Real packets: what security groups and routers cost, and how soon a change reaches a packet.

    python -m bench.network_real [--runs 5] [--ports 100 1000 4000] [--networks 1000]

Needs root, iproute2, nftables and ping. Everything happens in a network namespace of this process's own: a control and a
host with the real driver, guests as containers have them (a pair in the place of the port's tap), and beside them, by turns,
the same bridge and the same translation written by hand.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench import measure, page
from pileus.host.netns import Namespaces
from pileus.services.compute.driver import Nic, Route
from pileus.services.compute.drivers import container_wires
from pileus.services.network.contract import NicRequest
from pileus.services.network.driver import HostNetwork
from pileus.services.network.tests import bench as network_bench
from pileus.services.network.tests.bench import Bench, Row

PREFIX, TAG = "nr", f"nr{os.getpid() % 100000}"
HOST, PROJECT = "fake-1", "admin"
LEAST_SHARE, FIRST_PACKET_MS, RULE_MS, MEMORY_MB = 0.8, 100, 20, 100
AFTER_ANSWER, TAKEN_BACK = "a new rule, after the answer", "a rule taken back, after the answer"
AFTER_REQUEST = "a new rule, after the request"
COST = "CPU of either, with the client's"
SECONDS, CHUNK, PORT = 2.0, 1 << 20, 5201
GATEWAY, HAND_GATEWAY, HAND_FLOATING = "172.24.4.1", "172.30.4.1", "172.30.4.10"
BY_HAND = f"""
ip netns add {TAG}-b; ip netns add {TAG}-b1; ip netns add {TAG}-b2; ip netns add {TAG}-br
B="ip -n {TAG}-b"; R="ip -n {TAG}-br"; $B link set lo up
for br in inner outer; do $B link add name $br type bridge; done
$B link set inner mtu 1450 up; $B link set outer up; $B addr add {HAND_GATEWAY}/24 dev outer
for n in 1 2; do
 $B link add g$n mtu 1450 type veth peer name eth0 mtu 1450 netns {TAG}-b$n; $B link set g$n master inner up
 ip -n {TAG}-b$n addr add 10.9.0.1$n/24 dev eth0; ip -n {TAG}-b$n link set eth0 up
 ip -n {TAG}-b$n route add default via 10.9.0.1
done
$B link add ri mtu 1450 type veth peer name in0 mtu 1450 netns {TAG}-br; $B link set ri master inner up
$B link add ro type veth peer name out0 netns {TAG}-br; $B link set ro master outer up
$R addr add 10.9.0.1/24 dev in0; $R addr add 172.30.4.2/24 dev out0; $R addr add {HAND_FLOATING}/32 dev out0
$R link set in0 up; $R link set out0 up; $R route add default via {HAND_GATEWAY}
ip netns exec {TAG}-br sysctl -qw net.ipv4.ip_forward=1
ip netns exec {TAG}-br nft -f - <<RULES
table ip nat {{
 chain in {{ type nat hook prerouting priority dstnat; ip daddr {HAND_FLOATING} dnat to 10.9.0.12; }}
 chain out {{ type nat hook postrouting priority srcnat; oifname out0 ip saddr 10.9.0.12 snat to {HAND_FLOATING}; }}
}}
RULES
"""


@dataclass(frozen=True)
class Guest:
    port: str
    address: str
    namespace: str


@dataclass
class Ground:
    """A cloud's network on this machine, with guests that are namespaces."""

    cloud: Bench
    spaces: Namespaces = field(default_factory=Namespaces)
    guests: int = 0

    async def guest(self, network: Row, subnet: Row, *groups: str) -> Guest:
        """One more, of a port that is made for it: ready to speak."""
        self.guests += 1
        name = f"{TAG}-g{self.guests}"
        await self.spaces.create(name)
        worn: Row = (
            {"security_groups": list(groups)} if groups else {}
        )  # none named: the default one
        port = await self.cloud.admin.make("port", network_id=network["id"], **worn)
        await self.cloud.boot(PROJECT, name, host=HOST, requests=[NicRequest(port_id=port["id"])])
        address, gateway = port["fixed_ips"][0]["ip_address"], subnet["gateway_ip"]
        nic = Nic(
            port_id=port["id"],
            network_id=network["id"],
            mac=port["mac_address"],
            mtu=network["mtu"],
            addresses=(f"{address}/{subnet['cidr'].split('/')[1]}",),
            routes=(Route(destination="0.0.0.0/0", nexthop=gateway),),
        )
        far = self.spaces.path(name)
        await self.spaces.call("", partial(container_wires.plug, nic, far, "eth0"))
        await self.spaces.call(name, partial(container_wires.dress, nic, "eth0"))
        return Guest(port["id"], address, name)

    async def group(self, rules: int) -> Row:
        """A security group that lets the blaster's port in, among other rules."""
        group = await self.cloud.admin.make("security_group", name="bench")
        for n in range(rules):
            await self.rule(group, protocol="tcp", port_range_min=PORT + n, port_range_max=PORT + n)
        return group

    async def rule(self, group: Row, **attributes: object) -> Row:
        asked = {"security_group_id": group["id"], "direction": "ingress", **attributes}
        return await self.cloud.admin.make("security_group_rule", **asked)

    async def fill(self, ports: int) -> None:
        """Ports of guests that are silent, on as many networks as it takes: a bridge holds 1023 devices."""
        wanted: list[NicRequest] = []
        for n in range(-(-ports // 50)):
            if n % 16 == 0:
                network, _ = await self.cloud.admin.network(f"10.{65 + n // 16}.0.0/18")
                wanted = [NicRequest(network_id=network["id"])] * 50
            await self.cloud.boot(PROJECT, f"filler-{n}", host=HOST, requests=wanted)


async def flow(spaces: Namespaces, source: str, target: str, address: str) -> float:
    """Gbit/s of one TCP connection, from one namespace to an address that leads to another."""
    listening = await spaces.call(target, lambda: socket.create_server(("", PORT)))
    sending = await spaces.call(source, lambda: socket.create_connection((address, PORT), 5))
    receiving, _ = listening.accept()
    listening.close()
    sending.settimeout(None)
    got = 0

    def take() -> None:
        nonlocal got
        room = bytearray(CHUNK)
        while count := receiving.recv_into(room):
            got += count

    def give() -> None:
        data, end = memoryview(bytearray(CHUNK)), time.monotonic() + SECONDS
        while time.monotonic() < end:
            sending.send(data)
        sending.shutdown(socket.SHUT_WR)

    with sending, receiving:
        taker, began = threading.Thread(target=take), time.monotonic()
        taker.start()
        await asyncio.to_thread(give)
        await asyncio.to_thread(taker.join)
        return got * 8 / (time.monotonic() - began) / 1e9


async def flows(ground: Ground, runs: int) -> dict[str, list[float]]:
    """Through our bridge and router, and through those made by hand, by turns."""
    admin, spaces = ground.cloud.admin, ground.spaces
    await asyncio.to_thread(subprocess.run, ["sh", "-ec", BY_HAND], check=True)
    network, subnet, _ = await admin.routed()
    group = (await ground.group(rules=20))["id"]
    one, two = [await ground.guest(network, subnet, group) for _ in range(2)]
    public = await admin.public()
    asked = {"floating_network_id": public, "port_id": two.port}
    floating = (await admin.make("floatingip", **asked))["floating_ip_address"]
    await ground.cloud.settle()
    ways = {
        "a bridge by hand": partial(flow, spaces, f"{TAG}-b1", f"{TAG}-b2", "10.9.0.12"),
        "Pileus: bridge and groups": partial(
            flow, spaces, one.namespace, two.namespace, two.address
        ),
        "translation by hand": partial(flow, spaces, f"{TAG}-b", f"{TAG}-b2", HAND_FLOATING),
        "Pileus: floating IP": partial(flow, spaces, "", two.namespace, floating),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(runs):
        for name, way in ways.items():
            found[name].append(await way())
    return found


def pinging(source: str, address: str) -> subprocess.Popen[str]:
    """Asks every two milliseconds for two seconds, and tells when each answer came."""
    command = ["nsenter", f"--net=/run/netns/{source}", "ping", "-D", "-n", "-i", "0.002"]
    command += ["-c", "1000", "-w", "2", address]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


async def answers(ping: subprocess.Popen[str]) -> list[float]:
    """The times of its answers."""
    said, _ = await asyncio.to_thread(ping.communicate)
    return [float(at) for at in re.findall(r"^\[([\d.]+)\] \d+ bytes from", said, re.MULTILINE)]


async def first_packets(ground: Ground, runs: int) -> list[float]:
    """Milliseconds from the request for a port until its guest has been answered by another."""
    admin = ground.cloud.admin
    network, subnet = await admin.network("10.1.0.0/24")
    open_to_all = await admin.make("security_group", name="open")
    await ground.rule(open_to_all, protocol="icmp")
    other = await ground.guest(network, subnet, open_to_all["id"])
    found = []
    for _ in range(runs):
        began = time.monotonic()
        one = await ground.guest(network, subnet, open_to_all["id"])
        command = f"nsenter --net=/run/netns/{one.namespace} ping -qc1 -W5 {other.address}"
        process = await asyncio.create_subprocess_exec(*command.split(), stdout=subprocess.DEVNULL)
        if await process.wait():
            raise SystemExit("a new port's guest was not answered")
        found.append((time.monotonic() - began) * 1_000)
    return found


async def changed_rules(ground: Ground, ports: int, runs: int) -> dict[str, list[float]]:
    """Milliseconds until a new rule lets pings through, and until the last one after it was taken back;
    and those of CPU that this process spends on either.
    """
    admin = ground.cloud.admin
    network, subnet = await admin.network("10.64.0.0/18")
    group = await ground.group(rules=20)
    one = await ground.guest(network, subnet)
    two = await ground.guest(network, subnet, group["id"])
    await ground.fill(ports - 2)
    found: dict[str, list[float]] = {AFTER_ANSWER: [], TAKEN_BACK: [], AFTER_REQUEST: [], COST: []}
    await ground.cloud.settle()
    for _ in range(runs):
        ping = pinging(one.namespace, two.address)
        await asyncio.sleep(0.2)
        asked, spent = time.time(), time.process_time()
        rule = await ground.rule(group, protocol="icmp")
        answered = time.time()
        heard = await answers(ping)
        found[COST].append((time.process_time() - spent) * 1_000)
        found[AFTER_ANSWER].append((heard[0] - answered) * 1_000)
        found[AFTER_REQUEST].append((heard[0] - asked) * 1_000)
        ping = pinging(one.namespace, two.address)
        await asyncio.sleep(0.2)
        spent = time.process_time()
        await admin.delete(f"/security-group-rules/{rule['id']}")
        answered = time.time()
        heard = await answers(ping)
        found[COST].append((time.process_time() - spent) * 1_000)
        found[TAKEN_BACK].append((heard[-1] - answered) * 1_000)
    return found


async def memory(ground: Ground, networks: int) -> tuple[float, float]:
    """MB of this process before and after it serves so many networks."""
    before = measure.pss_mb([os.getpid()])
    for n in range(networks):
        network, _ = await ground.cloud.admin.network(f"10.{n >> 8}.{n & 255}.0/24")
        await ground.cloud.boot(PROJECT, f"guest-{n}", network["id"], host=HOST)
    return before, measure.pss_mb([os.getpid()])


async def on_a_ground(work: Callable[[Ground], Awaitable[object]]) -> object:
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(
            network_bench.bench(driver="qemu", underlay=f"{TAG}-u", prefix=PREFIX)
        )
        free = {"quota": dict.fromkeys(("network", "subnet", "port", "security_group_rule"), -1)}
        await cloud.admin.put(f"/quotas/{PROJECT}", free)
        try:
            return await work(Ground(cloud))
        finally:
            for _, agent in cloud.hosts._agents:
                await agent.driver.apply(HostNetwork(host=HOST, revision=0))
                await agent.driver.sweep()
            for name in Namespaces().names():
                if name.startswith(TAG):
                    await Namespaces().remove(name)


PARTS: dict[str, Callable[[Ground, argparse.Namespace], Awaitable[object]]] = {
    "flows": lambda ground, args: flows(ground, args.runs),
    "first": lambda ground, args: first_packets(ground, args.runs),
    "rules": lambda ground, args: changed_rules(ground, args.ports[0], args.runs),
    "memory": lambda ground, args: memory(ground, args.networks),
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Real packets, measured.")
    parser.add_argument("--runs", type=int, default=5)
    ports = parser.add_argument("--ports", type=int, nargs="+", default=[100, 1000, 4000])
    ports.help = "on the host whose rules change"
    parser.add_argument(
        "--networks", type=int, default=1000, help="served with DHCP by one process"
    )
    parser.add_argument("--page", type=Path, default=page.PAGE)
    parser.add_argument("--part", choices=PARTS, help="one alone, in the namespace it is called in")
    return parser.parse_args()


def part(name: str, args: argparse.Namespace, ports: int = 0) -> Any:
    """What a process of its own finds out, in a network namespace of its own."""
    command = ["unshare", "--net", sys.executable, "-m", "bench.network_real", "--part", name]
    command += ["--runs", str(args.runs), "--ports", str(ports)]
    command += ["--networks", str(args.networks)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def figures(args: argparse.Namespace) -> tuple[list[measure.Figure], list[str], bool]:
    """All rows, the sentences below them, and whether every bar is kept."""
    flowed, first = part("flows", args), part("first", args)
    changed = {ports: part("rules", args, ports) for ports in args.ports}
    before, after = part("memory", args)
    rows = [measure.Figure(f"{name}: one connection", "Gbit/s", v) for name, v in flowed.items()]
    rows.append(
        measure.Figure("a port's request to its guest's first answer", "ms", first, FIRST_PACKET_MS)
    )
    for ports, found in changed.items():
        for name, values in found.items():
            bar = RULE_MS if name in (AFTER_ANSWER, TAKEN_BACK) else None
            rows.append(measure.Figure(f"{name}, {ports} ports", "ms", values, bar))
    grown = f"memory (PSS) that {args.networks} networks with DHCP take"
    rows.append(measure.Figure(grown, "MB", [after - before], MEMORY_MB))
    rows.append(measure.Figure("memory (PSS) with them, control included", "MB", [after]))
    middle = [statistics.median(values) for values in flowed.values()]
    shares = {
        "bridge and security groups": middle[1] / middle[0],
        "floating IP": middle[3] / middle[2],
    }
    said = [
        f"Through {what}: {share:.0%} of what is made by hand; the bar is {LEAST_SHARE:.0%}."
        for what, share in shares.items()
    ]
    kept = min(shares.values()) >= LEAST_SHARE and not any(r.verdict == "MISSED" for r in rows)
    return rows, said, kept


def main() -> int:
    args, began = arguments(), measure.load()
    if args.part:
        work = PARTS[args.part]
        print(json.dumps(asyncio.run(on_a_ground(lambda ground: work(ground, args)))))
        return 0
    rows, said, kept = figures(args)
    what = (
        "control and host in one process, real driver, SQLite with synchronous=FULL; TCP from one thread to another, "
        f"{SECONDS:g} s a run, by turns; pings every 2 ms; our side has 20 rules and all its guards, by hand there are none"
    )
    command = (
        f"python -m bench.network_real --runs {args.runs} --ports {' '.join(map(str, args.ports))}"
    )
    text = [
        "## Real packets\n",
        *page.circumstances(f"{command} --networks {args.networks}", what, began),
        "\n| figure | unit | min | median | max | runs | bar | |",
        "|---|---|--:|--:|--:|--:|--:|---|",
        *(row.row() for row in rows),
        "\n" + "\n".join(said),
    ]
    print("\n".join(text))
    page.write("real network", "\n".join(text), args.page)
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())

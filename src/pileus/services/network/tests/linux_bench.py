"""Hosts and guests of real packets for the driver suite: namespaces, and guests tied to the
driver's taps.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pileus.host.metadata import Answer, Request
from pileus.host.netlink import Netlink
from pileus.host.netns import Namespaces
from pileus.services.network.driver import (
    METADATA_IPV4,
    HostNetwork,
    NetworkSpec,
    Observed,
    PortSpec,
    is_guest,
    tap_name,
)
from pileus.services.network.drivers.linux import LinuxNetworkDriver, Options
from pileus.testing.drivers.network import OUTSIDE_IP, LeaseSeen

T = TypeVar("T")
_SOL_PACKET, _PACKET_AUXDATA = 263, 8
_TUNSETIFF, _IFF_TAP, _IFF_NO_PI = 0x400454CA, 0x2, 0x1000
_TURN_S = 0.02
_DHCP_SCRIPT = """#!/bin/sh
[ "$1" = bound ] && env > "$LEASE_FILE"
exit 0
"""


async def echo(port_id: str, request: Request) -> Answer:
    return 200, "text/plain", f"{port_id} {request.path}".encode()


@dataclass
class Guest:
    """A namespace whose eth0 is tied to the driver's tap, as QEMU would tie a guest's."""

    port: PortSpec
    network: NetworkSpec
    namespace: str
    descriptors: list[int] = field(default_factory=list)
    listening: list[socket.socket] = field(default_factory=list)


class LinuxBench:
    """Each host is one namespace that is home and underlay at once, as on a laptop; a switch joins
    them.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._tag = f"t{os.getpid() % 1000000}"
        self.sending_s = 0.0  # the last time that frames were sent
        self.spaces = Namespaces()
        self.drivers: dict[str, LinuxNetworkDriver] = {}
        self.options: dict[str, Any] = {}
        self.is_apart = False  # a home of its own, not the underlay's namespace
        self._guests: dict[str, Guest] = {}
        self._made: list[str] = []
        self._outside: list[socket.socket] = []

    async def open(self) -> None:
        outside, hosts = self.name("out"), {"h1": "198.51.100.2", "h2": "198.51.100.3"}
        await self._create(outside)

        def switch(link: Netlink) -> None:
            link.add_bridge("switch", mtu=1500, alias="", filtered=False)
            link.want("switch", mtu=1500)

        await self.inside(outside, switch)
        await self._addresses(outside, "switch", {f"{OUTSIDE_IP}/24"})
        for host, address in hosts.items():
            name = self.name(host)
            await self._create(name)
            await self._create(self.name(f"{host}-home"))
            path = self.spaces.path(outside)

            def join(link: Netlink, host: str = host, path: Path = path) -> None:
                link.add_veth("uplink", peer=host, namespace=path, mac="", mtu=1500, alias="")
                link.want("uplink", mtu=1500)

            def answer(link: Netlink, host: str = host) -> None:
                link.want(host, mtu=1500, master="switch")

            await self.inside(name, join)
            await self.inside(outside, answer)
            await self._addresses(name, "uplink", {f"{address}/24"})
        self._outside = await self.listen("out", (80,))

    async def close(self) -> None:
        for port_id in list(self._guests):
            await self._detach(port_id)
        for driver in self.drivers.values():
            await driver.apply(HostNetwork(host="", revision=99))
            await driver.sweep()
            await driver.close()
        for opened in self._outside:
            opened.close()
        for name in self._made:
            await self.spaces.remove(name)
        self.spaces.close()

    # The bench's verbs.

    async def apply(self, desired: HostNetwork) -> Observed:
        host = desired.host
        if host not in self.drivers:
            self.drivers[host] = await self._driver(host)
        seen = await self.drivers[host].apply(desired)
        networks = {n.id: n for n in desired.networks}
        ours = [p for p in desired.ports if is_guest(p) and p.admin_up and not p.parent]
        wanted = {p.id: p for p in ours if seen.ports[p.id]}
        for port_id, there in list(self._guests.items()):
            if _but_limits(there.port) != _but_limits(
                wanted.get(port_id)
            ) and there.namespace.startswith(self.name(host)):
                await self._detach(port_id)
        for port_id, port in wanted.items():
            if port_id not in self._guests:
                await self._attach(host, port, networks[port.network_id])
        return seen

    async def sweep(self, host: str) -> None:
        await self.drivers[host].sweep()

    async def restart(self, host: str) -> None:
        await self.drivers[host].close()
        self.drivers[host] = await self._driver(host)

    def changes(self, host: str) -> int:
        return self.drivers[host].changes

    async def leftovers(self, host: str) -> list[str]:
        """Devices, namespaces and tables, by tools that are not the driver's."""
        name = self.name(host)
        links = await run("ip", "-n", name, "-o", "link")
        devices = [line.split(": ")[1].split("@")[0] for line in links.splitlines()]
        tables = (await run("ip", "netns", "exec", name, "nft", "list", "tables")).splitlines()
        with contextlib.closing(Namespaces(self._scratch / f"netns-{host}")) as theirs:
            spaces = theirs.names()
        left = [d for d in devices if d not in ("lo", "uplink") and not d.startswith("ifb")]
        return sorted([*left, *tables, *spaces])

    async def lease(self, port_id: str) -> LeaseSeen | None:
        """Asks with a real DHCP client."""
        there = self._guests[port_id]
        file, script = self._scratch / f"lease-{port_id}", self._scratch / "script"
        file.unlink(missing_ok=True)
        script.write_text(_DHCP_SCRIPT)
        script.chmod(0o755)
        await run(
            "ip", "netns", "exec", there.namespace, "env", f"LEASE_FILE={file}", "busybox", "udhcpc",
            "-f", "-n", "-q", "-i", "eth0", "-t", "3", "-T", "1", "-s", str(script), "-O", "mtu",
            "-O", "staticroutes", check=False,
        )  # fmt: skip
        if not file.exists():
            return None
        told = dict(line.split("=", 1) for line in file.read_text().splitlines() if "=" in line)
        return LeaseSeen(
            ip=told["ip"],
            prefix=int(told["mask"]),
            gateway=told.get("router"),
            dns_servers=tuple(told.get("dns", "").split()),
            mtu=int(told["mtu"]),
            domain=told.get("domain", ""),
        )

    async def resolve(self, port_id: str, name: str) -> str | None:
        there = self._guests[port_id]
        block = next(s for s in there.network.subnets if s.ip_version == 4)
        server = str(IPv4Interface(block.cidr).network.network_address + 2)
        answer = await run(
            "ip", "netns", "exec", there.namespace, "dig", "+short", "+time=2", "+tries=1",
            f"@{server}", name, "A", check=False,
        )  # fmt: skip
        return answer.strip() or None

    async def fetch(self, port_id: str, path: str) -> tuple[int, bytes] | None:
        return await self.fetch_at(port_id, METADATA_IPV4, path)

    async def reaches(self, source: str, ip: str, protocol: str, number: int) -> bool:
        namespace = self._guests[source].namespace if source else self.name("h1")
        if protocol == "icmp":
            command = ("ip", "netns", "exec", namespace, "ping", "-c1", "-W1", ip)
            return " 1 received" in await run(*command, check=False)
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        with await self.spaces.call(namespace, lambda: socket.socket(family)) as opened:
            opened.setblocking(False)
            try:
                await within(1.2, asyncio.get_running_loop().sock_connect(opened, (ip, number)))
            except (TimeoutError, OSError):
                return False
            return True

    async def sends_as(self, source: str, target: str, *, mac: str, ip: str) -> bool:
        other = self._guests[target].port
        token = os.urandom(8)
        frame = udp_frame(mac, other.mac, ip, other.fixed_ips[0].ip, token)
        return await self.passes(source, target, frame)

    async def passes(self, source: str, target: str, frame: bytes) -> bool:
        """Does this very frame, sent by one guest, arrive at the other?"""
        return bool(await self.arrivals(source, target, [frame]))

    async def arrivals(
        self, source: str, at: str, frames: list[bytes], expected: list[bytes] | None = None
    ) -> set[bytes]:
        """Which of these frames (or of what they may become), sent by one guest, another hears within a quarter of a
        second.
        """
        wanted = set(expected or frames)
        ears = await self.spaces.call(self._guests[at].namespace, _packet_socket)
        mouth = await self.spaces.call(self._guests[source].namespace, _packet_socket)
        loop = asyncio.get_running_loop()
        seen: set[bytes] = set()
        with ears, mouth:
            begun = loop.time()
            for frame in frames:
                mouth.send(frame)
            self.sending_s = loop.time() - begun
            with contextlib.suppress(TimeoutError):
                while seen != wanted:
                    seen |= {await within(0.25, loop.sock_recv(ears, 2048))} & wanted
        return seen

    async def tag_heard(self, source: str, at: str, frame: bytes, sent: bytes = b"") -> int | None:
        """The VLAN tag (0: none) under which a frame comes to another; None if it does not. `sent`: as it leaves, if it
        has a tag then.
        """
        ears = await self.spaces.call(self._guests[at].namespace, _packet_socket)
        mouth = await self.spaces.call(self._guests[source].namespace, _packet_socket)
        ears.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        with ears, mouth:
            mouth.send(sent or frame)
            for _ in range(25):
                with contextlib.suppress(BlockingIOError):
                    while True:
                        got, notes, *_ = ears.recvmsg(2048, 100)
                        if got == frame:
                            return int.from_bytes(notes[0][2][16:18], sys.byteorder) & 0xFFF
                await asyncio.sleep(0.01)
        return None

    async def replies(self, source: str, frame: bytes, expected: bytes) -> int:
        """How many frames with these bytes in them come back within half a second."""
        ears = await self.spaces.call(self._guests[source].namespace, _packet_socket)
        count = 0
        with ears:
            ears.send(frame)
            for _ in range(50):
                await asyncio.sleep(0.01)
                with contextlib.suppress(BlockingIOError):
                    while True:
                        count += expected in ears.recv(2048)
        return count

    async def send(self, source: str, frame: bytes) -> None:
        with await self.spaces.call(self._guests[source].namespace, _packet_socket) as mouth:
            mouth.send(frame)

    async def connected(
        self, source: str, target: str, ip: str, *, source_port: int = 0
    ) -> tuple[socket.socket, socket.socket]:
        """Both ends of a TCP connection to the target's port 22, or, for "", the outside's 80."""
        namespace = self._guests[source].namespace if source else self.name("h1")
        ours = await self.spaces.call(namespace, socket.socket)
        ours.setblocking(False)
        ours.bind(("", source_port))
        there = ip, 22 if target else 80
        await within(1.2, asyncio.get_running_loop().sock_connect(ours, there))
        listening = (self._guests[target].listening if target else self._outside)[0]
        listening.setblocking(False)
        theirs, _ = await asyncio.get_running_loop().sock_accept(listening)
        return ours, theirs

    async def heard(self, opened: socket.socket) -> bytes | None:
        try:
            return await within(1, asyncio.get_running_loop().sock_recv(opened, 100))
        except TimeoutError:
            return None

    async def eventually(self, port_id: str, command: tuple[str, ...], text: str) -> str:
        """The command's output once it holds the text, or what it says after five seconds."""
        for _ in range(50):
            if text in (seen := await self.run_in(port_id, *command)):
                return seen
            await asyncio.sleep(0.1)
        return seen

    # What it is made of.

    async def run_in(self, port_id: str, *command: str) -> str:
        there = self._guests[port_id]
        return await run("ip", "netns", "exec", there.namespace, *command, check=False)

    def name(self, what: str) -> str:
        return f"{self._tag}-{what}"

    def home(self, host: str) -> str:
        return self.name(f"{host}-home" if self.is_apart else host)

    async def _create(self, name: str) -> None:
        await self.spaces.create(name)
        self._made.append(name)
        await self.inside(name, lambda link: link.want("lo", mtu=65536))

    async def _driver(self, host: str) -> LinuxNetworkDriver:
        driver = LinuxNetworkDriver(echo, options=self.options_of(host))
        await driver.start_up()
        return driver

    def options_of(self, host: str) -> Options:
        """What a driver is told of that host."""
        underlay = str(self.spaces.path(self.name(host)))
        home = str(self.spaces.path(self.home(host)))
        folder = self._scratch / f"netns-{host}"
        return Options(home=home, underlay=underlay, namespaces=folder, **self.options)

    async def inside(self, name: str, job: Callable[[Netlink], T]) -> T:
        def work() -> T:
            with contextlib.closing(Netlink()) as link:
                return job(link)

        return await self.spaces.call(name, work)

    async def _addresses(self, name: str, device: str, wanted: set[str]) -> None:
        await self.inside(name, lambda link: link.want_addresses(device, wanted))

    async def listen(self, what: str, ports: tuple[int, ...]) -> list[socket.socket]:
        """Sockets of both families; the kernel completes connections to them by itself."""

        def work() -> list[socket.socket]:
            return [
                socket.create_server(("", p), family=socket.AF_INET6, dualstack_ipv6=True)
                for p in ports
            ]

        return await self.spaces.call(self.name(what), work)

    async def _attach(self, host: str, port: PortSpec, net: NetworkSpec) -> None:
        what = f"{host}-{port.id[:8]}-{port.network_id[:8]}"
        there = Guest(port, net, self.name(what))
        await self._create(there.namespace)
        outer = await self.spaces.call(self.home(host), lambda: _open_tap(tap_name(port.id)))
        inner = await self.spaces.call(there.namespace, lambda: _open_tap("eth0"))
        there.descriptors = [outer, inner]
        loop = asyncio.get_running_loop()
        loop.add_reader(outer, _pump, outer, inner)
        loop.add_reader(inner, _pump, inner, outer)
        block = next(s for s in net.subnets if s.ip_version == 4)
        prefix, gateway = block.cidr.split("/")[1], block.gateway

        def dress(link: Netlink) -> None:
            link.want("eth0", mtu=net.mtu, mac=port.mac)
            addresses = {f"{f.ip}/{prefix if '.' in f.ip else 64}" for f in port.fixed_ips}
            link.want_addresses("eth0", addresses)
            if gateway:
                link.want_routes(
                    {
                        "0.0.0.0/0": ((gateway, "eth0"),),
                        "169.254.169.254/32": (("", "eth0"),),
                    }
                )

        await self.inside(there.namespace, dress)
        there.listening = await self.listen(what, (22, 80))
        self._guests[port.id] = there

    async def _detach(self, port_id: str) -> None:
        there = self._guests.pop(port_id)
        loop = asyncio.get_running_loop()
        for descriptor in there.descriptors:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        for opened in there.listening:
            opened.close()
        await self.spaces.remove(there.namespace)

    async def fetch_at(self, port_id: str, ip: str, path: str) -> tuple[int, bytes] | None:
        namespace = self._guests[port_id].namespace
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        opened = await self.spaces.call(namespace, lambda: socket.socket(family))
        opened.setblocking(False)
        try:
            async with asyncio.timeout(2):
                await self.spaces.call(namespace, lambda: _bind_to_device(opened))
                await asyncio.get_running_loop().sock_connect(opened, (ip, 80))
                reader, writer = await asyncio.open_connection(sock=opened)
                writer.write(f"GET {path} HTTP/1.1\r\nHost: {ip}\r\n\r\n".encode())
                answer = await reader.read()
                writer.close()
        except (TimeoutError, OSError):
            opened.close()
            return None
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ")[1]), body


async def within(wait_s: float, deed: Coroutine[Any, Any, T]) -> T:
    """What it comes to. Raises TimeoutError after so long: by our own turns, as a busy machine may give us none."""
    doing = asyncio.create_task(deed)
    try:
        for _ in range(round(wait_s / _TURN_S)):
            if (await asyncio.wait({doing}, timeout=_TURN_S))[0]:
                return doing.result()
        raise TimeoutError
    finally:
        doing.cancel()
        await asyncio.wait({doing})


async def run(*command: str, check: bool = True) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    out, err = await process.communicate()
    if check and process.returncode:
        raise AssertionError(f"{' '.join(command)}: {err.decode()}")
    return out.decode()


def _but_limits(port: PortSpec | None) -> PortSpec | None:
    """What a guest would notice of a change."""
    return msgspec.structs.replace(port, limits=()) if port else None


def _bind_to_device(opened: socket.socket) -> None:
    """Link-local addresses need to know their device."""
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")


def _open_tap(name: str) -> int:
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(
        descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI)
    )
    return descriptor


def _pump(source: int, target: int) -> None:
    with contextlib.suppress(OSError):  # a device that is down loses frames, as a cable would
        while frame := os.read(source, 65536):
            os.write(target, frame)


def _packet_socket() -> socket.socket:
    every = 3
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(every))
    opened.bind(("eth0", every))
    opened.setblocking(False)
    return opened


def arp_frame(mac: str, ip: str, to_mac: str, to_ip: str, *, operation: int = 2) -> bytes:
    """An answer, or a question (operation 1)."""
    ours, theirs = (bytes.fromhex(m.replace(":", "")) for m in (mac, to_mac))
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    body = ours + socket.inet_aton(ip) + theirs + socket.inet_aton(to_ip)
    return theirs + ours + b"\x08\x06" + head + body


def advert_frame(mac: str, to_mac: str, source: str, target: str, *, kind: int = 136) -> bytes:
    """A neighbour advertisement for `target`; of another kind of ICMPv6, a router's (134) say, if asked."""
    ours, theirs = (bytes.fromhex(m.replace(":", "")) for m in (mac, to_mac))
    body = struct.pack("!BBHI", kind, 0, 0, 0x60000000)
    body += socket.inet_pton(socket.AF_INET6, target) + b"\x02\x01" + ours
    ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, "ff02::1")
    whole = ends + struct.pack("!II", len(body), 58) + body
    total = sum(struct.unpack(f"!{len(whole) // 2}H", whole))
    total = (total >> 16) + (total & 0xFFFF)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    body = body[:2] + struct.pack("!H", checksum) + body[4:]
    return (
        theirs
        + ours
        + b"\x86\xdd"
        + struct.pack("!IHBB", 6 << 28, len(body), 58, 255)
        + ends
        + body
    )


def udp_frame(
    mac: str,
    to_mac: str,
    ip: str,
    to_ip: str,
    payload: bytes,
    ports: tuple[int, int] = (4000, 9),
) -> bytes:
    ether = bytes.fromhex((to_mac + mac).replace(":", "")) + b"\x08\x00"
    udp = struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
    head += socket.inet_aton(ip) + socket.inet_aton(to_ip)
    total = sum(struct.unpack("!10H", head))
    total = (total >> 16) + (total & 0xFFFF)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return ether + head[:10] + struct.pack("!H", checksum) + head[12:] + udp

"""The last step of `make up`: a first server on a private network, reached through its floating IP.

Everything goes through the public API, as a user would do it, and each thing is looked for by name before it is made:
a second run finds the server and prints the same lines. On the fake driver there are no packets, so the wait for ssh
is left out and said so.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pileus.cli.background import environment
from pileus.cli.client import ApiError, Client, Credentials, Unreachable
from pileus.host import socks
from pileus.kernel.faults import Unavailable
from pileus.kernel.world import Clock

NAME = "first"
CIDR = "192.168.77.0/24"
BOOT_PATIENCE_S = 180
GATEWAY_PATIENCE_S = 60
SSH_PATIENCE_S = 180
USER = "cirros"
RULES: tuple[dict[str, object], ...] = (
    {"protocol": "tcp", "port_range_min": 22, "port_range_max": 22},
    {"protocol": "icmp"},
)

Say = Callable[[str], None]
Record = Mapping[str, Any]


class Failed(click.ClickException):
    """What went wrong and what to do next."""


@dataclass(frozen=True)
class FirstServer:
    server: Record
    floating_ip: str
    key: Path


def private_key(path: Path) -> str:
    """The public half, as ssh spells it, of the ed25519 key in `path`, which is made (0600) if absent."""
    if path.exists():
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    else:
        key = Ed25519PrivateKey.generate()
        text = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(text)
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return public.decode()


class Tour:
    """The steps, each of which finds what it wants or makes it."""

    def __init__(self, client: Client, clock: Clock, say: Say) -> None:
        self._call = client.call
        self._clock = clock
        self._say = say

    def _network(self, plural: str, root: str, query: str, wanted: Record) -> Record:
        found = self._call("GET", "network", f"/v2.0/{plural}?{query}")[plural.replace("-", "_")]
        if found:
            return dict(found[0])
        self._say(f"{root.replace('_', ' ')} {wanted.get('name', '')}".rstrip())
        return dict(self._call("POST", "network", f"/v2.0/{plural}", {root: wanted})[root])

    def public_network(self) -> Record:
        found = self._call("GET", "network", "/v2.0/networks?router:external=True")["networks"]
        if not found:
            raise Failed(
                "there is no external network, so no floating IP can be had. A fresh state folder has one: "
                "run `make clean` and `make up`, or create one with "
                "`openstack network create --external public`."
            )
        return dict(found[0])

    def keypair(self, public_key: str) -> None:
        try:
            kept = self._call("GET", "compute", f"/os-keypairs/{NAME}")["keypair"]
        except ApiError as e:
            if e.status != 404:
                raise
            self._say(f"keypair {NAME}")
            body = {"keypair": {"name": NAME, "public_key": public_key}}
            self._call("POST", "compute", "/os-keypairs", body)
            return
        if kept["public_key"].split()[:2] != public_key.split()[:2]:
            raise Failed(
                f"keypair {NAME} in the cloud has another public key than the file in the state folder. "
                f"Delete both and start again: `openstack server delete {NAME}; "
                f"openstack keypair delete {NAME}; make up`."
            )

    def network(self, public: Record) -> Record:
        """The private network with its subnet, routed to the public one."""
        network = self._network("networks", "network", "name=private", {"name": "private"})
        subnet = self._network(
            "subnets",
            "subnet",
            f"name=private-subnet&network_id={network['id']}",
            {"name": "private-subnet", "network_id": network["id"], "ip_version": 4, "cidr": CIDR},
        )
        gateway = {"network_id": public["id"]}
        router = self._network(
            "routers",
            "router",
            "name=router",
            {"name": "router", "external_gateway_info": gateway},
        )
        ports = self._call("GET", "network", f"/v2.0/ports?device_id={router['id']}")["ports"]
        subnets = {ip["subnet_id"] for port in ports for ip in port["fixed_ips"]}
        if subnet["id"] not in subnets:
            path = f"/v2.0/routers/{router['id']}/add_router_interface"
            self._call("PUT", "network", path, {"subnet_id": subnet["id"]})
        return network

    async def way_out(self) -> None:
        """Waits until the router's gateway works, if it has one. Raises Failed, at once where its host has said twice what
        is amiss with the outer network.
        """
        router = self._call("GET", "network", "/v2.0/routers?name=router")["routers"][0]
        query = f"device_id={router['id']}&device_owner=network:router_gateway"
        deadline, said = self._clock.monotonic() + GATEWAY_PATIENCE_S, ""
        while True:
            gateways = self._call("GET", "network", f"/v2.0/ports?{query}")["ports"]
            if not gateways or gateways[0]["status"] == "ACTIVE":
                return
            gateway = gateways[0]
            address = gateway["fixed_ips"][0]["ip_address"]
            path = f"/v2.0/pileus/trace?port_id={gateway['id']}&ip_address={address}&protocol=icmp"
            before, said = said, self._call("GET", "network", path)["trace"]["stopped_by"]
            is_late = self._clock.monotonic() > deadline
            if is_late or (said == before and f": {gateway['network_id']}: " in said):
                raise Failed(f"the router's gateway {address} does not work: {said or 'no reason'}")
            await self._clock.sleep(0.5)

    def security_group(self) -> Record:
        """A group that lets ssh and ping in."""
        wanted = {"name": NAME, "description": "ssh and ping from anywhere"}
        group = self._network("security-groups", "security_group", f"name={NAME}", wanted)
        kept = {
            (rule["protocol"], rule["port_range_min"])
            for rule in group["security_group_rules"]
            if rule["direction"] == "ingress"
        }
        for rule in RULES:
            if (rule["protocol"], rule.get("port_range_min")) not in kept:
                body = {"security_group_id": group["id"], "direction": "ingress", **rule}
                path = "/v2.0/security-group-rules"
                self._call("POST", "network", path, {"security_group_rule": body})
        return group

    async def image(self) -> Record:
        """The smallest public image, once it is active: at a first start it is still arriving.

        One for containers where there is no other.
        """
        deadline = self._clock.monotonic() + BOOT_PATIENCE_S
        while self._clock.monotonic() < deadline:
            path = "/v2/images?status=active&visibility=public"
            images = self._call("GET", "image", path)["images"]
            if images:
                preferred: Record = min(images, key=_preferred)
                return preferred
            await self._clock.sleep(0.3)
        raise Failed(
            f"no public image became active in {BOOT_PATIENCE_S} s; `make setup` builds the test image, "
            "`openstack image list` shows what is there."
        )

    async def server(self, image: Record, network: Record, group: Record) -> Record:
        found = self._call("GET", "compute", f"/servers?name=^{NAME}$")["servers"]
        if not found:
            flavors = self._call("GET", "compute", "/flavors/detail")["flavors"]
            fits = [f for f in flavors if f["ram"] >= image.get("min_ram", 0) and f["disk"]]
            body = {
                "name": NAME,
                "imageRef": image["id"],
                "flavorRef": min(fits, key=lambda flavor: (flavor["ram"], flavor["disk"]))["id"],
                "networks": [{"uuid": network["id"]}],
                "key_name": NAME,
                "security_groups": [{"name": group["name"]}],
            }
            self._say(f"server {NAME} from image {image['name']}")
            found = [self._call("POST", "compute", "/servers", {"server": body})["server"]]
        return await self._active(found[0]["id"])

    async def _active(self, server_id: str) -> Record:
        deadline = self._clock.monotonic() + BOOT_PATIENCE_S
        status = ""
        while self._clock.monotonic() < deadline:
            server = dict(self._call("GET", "compute", f"/servers/{server_id}")["server"])
            status = server["status"]
            if status == "ACTIVE":
                return server
            if status == "ERROR":
                reason = server.get("fault", {}).get("message", "no reason given")
                raise Failed(
                    f"server {NAME} is in ERROR: {reason}\nAfter mending that, "
                    f"`openstack server delete {NAME}` and `make up` again."
                )
            if status == "SHUTOFF":
                self._call("POST", "compute", f"/servers/{server_id}/action", {"os-start": None})
            await self._clock.sleep(0.3)
        raise Failed(
            f"server {NAME} is still {status} after {BOOT_PATIENCE_S} s; "
            f"`openstack console log show {NAME}` and `pileus status` tell more."
        )

    def floating_ip(self, server: Record, public: Record) -> str:
        path = f"/v2.0/ports?device_id={server['id']}"
        port = self._call("GET", "network", path)["ports"][0]
        query = f"port_id={port['id']}"
        wanted = {"floating_network_id": public["id"], "port_id": port["id"]}
        made = self._network("floatingips", "floatingip", query, wanted)
        return str(made["floating_ip_address"])

    async def wait_for_ssh(self, address: str, state: Path) -> float:
        """Seconds until port 22 of `address` greeted, by the way that `pileus connect` goes."""
        begun = self._clock.monotonic()
        while self._clock.monotonic() < begun + SSH_PATIENCE_S:
            if (await asyncio.to_thread(_greeting, state, address)).startswith(b"SSH-"):
                return self._clock.monotonic() - begun
            await self._clock.sleep(0.5)
        raise Failed(
            f"{address}:22 does not greet after {SSH_PATIENCE_S} s although the server is ACTIVE. "
            f"`openstack console log show {NAME}` shows how far the guest came, `pileus status` what the host says."
        )


def _preferred(image: Record) -> tuple[bool, int]:
    return image["container_format"] == "docker", image["size"] or 0


def _greeting(state: Path, address: str) -> bytes:
    try:
        with socks.connected(state.absolute(), address, 22) as far:
            far.settimeout(3)
            return far.recv(255)
    except (OSError, Unavailable):
        return b""


async def boot(client: Client, clock: Clock, key: Path, say: Say) -> FirstServer:
    """Everything up to a server with a floating IP."""
    tour = Tour(client, clock, say)
    public = tour.public_network()
    tour.keypair(private_key(key))
    network = tour.network(public)
    await tour.way_out()
    group = tour.security_group()
    server = await tour.server(await tour.image(), network, group)
    return FirstServer(server, tour.floating_ip(server, public), key)


def summary(credentials: Credentials, state: Path, first: FirstServer) -> str:
    ssh = f"ssh -i {first.key} -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    if os.geteuid():  # his guests' network is not the machine's
        ssh += (
            f' -o ProxyCommand="{sys.executable} -m pileus.cli.main connect --state {state} %h %p"'
        )
    return f"""
  URL       {credentials.auth_url}
  user      {credentials.username}   project {credentials.project}   domain {credentials.user_domain}
  password  {credentials.password}
  all of it eval "$(.venv/bin/pileus env --state {state})"
  server    {first.server["name"]} ({first.server["id"]})
  log in    {ssh} {USER}@{first.floating_ip}
"""


async def run(credentials: Credentials, state: Path, driver: str) -> None:
    client, clock = Client(credentials), Clock()

    def say(step: str) -> None:
        click.echo(f"==> first server: {step}")

    client.login()
    first = await boot(client, clock, state / "first_server_key", say)
    if driver == "fake":
        say("ACTIVE; the fake driver has no packets, so ssh is not tried")
    else:
        took = await Tour(client, clock, say).wait_for_ssh(first.floating_ip, state)
        say(f"ssh answers on {first.floating_ip} after {took:.1f} s")
    click.echo(summary(credentials, state, first))


@click.command()
@click.option("--state", type=click.Path(path_type=Path), required=True)
@click.option("--driver", default="qemu", help="what the cloud was started with")
def main(state: Path, driver: str) -> None:
    """Boot a first server and show how to reach it."""
    try:
        asyncio.run(run(Credentials.of(environment(state)), state, driver))
    except (ApiError, Unreachable) as e:
        raise Failed(f"{e}\nThe log is {state / 'pileus.log'}; `pileus status` tells more.") from e


if __name__ == "__main__":
    main()

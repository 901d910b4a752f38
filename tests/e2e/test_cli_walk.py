"""The walk that every OpenStack tutorial takes, with the unmodified `openstack` client.

On QEMU the guest is logged in to through its floating IP; on the fake driver everything but the guest is the same.
"""

from __future__ import annotations

import asyncio
import shlex
from functools import partial
from pathlib import Path

from pileus.testing.places import Place
from pileus.testing.running import RunningCloud
from tests.e2e.shell import SSH_OPTIONS, Shell, until
from tests.e2e.sweep import Scope, sweep

SERVICES = {"identity", "image", "network", "compute", "placement"}


def test_the_walk_of_every_tutorial_works_with_the_standard_client(
    cloud: RunningCloud, outside: Place | None, tmp_path: Path
) -> None:
    shell = Shell(cloud, "cli_walk_qemu" if outside else "cli_walk_fake")
    look_around(shell)
    add_image(shell, tmp_path)
    lay_network(shell)
    address = boot(shell, tmp_path)
    if outside:
        log_in(shell, outside, tmp_path, address)
    stop_start_and_reboot(shell)
    if outside:
        log_in(shell, outside, tmp_path, address)
    clear_up(shell, address)
    if outside:
        assert sweep(Scope(cloud.state, outside.prefix, outside.name), cloud.environment()) == []


def look_around(shell: Shell) -> None:
    token = shell.openstack("token issue")
    assert token["id"] and token["project_id"] and token["user_id"]
    assert {row["Type"] for row in shell.openstack("catalog list")} >= SERVICES
    assert "m1.tiny" in shell.names("flavor")
    assert "public" in shell.names("network")


def add_image(shell: Shell, tmp_path: Path) -> None:
    """Save the image that the cloud came with and add it again under another name."""
    [first] = [row["Name"] for row in shell.openstack("image list --public")][:1]
    file = tmp_path / "image"
    shell.type(f"openstack image save --file {file} {first}")
    form = shell.openstack(f"image show {first}")["disk_format"]
    command = f"image create --disk-format {form} --container-format bare --file {file} walk"
    made = shell.openstack(command)
    shown = shell.openstack("image show walk")
    assert shown["status"] == "active"
    assert (made["id"], shown["size"]) == (shown["id"], file.stat().st_size)


def lay_network(shell: Shell) -> None:
    shell.openstack("network create walk")
    subnet = shell.openstack("subnet create --network walk --subnet-range 10.50.0.0/24 walk")
    assert subnet["gateway_ip"] == "10.50.0.1"
    shell.openstack("router create --external-gateway public walk")
    shell.type("openstack router add subnet walk walk")
    shell.openstack("security group create walk")
    ssh = shell.openstack("security group rule create --proto tcp --dst-port 22 walk")
    assert (ssh["port_range_min"], ssh["direction"]) == (22, "ingress")
    shell.openstack("security group rule create --proto icmp walk")


def boot(shell: Shell, tmp_path: Path) -> str:
    """The floating IP of an ACTIVE server."""
    key = tmp_path / "key"
    shell.type(f"openstack keypair create --private-key {key} walk")
    key.chmod(0o600)  # the client leaves that to its user
    wanted = "--image walk --flavor m1.tiny --network walk --key-name walk --security-group walk"
    server = shell.openstack(f"server create {wanted} --wait walk")
    assert server["status"] == "ACTIVE"
    address = str(shell.openstack("floating ip create public")["floating_ip_address"])
    shell.type(f"openstack server add floating ip walk {address}")
    shown = shell.openstack("server show walk")
    assert address in shown["addresses"]["walk"]
    assert any(ip.startswith("10.50.0.") for ip in shown["addresses"]["walk"])
    shell.type("openstack console log show walk")
    return address


def log_in(shell: Shell, outside: Place, tmp_path: Path, address: str) -> None:
    """The guest answers to its name with the key it was given, over its floating IP."""
    ssh = f"ssh -i {tmp_path / 'key'} {SSH_OPTIONS} cirros@{address} hostname"
    command = shlex.join(outside.inside(shlex.split(ssh)))

    def answers() -> bool:
        return shell.attempt(command).returncode == 0

    asyncio.run(until(f"ssh to {address}", answers, 180))
    assert shell.type(command).strip() == "walk"
    assert shell.type("openstack console log show walk").strip()


def stop_start_and_reboot(shell: Shell) -> None:
    for verb, status in (("stop", "SHUTOFF"), ("start", "ACTIVE")):
        shell.type(f"openstack server {verb} walk")
        asyncio.run(until(f"{verb}: {status}", partial(is_, shell, status), 120))
    shell.type("openstack server reboot --hard --wait walk")
    assert is_(shell, "ACTIVE")


def is_(shell: Shell, status: str) -> bool:
    return bool(shell.openstack("server show walk -c status")["status"] == status)


def clear_up(shell: Shell, address: str) -> None:
    shell.type("openstack server delete --wait walk")
    shell.type(f"openstack floating ip delete {address}")
    shell.type("openstack router remove subnet walk walk")
    for noun in ("router", "network", "security group", "keypair", "image"):
        shell.type(f"openstack {noun} delete walk")
    for noun in ("server", "router", "network", "subnet", "security group", "keypair", "image"):
        assert "walk" not in shell.names(noun), noun
    assert shell.openstack("port list --device-owner compute:nova") == []

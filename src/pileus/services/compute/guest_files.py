"""The files that a guest reads about itself: the EC2 tree and `openstack/latest`, pure functions of the record.

The metadata service answers with them, a config drive holds them.
https://docs.openstack.org/nova/latest/user/metadata.html
"""

from __future__ import annotations

import base64
import ipaddress
from typing import Any

import msgspec

from pileus.services.compute.server import Server
from pileus.services.network.contract import NicInfo

OPENSTACK_VERSIONS = (
    "2012-08-10",
    "2013-04-04",
    "2013-10-17",
    "2015-10-15",
    "2016-06-30",
    "2016-10-06",
    "2017-02-22",
    "2018-08-27",
    "2020-10-14",
    "latest",
)
EC2_VERSIONS = (
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
    "latest",
)
Tree = dict[str, Any]  # a name with a value, or with another tree


def user_data(server: Server) -> bytes:
    """As the guest gets it: decoded."""
    return base64.b64decode(server.user_data) if server.user_data else b""


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)


def meta_data(server: Server) -> dict[str, Any]:
    """`meta_data.json`"""
    found: dict[str, Any] = {
        "uuid": server.id,
        "availability_zone": server.zone or server.pinned_zone,
        "hostname": f"{server.hostname}.novalocal",
        "launch_index": server.launch_index,
        "name": server.name,
        "project_id": server.project_id,
        "dedicated_cpus": [],
        "devices": _devices(server),
    }
    if server.metadata:
        found["meta"] = server.metadata
    if server.public_key:
        found["public_keys"] = {server.key_name: server.public_key}
        found["keys"] = [
            {"name": server.key_name, "type": server.key_type, "data": server.public_key}
        ]
    return found


def _devices(server: Server) -> list[dict[str, Any]]:
    """Those with a tag, which a guest finds by what is unique about each; nobody knows where it puts them."""
    somewhere = {"bus": "none", "address": "none"}
    tags = {asked.port_id: asked.tag for asked in server.networks if asked.tag}
    cards = [
        {
            "type": "nic",
            "mac": nic.mac,
            **somewhere,
            "vf_trusted": nic.trusted,
            "tags": [tags[nic.port_id]],
        }
        for nic in server.nics
        if nic.port_id in tags
    ]
    disks = [
        {"type": "disk", "serial": d.volume_id, "path": d.device_name, **somewhere, "tags": [d.tag]}
        for d in server.volumes
        if d.tag
    ]
    return cards + disks


def network_data(server: Server) -> dict[str, Any]:
    """`network_data.json`: links, and networks whose addresses come by DHCP."""
    links, networks = [], []
    for n, nic in enumerate(server.nics):
        link = f"tap{nic.port_id[:11]}"
        links.append(
            {
                "id": link,
                "vif_id": nic.port_id,
                "type": "phy",
                "mtu": nic.mtu,
                "ethernet_mac_address": nic.mac,
            }
        )
        networks += _networks(nic, link, n)
    return {"links": links, "networks": networks, "services": []}


def _networks(nic: NicInfo, link: str, n: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"network{n}" if k == 0 else f"network{n}-{k}",
            "type": f"ipv{ip.version}_dhcp",
            "link": link,
            "network_id": nic.network_id,
        }
        for k, ip in enumerate(nic.fixed_ips)
    ]


def openstack_tree(server: Server) -> Tree:
    """What stands below `openstack/<version>/`."""
    found: Tree = {
        "meta_data.json": _json(meta_data(server)),
        "network_data.json": _json(network_data(server)),
        "vendor_data.json": b"{}",
        "vendor_data2.json": b'{"static": {}}',
        "password": server.password.encode(),
    }
    if server.user_data:
        found["user_data"] = user_data(server)
    return found


def ec2_tree(server: Server) -> Tree:
    """What stands below `<version>/`."""
    fixed, floating = _addresses(server)
    meta: Tree = {
        "ami-id": _ec2("ami", server.image.id if server.image else ""),
        "ami-launch-index": str(server.launch_index),
        "ami-manifest-path": "FIXME",
        "block-device-mapping": {"ami": "vda", "root": "/dev/vda"},
        "hostname": f"{server.hostname}.novalocal",
        "instance-action": "none",
        "instance-id": _ec2("i", server.id),
        "instance-type": server.flavor.name,
        "local-hostname": f"{server.hostname}.novalocal",
        "local-ipv4": fixed,
        "placement": {"availability-zone": server.zone or server.pinned_zone},
        "public-hostname": f"{server.hostname}.novalocal",
        "public-ipv4": floating,
        "reservation-id": server.reservation_id,
        "security-groups": "\n".join(
            dict.fromkeys(g for nic in server.nics for g in nic.security_groups)
        ),
    }
    if server.public_key:
        meta["public-keys"] = {"0": {"openssh-key": server.public_key}}
    found: Tree = {"meta-data": meta}
    if server.user_data:
        found["user-data"] = user_data(server)
    return found


def _addresses(server: Server) -> tuple[str, str]:
    """The first fixed IPv4 address and the first floating one."""
    fixed = floating = ""
    for nic in server.nics:
        for ip in nic.fixed_ips:
            if ipaddress.ip_address(ip.ip_address).version == 4:
                fixed = fixed or ip.ip_address
            floating = floating or nic.floating_ips.get(ip.ip_address, "")
    return fixed, floating


def _ec2(prefix: str, id: str) -> str:
    return f"{prefix}-{id[:8]}" if id else ""


def drive_files(server: Server) -> dict[str, str]:
    """Path on the config drive -> text."""
    files = {
        f"openstack/latest/{name}": content
        for name, content in openstack_tree(server).items()
        if name != "password"
    }
    ec2 = ec2_tree(server)
    files["ec2/latest/meta-data.json"] = _json(ec2["meta-data"])
    if "user-data" in ec2:
        files["ec2/latest/user-data"] = ec2["user-data"]
    return {path: content.decode() for path, content in files.items()}

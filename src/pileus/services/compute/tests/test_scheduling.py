"""Which host a server goes to: filters and weighers by themselves, then boots that need them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import msgspec
import pytest

from pileus.kernel.hosts import Host
from pileus.services.compute import scheduling
from pileus.services.compute.aggregates import Aggregate
from pileus.services.compute.driver import CONTAINER_TRAIT, Inventory
from pileus.services.compute.nodes import Node, Place
from pileus.services.compute.scheduling import Ask, Seat
from pileus.services.compute.server import FlavorCopy, ImageCopy, Server
from pileus.services.compute.server_groups import ServerGroup
from pileus.services.compute.servers.demands import demand_of
from pileus.services.compute.tests.scene import SERVERS, Scene, Stage
from pileus.services.placement.contract import Demand, Group

FLAVOR = FlavorCopy(id="1", name="small", vcpus=1, ram=128, disk=1)
IMAGE = ImageCopy(id="i", disk_format="raw", sha512="", size=1)
SERVER = Server(
    id="s", project_id="p", user_id="u", name="n", hostname="n", flavor=FLAVOR, image=IMAGE
)
HAS = Inventory(
    vcpus=8,
    ram_mib=1024,
    disk_gib=10,
    hypervisor_type="QEMU",
    hypervisor_version=7002000,
    cpu_arch="x86_64",
)


def place(name: str = "h", address: str = "", **metadata: str) -> Place:
    node = Node(id=name, host=name, service_id=name, number=1, inventory=HAS)
    aggregate = Aggregate(id="1", name="a", uuid="a", number=1, hosts=[name], metadata=metadata)
    zone = metadata.get("availability_zone", "nova")
    return Place(node, Host(id=name, contracts={}, address=address), zone, True, [aggregate])


def ask(hint: dict[str, Any] | None = None, **changes: Any) -> Ask:
    return Ask(msgspec.structs.replace(SERVER, **changes), **(hint or {}))


def flavored(**specs: str) -> Ask:
    said = {k.replace("__", ":"): v for k, v in specs.items()}
    return ask(flavor=msgspec.structs.replace(FLAVOR, extra_specs=said))


def imaged(**properties: str) -> Ask:
    return ask(image=msgspec.structs.replace(IMAGE, properties=properties))


def grouped(policy: str, **members: str) -> Ask:
    group = ServerGroup(
        id="g", project_id="p", user_id="u", name="g", policy=policy, members=members
    )
    return ask({"group": group})


FAST = "aggregate_instance_extra_specs__ssd"


@pytest.mark.parametrize(
    ("asked", "passes", "refused"),
    [
        (ask({"leaving": "gone"}), place(), place("gone")),
        (ask(requested_host="h"), place(), place("other")),
        (ask(pinned_zone="east"), place(availability_zone="east"), place()),
        (ask(), place(filter_tenant_id="x, p"), place(filter_tenant_id="x")),
        (ask(), place(filter_tenant_id="x", filter_tenant_id2="p"), place(filter_tenant_id="q")),
        (flavored(**{FAST: "true"}), place(ssd="true"), place()),
        (flavored(**{FAST: "<or> a <or> b"}), place(ssd="b"), place(ssd="c")),
        (flavored(**{FAST: ">= 3"}), place(ssd="4"), place(ssd="2")),
        (imaged(hw_architecture="amd64", img_hv_type="kvm"), place(), None),
        (imaged(hw_architecture="aarch64"), None, place()),
        (imaged(hypervisor_type="xen"), None, place()),
        (flavored(capabilities__hypervisor_type="s== QEMU"), place(), None),
        (flavored(capabilities__hypervisor_type="s== lxc"), None, place()),
        (grouped("affinity", x="h"), place(), place("other")),
        (grouped("anti-affinity", x="other", s="h"), place(), place("other")),
        (grouped("soft-anti-affinity", x="h"), place(), None),
        (ask({"apart": frozenset({"there"})}), place(), place("there")),
        (ask({"beside": frozenset({"h"})}), place(), place("other")),
        (ask({"near": ip_network("10.1.0.0/16")}), place(address="10.1.2.3"), place()),
        (ask({"wired": ["h"]}), place(), place("other")),
    ],
)
def test_a_filter_lets_pass_and_refuses(
    asked: Ask, passes: Place | None, refused: Place | None
) -> None:
    if passes is not None:
        assert scheduling.why_not(asked, passes) == ""
    if refused is not None:
        assert scheduling.why_not(asked, refused)


def test_a_host_that_does_not_serve_says_so() -> None:
    down = Place(place().node, None, "nova", False)
    assert scheduling.why_not(ask(), down) == "down"


def test_containers_go_where_they_run_and_virtual_machines_do_not_go_where_only_they_do() -> None:
    root = ask(image=msgspec.structs.replace(IMAGE, container_format="docker"))
    lxc = msgspec.structs.replace(HAS, hypervisor_type="LXC", traits=(CONTAINER_TRAIT,))
    both = msgspec.structs.replace(HAS, traits=(CONTAINER_TRAIT,))
    asked = scheduling.of_the_kind_its_image_is
    assert [asked(root, having(h)) for h in (HAS, lxc, both)] == ["it runs no containers", "", ""]
    assert [asked(ask(), having(h)) for h in (HAS, lxc, both)] == [
        "",
        "it runs containers only",
        "",
    ]
    named = imaged(hypervisor_type="lxc")
    assert [scheduling.made_for_its_image(named, having(h)) for h in (lxc, both)] == ["", ""]


def having(has: Inventory) -> Place:
    here = place()
    return replace(here, node=msgspec.structs.replace(here.node, inventory=has))


def ranked(asked: Ask, *, stack: bool = False, **rooms: float) -> list[str]:
    seats = [Seat(place(name), {"MEMORY_MB": part}) for name, part in rooms.items()]
    return [s.place.node.host for s in scheduling.ranked(asked, seats, stack=stack)]


def test_the_emptiest_host_is_best_or_where_stacked_the_fullest() -> None:
    assert ranked(ask(), a=0.5, b=0.9, c=0.1) == ["b", "a", "c"]
    assert ranked(ask(), stack=True, a=0.5, b=0.9, c=0.1) == ["c", "a", "b"]


def test_a_soft_policy_weighs_more_than_room() -> None:
    together, apart = grouped("soft-affinity", x="c"), grouped("soft-anti-affinity", x="b")
    assert ranked(together, a=0.5, b=0.9, c=0.1)[0] == "c"
    assert ranked(apart, a=0.5, b=0.9, c=0.1) == ["a", "c", "b"]


def test_a_demand_is_made_of_sizes_extra_specs_and_image_properties() -> None:
    specs = {
        "resources:VCPU": "0",
        "resources:CUSTOM_GOLD": "3",
        "trait:HW_CPU_X86_AVX": "required",
        "trait:CUSTOM_SLOW": "forbidden",
        "resources_gpu:VGPU": "1",
        "trait_gpu:CUSTOM_BIG": "required",
        "group_policy": "isolate",
        "hw:cpu_policy": "dedicated",
    }
    flavor = msgspec.structs.replace(FLAVOR, extra_specs=specs, swap=1500)
    image = msgspec.structs.replace(IMAGE, properties={"trait:CUSTOM_SAFE": "required"})
    assert demand_of(flavor, image) == Demand(
        resources={"MEMORY_MB": 128, "DISK_GB": 3, "CUSTOM_GOLD": 3},
        required=frozenset({"HW_CPU_X86_AVX", "CUSTOM_SAFE"}),
        forbidden=frozenset({"CUSTOM_SLOW"}),
        groups={
            "_gpu": Group(resources={"VGPU": 1}, required=frozenset({"CUSTOM_BIG"})),
        },
        isolated=True,
    )


# Boots

PLACEMENT = {"openstack_api_version": "placement 1.39"}


async def hinted(s: Scene, version: str = "2.71", **hints: Any) -> Any:
    """A server made with scheduler hints, as an administrator sees it once it has settled."""
    body = {"name": "w", "imageRef": s.image, "flavorRef": "42", "networks": [{"uuid": s.network}]}
    reply = await s.member.post(SERVERS, {"server": body, "os:scheduler_hints": hints})
    await s.cloud.settle()
    if reply.status != 202:
        return reply
    return await s.server(reply.json["server"]["id"], version, s.admin)


def host(shown: Any) -> Any:
    return shown["OS-EXT-SRV-ATTR:host"]


def test_hints_keep_a_server_with_others_or_apart(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        first = await hinted(s)
        for _ in range(3):
            assert host(await hinted(s, same_host=first["id"])) == host(first)
            assert host(await hinted(s, different_host=[first["id"]])) != host(first)
        both = await hinted(s, same_host=[first["id"]], different_host=first["id"])
        assert both["status"] == "ERROR"
        assert (await hinted(s, same_host="here")).status == 400
        assert (await hinted(s, build_near_host_ip="10.0.0.1", cidr="/99")).status == 400
        near = await hinted(s, build_near_host_ip="10.0.0.1")
        assert near["fault"]["message"].startswith("No valid host was found. 2 hosts: not in 10.0")

    stage.play(story)


def test_a_nested_provider_serves_a_group_of_a_flavor(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        name = sorted(s.agents())[1]
        url = "/placement/resource_providers"
        (root,) = (await s.admin.get(f"{url}?name={name}", **PLACEMENT)).json["resource_providers"]
        card = f"{name}-card-{s.member.project_id}"
        made = await s.admin.post(
            url, {"name": card, "parent_provider_uuid": root["uuid"]}, **PLACEMENT
        )
        child = made.json["uuid"]
        stock = {"inventories": {"VGPU": {"total": 1}}, "resource_provider_generation": 0}
        await s.admin.put(f"{url}/{child}/inventories", stock, **PLACEMENT)
        flavor = {"name": f"gpu-{s.member.project_id}", "ram": 64, "vcpus": 1, "disk": 1}
        reply = await s.admin.post("/compute/v2.1/flavors", {"flavor": flavor})
        id = reply.json["flavor"]["id"]
        specs = {"extra_specs": {"resources1:VGPU": "1"}}
        await s.admin.post(f"/compute/v2.1/flavors/{id}/os-extra_specs", specs)
        server = await s.boot(flavorRef=id)
        shown = await s.server(server, client=s.admin)
        assert (shown["status"], host(shown)) == ("ACTIVE", name)
        assert (await s.held(server))[child]["resources"] == {"VGPU": 1}
        refused = await s.server(await s.boot(flavorRef=id), client=s.admin)
        hosts = refused["fault"]["message"]
        assert "1 host: too little VGPU" in hosts and "1 host: it has no VGPU" in hosts
        for gone in (server, refused["id"]):
            await s.delete(gone)
        assert (await s.admin.delete(f"{url}/{child}", **PLACEMENT)).status == 204

    stage.play(story)


def test_a_host_kept_for_a_project_takes_no_other(stage: Stage) -> None:
    async def story(s: Scene) -> None:
        kept = sorted(s.agents())[0]
        body = {"name": f"kept-{s.member.project_id}"}
        url = "/compute/v2.1/os-aggregates"
        id = (await s.admin.post(url, {"aggregate": body})).json["aggregate"]["id"]
        one = f"{url}/{id}/action"
        try:
            await s.admin.post(one, {"add_host": {"host": kept}})
            await s.admin.post(one, {"set_metadata": {"metadata": {"filter_tenant_id": "x"}}})
            assert kept not in {host(await hinted(s)) for _ in range(4)}
            mine = {"filter_tenant_id": s.member.project_id}
            await s.admin.post(one, {"set_metadata": {"metadata": mine}})
            assert kept in {host(await hinted(s)) for _ in range(6)}
        finally:
            await s.admin.post(one, {"remove_host": {"host": kept}})
            await s.admin.delete(f"{url}/{id}")

    stage.play(story)

"""What a provider.yaml says of a host: read back from placement, and by a server that needs it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from pileus.kernel.faults import Invalid
from pileus.services.compute.provider_file import Besides, besides
from pileus.services.compute.settings import Settings
from pileus.services.compute.tests.scene import SERVERS, make_image
from pileus.services.placement.contract import Inventory
from pileus.testing.cloud import Cloud, cloud

GPU = """
meta: {schema_version: '1.0'}
providers:
- identification: {name: fake-2}
  inventories: {additional: [{CUSTOM_GPU: {total: 2, max_unit: 1}}]}
  traits: {additional: [CUSTOM_QUIET]}
"""


def written(folder: Path, text: str) -> str:
    path = folder / "provider.yaml"
    path.write_text(text)
    return str(path)


def test_a_host_is_told_what_is_said_of_it_and_of_every_host(tmp_path: Path) -> None:
    path = written(tmp_path, GPU)
    gpu = {"CUSTOM_GPU": Inventory(total=2, max_unit=1)}
    assert besides(path, "fake-2") == Besides(gpu, frozenset({"CUSTOM_QUIET"}))
    assert besides(path, "fake-1") == besides("", "fake-1") == Besides()
    every = written(tmp_path, GPU.replace("name: fake-2", "uuid: $COMPUTE_NODE"))
    assert besides(every, "fake-1").amounts == gpu


@pytest.mark.parametrize(
    ("was", "instead", "why"),
    [
        ("CUSTOM_GPU", "VCPU", "says VCPU, which compute itself says"),
        ("CUSTOM_QUIET", "COMPUTE_NODE", "says COMPUTE_NODE, which compute itself says"),
        ("total: 2, ", "", "missing required field `total`"),
        ("max_unit", "most", "unknown field `most`"),
        ("{name: fake-2}", "[", "not a provider.yaml that can be read"),
        ("max_unit: 1}}", "max_unit: 1}}, {CUSTOM_GPU: {total: 1}}", "names a resource class"),
    ],
)
def test_a_file_that_is_wrong_is_refused_by_what_is_wrong_in_it(
    was: str, instead: str, why: str, tmp_path: Path
) -> None:
    with pytest.raises(Invalid, match=why):
        besides(written(tmp_path, GPU.replace(was, instead)), "fake-2")
    with pytest.raises(Invalid, match="No such file"):
        besides(str(tmp_path / "nowhere.yaml"), "fake-2")


async def _flavored(c: Cloud) -> str:
    """The id of a flavor whose servers take one of the class."""
    body = {"flavor": {"name": "gpu", "vcpus": 1, "ram": 64, "disk": 0}}
    made = await c.admin.post("/compute/v2.1/flavors", body)
    id = str(made.json["flavor"]["id"])
    specs = {"resources:CUSTOM_GPU": "1", "trait:CUSTOM_QUIET": "required"}
    url = f"/compute/v2.1/flavors/{id}/os-extra_specs"
    assert (await c.admin.post(url, {"extra_specs": specs})).status == 200
    return id


def test_servers_take_what_the_file_says_until_there_is_no_more(tmp_path: Path) -> None:
    async def story() -> None:
        settings = {"compute": Settings(provider_yaml=written(tmp_path, GPU))}
        async with cloud(settings=settings) as c:
            server = {
                "name": "g",
                "flavorRef": await _flavored(c),
                "imageRef": await make_image(c.admin),
                "networks": "none",
            }
            found = []
            for _ in range(3):
                made = await c.admin.post(
                    SERVERS, {"server": server}, openstack_api_version="compute 2.37"
                )
                await c.settle()
                shown = await c.admin.get(f"{SERVERS}/{made.json['server']['id']}")
                found.append(shown.json["server"])
        assert [s["status"] for s in found] == ["ACTIVE", "ACTIVE", "ERROR"]
        assert [s["OS-EXT-SRV-ATTR:host"] for s in found[:2]] == ["fake-2"] * 2

    asyncio.run(story())

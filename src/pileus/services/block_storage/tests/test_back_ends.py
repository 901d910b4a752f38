"""Which back end a host has: what it is told, else what it had."""

from __future__ import annotations

from pathlib import Path

import pytest

from pileus.host.rbd import Place, RbdImage
from pileus.kernel.agents import Agents
from pileus.kernel.bus import MemoryBus
from pileus.kernel.faults import Invalid
from pileus.kernel.hosts import HostRuntime
from pileus.kernel.world import World
from pileus.services.block_storage.agent import Home, VolumeAgent
from pileus.services.block_storage.attachment import connection_info
from pileus.services.block_storage.driver import Export, Limits
from pileus.services.block_storage.drivers.fake import FakeVolumeDriver
from pileus.services.block_storage.drivers.rbd import RbdVolumeDriver
from pileus.services.block_storage.settings import Settings


def homes_of(state: Path, back_ends: str) -> list[Home]:
    world = World()
    told = {"block-storage": Settings(back_ends=back_ends)} if back_ends else {}
    agents = Agents(MemoryBus(world))
    host = HostRuntime(world, agents, "here", state, "fake", "http://127.0.0.1", settings=told)
    return VolumeAgent(host).homes


def test_a_host_that_is_told_nothing_goes_on_with_the_back_ends_it_had(tmp_path: Path) -> None:
    assert [home.pool for home in homes_of(tmp_path, "")] == ["fake"]
    for told in ("rbd:fast:id=cinder:conf=/etc/ceph/other.conf, slow=file:/srv/slow", ""):
        ceph, slow = homes_of(tmp_path, told)
        assert isinstance(ceph.driver, RbdVolumeDriver)
        conf = "/etc/ceph/other.conf"
        assert ceph.driver.place == Place(pool="fast", user="cinder", conf=conf, namespace="here")
        assert (ceph.pool, ceph.name, slow.pool, slow.name) == ("fast", "", "slow", "slow")
        assert isinstance(slow.driver, FakeVolumeDriver) and slow.driver.folder == Path("/srv/slow")
    assert [home.pool for home in homes_of(tmp_path, "file")] == ["fake"]
    assert [home.pool for home in homes_of(tmp_path, "")] == ["fake"]


@pytest.mark.parametrize(
    "told",
    ["ceph", "rbd", "rbd:", "rbd:fast:name=x", "rbd:fast:id=", "a=rbd:x,b=rbd:x", "a=file,a=rbd:x"],
)
def test_back_ends_without_a_place_of_their_own_are_refused(told: str, tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"rbd:POOL|two back ends"):
        homes_of(tmp_path, told)
    with pytest.raises(Invalid, match="begin with a slash"):
        homes_of(tmp_path, "file:here")
    assert [home.pool for home in homes_of(tmp_path, "")] == ["fake"]


def test_the_key_of_a_pool_is_told_to_hosts_and_never_by_the_api() -> None:
    image = RbdImage(
        pool="fast",
        namespace="here",
        image="volume-1",
        monitors=("[::1]:3300", "192.0.2.1:6789"),
        user="cinder",
        key="AQC",
    )
    export = Export(attachment_id="a", host="here", rbd=image, size=1)
    info = connection_info("v", export, False)
    assert (info["driver_volume_type"], info["name"]) == ("rbd", "fast/here/volume-1")
    assert (info["hosts"], info["ports"]) == (["[::1]", "192.0.2.1"], ["3300", "6789"])
    assert "AQC" not in repr(info)


def test_limits_are_those_of_a_throttle_group() -> None:
    limits = Limits(total_iops_sec=5, write_bytes_sec=7).throttle
    assert {name: value for name, value in limits.items() if value} == {
        "iops-total": 5,
        "bps-write": 7,
    }
    assert len(limits) == 6

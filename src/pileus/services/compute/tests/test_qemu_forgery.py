"""Guests that forge the heads of their disks, on real QEMUs: no file of the host is ever read for them."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
from pathlib import Path

import msgspec

from pileus.host.process import run
from pileus.services.compute.drivers.qemu import QemuComputeDriver
from pileus.services.compute.tests import test_qemu_driver as real
from pileus.testing.drivers.compute import Bench, eventually, has_login_prompt
from pileus.testing.drivers.moves import TwoHosts, sent, two_hosts

pytestmark = real.pytestmark
images, netns, store = real.images, real.netns, real.store
volumes, bench = real.volumes, real.bench

SECRET = b"canary of the host " * 4096
MIB = 1 << 20


async def _forged(folder: Path) -> bytes:
    """A disk that names a file of the host as what stands behind it; anybody may read that file."""
    secret, path = folder / "secret", folder / "forged"
    secret.write_bytes(SECRET)
    words = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(secret)]
    await run([*words, str(path), str(MIB)])
    believed = await run(["qemu-img", "info", "-f", "qcow2", str(path)])
    assert str(secret).encode() in believed, "it works where it may"
    return path.read_bytes()


async def _root(path: Path) -> bytes:
    """The first MiB of a root disk, as what it stands on has it."""
    out = path.with_name("out")
    words = ["dd", "-f", "qcow2", "-O", "raw", "bs=1M", "count=1", f"if={path.name}", f"of={out}"]
    await run(["qemu-img", *words], cwd=path.parent)
    found = out.read_bytes()
    out.unlink()
    return found


async def _opened(driver: object, guest_id: str) -> str:
    """What its QEMU has open, file by file."""
    assert isinstance(driver, QemuComputeDriver)
    emulator = driver._residents[guest_id].emulator
    assert emulator is not None
    return str(await emulator.execute("query-named-block-nodes", flat=True))


async def _are_as_written(folder: Path, forged: bytes, *, swap: bool) -> None:
    raw = ["ephemeral.raw", "swap.raw"] if swap else ["ephemeral.raw"]
    heads = [(folder / name).open("rb").read(len(forged)) for name in raw]
    assert [*heads, (await _root(folder / "disk.qcow2"))[: len(forged)]] == [forged] * (
        1 + len(raw)
    )


def test_ossa_2014_009_2016_001_2016_007_and_2026_002_a_guest_that_forges_its_disks_gets_no_file_of_the_host(
    bench: Bench, tmp_path: Path
) -> None:
    async def story() -> None:
        forged = await _forged(tmp_path)
        letter = base64.b64encode(gzip.compress(forged)).decode()
        async with two_hosts(bench) as hosts:
            spec = bench.spec(ephemeral_gib=1, swap_mib=16)
            here, there = (tmp_path / n / "guests" / spec.id for n in ("state", "other"))
            await hosts.here.spawn(spec)
            await has_login_prompt(bench, hosts.here, spec.id)
            written = "".join(
                f"sudo dd if=/tmp/f of=/dev/{disk} conv=fsync; " for disk in ("vdb", "vdc", "vda")
            )
            await real.on_console(
                hosts.here,
                spec.id,
                "sudo swapoff -a; sudo umount /dev/vdb",
                f"echo {letter} | base64 -d | gunzip > /tmp/f",
                f"{written} echo WRIT''TEN",
            )
            await _says(bench, hosts, spec.id, "WRITTEN")
            assert "secret" not in await _opened(hosts.here, spec.id)

            name = bench.world.new_id()
            await hosts.here.snapshot(spec.id, name)
            copy = await _root(here / f"snapshot-{name}.qcow2")
            assert copy[: len(forged)] == forged and SECRET[:512] not in copy

            await sent(hosts, spec)
            await hosts.there.arrive(spec.id, True)
            await hosts.here.destroy(spec.id)
            hosts.here, hosts.there = hosts.there, hosts.here
            assert "secret" not in await _opened(hosts.here, spec.id)

            await hosts.here.rescue(spec.id, bench.image)
            await has_login_prompt(bench, hosts.here, spec.id)
            ask = f"for d in vdb vdc vdd; do sudo head -c {len(forged)} /dev/$d | md5sum; done"
            await real.on_console(hosts.here, spec.id, ask)
            await _says(bench, hosts, spec.id, hashlib.md5(forged).hexdigest(), times=3)
            assert "secret" not in await _opened(hosts.here, spec.id)
            await hosts.here.unrescue(spec.id, False)
            await _are_as_written(there, forged, swap=True)

            larger = msgspec.structs.replace(spec, root_gib=2)
            await hosts.here.resize(larger, 0, False)
            await hosts.here.confirm_resize(spec.id)
            await _are_as_written(there, forged, swap=False)
            await hosts.there.receive(larger, await hosts.here.lend(spec.id))
            await _are_as_written(here, forged, swap=False)

    asyncio.run(story())


async def _says(bench: Bench, hosts: TwoHosts, guest_id: str, what: str, times: int = 1) -> None:
    async def said() -> bool:
        return (await hosts.here.console_log(guest_id, None)).count(what) >= times

    await eventually(said, f"{what} on the console", within_s=real.BOOT_S, world=bench.world)

"""What every compute driver must do, asked of each alike: the fake is honest because it passes too.

A test module makes a `Bench` for its driver and runs each function of `SUITE` with it. Nothing here
knows which driver it talks to but by the few figures of the bench.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec
import pytest

from pileus.host.images import inspect_bytes
from pileus.kernel.faults import Conflict, Invalid, NotFound
from pileus.kernel.world import World
from pileus.services.compute.driver import (
    PAUSED,
    RUNNING,
    SHUTDOWN,
    SUSPENDED,
    ComputeDriver,
    Guest,
    GuestSpec,
    ImageSource,
    Nic,
)
from pileus.services.compute.plugged_volume import Plugged, PluggedVolume

_IDS = ("0badf003-0000-4000-8000-000000000000", "0badf004-0000-4000-8000-000000000000")
NOWHERE = tuple(PluggedVolume(volume_id=id, name="v", size=1 << 30, path="/v") for id in _IDS)


@dataclass
class Bench:
    """A way to make the driver over one state, again and again, and the images it may use."""

    make: Callable[[], ComputeDriver]
    image: ImageSource
    lying_image: ImageSource  # says raw and is a qcow2 with a backing file
    power_off_inside: Callable[[ComputeDriver, str], Awaitable[None]]
    nics: tuple[Nic, Nic] = (  # their taps exist where the driver has such things
        Nic(port_id="0badf001-0000", network_id="net", mac="fa:16:3e:00:00:01"),
        Nic(port_id="0badf002-0000", network_id="net", mac="fa:16:3e:00:00:02", mtu=1400),
    )
    volumes: Plugged = NOWHERE  # two of 1 GiB, served where the driver has such things
    takes: str = "http://127.0.0.1/takes"  # a URL that takes bytes
    sent: list[bytes] = field(default_factory=list)  # and what it took
    ram_mib: int = 128
    boot_s: float = 1.0  # how long a boot may take until its console asks for a login
    lacks: frozenset[str] = frozenset()  # verbs that such guests have no use for
    world: World = field(default_factory=World)
    make_other: Callable[[], ComputeDriver] | None = None  # another host's, to move guests to

    def spec(self, **changes: object) -> GuestSpec:
        plain = GuestSpec(
            id=self.world.new_id(),
            name="first, with a comma",
            project_id=self.world.new_hex(),
            vcpus=1,
            ram_mib=self.ram_mib,
            root_gib=1,
            image=self.image,
        )
        return msgspec.structs.replace(plain, **changes)


async def eventually(
    asks: Callable[[], Awaitable[bool]], what: str, *, within_s: float, world: World
) -> None:
    """Wait until `asks` is true; fail the test with `what` when it does not come in time."""
    end = world.clock.monotonic() + within_s
    while not await asks():
        if world.clock.monotonic() > end:
            pytest.fail(f"{what} did not come true within {within_s} s")
        await world.clock.sleep(0.02)


async def state_of(driver: ComputeDriver, guest_id: str) -> int | None:
    found = {guest.id: guest.power_state for guest in await driver.guests()}
    return found.get(guest_id)


async def spawn_runs_the_guest_and_a_second_spawn_finds_it(bench: Bench) -> None:
    driver = bench.make()
    await driver.start_up()
    spec = bench.spec()
    first = await driver.spawn(spec)
    assert first == await driver.spawn(spec)
    assert first.power_state == RUNNING
    assert (first.id, first.name) == (spec.id, spec.name)
    assert [guest.id for guest in await driver.guests()] == [spec.id]
    await driver.destroy(spec.id)
    await driver.close()


async def spawn_twice_at_once_makes_one_guest(bench: Bench) -> None:
    driver = bench.make()
    await driver.start_up()
    spec = bench.spec()
    one, two = await asyncio.gather(driver.spawn(spec), driver.spawn(spec))
    assert one == two
    await driver.destroy(spec.id)
    await driver.close()


async def spawn_of_an_image_that_lies_about_its_format_is_refused_and_leaves_nothing(
    bench: Bench,
) -> None:
    driver = bench.make()
    await driver.start_up()
    spec = bench.spec(image=bench.lying_image)
    with pytest.raises(Invalid, match="qcow2"):
        await driver.spawn(spec)
    await driver.destroy(spec.id)
    assert await driver.guests() == []
    await driver.close()


async def spawn_without_vcpus_is_refused(bench: Bench) -> None:
    driver = bench.make()
    await driver.start_up()
    with pytest.raises(Invalid, match="vCPUs"):
        await driver.spawn(bench.spec(vcpus=0))
    assert await driver.guests() == []
    await driver.close()


async def destroy_is_the_end_of_it_and_needs_no_guest(bench: Bench) -> None:
    driver = bench.make()
    await driver.start_up()
    spec = bench.spec()
    await driver.destroy(spec.id)
    await driver.spawn(spec)
    await driver.destroy(spec.id)
    await driver.destroy(spec.id)
    assert await driver.guests() == []
    with pytest.raises(NotFound, match=spec.id):
        await driver.console_log(spec.id, None)
    await driver.close()


async def verbs_of_an_unknown_guest_answer_not_found(bench: Bench) -> None:
    driver = bench.make()
    await driver.start_up()
    stranger = bench.world.new_id()
    verbs: list[Callable[[], Awaitable[Guest]]] = [
        lambda: driver.start(stranger),
        lambda: driver.stop(stranger, 0),
        lambda: driver.reboot(stranger, True),
        lambda: driver.pause(stranger),
        lambda: driver.unpause(stranger),
        lambda: driver.suspend(stranger),
        lambda: driver.resume(stranger),
    ]
    for verb in verbs:
        with pytest.raises(NotFound, match=stranger):
            await verb()
    await driver.close()


async def stop_and_start_may_be_repeated(bench: Bench) -> None:
    driver = bench.make()
    await driver.start_up()
    spec = bench.spec()
    await driver.spawn(spec)
    for _ in range(2):
        assert (await driver.stop(spec.id, 0)).power_state == SHUTDOWN
        assert await state_of(driver, spec.id) == SHUTDOWN
    for _ in range(2):
        assert (await driver.start(spec.id)).power_state == RUNNING
    assert await state_of(driver, spec.id) == RUNNING
    await driver.destroy(spec.id)
    await driver.close()


async def pause_holds_the_guest_until_unpause(bench: Bench) -> None:
    driver = bench.make()
    await driver.start_up()
    spec = bench.spec()
    await driver.spawn(spec)
    for _ in range(2):
        assert (await driver.pause(spec.id)).power_state == PAUSED
    assert await state_of(driver, spec.id) == PAUSED
    for _ in range(2):
        assert (await driver.unpause(spec.id)).power_state == RUNNING
    await driver.destroy(spec.id)
    await driver.close()


async def boots_shown(driver: ComputeDriver, guest_id: str) -> int:
    return (await driver.console_log(guest_id, None)).count("Linux version")


async def a_verb_that_means_nothing_to_such_guests_is_refused_and_disturbs_none(
    bench: Bench,
) -> None:
    driver = bench.make()
    await driver.start_up()
    spec = bench.spec()
    await driver.spawn(spec)
    verbs: dict[str, Callable[[str], Awaitable[object]]] = {
        "suspend": driver.suspend,
        "inject_nmi": driver.inject_nmi,
        "console": lambda guest_id: driver.console(guest_id, "serial"),
        "plug_volume": lambda guest_id: driver.plug_volume(guest_id, bench.volumes[0]),
    }
    assert bench.lacks <= verbs.keys()
    for verb in sorted(bench.lacks):
        with pytest.raises(Conflict, match=spec.id):
            await verbs[verb](spec.id)
    assert await state_of(driver, spec.id) == RUNNING
    assert (await driver.resume(spec.id)).power_state == RUNNING
    await driver.destroy(spec.id)
    await driver.close()


async def a_suspended_guest_outlives_the_driver_and_goes_on_where_it_was(bench: Bench) -> None:
    if "suspend" in bench.lacks:
        return
    driver = bench.make()
    await driver.start_up()
    first, second = bench.nics
    spec = bench.spec(nics=(first,))
    await driver.spawn(spec)
    await has_login_prompt(bench, driver, spec.id)
    await driver.plug(spec.id, second)
    boots = await boots_shown(driver, spec.id)
    for _ in range(2):
        assert (await driver.suspend(spec.id)).power_state == SUSPENDED
    with pytest.raises(Conflict, match="suspended"):
        await driver.unplug(spec.id, first.port_id)
    await driver.close()
    again = bench.make()
    await again.start_up()
    assert await state_of(again, spec.id) == SUSPENDED
    for _ in range(2):
        assert (await again.resume(spec.id)).power_state == RUNNING
    assert await boots_shown(again, spec.id) == boots, "it did not boot anew"
    assert len((await again.diagnostics(spec.id)).cpus) == 1
    assert (await again.unplug(spec.id, first.port_id)).ports == (second.port_id,)
    await again.destroy(spec.id)
    await again.close()


async def a_hard_reboot_of_a_suspended_guest_forgets_its_memory(bench: Bench) -> None:
    if "suspend" in bench.lacks:
        return
    driver = bench.make()
    await driver.start_up()
    spec = bench.spec()
    await driver.spawn(spec)
    await driver.suspend(spec.id)
    assert (await driver.reboot(spec.id, True)).power_state == RUNNING
    assert (await driver.stop(spec.id, 0)).power_state == SHUTDOWN
    assert (await driver.suspend(spec.id)).power_state == SHUTDOWN
    await driver.destroy(spec.id)
    await driver.close()


async def a_running_guest_has_numbers_and_one_that_is_off_none(bench: Bench) -> None:
    driver = bench.make()
    await driver.start_up()
    spec = bench.spec(nics=bench.nics[:1], vcpus=2)
    await driver.spawn(spec)
    found = await driver.diagnostics(spec.id)
    assert [cpu.id for cpu in found.cpus] == [0, 1]
    assert [nic.mac for nic in found.nics] == [bench.nics[0].mac]
    assert len(found.disks) == 1 and found.ram_used_mib <= spec.ram_mib
    if "inject_nmi" not in bench.lacks:
        await driver.inject_nmi(spec.id)
    await driver.stop(spec.id, 0)
    verbs: list[Callable[[], Awaitable[object]]] = [
        lambda: driver.diagnostics(spec.id),
        lambda: driver.inject_nmi(spec.id),
        lambda: driver.set_password(spec.id, "root", "secret"),
    ]
    for verb in verbs:
        with pytest.raises(Conflict, match="does not run"):
            await verb()
    await driver.destroy(spec.id)
    await driver.close()


async def a_rebuilt_guest_starts_anew_and_a_bad_image_costs_it_nothing(bench: Bench) -> None:
    driver = bench.make()
    await driver.start_up()
    spec = bench.spec(nics=bench.nics[:1])
    await driver.spawn(spec)
    with pytest.raises(Invalid, match="qcow2"):
        await driver.rebuild(msgspec.structs.replace(spec, image=bench.lying_image), True)
    assert await state_of(driver, spec.id) == RUNNING
    for run, state in ((True, RUNNING), (False, SHUTDOWN)):
        for _ in range(2):
            again = await driver.rebuild(msgspec.structs.replace(spec, name="renamed"), run)
            assert (again.power_state, again.name) == (state, "renamed")
            assert again.ports == (bench.nics[0].port_id,)
    assert (await driver.start(spec.id)).power_state == RUNNING
    await driver.destroy(spec.id)
    await driver.close()


async def a_rescued_guest_stays_so_over_a_restart_until_it_is_unrescued(bench: Bench) -> None:
    driver = bench.make()
    await driver.start_up()
    spec = bench.spec()
    await driver.spawn(spec)
    for _ in range(2):
        assert (await driver.rescue(spec.id, bench.image)).power_state == RUNNING
    disks = len((await driver.diagnostics(spec.id)).disks)
    await driver.close()
    again = bench.make()
    await again.start_up()
    for _ in range(2):
        assert (await again.unrescue(spec.id, True)).power_state == RUNNING
    assert len((await again.diagnostics(spec.id)).disks) == disks - 1
    assert (await again.unrescue(spec.id, False)).power_state == SHUTDOWN
    await again.destroy(spec.id)
    await again.close()


async def a_resized_guest_can_go_back_until_it_is_confirmed(bench: Bench) -> None:
    driver = bench.make()
    await driver.start_up()
    spec = bench.spec()
    larger = msgspec.structs.replace(spec, vcpus=2, ram_mib=bench.ram_mib + 32, root_gib=2)
    await driver.spawn(spec)
    with pytest.raises(Conflict, match="resize disk down"):
        await driver.resize(msgspec.structs.replace(larger, root_gib=0), 0, True)
    assert await state_of(driver, spec.id) == RUNNING
    elsewhere = msgspec.structs.replace(bench.image, url="http://nowhere.test/")
    for spec_now in (larger, msgspec.structs.replace(larger, image=elsewhere)):
        seen = await driver.resize(spec_now, 0, True)
        assert (seen.power_state, seen.vcpus, seen.disk_gib) == (RUNNING, 2, 2)
    await driver.close()
    again = bench.make()
    await again.start_up()
    for _ in range(2):
        seen = await again.revert_resize(spec.id, False)
        assert (seen.power_state, seen.vcpus, seen.disk_gib) == (SHUTDOWN, 1, 1)
    await again.resize(larger, 0, False)
    for _ in range(2):
        await again.confirm_resize(spec.id)
    seen = await again.revert_resize(spec.id, True)
    assert (seen.power_state, seen.vcpus) == (RUNNING, 2), "nothing to go back to is left"
    await again.destroy(spec.id)
    await again.close()


async def a_rescue_or_resize_that_was_given_up_is_taken_back(bench: Bench) -> None:
    driver = bench.make()
    await driver.start_up()
    spec = bench.spec()
    larger = msgspec.structs.replace(spec, vcpus=2, root_gib=2)
    await driver.spawn(spec)
    changes: list[Callable[[], Awaitable[Guest]]] = [
        lambda: driver.rescue(spec.id, bench.image),
        lambda: driver.resize(larger, 0, True),
    ]
    for change in changes:
        assert await driver.changed() == []
        await change()
        assert await driver.changed() == [spec.id]
        for _ in range(2):
            seen = await driver.restore(spec.id)
            assert (seen.power_state, seen.vcpus) == (RUNNING, 1)
    assert await driver.changed() == []
    await driver.destroy(spec.id)
    await driver.close()


async def a_snapshot_is_taken_once_sent_and_dropped(bench: Bench) -> None:
    driver = bench.make()
    await driver.start_up()
    spec = bench.spec()
    await driver.spawn(spec)
    name = bench.world.new_id()
    kind = await driver.snapshot(spec.id, name)
    assert await state_of(driver, spec.id) == RUNNING
    await driver.stop(spec.id, 0)
    assert await driver.snapshot(spec.id, name) == kind
    rests = bench.world.new_id()
    assert await driver.snapshot(spec.id, rests) == kind
    for each in (name, rests):
        before = len(bench.sent)
        await driver.send_snapshot(spec.id, each, bench.takes)
        assert len(bench.sent) == before + 1
        facts = inspect_bytes(bench.sent[-1], len(bench.sent[-1]))
        assert (facts.format, facts.unsafe) == (kind, None)
        for _ in range(2):
            await driver.drop_snapshot(spec.id, each)
    with pytest.raises(NotFound, match=name):
        await driver.send_snapshot(spec.id, name, bench.takes)
    await driver.destroy(spec.id)
    await driver.drop_snapshot(spec.id, name)
    await driver.close()


async def a_hard_reboot_starts_a_stopped_guest(bench: Bench) -> None:
    driver = bench.make()
    await driver.start_up()
    spec = bench.spec()
    await driver.spawn(spec)
    await driver.stop(spec.id, 0)
    assert (await driver.reboot(spec.id, True)).power_state == RUNNING
    await driver.destroy(spec.id)
    await driver.close()


async def guests_outlive_the_driver_and_are_found_again(bench: Bench) -> None:
    driver = bench.make()
    await driver.start_up()
    runs, rests = bench.spec(), bench.spec()
    await driver.spawn(runs)
    await driver.spawn(rests)
    await driver.stop(rests.id, 0)
    before = await driver.guests()
    await driver.close()
    again = bench.make()
    await again.start_up()
    assert await again.guests() == before
    assert await again.spawn(runs) == next(guest for guest in before if guest.id == runs.id)
    for spec in (runs, rests):
        await again.destroy(spec.id)
    await again.close()


async def nics_come_and_go_and_stay_over_a_restart(bench: Bench) -> None:
    driver = bench.make()
    await driver.start_up()
    first, second = bench.nics
    spec = bench.spec(nics=(first,))
    assert (await driver.spawn(spec)).ports == (first.port_id,)
    await has_login_prompt(bench, driver, spec.id)
    for _ in range(2):
        plugged = await driver.plug(spec.id, second)
        assert plugged.ports == (first.port_id, second.port_id)
    for _ in range(2):
        assert (await driver.unplug(spec.id, first.port_id)).ports == (second.port_id,)
    await driver.stop(spec.id, 0)
    assert (await driver.plug(spec.id, first)).ports == (second.port_id, first.port_id)
    await driver.close()
    again = bench.make()
    await again.start_up()
    started = await again.start(spec.id)
    assert started.ports == (second.port_id, first.port_id)
    with pytest.raises(Invalid, match="hex digits"):
        await again.plug(spec.id, msgspec.structs.replace(first, mac="fa:16:3e,script=x"))
    await again.destroy(spec.id)
    await again.close()


async def start_up_again_disturbs_nothing(bench: Bench) -> None:
    driver = bench.make()
    await driver.start_up()
    spec = bench.spec()
    before = await driver.spawn(spec)
    await driver.start_up()
    assert await driver.guests() == [before]
    assert (await driver.stop(spec.id, 0)).power_state == SHUTDOWN
    await driver.destroy(spec.id)
    await driver.close()


async def sweep_destroys_what_nobody_keeps(bench: Bench) -> None:
    driver = bench.make()
    await driver.start_up()
    kept, orphan = bench.spec(), bench.spec()
    await driver.spawn(kept)
    await driver.spawn(orphan)
    assert await driver.sweep({kept.id}) == [orphan.id]
    assert [guest.id for guest in await driver.guests()] == [kept.id]
    await driver.destroy(kept.id)
    await driver.close()


async def a_guest_that_powers_off_by_itself_is_reported_and_a_stopped_one_is_not(
    bench: Bench,
) -> None:
    driver = bench.make()
    await driver.start_up()
    seen: list[tuple[str, int]] = []

    def note(guest: Guest) -> None:
        seen.append((guest.id, guest.power_state))

    driver.watch(note)
    driver.watch(note)
    spec = bench.spec()
    await driver.spawn(spec)
    await driver.stop(spec.id, 0)
    await driver.start(spec.id)
    await has_login_prompt(bench, driver, spec.id)
    await bench.power_off_inside(driver, spec.id)

    async def is_reported() -> bool:
        return bool(seen)

    await eventually(is_reported, "the report", within_s=bench.boot_s, world=bench.world)
    assert seen == [(spec.id, SHUTDOWN)]
    assert await state_of(driver, spec.id) == SHUTDOWN
    await driver.destroy(spec.id)
    await driver.close()


async def console_shows_the_login_prompt_and_as_many_lines_as_asked(bench: Bench) -> None:
    driver = bench.make()
    await driver.start_up()
    spec = bench.spec(
        config_drive=True, metadata={"openstack/latest/meta_data.json": '{"hostname": "first"}'}
    )
    await driver.spawn(spec)
    await has_login_prompt(bench, driver, spec.id)
    whole = await driver.console_log(spec.id, None)
    assert await driver.console_log(spec.id, 3) == "\n".join(whole.split("\n")[-3:])
    assert await driver.console_log(spec.id, 0) == ""
    assert (await driver.stop(spec.id, bench.boot_s)).power_state == SHUTDOWN
    await driver.destroy(spec.id)
    await driver.close()


async def consoles_speak_while_the_guest_runs(bench: Bench) -> None:
    if "console" in bench.lacks:
        return
    driver = bench.make()
    await driver.start_up()
    spec = bench.spec()
    await driver.spawn(spec)
    await has_login_prompt(bench, driver, spec.id)
    assert (await _said(await driver.console(spec.id, "vnc"), b"")).startswith(b"RFB 003.")
    assert b"zebra" in await _said(await driver.console(spec.id, "serial"), b"zebra")
    await driver.stop(spec.id, 0)
    with pytest.raises(Conflict):
        await driver.console(spec.id, "vnc")
    await driver.destroy(spec.id)
    with pytest.raises(NotFound):
        await driver.console(spec.id, "serial")
    await driver.close()


async def _said(console: socket.socket, typed: bytes) -> bytes:
    """What is heard on a console until it repeats what was typed, or at all."""
    reader, writer = await asyncio.open_connection(sock=console)
    writer.write(typed)
    heard = b""
    async with asyncio.timeout(10):
        while not heard or typed not in heard:
            heard += (part := await reader.read(4096))
            assert part, f"it hung up after {heard!r}"
    writer.close()
    return heard


async def inventory_is_what_the_host_has(bench: Bench) -> None:
    driver = bench.make()
    await driver.start_up()
    found = await driver.inventory()
    assert found.vcpus >= 1 and found.ram_mib >= 128 and found.disk_gib >= 1
    assert found.hypervisor_version >= 1_000_000
    await driver.close()


async def has_login_prompt(bench: Bench, driver: ComputeDriver, guest_id: str) -> None:
    async def asks_for_login() -> bool:
        return "login:" in await driver.console_log(guest_id, None)

    await eventually(asks_for_login, "the login prompt", within_s=bench.boot_s, world=bench.world)


SUITE: tuple[Callable[[Bench], Awaitable[None]], ...] = (
    spawn_runs_the_guest_and_a_second_spawn_finds_it,
    spawn_twice_at_once_makes_one_guest,
    spawn_of_an_image_that_lies_about_its_format_is_refused_and_leaves_nothing,
    spawn_without_vcpus_is_refused,
    destroy_is_the_end_of_it_and_needs_no_guest,
    verbs_of_an_unknown_guest_answer_not_found,
    stop_and_start_may_be_repeated,
    pause_holds_the_guest_until_unpause,
    a_verb_that_means_nothing_to_such_guests_is_refused_and_disturbs_none,
    a_suspended_guest_outlives_the_driver_and_goes_on_where_it_was,
    a_hard_reboot_of_a_suspended_guest_forgets_its_memory,
    a_running_guest_has_numbers_and_one_that_is_off_none,
    a_rebuilt_guest_starts_anew_and_a_bad_image_costs_it_nothing,
    a_rescued_guest_stays_so_over_a_restart_until_it_is_unrescued,
    a_resized_guest_can_go_back_until_it_is_confirmed,
    a_rescue_or_resize_that_was_given_up_is_taken_back,
    a_snapshot_is_taken_once_sent_and_dropped,
    a_hard_reboot_starts_a_stopped_guest,
    guests_outlive_the_driver_and_are_found_again,
    nics_come_and_go_and_stay_over_a_restart,
    start_up_again_disturbs_nothing,
    sweep_destroys_what_nobody_keeps,
    a_guest_that_powers_off_by_itself_is_reported_and_a_stopped_one_is_not,
    console_shows_the_login_prompt_and_as_many_lines_as_asked,
    consoles_speak_while_the_guest_runs,
    inventory_is_what_the_host_has,
)

"""What drivers whose guests can go from host to host must do, asked of two of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import pytest

from pileus.kernel.faults import Conflict
from pileus.services.compute.driver import (
    PAUSED,
    RUNNING,
    SHUTDOWN,
    SUSPENDED,
    ComputeDriver,
    GuestSpec,
    Parcel,
)
from pileus.testing.drivers.compute import Bench, has_login_prompt, state_of


@dataclass
class TwoHosts:
    bench: Bench
    here: ComputeDriver
    there: ComputeDriver

    def as_there(self, spec: GuestSpec, **changes: object) -> GuestSpec:
        """The same guest on the other host, whose network made a tap of its own; its image has no URL any more."""
        taps = [nic.device for nic in self.bench.nics]
        nics = tuple(
            msgspec.structs.replace(nic, tap=next(t for t in taps if t != nic.device))
            for nic in spec.nics
        )
        image = msgspec.structs.replace(spec.image, url="") if spec.image else None
        return msgspec.structs.replace(spec, nics=nics, image=image, **changes)


@asynccontextmanager
async def two_hosts(bench: Bench) -> AsyncIterator[TwoHosts]:
    assert bench.make_other is not None
    hosts = TwoHosts(bench, bench.make(), bench.make_other())
    await hosts.here.start_up()
    await hosts.there.start_up()
    try:
        yield hosts
    finally:
        for driver in (hosts.here, hosts.there):
            await driver.sweep(set())
            await driver.close()


async def a_guest_that_is_off_is_made_on_another_host_out_of_what_the_first_lends(
    bench: Bench,
) -> None:
    async with two_hosts(bench) as hosts:
        spec = bench.spec(nics=bench.nics[:1], config_drive=True, metadata={"a": "b"}, swap_mib=16)
        await hosts.here.spawn(spec)
        await has_login_prompt(bench, hosts.here, spec.id)
        await hosts.here.stop(spec.id, bench.boot_s)
        larger = hosts.as_there(spec, root_gib=2, ram_mib=bench.ram_mib + 32)
        for _ in range(2):
            parcel = await hosts.here.lend(spec.id)
            made = await hosts.there.receive(larger, parcel)
            assert (made.power_state, made.ram_mib) == (SHUTDOWN, bench.ram_mib + 32)
        await hosts.here.withdraw(spec.id)
        assert (await hosts.there.start(spec.id)).power_state == RUNNING
        await has_login_prompt(bench, hosts.there, spec.id)
        assert (await hosts.there.receive(larger, parcel)).power_state == RUNNING, "asked late"
        assert await state_of(hosts.here, spec.id) == SHUTDOWN, "there is a way back"


async def a_root_disk_does_not_shrink_on_its_way(bench: Bench) -> None:
    async with two_hosts(bench) as hosts:
        spec = bench.spec(root_gib=2)
        await hosts.here.spawn(spec)
        await hosts.here.stop(spec.id, 0)
        parcel = await hosts.here.lend(spec.id)
        with pytest.raises(Conflict, match="resize disk down"):
            await hosts.there.receive(hosts.as_there(spec, root_gib=1), parcel)
        assert await hosts.there.guests() == []


async def sent(hosts: TwoHosts, spec: GuestSpec) -> float:
    stood_s, _ = await _sent(hosts, spec)
    return stood_s


async def _sent(hosts: TwoHosts, spec: GuestSpec) -> tuple[float, Parcel]:
    parcel = await hosts.here.lend(spec.id)
    there = await hosts.there.expect(hosts.as_there(spec), parcel)
    return await hosts.here.send(spec.id, there), parcel


async def a_running_guest_goes_to_another_host_and_back(bench: Bench) -> None:
    async with two_hosts(bench) as hosts:
        spec = bench.spec(nics=bench.nics[:1], ephemeral_gib=1, config_drive=True)
        await hosts.here.spawn(spec)
        await has_login_prompt(bench, hosts.here, spec.id)
        stood_s, parcel = await _sent(hosts, spec)
        assert 0 <= stood_s < 60
        assert await state_of(hosts.here, spec.id) == await state_of(hosts.there, spec.id) == PAUSED
        for _ in range(2):
            assert (await hosts.there.arrive(spec.id, True)).power_state == RUNNING
        await hosts.there.expect(hosts.as_there(spec), parcel)  # late
        await hosts.here.destroy(spec.id)
        assert await state_of(hosts.there, spec.id) == RUNNING
        assert (await hosts.there.diagnostics(spec.id)).uptime_s >= 0
        back = TwoHosts(bench, hosts.there, hosts.here)
        await sent(back, hosts.as_there(spec))
        assert (await hosts.here.arrive(spec.id, True)).power_state == RUNNING
        await hosts.there.destroy(spec.id)
        assert (await hosts.here.stop(spec.id, bench.boot_s)).power_state == SHUTDOWN
        await hosts.here.start(spec.id)
        await has_login_prompt(bench, hosts.here, spec.id)


async def what_was_sent_can_stay_and_be_sent_again(bench: Bench) -> None:
    async with two_hosts(bench) as hosts:
        spec = bench.spec()
        await hosts.here.spawn(spec)
        await sent(hosts, spec)
        await hosts.there.destroy(spec.id)
        for _ in range(2):
            assert (await hosts.here.stay(spec.id, True)).power_state == RUNNING
        await has_login_prompt(bench, hosts.here, spec.id)
        await _sleeps_and_wakes(hosts.here, spec.id)
        await hosts.here.pause(spec.id)
        await sent(hosts, spec)
        assert (await hosts.there.arrive(spec.id, False)).power_state == PAUSED
        await _sleeps_and_wakes(hosts.there, spec.id)


async def _sleeps_and_wakes(driver: ComputeDriver, guest_id: str) -> None:
    """How it was sent does not change how it is laid aside."""
    assert (await driver.suspend(guest_id)).power_state == SUSPENDED
    assert (await driver.resume(guest_id)).power_state == RUNNING


async def a_send_that_is_given_up_leaves_the_guest_running_here(bench: Bench) -> None:
    async with two_hosts(bench) as hosts:
        spec = bench.spec()
        await hosts.here.spawn(spec)
        sending = asyncio.create_task(sent(hosts, spec))
        while await state_of(hosts.there, spec.id) is None and not sending.done():
            await bench.world.clock.sleep(0.01)
        while not sending.done():
            await bench.world.clock.sleep(0.02)
            await hosts.here.abandon(spec.id)
        (end,) = await asyncio.gather(sending, return_exceptions=True)
        assert isinstance(end, (Conflict, float)), end
        await hosts.there.destroy(spec.id)
        assert (await hosts.here.stay(spec.id, True)).power_state == RUNNING


async def a_host_process_that_died_while_it_sent_has_its_guest_stay_or_sends_anew(
    bench: Bench,
) -> None:
    async with two_hosts(bench) as hosts:
        spec = bench.spec()
        await hosts.here.spawn(spec)
        await sent(hosts, spec)
        await hosts.here.close()
        hosts.here = bench.make()
        await hosts.here.start_up()
        await sent(hosts, spec)
        assert (await hosts.there.arrive(spec.id, True)).power_state == RUNNING
        await hosts.here.destroy(spec.id)


MOVES: tuple[Callable[[Bench], Awaitable[None]], ...] = (
    a_guest_that_is_off_is_made_on_another_host_out_of_what_the_first_lends,
    a_root_disk_does_not_shrink_on_its_way,
    a_running_guest_goes_to_another_host_and_back,
    what_was_sent_can_stay_and_be_sent_again,
    a_send_that_is_given_up_leaves_the_guest_running_here,
    a_host_process_that_died_while_it_sent_has_its_guest_stay_or_sends_anew,
)

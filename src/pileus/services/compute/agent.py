"""The compute part of a host: owns the driver, keeps COMPUTE_HOST, tells control what is here."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import msgspec

from pileus.host import websocket
from pileus.host.image_cache import look
from pileus.host.images import ImageFacts
from pileus.kernel.agents import CONTROL
from pileus.kernel.faults import Fault
from pileus.kernel.hosts import HostRuntime
from pileus.kernel.reconcile import Reconcilers
from pileus.services.compute.agent_contract import COMPUTE_CONTROL, ComputeControl, ComputeHost
from pileus.services.compute.driver import (
    ComputeDriver,
    Guest,
    GuestSpec,
    ImageSource,
    Inventory,
)
from pileus.services.compute.provider_file import besides
from pileus.services.compute.settings import Settings

log = logging.getLogger(__name__)
_ASKED = frozenset(name for name in vars(ComputeHost) if not name.startswith("_"))
_ORPHANS_S = 60.0
_CALL_TRIES = 20  # of several controls, one waits for the call
_AT_ONCE = 2000  # ids in one call
CONSOLE_LIMIT = 200_000  # bytes of a console that one call carries; a message is at most 256 KiB


def _driver(host: HostRuntime) -> ComputeDriver:
    """The back end that the host was told to use, or two. Raises ValueError for a name nobody knows."""
    if host.driver == "qemu,container":
        from pileus.services.compute.drivers.several import SeveralComputeDrivers

        both = SeveralComputeDrivers(_one_driver(host, "qemu"), _one_driver(host, "container"))
        return cast(ComputeDriver, both)  # it forwards by name
    return _one_driver(host, host.driver)


def _one_driver(host: HostRuntime, name: str) -> ComputeDriver:
    folder = host.state / "compute"
    if name == "qemu":
        from pileus.services.compute.drivers.qemu import QemuComputeDriver

        return QemuComputeDriver(folder, clock=host.world.clock, control_url=host.control_url)
    if name == "container":
        from pileus.services.compute.drivers.container import ContainerComputeDriver

        return ContainerComputeDriver(folder, clock=host.world.clock)
    if name == "fake":
        from pileus.services.compute.drivers.fake import FakeComputeDriver

        hostname = urlsplit(host.control_url).hostname or "test"
        # Names in .test never lead anywhere: a cloud called so has no socket to fetch from.
        probe = None if hostname.endswith("test") else _look
        return FakeComputeDriver(folder, probe=probe, clock=host.world.clock, deliver=host.deliver)
    raise ValueError(
        f"There is no compute driver {name!r}; there are qemu, container, both (qemu,container) and "
        "fake."
    )


async def _look(image: ImageSource) -> ImageFacts:
    return await look(image.url, image.size, image.disk_format)


class ComputeAgent:
    """Nothing is asked of the driver before control has said which guests stay."""

    def __init__(self, host: HostRuntime, driver: ComputeDriver | None = None) -> None:
        self.host = host
        self.driver = driver or _driver(host)
        settings: Settings = host.settings.get("compute") or Settings()
        self._besides = besides(settings.provider_yaml, host.name)
        self._joined = asyncio.Event()
        self._under_way: set[asyncio.Task[None]] = set()
        self._standing = Reconcilers(host.world)
        self._standing.add("compute.orphans", _ORPHANS_S, self._destroy_orphans)
        self._is_watching = False

    # The host's part

    async def start(self) -> dict[str, Any]:
        """Adopts the guests, reports them, destroys those that nobody knows. May be called again."""
        self._joined.clear()
        (self.host.state / "compute").mkdir(parents=True, exist_ok=True)
        await self.driver.start_up()
        inventory, guests = await self.inventory(), await self.driver.guests()
        powers = {guest.id: guest.power_state for guest in guests}
        orders = await self._control.joined(self.host.name, inventory, powers)
        for gone in await self.driver.sweep(set(orders.keep)):
            log.warning("%s: destroyed guest %s, which no server stands for", self.host.name, gone)
        if orders.changing is not None:
            for changed in sorted(set(await self.driver.changed()) - set(orders.changing)):
                await self._restore(changed)
        self._joined.set()
        off = {guest.id: guest for guest in guests}
        for guest_id in orders.start:
            await self._resume(off[guest_id])
        self.driver.watch(self._changed)
        if not self._is_watching:
            self._is_watching = True
            await self._standing.start()
        return {
            "hypervisor_type": inventory.hypervisor_type,
            "hypervisor_version": inventory.hypervisor_version,
            "cpu_arch": inventory.cpu_arch,
        }

    async def _destroy_orphans(self, key: str) -> None:
        """Control that took this host for dead did not ask it to destroy what was deleted meanwhile."""
        ids = [guest.id for guest in await self.driver.guests()]
        for at in range(0, len(ids), _AT_ONCE):
            for gone in await self._control.unknown(self.host.name, ids[at : at + _AT_ONCE]):
                await self.driver.destroy(gone)
                log.warning(
                    "%s: destroyed guest %s, which no server stands for", self.host.name, gone
                )

    async def stop(self) -> None:
        await self._standing.stop()
        self._is_watching = False
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self.driver.close()

    async def forget(self) -> None:
        """Destroys every guest of this host."""
        await self.driver.start_up()
        await self.driver.sweep(set())
        await self.driver.close()

    @property
    def _control(self) -> ComputeControl:
        return self.host.agents.proxy(COMPUTE_CONTROL, CONTROL)

    async def _restore(self, guest_id: str) -> None:
        """A rescue or resize was given up while nobody could tell us, and the server is as it was before."""
        try:
            guest = await self.driver.restore(guest_id)
        except Fault as e:
            log.warning("%s: guest %s is not as before: %s", self.host.name, guest_id, e.message)
        else:
            log.warning("%s: guest %s is what it was before", self.host.name, guest_id)
            await self._tell(guest)

    async def _resume(self, guest: Guest) -> None:
        """Starts again what ran before the host went down; one that can't is shown as it is."""
        try:
            guest = await self.driver.start(guest.id)
        except Fault as e:
            log.warning("%s: guest %s did not resume: %s", self.host.name, guest.id, e.message)
        await self._tell(guest)

    def _changed(self, guest: Guest) -> None:
        self._keep(self._tell(guest), f"power {guest.id}")

    def _keep(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """It goes on until it ends or the agent stops."""
        task = asyncio.create_task(work, name=name)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _tell(self, guest: Guest) -> None:
        """A message that is lost is made good by the next join."""
        try:
            await self._control.power(self.host.name, guest)
        except Fault as e:
            log.warning("%s: control did not hear of %s: %s", self.host.name, guest.id, e.message)

    # COMPUTE_HOST

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        """What the driver is asked as control asked it, once the host has joined."""
        if name not in _ASKED:
            raise AttributeError(f"{type(self).__name__} has no {name}")

        async def asked(*arguments: Any) -> Any:
            await self._joined.wait()
            return await getattr(self.driver, name)(*arguments)

        return asked

    async def inventory(self) -> Inventory:
        return self._besides.added_to(await self.driver.inventory())

    async def spawn(self, spec: GuestSpec) -> Guest:
        await self._joined.wait()
        return await self.driver.spawn(self._spec(spec))

    def _spec(self, spec: GuestSpec) -> GuestSpec:
        if spec.image is None:
            return spec
        return msgspec.structs.replace(spec, image=self._image(spec.image))

    def _image(self, image: ImageSource) -> ImageSource:
        if not image.url.startswith("/"):
            return image
        return msgspec.structs.replace(image, url=self._url(image.url))

    def _url(self, path: str) -> str:
        """Under the cloud's URL; a path stays one where bytes do not go over sockets."""
        return path if self.host.deliver else self.host.control_url.rstrip("/") + path

    async def start_guest(self, guest_id: str) -> Guest:
        await self._joined.wait()
        return await self.driver.start(guest_id)

    async def stop_guest(self, guest_id: str, timeout_s: float) -> Guest:
        await self._joined.wait()
        return await self.driver.stop(guest_id, timeout_s)

    async def rebuild(self, spec: GuestSpec, run: bool) -> Guest:
        await self._joined.wait()
        return await self.driver.rebuild(self._spec(spec), run)

    async def rescue(self, guest_id: str, image: ImageSource) -> Guest:
        await self._joined.wait()
        return await self.driver.rescue(guest_id, self._image(image))

    async def resize(self, spec: GuestSpec, timeout_s: float, run: bool) -> Guest:
        await self._joined.wait()
        return await self.driver.resize(self._spec(spec), timeout_s, run)

    async def send_snapshot(self, guest_id: str, name: str, path: str) -> None:
        await self._joined.wait()
        await self.driver.send_snapshot(guest_id, name, self._url(path))

    async def console_log(self, guest_id: str, lines: int | None) -> str:
        """The end of the console; never more than fits in a message."""
        text = await self.driver.console_log(guest_id, lines)
        kept = text[-CONSOLE_LIMIT:]
        return kept.encode()[-CONSOLE_LIMIT:].decode(errors="replace")

    async def open_console(self, guest_id: str, kind: str, path: str) -> None:
        await self._joined.wait()
        guest = await self.driver.console(guest_id, kind)
        try:
            connection = await websocket.call(self._url(path), _CALL_TRIES)
        except Fault:
            guest.close()
            raise
        self._keep(websocket.carry(connection, guest), f"console {guest_id}")

    async def uptime(self) -> str:
        return _uptime(self.host.world.clock.now()[11:19])


def _uptime(now: str) -> str:
    """As the command of that name says it."""
    hours, minutes = divmod(int(float(Path("/proc/uptime").read_text().split()[0])) // 60, 60)
    days, hours = divmod(hours, 24)
    load = ", ".join(f"{n:.2f}" for n in os.getloadavg())
    return f" {now} up {days} days, {hours:2}:{minutes:02},  0 users,  load average: {load}"

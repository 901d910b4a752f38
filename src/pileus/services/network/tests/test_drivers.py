"""The driver suite over the fake: no privileges, no packets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import astuple

from pileus.host.metadata import Answer, Request
from pileus.services.network.driver import HostNetwork, Observed
from pileus.services.network.drivers.fake import FakeNetworkDriver, Wire
from pileus.testing.drivers.network import Bench, LeaseSeen, NetworkDriverSuite


async def echo(port_id: str, request: Request) -> Answer:
    return 200, "text/plain", f"{port_id} {request.path}".encode()


class FakeBench:
    def __init__(self) -> None:
        self._wire = Wire()
        self._drivers: dict[str, FakeNetworkDriver] = {}

    async def apply(self, desired: HostNetwork) -> Observed:
        if desired.host not in self._drivers:
            self._drivers[desired.host] = FakeNetworkDriver(echo, wire=self._wire)
            await self._drivers[desired.host].start_up()
        return await self._drivers[desired.host].apply(desired)

    async def sweep(self, host: str) -> None:
        await self._drivers[host].sweep()

    async def restart(self, host: str) -> None:
        self._drivers[host] = self._drivers[host].restarted()

    def changes(self, host: str) -> int:
        return self._drivers[host].changes

    async def leftovers(self, host: str) -> list[str]:
        return self._drivers[host].leftovers()

    def _at(self, port_id: str) -> FakeNetworkDriver:
        if not port_id:
            return self._drivers["h1"]
        return next(d for d in self._drivers.values() if d.knows(port_id))

    async def lease(self, port_id: str) -> LeaseSeen | None:
        lease = await self._at(port_id).lease(port_id)
        return LeaseSeen(*astuple(lease)) if lease else None

    async def resolve(self, port_id: str, name: str) -> str | None:
        return await self._at(port_id).resolve(port_id, name)

    async def fetch(self, port_id: str, path: str) -> tuple[int, bytes] | None:
        return await self._at(port_id).fetch(port_id, path)

    async def reaches(self, source: str, ip: str, protocol: str, number: int) -> bool:
        return self._at(source).reaches(source, ip, protocol, number)

    async def sends_as(self, source: str, target: str, *, mac: str, ip: str) -> bool:
        return self._at(source).sends_as(source, mac=mac, ip=ip)


class TestFakeNetworkDriver(NetworkDriverSuite):
    def bench(self) -> AbstractAsyncContextManager[Bench]:
        @asynccontextmanager
        async def opened() -> AsyncIterator[Bench]:
            yield FakeBench()

        return opened()

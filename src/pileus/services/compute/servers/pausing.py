"""A guest that holds still: paused in memory, or suspended to disk.

https://docs.openstack.org/api-ref/compute/#servers-run-an-action-servers-action
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pileus.kernel.resources import Context, operation
from pileus.kernel.sagas import Changes, Run, Saga
from pileus.services.compute.agent_contract import COMPUTE_HOST
from pileus.services.compute.server import SERVERS, Server
from pileus.services.compute.servers.noting import noted
from pileus.services.compute.servers.operations import MEMBER, PATH, OfServer, act
from pileus.services.compute.servers.states import LIFECYCLE

_PAUSE = "os_compute_api:os-pause-server:"
_SUSPEND = "os_compute_api:os-suspend-server:"


async def pause(run: Run[Server]) -> Changes:
    host = await run.agent(COMPUTE_HOST, on=run.record.host)
    return {"power_state": (await host.pause(run.record.id)).power_state}


async def unpause(run: Run[Server]) -> Changes:
    host = await run.agent(COMPUTE_HOST, on=run.record.host)
    return {"power_state": (await host.unpause(run.record.id)).power_state}


async def suspend(run: Run[Server]) -> Changes:
    host = await run.agent(COMPUTE_HOST, on=run.record.host)
    return {"power_state": (await host.suspend(run.record.id)).power_state}


async def resume(run: Run[Server]) -> Changes:
    host = await run.agent(COMPUTE_HOST, on=run.record.host)
    return {"power_state": (await host.resume(run.record.id)).power_state}


PAUSE = Saga("compute.instance.pause", SERVERS, LIFECYCLE, "pause", noted(pause))
UNPAUSE = Saga("compute.instance.unpause", SERVERS, LIFECYCLE, "unpause", noted(unpause))
SUSPEND = Saga("compute.instance.suspend", SERVERS, LIFECYCLE, "suspend", noted(suspend))
RESUME = Saga("compute.instance.resume", SERVERS, LIFECYCLE, "resume", noted(resume))


class ServerPausing(OfServer):
    rules: ClassVar[Mapping[str, str]] = {
        _PAUSE + "pause": MEMBER,
        _PAUSE + "unpause": MEMBER,
        _SUSPEND + "suspend": MEMBER,
        _SUSPEND + "resume": MEMBER,
    }
    sagas = (PAUSE, UNPAUSE, SUSPEND, RESUME)

    @operation("POST", PATH, _PAUSE + "pause", action="pause", status=202)
    async def pause(self, ctx: Context, server: Server) -> None:
        await act(ctx, PAUSE, server, "pause")

    @operation("POST", PATH, _PAUSE + "unpause", action="unpause", status=202)
    async def unpause(self, ctx: Context, server: Server) -> None:
        await act(ctx, UNPAUSE, server, "unpause")

    @operation("POST", PATH, _SUSPEND + "suspend", action="suspend", status=202)
    async def suspend(self, ctx: Context, server: Server) -> None:
        await act(ctx, SUSPEND, server, "suspend")

    @operation("POST", PATH, _SUSPEND + "resume", action="resume", status=202)
    async def resume(self, ctx: Context, server: Server) -> None:
        await act(ctx, RESUME, server, "resume")

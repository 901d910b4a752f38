"""A guest that holds still: paused in memory, or suspended to disk.

https://docs.openstack.org/api-ref/compute/#servers-run-an-action-servers-action
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pileus.kernel.sagas import Changes, Run, Step
from pileus.services.compute.agent_contract import COMPUTE_HOST
from pileus.services.compute.server import Server
from pileus.services.compute.servers import noting
from pileus.services.compute.servers.operations import MEMBER, OfServer, plain

_PAUSE = "os_compute_api:os-pause-server:"
_SUSPEND = "os_compute_api:os-suspend-server:"


def _asking(verb: str) -> Step[Server]:
    """What the host is asked by that name."""

    async def ask(run: Run[Server]) -> Changes:
        host = await run.agent(COMPUTE_HOST, on=run.record.host)
        return {"power_state": (await getattr(host, verb)(run.record.id)).power_state}

    ask.__name__ = verb
    return noting.noted(ask)


PAUSE, UNPAUSE, SUSPEND, RESUME = (
    noting.saga(verb, verb, _asking(verb)) for verb in ("pause", "unpause", "suspend", "resume")
)


class ServerPausing(OfServer):
    rules: ClassVar[Mapping[str, str]] = {
        _PAUSE + "pause": MEMBER,
        _PAUSE + "unpause": MEMBER,
        _SUSPEND + "suspend": MEMBER,
        _SUSPEND + "resume": MEMBER,
    }
    sagas = (PAUSE, UNPAUSE, SUSPEND, RESUME)

    pause = plain(_PAUSE + "pause", "pause", PAUSE)
    unpause = plain(_PAUSE + "unpause", "unpause", UNPAUSE)
    suspend = plain(_SUSPEND + "suspend", "suspend", SUSPEND)
    resume = plain(_SUSPEND + "resume", "resume", RESUME)

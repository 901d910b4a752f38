"""What generated tests of sagas stand on: for each saga, the request that begins it. One module per service.

`pileus.testing.grounds.<service>` has `ready(cloud)`, which makes what must be there first and gives a Ground, and
`SCENARIOS`: the saga's name -> a Scenario.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from pileus.kernel.resources import Service
from pileus.testing.client import Client, Reply
from pileus.testing.cloud import Cloud


@dataclass
class Ground:
    """A member of a project, and the ids of what stands there already."""

    cloud: Cloud
    member: Client
    ids: dict[str, str] = field(default_factory=dict)

    async def ask(self, method: str, url: str, body: Any = None, **headers: str) -> Reply:
        """The answer of a request that must be taken."""
        reply = await self.member.request(method, url, body, headers=headers)
        if reply.status >= 300:
            raise AssertionError(f"{method} {url}: {reply}")
        return reply


Act = Callable[[Ground, str], Coroutine[Any, Any, str]]


@dataclass(frozen=True)
class Scenario:
    """`before` makes the record and gives its id; `begin` starts the saga on it; `clean` takes all away again.

    `destroys`: what the saga takes away need not come back when it fails half-way.
    """

    before: Callable[[Ground], Awaitable[str]]
    begin: Act
    clean: Callable[[Ground, str], Awaitable[None]]
    destroys: bool = False


def scenarios(service: Service) -> Mapping[str, Scenario]:
    """The service's scenarios by saga; none if it has no module here."""
    name = _module(service)
    return importlib.import_module(name).SCENARIOS if importlib.util.find_spec(name) else {}


async def ready(service: Service, cloud: Cloud) -> Ground:
    ground: Ground = await importlib.import_module(_module(service)).ready(cloud)
    return ground


def _module(service: Service) -> str:
    return f"{__name__}.{service.type.replace('-', '_')}"

"""What one process holds: the store, the bus, the sagas, and what its services agreed to do for each other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .agents import CONTROL, Agents
from .contracts import Contract, Contracts
from .policy import PolicyFile, Rules
from .sagas import Sagas
from .store import Store
from .world import World

if TYPE_CHECKING:
    from .auth import Callers
    from .bus import Bus
    from .reconcile import Reconcilers
    from .resources import Service


@dataclass
class Runtime:
    """`data` is the folder for bytes that are not rows; `public_url` what clients reach us at."""

    world: World
    store: Store
    bus: Bus
    agents: Agents
    reconcilers: Reconcilers
    data: Path
    public_url: str
    name: str  # this control's own, e.g. its machine's
    services: Sequence[Service] = ()
    contracts: Contracts = field(default_factory=Contracts)
    policies: dict[str, PolicyFile] = field(default_factory=dict)  # service type -> its rules
    settings: dict[str, Any] = field(default_factory=dict)  # service type -> its settings
    callers: Callers = None  # type: ignore[assignment]  # set once a service provides TOKENS
    sagas: Sagas = field(init=False)

    def __post_init__(self) -> None:
        self.sagas = Sagas(self, self.world.new_id())

    def rules(self, service_type: str) -> Rules:
        """The policy in force: each service's rules have a namespace of their own."""
        return self.policies[service_type].rules


@dataclass(frozen=True)
class Provided:
    """A contract that a service keeps, made once the runtime stands. `remote`: hosts may call it too."""

    contract: Contract[Any]
    make: Callable[[Runtime], Any]
    remote: bool = False

    async def offer(self, runtime: Runtime) -> None:
        kept = self.make(runtime)
        runtime.contracts.provide(self.contract, kept)
        if self.remote:
            await runtime.agents.serve(self.contract, kept, CONTROL)


@dataclass(frozen=True)
class Standing:
    """A reconciler of a service: `run` is given the runtime, and the key of the hint ("" for all)."""

    name: str
    period_s: float
    run: Callable[[Runtime, str], Awaitable[None]]

"""What operators say of hosts, as placement shows it and foreign schedulers read it.

A disabled host's provider has a trait, and is in the aggregates that the host is in, by their UUIDs. This cloud's own
scheduler asks the records themselves. Where the telling is cut short, the host's next joining makes up for it.
"""

from __future__ import annotations

from collections.abc import Mapping

from pileus.kernel.runtime import Runtime
from pileus.services.placement.contract import PLACEMENT

_DISABLED = "COMPUTE_STATUS_DISABLED"


async def mirror(
    runtime: Runtime,
    host: str,
    *,
    disabled: bool | None = None,
    aggregates: Mapping[str, bool] | None = None,
) -> None:
    """`aggregates`: UUIDs, and whether the host is in them. None: as it is."""
    if runtime.contracts.has(PLACEMENT):
        traits = {} if disabled is None else {_DISABLED: disabled}
        await runtime.contracts.get(PLACEMENT).describe(host, traits, aggregates or {})

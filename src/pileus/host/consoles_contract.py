"""What the part of control that browsers connect to asks of whoever has guests."""

from __future__ import annotations

from typing import Protocol

from pileus.kernel.contracts import Contract

PAGE, SOCKET = "/console/vnc_lite.html", "/console/websocket"


class Consoles(Protocol):
    async def open(self, token: str, path: str) -> None:
        """Has the host of the guest that the token opens, this once, call back at `path`.

        Raises NotFound, also where the server is elsewhere by now.
        """


CONSOLES = Contract("consoles", Consoles)  # type: ignore[type-abstract]

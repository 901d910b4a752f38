"""What PKI tokens needed, which are no more: OS-SIMPLE-CERT and OS-PKI answer as upstream's do today."""

from __future__ import annotations

from pileus.kernel.faults import Forbidden, Gone
from pileus.kernel.resources import PUBLIC, Context, operation
from pileus.kernel.store import Record

from .wire import Noun


class Certificates(Noun[Record]):
    @operation("GET", "/OS-SIMPLE-CERT/ca", PUBLIC)
    @operation("GET", "/OS-SIMPLE-CERT/certificates", PUBLIC)
    async def certificates(self, ctx: Context) -> None:
        raise Gone("This API is no longer available due to the removal of support for PKI tokens.")

    @operation("GET", "/auth/tokens/OS-PKI/revoked", PUBLIC)
    async def revoked(self, ctx: Context) -> None:
        raise Forbidden("You are not authorized to perform the requested action.")

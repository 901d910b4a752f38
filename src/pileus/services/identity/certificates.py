"""OS-SIMPLE-CERT: the certificates of PKI tokens, which no longer exist; nor do they upstream."""

from __future__ import annotations

from pileus.kernel.faults import Gone
from pileus.kernel.resources import PUBLIC, Context, operation
from pileus.kernel.store import Record

from .wire import Noun


class Certificates(Noun[Record]):
    @operation("GET", "/OS-SIMPLE-CERT/ca", PUBLIC)
    async def authority(self, ctx: Context) -> None:
        raise _gone()

    @operation("GET", "/OS-SIMPLE-CERT/certificates", PUBLIC)
    async def index(self, ctx: Context) -> None:
        raise _gone()


def _gone() -> Gone:
    return Gone("This API is no longer available due to the removal of support for PKI tokens.")

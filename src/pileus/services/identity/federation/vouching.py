"""Which vouchers a user may have: of providers and protocols that are there, and nobody else's."""

from __future__ import annotations

from collections.abc import Sequence

from pileus.kernel.faults import Conflict, Forbidden, Invalid
from pileus.kernel.resources import Context
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Page, Tx

from ..users import USERS
from ..vouchers import Voucher
from .identity_providers import IDENTITY_PROVIDERS
from .protocols import PROTOCOLS


class VouchingKept:
    """Keeps `vouchers.VOUCHING`."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    async def check(
        self, ctx: Context, tx: Tx, user_id: str, domain_id: str, vouchers: Sequence[Voucher]
    ) -> None:
        """Raises Invalid, Forbidden, Conflict."""
        for one in vouchers:
            provider = await IDENTITY_PROVIDERS.find(tx, one.idp_id)
            if provider is None:
                raise Invalid(f"Could not find Identity Provider: {one.idp_id}")
            if await PROTOCOLS.find(tx, f"{one.idp_id}/{one.protocol_id}") is None:
                raise Invalid(
                    f"Could not find federated protocol {one.protocol_id} for Identity Provider: "
                    f"{one.idp_id}."
                )
            if provider.domain_id != domain_id and not ctx.caller.is_admin:
                raise Forbidden(  # or who manages a domain could have another's users log in to it
                    f"Identity Provider {one.idp_id} belongs to another domain than the user."
                )
        await check_unclaimed(tx, user_id, vouchers)


async def check_unclaimed(tx: Tx, user_id: str, vouchers: Sequence[Voucher]) -> None:
    """A voucher leads to one user. Raises Conflict."""
    if not vouchers:
        return
    await tx.lock("identity.vouchers")
    keys = [v.key for v in vouchers]
    for user in await USERS.list(tx, Page({"vouchers": keys}, limit=2)):
        if user.id != user_id:
            raise Conflict(
                "Conflict occurred attempting to store federated_user - another user comes by "
                f"{', '.join(v.unique_id for v in vouchers if v in user.vouchers)}."
            )

"""Logging in by OpenID Connect: by a bearer token, and by a browser that an issuer sends back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pileus.kernel.contracts import Contract
from pileus.kernel.faults import NotFound
from pileus.kernel.resources import Context
from pileus.kernel.runtime import Runtime

from ..proof import Proof, refused
from .admission import admit, open_provider
from .identity_providers import IDENTITY_PROVIDERS
from .openid import Doubtful, OpenIdIssuer, assertion, issuer_of
from .protocols import protocol_of
from .trusted import TrustedFile

_SCHEME = "bearer "


class OpenId:
    """The issuers that the operator trusts, with what each publishes."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self.file = TrustedFile(runtime.world, runtime.data)
        self._issuers: dict[str, OpenIdIssuer] = {}

    def issuer(self, name: str) -> OpenIdIssuer | None:
        """The issuer of that name, if it is trusted now."""
        trust = self.file.trusted.issuers.get(name)
        if trust is None:
            return None
        known = self._issuers.get(name)
        if known is None or known.trust != trust:
            known = self._issuers[name] = OpenIdIssuer(self.runtime.world, name, trust)
        return known

    async def issuer_for(self, idp_id: str, claimed: str = "") -> OpenIdIssuer:
        """The provider's issuer: the one that a token claims, if it is the provider's. Raises Unauthenticated."""
        provider = await open_provider(self.runtime.store, idp_id)
        names = [claimed] if claimed in provider.remote_ids else []
        if not claimed:
            names = provider.remote_ids
        for name in names:
            issuer = self.issuer(name)
            if issuer is not None:
                return issuer
        raise refused(
            f"identity provider {idp_id} has remote ids {provider.remote_ids}; none of them is a "
            f"trusted issuer{f' and {claimed[:200]!r}' if claimed else ''}"
        )

    async def by_bearer(self, ctx: Context, idp_id: str, protocol_id: str) -> Proof:
        """Raises NotFound, Forbidden, Conflict, Unauthenticated."""
        await open_provider(self.runtime.store, idp_id)
        await protocol_of(self.runtime.store, idp_id, protocol_id)
        text = ctx.headers.get("authorization", "")
        if text[: len(_SCHEME)].lower() != _SCHEME:
            raise refused("no bearer token came with the request")
        token = text[len(_SCHEME) :].strip()
        issuer = await self.issuer_for(idp_id, issuer_of(token))
        try:
            claims = await issuer.vouched(token)
        except Doubtful as why:
            raise refused(str(why)) from None
        return await self.admit(idp_id, protocol_id, assertion(claims))

    async def admit(
        self, idp_id: str, protocol_id: str, given: Mapping[str, Sequence[str]]
    ) -> Proof:
        return await admit(self.runtime, idp_id, protocol_id, given)


OPENID = Contract("identity.openid", OpenId)


async def refuse_unknown(ctx: Context, idp_id: str, protocol_id: str) -> None:
    """Raises NotFound, Forbidden, before a browser is sent anywhere."""
    await open_provider(ctx.runtime.store, idp_id)
    await protocol_of(ctx.runtime.store, idp_id, protocol_id)


async def only_provider(ctx: Context, protocol_id: str) -> str:
    """The one enabled provider with that protocol whose issuer is trusted. Raises NotFound."""
    openid, found = ctx.peer(OPENID), []
    for provider in await IDENTITY_PROVIDERS.all(ctx.runtime.store, enabled=1):
        if not any(openid.issuer(name) for name in provider.remote_ids):
            continue
        try:
            await protocol_of(ctx.runtime.store, provider.id, protocol_id)
        except NotFound:
            continue
        found.append(provider.id)
    if len(found) != 1:
        raise NotFound(
            f"{len(found)} identity providers offer {protocol_id}; name one in the path: "
            "/v3/auth/OS-FEDERATION/identity_providers/ID/protocols/PROTOCOL/websso"
        )
    return found[0]

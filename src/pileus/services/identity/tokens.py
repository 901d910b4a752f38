"""Tokens: made, checked against the rows as they are now, and shown. The only place that says what a token is worth.

A token is good while its user, domain and scope exist and are enabled, it still has a role there, and nothing it
stands on was revoked since it was issued; whichever way it was got, and whoever asks.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

from pileus.kernel import auth
from pileus.kernel.auth import NOT_AUTHENTICATED, Caller
from pileus.kernel.contracts import Contract
from pileus.kernel.faults import NotFound, Unauthenticated
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Table

from . import access_rule
from .application_credentials import APPLICATION_CREDENTIALS, ApplicationCredential
from .assignments import held_on
from .catalog import Catalog
from .claims import Claims, Federation, is_past, opened, pack
from .federation import service_providers
from .federation.identity_providers import IDENTITY_PROVIDERS
from .federation.protocols import PROTOCOLS
from .keys import KEYRING, TOKEN
from .oauth1.access_tokens import ACCESS_TOKENS, AccessToken
from .remembered import Remembered
from .revocations import ended
from .roles import Role, RoleBook
from .security_compliance import is_enabled
from .settings import Settings, of
from .standing import Standing, own_view, view
from .tree import PROJECTS, Project
from .trust import TRUSTS, ancestors
from .users import USERS, User
from .wire import encoded

L = TypeVar("L", ApplicationCredential, AccessToken)
_REMEMBERED = 4096  # answers of GET /v3/auth/tokens kept (3 KB each), and whom they were of
_UNKNOWN = "This is not a recognized Fernet token"


class Worthless(Exception):
    """A token, or what one is asked for, that stands for nobody (any more). The text goes to the log only."""


class Shown(NamedTuple):
    """The answer about a token, and whose it is."""

    body: bytes
    user_id: str
    expires_us: int
    has_access_rules: bool


@dataclass
class Tokens:
    """Keeps `kernel.auth.TOKENS`."""

    runtime: Runtime
    catalog: Catalog = field(default_factory=Catalog)
    book: RoleBook = field(default_factory=RoleBook)
    _shown: Remembered[Shown] = field(default_factory=lambda: Remembered(_REMEMBERED))
    _alike: Remembered[Standing] = field(default_factory=lambda: Remembered(_REMEMBERED))

    @property
    def settings(self) -> Settings:
        return of(self.runtime)

    def now_us(self) -> int:
        return int(self.runtime.world.clock.time() * 1_000_000)

    async def issue(self, claims: Claims) -> str:
        return await self.runtime.contracts.get(KEYRING).seal(TOKEN, pack(claims))

    async def open(self, token: str) -> Claims | None:
        """What is written in a token, whatever it is worth; None if it is none of ours."""
        return await opened(self.runtime, token)

    async def caller(self, token: str, late: bool) -> Caller:
        claims, window_s = await self.open(token), self.settings.expired_window_s if late else 0
        if claims is None:
            raise Unauthenticated(NOT_AUTHENTICATED)
        try:
            return self.as_caller(token, await self.standing(claims, window_s))
        except Worthless as why:
            raise Unauthenticated(NOT_AUTHENTICATED, internal=str(why)) from None

    async def subject(self, token: str, window_s: int = 0) -> Standing:
        """What the token in X-Subject-Token stands for; `window_s` after its end too. Raises NotFound."""
        claims = await self.open(token)
        if claims is None:
            raise NotFound(_UNKNOWN)
        try:
            return await self.standing(claims, window_s)
        except Worthless as why:
            raise NotFound("Failed to validate token", internal=str(why)) from None

    async def standing(self, claims: Claims, window_s: int = 0) -> Standing:
        """Looks everything up. Raises Worthless."""
        if claims.expires_us + window_s * 1_000_000 < self.now_us():
            raise Worthless("expired")
        found = await self._found(claims)
        own = (f"audit:{claims.audit_ids[0]}", f"chain:{claims.audit_ids[-1]}")
        if max(found.ended_us, await ended(self.runtime.store, own)) >= claims.issued_us:
            raise Worthless("revoked")
        return replace(found, claims=claims)

    async def _found(self, claims: Claims) -> Standing:
        """What the token stands for but for its own end: the same for all that a user has for one scope.

        Not where it was lent or vouched for, and not where an account can end without a word to anybody.
        """
        if (
            claims.is_delegated
            or claims.federation
            or self.settings.disable_user_account_days_inactive
        ):
            return await self._look_up(claims)
        known = self._alike.at(await auth.revision(self.runtime.store, "auth"))
        key = (claims.user_id, claims.scope, claims.scope_id)
        found = known.get(key)
        if found is None:
            found = known[key] = await self._look_up(claims)
        return found

    async def _look_up(self, claims: Claims) -> Standing:
        user, user_domain = await self.user(claims.user_id)
        subjects = [f"user:{user.id}", f"domain:{user.domain_id}"]
        if claims.federation:
            await self._check_provider(claims.federation)
        if claims.trust_id:
            found = await self._lent(claims, user, user_domain, subjects)
        else:
            found = await self._scoped(claims, user, user_domain, subjects)
        told, store = view(found), self.runtime.store
        if providers := await service_providers.in_tokens(store):
            told["service_providers"] = providers
        return replace(found, told=encoded(told), ended_us=await ended(store, subjects))

    async def user(self, id: str) -> tuple[User, Project]:
        """An enabled user and his domain. Raises Worthless."""
        user = await USERS.find(self.runtime.store, id)
        now = self.runtime.world.clock.now()
        if user is None or not is_enabled(user, self.settings, now):
            raise Worthless(f"user {id} is gone or disabled")
        return user, await self._place(user.domain_id)

    async def _place(self, id: str) -> Project:
        """An enabled project or domain."""
        found = await PROJECTS.find(self.runtime.store, id)
        if found is None or not found.enabled:
            raise Worthless(f"project or domain {id} is gone or disabled")
        return found

    async def _scoped(
        self, claims: Claims, user: User, user_domain: Project, subjects: list[str]
    ) -> Standing:
        store, book = self.runtime.store, await self.book.read(self.runtime.store)
        id = claims.application_credential_id
        credential = await self._lender(APPLICATION_CREDENTIALS, id, claims)
        if not claims.scope:
            return Standing(claims, user, user_domain)
        access_token = await self._lender(ACCESS_TOKENS, claims.access_token_id, claims)
        place = await self._place(claims.scope_id) if claims.scope != "system" else None
        also = claims.federation.group_ids if claims.federation else ()
        roles = book.closure(await held_on(store, user.id, place, also))
        for lent in (credential, access_token):
            if lent is not None:
                roles = narrowed(roles, book.closure(lent.role_ids))
        if not roles:
            raise Worthless(f"user {user.id} holds no role on {claims.scope} {claims.scope_id}")
        given: dict[str, Any] = {"roles": tuple(roles), "credential": credential}
        given["access_token"] = access_token
        if place is not None:
            given |= await self._place_fields(claims, place, subjects)
        return Standing(claims, user, user_domain, **given)

    async def _place_fields(
        self, claims: Claims, place: Project, subjects: list[str]
    ) -> dict[str, Any]:
        if claims.scope == "domain":
            if not place.is_domain:
                raise Worthless(f"{place.id} is no domain")
            subjects.append(f"domain:{place.id}")
            return {"domain": place}
        subjects += [f"project:{place.id}", f"domain:{place.domain_id or place.id}"]
        domain = place if place.is_domain else await self._place(place.domain_id)
        return {"project": place, "project_domain": domain}

    async def _lender(self, table: Table[L], id: str, claims: Claims) -> L | None:
        """The application credential or access token that lent the token, if one did."""
        if not id:
            return None
        found = await table.find(self.runtime.store, id)
        if found is None or self.is_past(found.expires_at):
            raise Worthless(f"{table.noun} {id} is gone or expired")
        if found.user_id != claims.user_id or found.project_id != claims.scope_id:
            raise Worthless(f"{table.noun} {id} is not for this user and project")
        return found

    async def _check_provider(self, federation: Federation) -> None:
        """Who vouched for the user must still be trusted, and with the protocol by which he did."""
        store, id = self.runtime.store, federation.identity_provider_id
        provider = await IDENTITY_PROVIDERS.find(store, id)
        if provider is None or not provider.enabled:
            raise Worthless(f"identity provider {id} is gone or disabled")
        if await PROTOCOLS.find(store, f"{id}/{federation.protocol_id}") is None:
            raise Worthless(f"protocol {federation.protocol_id} of {id} is gone")

    async def _lent(
        self, claims: Claims, user: User, user_domain: Project, subjects: list[str]
    ) -> Standing:
        """A token by a trust: the trustor's roles on the trust's project, as far as he still holds them."""
        store, book = self.runtime.store, await self.book.read(self.runtime.store)
        trust = await TRUSTS.find(store, claims.trust_id)
        if trust is None or self.is_past(trust.expires_at) or trust.trustee_user_id != user.id:
            raise Worthless("the trust is gone, expired or somebody else's")
        above = await ancestors(store, trust)
        if above is None or any(self.is_past(t.expires_at) for t in above):
            raise Worthless("a trust that it was passed on from is gone, or its trustee")
        trustor, trustor_domain = await self.user(trust.trustor_user_id)
        subjects += [f"user:{trustor.id}", f"domain:{trustor.domain_id}"]
        given: dict[str, Any] = {}
        if trust.project_id:
            place = await self._place(trust.project_id)
            given |= await self._place_fields(claims, place, subjects)
            wanted = book.closure(trust.role_ids)
            roles = narrowed(wanted, book.closure(await held_on(store, trustor.id, place)))
            if len(roles) < len(wanted) or not roles:
                raise Worthless("the trustor no longer holds what the trust lends")
            given["roles"] = tuple(roles)
        return Standing(
            claims,
            user,
            user_domain,
            trust=trust,
            trustor=trustor,
            trustor_domain=trustor_domain,
            **given,
        )

    def is_past(self, expires_at: str) -> bool:
        return is_past(self.runtime.world, expires_at)

    def as_caller(self, token: str, s: Standing) -> Caller:
        """What the rest of the cloud sees."""
        user, user_domain = s.acts_as
        claims = s.claims
        return Caller(
            user_id=user.id,
            user_name=user.name,
            user_domain_id=user_domain.id,
            project_id=s.project.id if s.project else "",
            project_name=s.project.name if s.project else "",
            project_domain_id=s.project_domain.id if s.project_domain else "",
            domain_id=s.domain.id if s.domain else "",
            system_scope="all" if claims.scope == "system" else "",
            roles=frozenset(r.name.lower() for r in s.roles),
            is_admin_project=True,
            expires_at=s.good_until_us / 1_000_000,
            token=token,
            access_rules=access_rule.narrowing(s.credential.access_rules) if s.credential else None,
        )

    async def written(self, s: Standing, root: str, catalog: bool) -> bytes:
        """The body of an answer about a token."""
        parts = [encoded(own_view(s.claims)), s.told]
        if catalog and s.claims.scope:
            user, project_id = s.trustor or s.user, s.project.id if s.project else ""
            found = await self.catalog.written(self.runtime.store, root, project_id, user.id)
            parts.append(b'"catalog":' + found)
        return b'{"token":{' + b",".join(parts) + b"}}"

    async def shown(self, token: str, root: str, catalog: bool) -> Shown:
        """The same for a token that may be remembered. Raises NotFound."""
        store = self.runtime.store
        at = (await auth.revision(store, "auth"), (await self.catalog.entries(store))[1])
        remembered, key = self._shown.at(at), (token, root, catalog)
        known = remembered.get(key)
        if known is None or known.expires_us < self.now_us():
            known = await self.show(await self.subject(token), root, catalog)
            remembered[key] = known
        return known

    async def show(self, s: Standing, root: str, catalog: bool) -> Shown:
        body = await self.written(s, root, catalog)
        limited = s.credential is not None and bool(s.credential.access_rules)
        return Shown(body, s.acts_as[0].id, s.good_until_us, limited)


TOKENS_KEPT = Contract("identity.tokens", Tokens)


def narrowed(roles: list[Role], allowed: list[Role]) -> list[Role]:
    ids = {r.id for r in allowed}
    return [r for r in roles if r.id in ids]

"""Authentication: from what a caller proves to what his token will say.

Whatever is wrong with who he says he is or where he wants to go, the answer is the same 401. API section:
https://docs.openstack.org/api-ref/identity/v3/#authentication-and-token-management
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import msgspec

from pileus.kernel.auth import NOT_AUTHENTICATED
from pileus.kernel.contracts import Contract
from pileus.kernel.faults import Forbidden, Invalid, Unauthenticated
from pileus.kernel.runtime import Runtime
from pileus.kernel.schema import IGNORE, Body, Extra

from .application_credentials import APPLICATION_CREDENTIALS, ApplicationCredential
from .claims import METHODS, Claims, new_audit_id
from .passwords import PASSWORDS, Passwords
from .tokens import TOKENS_KEPT, Standing, Tokens, Worthless
from .tree import PROJECTS, Project, named
from .trusts import TRUSTS
from .users import RULES, USERS, User


class DomainRef(msgspec.Struct):
    id: str = ""
    name: str = ""


class UserRef(msgspec.Struct):
    id: str = ""
    name: str = ""
    domain: DomainRef | None = None
    password: str | None = None


class PasswordMethod(msgspec.Struct):
    user: UserRef


class TokenMethod(msgspec.Struct):
    id: str


class CredentialMethod(msgspec.Struct):
    secret: str
    id: str = ""
    name: str = ""
    user: UserRef | None = None


class IdentityPart(msgspec.Struct):
    methods: list[str]
    password: PasswordMethod | None = None
    token: TokenMethod | None = None
    application_credential: CredentialMethod | None = None


class ProjectRef(msgspec.Struct):
    id: str = ""
    name: str = ""
    domain: DomainRef | None = None


class TrustRef(msgspec.Struct):
    id: str


class SystemRef(msgspec.Struct):
    all: bool = False


class Scope(msgspec.Struct):
    """At most one is set."""

    project: ProjectRef | None = None
    domain: DomainRef | None = None
    system: SystemRef | None = None
    trust: TrustRef | None = msgspec.field(default=None, name="OS-TRUST:trust")
    unscoped: dict[str, Any] | None = None


class Authenticate(Body, kw_only=True):
    """`scope` is an object, or the text "unscoped"."""

    root: ClassVar[str] = "auth"
    unknown: ClassVar[Extra] = IGNORE
    lax: ClassVar[bool] = False
    identity: IdentityPart
    scope: Scope | str | None = None


@dataclass(frozen=True)
class Proof:
    """Who somebody proved to be, and what limits the token that he gets."""

    user: User
    parent: Claims | None = None  # the token he came with
    credential: ApplicationCredential | None = None


class Authentication:
    """Checks every method that a request names; each is evaluated once, however often it is named."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime
        self._ways: dict[str, Callable[[IdentityPart], Awaitable[Proof]]] = {
            "password": self._by_password,
            "token": self._by_token,
            "application_credential": self._by_credential,
        }

    @property
    def tokens(self) -> Tokens:
        return self.runtime.contracts.get(TOKENS_KEPT)

    @property
    def passwords(self) -> Passwords:
        return self.runtime.contracts.get(PASSWORDS)

    async def authenticate(self, asked: Authenticate) -> tuple[str, Standing]:
        """A new token and what it stands for. Raises Unauthenticated, Forbidden, Invalid."""
        methods = list(dict.fromkeys(asked.identity.methods))
        proof = await self._prove(methods, asked.identity)
        claims = await self._claims(methods, proof, asked.scope)
        _check_factors(proof, claims)
        try:
            standing = await self.tokens.standing(claims)
        except Worthless as why:
            raise refused(str(why)) from None
        if standing.trust:
            await self._use(standing)
        return await self.tokens.issue(claims), standing

    async def _prove(self, methods: list[str], identity: IdentityPart) -> Proof:
        if not methods:
            raise Invalid("Invalid input for field 'identity/methods': it must name a method.")
        proof: Proof | None = None
        for method in methods:
            if method not in self._ways:
                raise refused(f"method {method!r} is not supported")
            found = await self._ways[method](identity)
            if proof is not None and proof.user.id != found.user.id:
                raise refused("the methods name different users")
            merged = (
                found
                if proof is None
                else replace(
                    proof,
                    parent=proof.parent or found.parent,
                    credential=proof.credential or found.credential,
                )
            )
            proof = merged
        assert proof is not None
        return proof

    async def _by_password(self, identity: IdentityPart) -> Proof:
        if identity.password is None:
            raise Invalid("Expecting to find password in identity. The server could not comply.")
        given = identity.password.user
        user = await self.user(given)
        good = await self.passwords.fits(user.password_hash if user else "", given.password or "")
        if user is None or not good:
            raise refused("unknown user or wrong password")
        return Proof(user)

    async def _by_token(self, identity: IdentityPart) -> Proof:
        if identity.token is None:
            raise Invalid("Expecting to find token in identity. The server could not comply.")
        claims = await self.tokens.open(identity.token.id)
        if claims is None:
            raise refused("not a token")
        try:
            standing = await self.tokens.standing(claims)
        except Worthless as why:
            raise refused(str(why)) from None
        if claims.is_delegated:
            raise Forbidden(
                "A token got by a trust or an application credential cannot be rescoped."
            )
        return Proof(standing.user, parent=claims)

    async def _by_credential(self, identity: IdentityPart) -> Proof:
        given = identity.application_credential
        if given is None:
            raise Invalid(
                "Expecting to find application_credential in identity. The server could not comply."
            )
        known = await self._credential(given)
        good = await self.passwords.fits(known.secret_hash if known else "", given.secret)
        if known is None or not good or self.tokens.is_past(known.expires_at):
            raise refused("unknown application credential or wrong secret")
        user = await USERS.find(self.runtime.store, known.user_id)
        if user is None:
            raise refused("the application credential's user is gone")
        return Proof(user, credential=known)

    async def _credential(self, given: CredentialMethod) -> ApplicationCredential | None:
        store = self.runtime.store
        if given.id:
            known = await APPLICATION_CREDENTIALS.find(store, given.id)
            if known is not None and given.user is not None and given.user.id:
                return known if known.user_id == given.user.id else None
            return known
        user = await self.user(given.user) if given.user is not None else None
        if user is None or not given.name:
            return None
        return await APPLICATION_CREDENTIALS.one(store, user_id=user.id, name=given.name)

    async def user(self, given: UserRef) -> User | None:
        """The user named, by id or by name and domain; both given must agree."""
        store = self.runtime.store
        if given.id:
            return await USERS.find(store, given.id)
        if not given.name or given.domain is None:
            raise Invalid("Expecting to find a user's id, or name and domain, in password.user.")
        domain = await self.domain(given.domain)
        if domain is None:
            return None
        return await USERS.one(store, domain_id=domain.id, name_key=given.name.lower())

    async def domain(self, given: DomainRef) -> Project | None:
        store = self.runtime.store
        if given.id:
            found = await PROJECTS.find(store, given.id)
        else:
            found = await named(store, given.name, "") if given.name else None
        return found if found is not None and found.is_domain else None

    async def _claims(self, methods: list[str], proof: Proof, scope: Scope | str | None) -> Claims:
        runtime, now = self.runtime, self.tokens.now_us()
        audit, parent = new_audit_id(runtime.world), proof.parent
        audits: tuple[str, ...] = (audit,)
        expires = now + self.tokens.settings.token_s * 1_000_000
        if parent is not None:  # the chain and its end are the first token's
            audits, expires = (audit, parent.audit_ids[-1]), parent.expires_us
            methods = list(dict.fromkeys((*methods, *parent.methods)))
        claims = Claims(
            user_id=proof.user.id,
            methods=tuple(m for m in METHODS if m in methods),
            issued_us=now,
            expires_us=expires,
            audit_ids=audits,
        )
        if proof.credential is not None:
            return self._narrow(claims, proof.credential, scope)
        return await self._aim(claims, proof.user, scope)

    def _narrow(
        self, claims: Claims, credential: ApplicationCredential, scope: Scope | str | None
    ) -> Claims:
        if scope is not None and scope != "unscoped":
            asked = scope.project.id if isinstance(scope, Scope) and scope.project else ""
            if asked != credential.project_id:
                raise refused("an application credential cannot ask for a scope")
        return msgspec.structs.replace(
            claims,
            scope="project",
            scope_id=credential.project_id,
            application_credential_id=credential.id,
        )

    async def _aim(self, claims: Claims, user: User, scope: Scope | str | None) -> Claims:
        """The claims with the scope asked for, or the user's default project if he can use it."""
        if scope is None:
            return await self._by_default(claims, user)
        if isinstance(scope, str):
            if scope != "unscoped":
                raise Invalid(
                    "Invalid input for field 'scope': it must be an object or 'unscoped'."
                )
            return claims
        if _names(scope) == 0 and scope.unscoped is not None:
            return claims
        if _names(scope) != 1:
            raise Invalid("Invalid input for field 'scope': it must name one scope.")
        if scope.trust:
            return await self._by_trust(claims, scope.trust)
        if scope.system:
            if not scope.system.all:
                raise Invalid("Invalid input for field 'scope/system': it must be {\"all\": true}.")
            return msgspec.structs.replace(claims, scope="system", scope_id="all")
        place = await self._place(scope)
        if place is None:
            raise refused("there is no such scope")
        kind = "project" if scope.project else "domain"
        return msgspec.structs.replace(claims, scope=kind, scope_id=place.id)

    async def _place(self, scope: Scope) -> Project | None:
        if scope.domain:
            return await self.domain(scope.domain)
        asked = scope.project
        assert asked is not None
        if asked.id:
            return await PROJECTS.find(self.runtime.store, asked.id)
        if not asked.name or asked.domain is None:
            raise Invalid("Expecting to find a project's id, or name and domain, in scope.project.")
        domain = await self.domain(asked.domain)
        return await named(self.runtime.store, asked.name, domain.id) if domain else None

    async def _by_default(self, claims: Claims, user: User) -> Claims:
        if not user.default_project_id:
            return claims
        there = msgspec.structs.replace(claims, scope="project", scope_id=user.default_project_id)
        try:
            await self.tokens.standing(there)
        except Worthless:
            return claims
        return there

    async def _by_trust(self, claims: Claims, asked: TrustRef) -> Claims:
        trust = await TRUSTS.find(self.runtime.store, asked.id)
        if trust is None or trust.trustee_user_id != claims.user_id:
            raise Forbidden("Could not use the trust: it does not exist or is for another user.")
        scope = "project" if trust.project_id else ""
        return msgspec.structs.replace(
            claims, scope=scope, scope_id=trust.project_id, trust_id=trust.id
        )

    async def _use(self, standing: Standing) -> None:
        """Takes one of the uses that a trust has left. Raises Forbidden."""
        assert standing.trust is not None
        async with self.runtime.store.tx() as tx:
            trust = await TRUSTS.find(tx, standing.trust.id)
            if trust is None or trust.remaining_uses == 0:
                raise Forbidden("Could not use the trust: no uses remain.")
            if trust.remaining_uses > 0:
                await TRUSTS.change(tx, trust, remaining_uses=trust.remaining_uses - 1)


AUTHENTICATION = Contract("identity.authentication", Authentication)


def refused(why: str) -> Unauthenticated:
    """The one answer to whatever is wrong; why goes to the log."""
    return Unauthenticated(NOT_AUTHENTICATED, internal=why)


def _names(scope: Scope) -> int:
    """How many scopes are asked for."""
    return sum(1 for s in (scope.project, scope.domain, scope.system, scope.trust) if s)


def _check_factors(proof: Proof, claims: Claims) -> None:
    """A user with multi-factor rules must have met one of them, counting what his former token met."""
    options = proof.user.options
    rules = options.get(RULES) or []
    if (
        proof.credential is not None
        or not rules
        or not options.get("multi_factor_auth_enabled", True)
    ):
        return
    if not any(set(rule) <= set(claims.methods) for rule in rules):
        raise refused(f"none of the multi-factor rules of user {proof.user.id} is met")

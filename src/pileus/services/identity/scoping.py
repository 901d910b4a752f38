"""The scope of a token that is asked for: where somebody wants to go.

A scope that is not there and one where he has no business are the same 401.
"""

from __future__ import annotations

import msgspec

from pileus.kernel.faults import Forbidden, Invalid
from pileus.kernel.store import Store

from .auth_request import Scope, TrustRef, find_domain, find_project
from .claims import Claims
from .proof import Proof, refused
from .tokens import Tokens, Worthless
from .tree import Project
from .trust import TRUSTS
from .users import User


async def aim(tokens: Tokens, claims: Claims, proof: Proof, scope: Scope | str | None) -> Claims:
    """The claims with the scope asked for; else as the proof says; else the user's default project if he can use it."""
    if proof.is_bound:
        _check_bound(claims, scope)
        return claims
    if scope is None:
        if claims.federation is not None:
            return claims
        return await _by_default(tokens, claims, proof.user)
    if isinstance(scope, str):
        if scope != "unscoped":
            raise Invalid("Invalid input for field 'scope': it must be an object or 'unscoped'.")
        return claims
    if _names(scope) == 0 and scope.unscoped is not None:
        return claims
    if _names(scope) != 1:
        raise Invalid(
            "Invalid input for field 'scope': expecting to find one of system, project, domain, "
            "OS-TRUST:trust or unscoped."
        )
    _check_parent(proof, scope)
    return await _named(tokens.runtime.store, claims, scope)


async def _named(store: Store, claims: Claims, scope: Scope) -> Claims:
    if scope.trust:
        return await _by_trust(store, claims, scope.trust)
    if scope.system:
        if not scope.system.all:
            raise Invalid("Invalid input for field 'scope/system': it must be {\"all\": true}.")
        return msgspec.structs.replace(claims, scope="system", scope_id="all")
    place = await _place(store, scope)
    if place is None:
        raise refused("there is no such scope")
    kind = "project" if scope.project else "domain"
    return msgspec.structs.replace(claims, scope=kind, scope_id=place.id)


async def _place(store: Store, scope: Scope) -> Project | None:
    if scope.domain:
        return await find_domain(store, scope.domain)
    assert scope.project is not None
    return await find_project(store, scope.project)


async def _by_default(tokens: Tokens, claims: Claims, user: User) -> Claims:
    if not user.default_project_id:
        return claims
    there = msgspec.structs.replace(claims, scope="project", scope_id=user.default_project_id)
    try:
        await tokens.standing(there)
    except Worthless:
        return claims
    return there


async def _by_trust(store: Store, claims: Claims, asked: TrustRef) -> Claims:
    trust = await TRUSTS.find(store, asked.id)
    if trust is None or trust.remaining_uses == 0:
        raise refused(f"trust {asked.id[:64]} is gone or used up")
    if trust.trustee_user_id != claims.user_id:
        raise Forbidden("User is not a trustee.")
    scope = "project" if trust.project_id else ""
    return msgspec.structs.replace(
        claims, scope=scope, scope_id=trust.project_id, trust_id=trust.id
    )


def _check_bound(claims: Claims, scope: Scope | str | None) -> None:
    """An access token's project is taken whatever is asked for; with an application credential nothing may be."""
    if claims.application_credential_id and scope is not None:
        raise refused("an application credential cannot ask for a scope")


def _check_parent(proof: Proof, scope: Scope) -> None:
    if proof.parent and proof.parent.scope == "system" and (scope.project or scope.domain):
        raise Forbidden(
            "You are not authorized to perform the requested action: Using a system-scoped token "
            "to create a project-scoped or domain-scoped token is not allowed."
        )


def _names(scope: Scope) -> int:
    """How many scopes are asked for."""
    return sum(1 for s in (scope.project, scope.domain, scope.system, scope.trust) if s)

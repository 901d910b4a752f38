"""What a token stands for now, and how an answer tells it.

But for their `claims` all plain tokens of one user and scope stand for the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import access_rule
from .application_credentials import ApplicationCredential
from .claims import Claims
from .oauth1.access_tokens import AccessToken
from .revocations import micros
from .roles import Role
from .tree import Project
from .trust import Trust
from .users import User


@dataclass(frozen=True, slots=True)
class Standing:
    """What a token stands for now. `project` is set for project scope, `domain` for domain scope."""

    claims: Claims
    user: User
    user_domain: Project
    roles: tuple[Role, ...] = ()
    project: Project | None = None
    project_domain: Project | None = None
    domain: Project | None = None
    credential: ApplicationCredential | None = None
    access_token: AccessToken | None = None
    trust: Trust | None = None
    trustor: User | None = None
    trustor_domain: Project | None = None
    ended_us: int = 0  # when tokens of its user, project or domains last ended
    told: bytes = b""  # `view` as JSON, but for the braces

    @property
    def acts_as(self) -> tuple[User, Project]:
        """The user whose name the token bears, with his domain: the trustor where a trust says so."""
        if self.trust and self.trust.impersonation and self.trustor and self.trustor_domain:
            return self.trustor, self.trustor_domain
        return self.user, self.user_domain

    @property
    def good_until_us(self) -> int:
        """Until when it may be remembered: its own end, or that of what it was lent by, which is not written in it."""
        lenders = (self.credential, self.access_token, self.trust)
        ends = [micros(x.expires_at) for x in lenders if x is not None and x.expires_at]
        return min([self.claims.expires_us, *ends])


def _ref(thing: Project, domain: Project) -> dict[str, Any]:
    return {"domain": {"id": domain.id, "name": domain.name}, "id": thing.id, "name": thing.name}


def own_view(claims: Claims) -> dict[str, Any]:
    """What no other token says."""
    return {
        "methods": claims.methods,
        "audit_ids": list(dict.fromkeys(claims.audit_ids)),
        "expires_at": claims.expires_at,
        "issued_at": claims.issued_at,
    }


def view(s: Standing) -> dict[str, Any]:
    """What all tokens of one user and scope say, but for the catalog."""
    claims = s.claims
    user, domain = s.acts_as
    view: dict[str, Any] = {
        "user": {
            "domain": {"id": domain.id, "name": domain.name},
            "id": user.id,
            "name": user.name,
            "password_expires_at": user.password_expires_at[:-1] or None,
        }
    }
    if s.project and s.project_domain:
        view["project"] = _ref(s.project, s.project_domain)
        view["is_domain"] = s.project.is_domain
    elif s.domain:
        view["domain"] = {"id": s.domain.id, "name": s.domain.name}
    elif claims.scope == "system":
        view["system"] = {"all": True}
    if claims.scope:
        view["roles"] = [{"id": r.id, "name": r.name} for r in s.roles]
    if claims.federation:
        del view["user"]["password_expires_at"]
        view["user"]["OS-FEDERATION"] = {
            "groups": [{"id": id} for id in claims.federation.group_ids],
            "identity_provider": {"id": claims.federation.identity_provider_id},
            "protocol": {"id": claims.federation.protocol_id},
        }
    if s.access_token:
        view["OS-OAUTH1"] = {
            "access_token_id": s.access_token.id,
            "consumer_id": s.access_token.consumer_id,
        }
    if s.credential:
        view["application_credential"] = {
            "id": s.credential.id,
            "name": s.credential.name,
            "restricted": not s.credential.unrestricted,
        }
        if s.credential.access_rules:
            shown = [access_rule.view(rule) for rule in s.credential.access_rules]
            view["application_credential"]["access_rules"] = shown
    if s.trust:
        view["OS-TRUST:trust"] = {
            "id": s.trust.id,
            "trustor_user": {"id": s.trust.trustor_user_id},
            "trustee_user": {"id": s.trust.trustee_user_id},
            "impersonation": s.trust.impersonation,
        }
        view.pop("is_domain", None)
    return view

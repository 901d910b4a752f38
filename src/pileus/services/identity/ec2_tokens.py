"""Tokens for signatures: `/v3/ec2tokens` and `/v3/s3tokens`, for services that take requests signed Amazon's way.

Only an administrator or a service may ask (CVE-2025-65073): who has seen a signed request could else turn it into a token.
Such a token is lent: it never becomes another one, and manages no credentials.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar

import msgspec

from pileus.kernel.faults import Invalid, Unauthenticated
from pileus.kernel.resources import Answer, Context, operation
from pileus.kernel.runtime import Runtime
from pileus.kernel.schema import IGNORE, Body, Extra, explain
from pileus.kernel.store import Record

from .application_credentials import APPLICATION_CREDENTIALS
from .auth_tokens import answered
from .authentication import AUTHENTICATION
from .credentials import Credential
from .ec2_credentials import KeyPair, find_pair
from .ec2_signatures import SignedRequest, Unsigned, s3_signed_by, signed_by
from .proof import Proof, refused
from .trust import TRUSTS, Trust
from .users import USERS, User
from .wire import Noun

T = TypeVar("T", bound=msgspec.Struct)
_WINDOW_S = 15 * 60  # how far the time that was signed may be from now, as upstream and Amazon


class SignedS3(msgspec.Struct):
    """`token`: what was signed, base64 (see `ec2_signatures.s3_signed_by`)."""

    access: str
    token: str
    signature: str


class Signed(Body, kw_only=True):
    """Clients of all ages: the same thing has three names."""

    unknown: ClassVar[Extra] = IGNORE
    credentials: dict[str, Any] | None = None
    credential: dict[str, Any] | None = None
    ec2_credentials: dict[str, Any] | None = msgspec.field(default=None, name="ec2Credentials")

    def signed(self) -> dict[str, Any]:
        """Raises Unauthenticated, as upstream, if nothing is signed."""
        found = self.credentials or self.credential or self.ec2_credentials or {}
        if "access" not in found:
            raise Unauthenticated("EC2 signature not supplied.")
        return found


class Ec2Tokens(Noun[Record]):
    rules = {
        "identity:ec2tokens_validate": "rule:service_or_admin",
        "identity:s3tokens_validate": "rule:service_or_admin",
    }

    @operation("POST", "/ec2tokens", "identity:ec2tokens_validate", status=200)
    async def ec2(self, ctx: Context, body: Signed) -> Answer:
        asked = _convert(body.signed(), SignedRequest)
        credential, pair = await find_pair(ctx.runtime, asked.access)
        if not asked.signature:
            raise Unauthenticated("EC2 signature not supplied.")
        try:
            good, at = signed_by(pair.secret, asked)
        except Unsigned as why:
            raise Unauthenticated("Invalid EC2 signature.", internal=str(why)) from None
        if not good:
            raise Unauthenticated("Invalid EC2 signature.")
        if at is not None and abs(ctx.runtime.world.clock.time() - at) > _WINDOW_S:
            raise Unauthenticated("Credential is expired")
        return await _answer(ctx, credential, pair)

    @operation("POST", "/s3tokens", "identity:s3tokens_validate", status=200)
    async def s3(self, ctx: Context, body: Signed) -> Answer:
        """The token itself is not told, only what it would stand for, as upstream."""
        asked = _convert(body.signed(), SignedS3)
        credential, pair = await find_pair(ctx.runtime, asked.access)
        try:
            good = s3_signed_by(pair.secret, asked.token, asked.signature)
        except Unsigned as why:
            raise Unauthenticated("Invalid EC2 signature.", internal=str(why)) from None
        if not good:
            raise Unauthenticated("Credential signature mismatch")
        answer = await _answer(ctx, credential, pair)
        return Answer(answer.body, status=200)


def _convert(document: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as e:
        raise Invalid(explain(str(e))) from None


async def _answer(ctx: Context, credential: Credential, pair: KeyPair) -> Answer:
    proof = await _proof(ctx.runtime, credential, pair)
    issued = await ctx.peer(AUTHENTICATION).issue(proof)
    return await answered(ctx, issued, status=200)


def _may_use(user: User, trust: Trust) -> bool:
    """The trustee, and the trustor where it is he in whose name the trustee acts."""
    is_trustor = trust.impersonation and user.id == trust.trustor_user_id
    return is_trustor or user.id == trust.trustee_user_id


async def _proof(runtime: Runtime, credential: Credential, pair: KeyPair) -> Proof:
    """What the credential stands for: never more than what it was made with. Raises Unauthenticated."""
    store, methods = runtime.store, ("ec2credential",)
    user = await USERS.find(store, credential.user_id)
    if user is None:
        raise refused(f"user {credential.user_id} of an EC2 credential is gone")
    fields: dict[str, str] = {"scope": "project", "scope_id": credential.project_id}
    if pair.trust_id:
        trust = await TRUSTS.find(store, pair.trust_id)
        if trust is None or not _may_use(user, trust):
            raise refused(f"trust {pair.trust_id} of an EC2 credential is gone or somebody else's")
        trustee = await USERS.find(store, trust.trustee_user_id)
        if trustee is None or trust.project_id != credential.project_id:
            raise refused(f"trust {trust.id} of an EC2 credential is for another project")
        return Proof(trustee, methods, {**fields, "trust_id": trust.id})
    if pair.app_cred_id:
        known = await APPLICATION_CREDENTIALS.find(store, pair.app_cred_id)
        if known is None or known.project_id != credential.project_id:
            raise refused("the EC2 credential's application credential is gone or for elsewhere")
        return Proof(user, methods, known.bounds)
    if pair.access_token_id:
        return Proof(user, methods, {**fields, "access_token_id": pair.access_token_id})
    return Proof(user, methods, fields)

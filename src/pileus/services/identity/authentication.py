"""Authentication: from what a caller proves to what his token will say.

Whatever is wrong with who he says he is or where he wants to go, the answer is the same 401. API section:
https://docs.openstack.org/api-ref/identity/v3/#authentication-and-token-management
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from pileus.kernel.contracts import Contract
from pileus.kernel.faults import Forbidden
from pileus.kernel.resources import Answer, Context
from pileus.kernel.runtime import Runtime

from . import receipts
from .auth_methods import METHODS
from .auth_request import Authenticate, Scope, methods_of, part_of
from .claims import Claims, new_audit_id, pack_methods, unpack_methods
from .proof import Proof, refused
from .scoping import aim
from .sign_ins import forgive
from .standing import Standing
from .tokens import TOKENS_KEPT, Tokens, Worthless
from .trust import TRUSTS


@dataclass(frozen=True)
class Issued:
    """A new token and what it stands for."""

    token: str
    standing: Standing


class Authentication:
    """Checks every method that a request names, then the user's rules, then the scope."""

    def __init__(self, runtime: Runtime) -> None:
        self.runtime = runtime

    @property
    def tokens(self) -> Tokens:
        return self.runtime.contracts.get(TOKENS_KEPT)

    async def authenticate(self, ctx: Context, asked: Authenticate) -> Issued | Answer:
        """A token, or the 401 with a receipt. Raises Unauthenticated, Forbidden, Invalid."""
        proof = await self._with_receipt(ctx, await self._prove(ctx, asked.identity))
        found = await self.conclude(proof, asked.scope)
        if isinstance(found, Issued) and proof.parent is None:
            await forgive(self.runtime, proof.user, proof.methods)
        return found

    async def conclude(self, proof: Proof, scope: Scope | str | None = None) -> Issued | Answer:
        """The token for what was proved, or the 401 with a receipt if the user's rules ask for more."""
        rules = receipts.rules_of(proof.user, METHODS)
        if rules and not any(rule <= set(proof.methods) for rule in rules):
            return await self._more(proof, rules)
        return await self.issue(proof, scope)

    async def issue(self, proof: Proof, scope: Scope | str | None = None) -> Issued:
        """The token for what was proved. Raises Unauthenticated, Forbidden, Invalid."""
        claims = await aim(self.tokens, self._claims(proof), proof, scope)
        try:
            standing = await self.tokens.standing(claims)
        except Worthless as why:
            raise refused(str(why)) from None
        if standing.trust:
            await self._use(standing)
        return Issued(await self.tokens.issue(claims), standing)

    async def _prove(self, ctx: Context, identity: Mapping[str, Any]) -> Proof:
        proof: Proof | None = None
        for name in methods_of(identity):
            method = METHODS.get(name)
            if method is None:
                raise refused(f"method {name[:64]!r} is not supported")
            found = await method.prove(self, ctx, part_of(identity, name, method.part))
            proof = found if proof is None else _both(proof, found)
        assert proof is not None
        return proof

    async def _with_receipt(self, ctx: Context, proof: Proof) -> Proof:
        """What a receipt says was proved before counts too."""
        text = ctx.headers.get(receipts.HEADER, "")
        if not text:
            return proof
        met = await receipts.met(self.runtime, text, proof.user, self.tokens.now_us())
        if met is None:
            raise refused("the receipt is worth nothing")
        return replace(proof, methods=(*proof.methods, *met))

    async def _more(self, proof: Proof, rules: list[set[str]]) -> Answer:
        """The 401 that says what else would let the user in. Who is disabled is not told."""
        try:
            _, domain = await self.tokens.user(proof.user.id)
        except Worthless as why:
            raise refused(str(why)) from None
        life_s = self.tokens.settings.receipt_s
        receipt = receipts.made(proof.user, proof.methods, self.tokens.now_us(), life_s)
        text = await receipts.seal(self.runtime, receipt)
        body = receipts.view(proof.user, domain, receipt, rules)
        return Answer(body, status=401, headers={receipts.HEADER: text})

    def _claims(self, proof: Proof) -> Claims:
        now, parent = proof.began_us or self.tokens.now_us(), proof.parent
        audit = new_audit_id(self.runtime.world)
        audits: tuple[str, ...] = (audit,)
        expires = now + self.tokens.settings.token_s * 1_000_000
        if parent is not None:  # the chain and its end are the first token's
            audits, expires = (audit, parent.audit_ids[-1]), parent.expires_us
        claims = Claims(
            user_id=proof.user.id,
            methods=unpack_methods(pack_methods(proof.methods)),
            issued_us=now,
            expires_us=expires,
            audit_ids=audits,
        )
        return msgspec.structs.replace(claims, **proof.fields)

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


def _both(one: Proof, other: Proof) -> Proof:
    """Both together, if they do not contradict each other. Raises Unauthenticated."""
    if one.user.id != other.user.id:
        raise refused("the methods name different users")
    if any(one.fields.get(k, v) != v for k, v in other.fields.items()):
        raise refused("the methods are for different places")
    return Proof(
        one.user,
        (*one.methods, *other.methods),
        {**one.fields, **other.fields},
        one.parent or other.parent,
        min(filter(None, (one.began_us, other.began_us)), default=0),
    )

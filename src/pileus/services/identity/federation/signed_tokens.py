"""Tokens that an issuer signed (JSON Web Tokens, RFC 7519): the signature, and what every one of them must say.

Loaded by the first login that needs it: a cloud without federation starts 60 ms sooner.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

# Signatures that only who holds a private key can make: a shared secret or none at all is not among them.
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
_LEEWAY_S = 60  # clocks differ a little


def checked(
    token: str, keys: Mapping[str, Any], issuer: str, audiences: Sequence[str], now: int
) -> dict[str, Any]:
    """The claims of a token that one of the keys (a JWK set) signed, for us, and that is good now. Raises ValueError."""
    try:
        key_set = KeySet.import_key_set(dict(keys))  # type: ignore[arg-type]
        claims = jwt.decode(token, key_set, algorithms=list(_ALGORITHMS)).claims
        wanted = jwt.JWTClaimsRegistry(
            now=lambda: now,
            leeway=_LEEWAY_S,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "values": list(audiences)},
            exp={"essential": True},
            sub={"essential": True},
        )
        wanted.validate(claims)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError) as e:
        raise ValueError(f"{type(e).__name__} {e}") from e
    return claims

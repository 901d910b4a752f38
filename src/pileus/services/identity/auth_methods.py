"""The methods by which somebody can prove who he is, as `identity.methods` names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .auth_application_credential import APPLICATION_CREDENTIAL
from .auth_mapped import MAPPED
from .auth_oauth1 import OAUTH1
from .auth_password import PASSWORD
from .auth_token import TOKEN
from .auth_totp import TOTP
from .proof import Method

_EVERY: tuple[Method[Any], ...] = (
    PASSWORD,
    TOKEN,
    APPLICATION_CREDENTIAL,
    TOTP,
    OAUTH1,
    *MAPPED,
)
METHODS: Mapping[str, Method[Any]] = {method.name: method for method in _EVERY}

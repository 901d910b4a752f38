"""Identity (Keystone): who is calling, where, with which roles; and the catalog of everything else."""

from pileus.kernel.auth import TOKENS
from pileus.kernel.faults import KEYSTONE
from pileus.kernel.resources import Service
from pileus.kernel.runtime import Provided

from .auth_tokens import AuthTokens
from .authentication import AUTHENTICATION, Authentication
from .bootstrap import bootstrap
from .contract import IDENTITY
from .directory import Directory
from .discovery import Discovery
from .keys import KEYRING, Keyring
from .settings import Settings
from .tokens import TOKENS_KEPT, Tokens

SERVICE = Service(
    type="identity",
    name="keystone",
    description="Identity service",
    prefix="/identity",
    api="/v3",
    endpoint="/identity",
    dialect=KEYSTONE,
    hides_unknown=True,
    scopes=("system", "domain", "project"),
    rules={
        "admin_required": "role:admin or is_admin:1",
        "service_role": "role:service",
        "service_or_admin": "rule:admin_required or rule:service_role",
        "owner": "user_id:%(user_id)s",
        "admin_or_owner": "rule:admin_required or rule:owner",
        "token_subject": "user_id:%(target.token.user_id)s",
        "admin_or_token_subject": "rule:admin_required or rule:token_subject",
    },
    resources=(Discovery, AuthTokens),
    provides=(
        Provided(KEYRING, Keyring),
        Provided(TOKENS_KEPT, Tokens),
        Provided(TOKENS, lambda runtime: runtime.contracts.get(TOKENS_KEPT)),
        Provided(AUTHENTICATION, Authentication),
        Provided(IDENTITY, Directory),
    ),
    bootstrap=bootstrap,
    settings=Settings,
)

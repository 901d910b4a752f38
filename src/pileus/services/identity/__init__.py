"""Identity (Keystone): who is calling, where, with which roles; and the catalog of everything else."""

from pileus.kernel.auth import TOKENS
from pileus.kernel.faults import KEYSTONE
from pileus.kernel.resources import Service
from pileus.kernel.runtime import Provided, Standing

from .application_credentials import ApplicationCredentials
from .auth_scopes import AuthScopes
from .auth_tokens import AuthTokens
from .authentication import AUTHENTICATION, Authentication
from .bootstrap import bootstrap
from .contract import IDENTITY
from .credentials import Credentials
from .directory import Directory
from .discovery import Discovery
from .domains import Domains
from .endpoints import Endpoints
from .grants import Grants
from .groups import Groups, UserGroups
from .implied_roles import ImpliedRoles
from .keys import KEYRING, Keyring
from .passwords import PASSWORDS, Passwords
from .policies import Policies
from .projects import Projects, UserProjects
from .regions import Regions
from .role_assignments import RoleAssignments
from .roles import Roles
from .rotation import sweep
from .services import Services
from .settings import Settings
from .tokens import TOKENS_KEPT, Tokens
from .trusts import Trusts
from .users import Users

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
        "domain_managed_target_role": (
            "'manager':%(target.role.name)s or 'member':%(target.role.name)s or "
            "'reader':%(target.role.name)s"
        ),
    },
    resources=(
        Discovery,
        AuthTokens,
        AuthScopes,
        Regions,
        Services,
        Endpoints,
        Domains,
        Projects,
        UserProjects,
        Users,
        Groups,
        UserGroups,
        Roles,
        ImpliedRoles,
        Grants,
        RoleAssignments,
        Credentials,
        Policies,
        ApplicationCredentials,
        Trusts,
    ),
    provides=(
        Provided(KEYRING, Keyring),
        Provided(PASSWORDS, Passwords),
        Provided(TOKENS_KEPT, Tokens),
        Provided(TOKENS, lambda runtime: runtime.contracts.get(TOKENS_KEPT)),
        Provided(AUTHENTICATION, Authentication),
        Provided(IDENTITY, Directory),
    ),
    reconcilers=(Standing("identity.sweep", 3600, sweep),),
    bootstrap=bootstrap,
    settings=Settings,
)

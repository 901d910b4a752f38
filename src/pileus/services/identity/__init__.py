"""Identity (Keystone): who is calling, where, with which roles; and the catalog of everything else."""

from pileus.kernel.auth import TOKENS
from pileus.kernel.faults import KEYSTONE
from pileus.kernel.resources import Service
from pileus.kernel.runtime import Provided, Standing

from .access_rules import AccessRules
from .application_credentials import ApplicationCredentials
from .auth_scopes import AuthScopes
from .auth_tokens import AuthTokens
from .authentication import AUTHENTICATION, Authentication
from .bootstrap import bootstrap
from .contract import IDENTITY, SECRETS
from .credentials import Credentials
from .directory_domains import DIRECTORIES
from .discovery import Discovery
from .domain_configurations import RECONCILER, DomainConfigurations
from .domains import Domains
from .ec2_credentials import Ec2Credentials
from .ec2_tokens import Ec2Tokens
from .endpoint_groups import EndpointGroups
from .endpoints import Endpoints
from .federated_logins import Logins
from .federation.federated_users import end_memberships
from .federation.identity_providers import IdentityProviders
from .federation.mappings import Mappings
from .federation.openid_login import OPENID, OpenId
from .federation.protocols import Protocols, VouchingKept
from .federation.service_providers import ServiceProviders
from .grants import Grants
from .groups import Groups, UserGroups
from .implied_roles import ImpliedRoles
from .keys import KEYRING, Keyring, SecretsKept
from .known_projects import KnownProjects
from .ldap_directories import LdapDirectories, keep_directories
from .limits import Limits
from .oauth1.access_tokens import AccessTokens
from .oauth1.access_tokens import sweep as sweep_oauth1
from .oauth1.consumers import Consumers
from .oauth2_tokens import Oauth2Tokens
from .passwords import PASSWORDS, Passwords
from .policies import Policies
from .policy_associations import PolicyAssociations
from .project_endpoints import ProjectEndpointGroups, ProjectEndpoints
from .project_tags import ProjectTags
from .projects import Projects, UserProjects
from .regions import Regions
from .registered_limits import RegisteredLimits
from .revocation_events import Certificates, RevocationEvents
from .role_assignments import RoleAssignments
from .roles import Roles
from .rotation import Keys, sweep
from .services import Services
from .settings import Settings
from .sign_ins import UserPasswords
from .tokens import TOKENS_KEPT, Tokens
from .trusts import Trusts
from .users import Users
from .vouchers import VOUCHING

SERVICE = Service(
    type="identity",
    name="keystone",
    description="Identity service",
    prefix="/identity",
    api="/v3",
    endpoint="/identity",
    dialect=KEYSTONE,
    hides_unknown=True,
    unruled=frozenset({"GET /auth/tokens"}),
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
        ProjectEndpoints,
        EndpointGroups,
        ProjectEndpointGroups,
        Domains,
        DomainConfigurations,
        Projects,
        ProjectTags,
        UserProjects,
        Users,
        UserPasswords,
        Groups,
        UserGroups,
        Roles,
        ImpliedRoles,
        Grants,
        RoleAssignments,
        Credentials,
        Ec2Credentials,
        Ec2Tokens,
        Oauth2Tokens,
        Policies,
        PolicyAssociations,
        RegisteredLimits,
        Limits,
        RevocationEvents,
        Certificates,
        Keys,
        ApplicationCredentials,
        AccessRules,
        Trusts,
        IdentityProviders,
        Protocols,
        Mappings,
        ServiceProviders,
        Logins,
        Consumers,
        AccessTokens,
    ),
    provides=(
        Provided(KEYRING, Keyring),
        Provided(PASSWORDS, Passwords),
        Provided(DIRECTORIES, LdapDirectories),
        Provided(TOKENS_KEPT, Tokens),
        Provided(TOKENS, lambda runtime: runtime.contracts.get(TOKENS_KEPT)),
        Provided(VOUCHING, VouchingKept),
        Provided(OPENID, OpenId),
        Provided(AUTHENTICATION, Authentication),
        Provided(IDENTITY, KnownProjects),
        Provided(SECRETS, SecretsKept),
    ),
    reconcilers=(
        Standing("identity.sweep", 3600, sweep),
        Standing(RECONCILER, 300, keep_directories),
        Standing("identity.memberships", 60, end_memberships),
        Standing("identity.oauth1", 900, sweep_oauth1),
    ),
    bootstrap=bootstrap,
    settings=Settings,
)

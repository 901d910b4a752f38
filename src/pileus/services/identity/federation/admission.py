"""Admission: from what a provider vouches for to a user here, his groups, and the projects that are made for him."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

from pileus.kernel import auth
from pileus.kernel.faults import Conflict, Forbidden
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Reader, Tx

from .. import settings
from ..assignments import ASSIGNMENTS, assignment, grant
from ..claims import METHODS, Federation
from ..groups import GROUPS
from ..proof import Proof, refused
from ..roles import ROLES, Role
from ..security_compliance import is_enabled
from ..tree import PROJECTS, Project, named
from ..users import USERS, User
from ..vouchers import Voucher
from ..wire import changed
from . import mappings
from .federated_users import Visitor, note_active, welcome
from .identity_providers import IDENTITY_PROVIDERS, IdentityProvider
from .mapping_rules import (
    SYNCED_VERSION,
    DomainRef,
    GroupRef,
    Mapped,
    ProjectRef,
    Unmapped,
    UserRef,
    evaluate,
)
from .mappings import MAPPINGS
from .protocols import protocol_of

_LONGEST_NAME = 255
_MOST_GROUPS = 128  # each makes the token longer
Wanted = Sequence[tuple[ProjectRef, str, list[Role]]]  # a project, its domain and the roles there


async def open_provider(db: Reader, idp_id: str) -> IdentityProvider:
    """A provider that may vouch now. Raises NotFound, Forbidden."""
    provider = await IDENTITY_PROVIDERS.get(db, idp_id)
    if not provider.enabled:
        raise Forbidden(f"Identity Provider {idp_id} is disabled")
    return provider


async def admit(
    runtime: Runtime, idp_id: str, protocol_id: str, assertion: Mapping[str, Sequence[str]]
) -> Proof:
    """What a login by this assertion proves. Raises NotFound, Forbidden, Conflict, Unauthenticated."""
    store = runtime.store
    provider = await open_provider(store, idp_id)
    protocol = await protocol_of(store, idp_id, protocol_id)
    rules = await MAPPINGS.find(store, protocol.mapping_id)
    if rules is None:
        raise refused(f"mapping {protocol.mapping_id} of {protocol.id} is not there")
    attribute = protocol.remote_id_attribute
    if attribute and not set(provider.remote_ids).intersection(assertion.get(attribute, ())):
        raise refused(f"{attribute} of the login is none of {idp_id}'s remote ids")
    try:
        mapped = evaluate(rules.schema_version, rules.rules, assertion)
        methods = (protocol_id if protocol_id in METHODS else "mapped",)
        if mapped.user.type == "local":
            return Proof(await _local(store, mapped.user), methods)
        remote_user = next(iter(assertion.get("REMOTE_USER", ())), "")
        visitor = await _visitor(store, provider, protocol_id, mapped, remote_user)
        wanted = await _wanted(store, provider, visitor.domain_id, mapped.projects)
    except Unmapped as why:
        raise refused(f"{provider.id}/{protocol_id}: {why}") from None
    async with store.tx() as tx:
        user = await welcome(tx, visitor)
        chosen = settings.of(runtime)
        if chosen.disable_user_account_days_inactive and is_enabled(user, chosen, tx.now):
            user = await note_active(tx, user)
        await _settle(runtime, tx, user, wanted, rules)
    federation = Federation(idp_id, protocol_id, visitor.group_ids)
    return Proof(user, methods, {"federation": federation})


async def _local(db: Reader, wanted: UserRef) -> User:
    """A user of this cloud, named by id or by name and domain. Raises Unmapped."""
    user = await USERS.find(db, wanted.id) if wanted.id else None
    if not wanted.id and wanted.name and wanted.domain is not None:
        domain_id = await _domain_id(db, wanted.domain)
        user = await USERS.one(db, domain_id=domain_id, name_key=wanted.name.lower())
    if user is None:
        raise Unmapped(f"local user {wanted.id or wanted.name!r} is not there")
    return user


async def _visitor(
    db: Reader, provider: IdentityProvider, protocol_id: str, mapped: Mapped, remote_user: str
) -> Visitor:
    wanted = mapped.user
    name = wanted.name or remote_user or wanted.id
    if not name:
        raise Unmapped("the mapping gives the user neither a name nor an id")
    if len(name) > _LONGEST_NAME:
        raise Unmapped(f"a user's name may have {_LONGEST_NAME} characters, not {len(name)}")
    domain_id = provider.domain_id
    if wanted.domain is not None:
        domain_id = await _domain_id(db, wanted.domain)
    return Visitor(
        voucher=Voucher(provider.id, protocol_id, quote(wanted.id or name)),
        domain_id=domain_id,
        name=name,
        email=wanted.email,
        group_ids=tuple(await _groups(db, mapped.group_ids, mapped.groups)),
        groups_minutes=provider.authorization_ttl or 0,
    )


async def _groups(db: Reader, ids: Iterable[str], groups: Iterable[GroupRef]) -> list[str]:
    """Groups by id must be there; names that no group has mean nothing. Raises Unmapped."""
    found = dict.fromkeys(ids)
    for id in found:
        if await GROUPS.find(db, id) is None:
            raise Unmapped(f"group {id} is not there")
    for ref in groups:
        assert ref.domain is not None
        domain_id = await _domain_id(db, ref.domain)
        group = await GROUPS.one(db, domain_id=domain_id, name_key=ref.name.lower())
        if group is not None:
            found[group.id] = None
    if len(found) > _MOST_GROUPS:
        raise Unmapped(f"{len(found)} groups; a token has room for {_MOST_GROUPS}")
    return list(found)


async def _domain_id(db: Reader, ref: DomainRef) -> str:
    """Raises Unmapped."""
    found = await PROJECTS.find(db, ref.id) if ref.id else await named(db, ref.name, "")
    if found is None or not found.is_domain:
        raise Unmapped(f"domain {ref.id or ref.name!r} is not there")
    return found.id


async def _wanted(
    db: Reader, provider: IdentityProvider, user_domain_id: str, projects: Iterable[ProjectRef]
) -> Wanted:
    """Everything that the projects name must be there before anything is made. Raises Unmapped."""
    found = []
    for project in projects:
        domain_id = provider.domain_id
        if project.domain is not None:
            domain_id = await _domain_id(db, project.domain)
        roles = [await _role(db, ref.name, user_domain_id) for ref in project.roles]
        found.append((project, domain_id, roles))
    return found


async def _role(db: Reader, name: str, user_domain_id: str) -> Role:
    for domain_id in ("", user_domain_id):
        role = await ROLES.one(db, domain_id=domain_id, name_key=name.lower())
        if role is not None:
            return role
    raise Unmapped(f"role {name!r} is not there, or is another domain's")


async def _settle(
    runtime: Runtime, tx: Tx, user: User, wanted: Wanted, rules: mappings.Mapping
) -> None:
    """Makes the projects that are missing and gives the roles; from 3.0 on it takes all others away."""
    if not wanted and rules.schema_version != SYNCED_VERSION:
        return
    actor, given = f"user:{user.id}", set[str]()
    touched = False
    for ref, domain_id, roles in wanted:
        project = await named(tx, ref.name, domain_id) or await _make(runtime, tx, ref, domain_id)
        for role in roles:
            one = assignment(actor, f"project:{project.id}", role.id)
            given.add(one.id)
            touched |= await grant(tx, one)
    if rules.schema_version == SYNCED_VERSION:
        for held in await ASSIGNMENTS.all(tx, actor=actor):
            if held.target.startswith("project:") and held.id not in given:
                await ASSIGNMENTS.delete(tx, held)
                touched = True
    if touched:
        await auth.revise(tx, "auth")


async def _make(runtime: Runtime, tx: Tx, ref: ProjectRef, domain_id: str) -> Project:
    if not 0 < len(ref.name.strip()) <= 64:
        raise Conflict(f"A project's name may have 64 characters, not {len(ref.name)}.")
    project = Project(
        id=runtime.world.new_hex(), name=ref.name.strip(), domain_id=domain_id, parent_id=domain_id
    )
    project = await PROJECTS.insert(tx, project)
    await changed(tx, "project", project.id, "created")
    return project

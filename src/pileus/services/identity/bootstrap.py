"""The first start: what a cloud holds before anybody asked for anything. Doing it again changes nothing."""

from __future__ import annotations

import os
import uuid
from itertools import pairwise
from pathlib import Path

from pileus.kernel import auth
from pileus.kernel.faults import Conflict
from pileus.kernel.resources import Service
from pileus.kernel.runtime import Runtime
from pileus.kernel.store import Tx
from pileus.kernel.world import World

from . import catalog, roles
from .assignments import SYSTEM, assignment, grant
from .catalog import ENDPOINTS, REGIONS, SERVICES, CatalogService, Endpoint, Region
from .keys import make_first
from .passwords import PASSWORDS
from .roles import IMPLICATIONS, ROLES, Role, implication
from .tree import PROJECTS, Project
from .users import USERS, User
from .wire import DEFAULT_DOMAIN, drop_all

REGION = "RegionOne"
INTERFACES = ("public", "internal", "admin")
PASSWORD_FILE = "admin-password"
_ROLES = ("admin", "manager", "member", "reader", "service")
_NAMESPACE = uuid.UUID("6e5a0f6b-5d9d-4f0f-9a59-1a5b6f3c2d10")  # of the ids derived from names
_ALPHABET = "abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"


async def bootstrap(runtime: Runtime) -> None:
    """Makes what is missing of: keys, domain, roles, projects, the administrator, region, catalog."""
    await make_first(runtime)
    if await USERS.one(runtime.store, domain_id=DEFAULT_DOMAIN, name_key="admin") is None:
        password = admin_password(runtime.data, runtime.world)
        hashed = await runtime.contracts.get(PASSWORDS).hashed(password)
        try:
            async with runtime.store.tx() as tx:
                await _first_rows(tx, runtime.world, hashed)
        except Conflict:
            pass  # another control was first
    async with runtime.store.tx() as tx:
        await publish(tx, runtime)


def admin_password(folder: Path, world: World) -> str:
    """The administrator's first password: kept in the folder, readable by its owner only."""
    path = folder / PASSWORD_FILE
    if path.exists():
        return path.read_text("utf-8").strip()
    password = "".join(world.random.choice(_ALPHABET) for _ in range(24))
    folder.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(password + "\n")
    return password


async def _first_rows(tx: Tx, world: World, password_hash: str) -> None:
    await PROJECTS.insert(
        tx,
        Project(
            id=DEFAULT_DOMAIN, name="Default", is_domain=True, description="The default domain"
        ),
    )
    made = {}
    for name in _ROLES:
        made[name] = await ROLES.insert(tx, Role(id=world.new_hex(), name=name))
    for prior, implied in pairwise(_ROLES[:4]):
        await IMPLICATIONS.insert(tx, implication(made[prior], made[implied]))
    await auth.revise(tx, roles.REVISION)
    about = {
        "admin": "Bootstrap project for initializing the cloud.",
        "service": "Project of the cloud's services",
    }
    projects = {}
    for name, description in about.items():
        project = Project(
            id=world.new_hex(),
            name=name,
            domain_id=DEFAULT_DOMAIN,
            parent_id=DEFAULT_DOMAIN,
            description=description,
        )
        projects[name] = await PROJECTS.insert(tx, project)
    admin = await USERS.insert(
        tx,
        User(
            id=world.new_hex(),
            name="admin",
            domain_id=DEFAULT_DOMAIN,
            password_hash=password_hash,
            password_at=tx.now,
        ),
    )
    for target in (f"project:{projects['admin'].id}", SYSTEM):
        await grant(tx, assignment(f"user:{admin.id}", target, made["admin"].id))
    await auth.revise(tx, "auth")


def derived_id(*names: str) -> str:
    """The same id for the same names in every cloud and at every start."""
    return uuid.uuid5(_NAMESPACE, "/".join(names)).hex


async def publish(tx: Tx, runtime: Runtime) -> None:
    """Makes the catalog hold this cloud's enabled services, and no others of its own."""
    if await REGIONS.find(tx, REGION) is None:
        await REGIONS.insert(tx, Region(id=REGION))
    wanted = {
        derived_id(kind): (kind, service)
        for service in runtime.services
        for kind in (service.type, *service.aliases)
    }
    gone = [s for s in await SERVICES.all(tx) if s.provided and s.id not in wanted]
    for known in gone:
        await drop_all(tx, ENDPOINTS, service_id=known.id)
        await SERVICES.delete(tx, known)
    made = [id for id in wanted if await SERVICES.find(tx, id) is None]
    for id in made:
        await _publish_one(tx, id, *wanted[id])
    if gone or made:
        await auth.revise(tx, catalog.REVISION)


async def _publish_one(tx: Tx, id: str, kind: str, service: Service) -> None:
    row = CatalogService(
        id=id, type=kind, name=service.name, description=service.description or None, provided=True
    )
    await SERVICES.insert(tx, row)
    for interface in INTERFACES:
        endpoint = Endpoint(
            id=derived_id(kind, interface),
            service_id=id,
            interface=interface,
            url=service.endpoint,
            region_id=REGION,
        )
        await ENDPOINTS.insert(tx, endpoint)

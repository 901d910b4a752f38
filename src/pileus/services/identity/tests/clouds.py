"""An identity service alone in a cloud, and callers of any role and scope in it without the price of a password."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from pileus.kernel.world import World
from pileus.services.identity import SERVICE
from pileus.services.identity.claims import Claims, new_audit_id
from pileus.services.identity.settings import Settings
from pileus.services.identity.tokens import TOKENS_KEPT, Tokens
from pileus.testing.client import Client, Reply
from pileus.testing.cloud import PASSWORD, Cloud, cloud

V3 = "/identity/v3"


@dataclass
class Who:
    """A caller: calls are paths below /v3."""

    client: Client
    user_id: str = ""
    project_id: str = ""
    domain_id: str = ""
    token: str = ""

    async def get(self, path: str, **headers: str) -> Reply:
        return await self.client.get(V3 + path, **headers)

    async def head(self, path: str, **headers: str) -> Reply:
        return await self.client.request("HEAD", V3 + path, headers=headers)

    async def post(self, path: str, document: Any = None) -> Reply:
        return await self.client.post(V3 + path, document)

    async def put(self, path: str, document: Any = None) -> Reply:
        return await self.client.put(V3 + path, document)

    async def patch(self, path: str, document: Any = None) -> Reply:
        return await self.client.patch(V3 + path, document)

    async def delete(self, path: str, **headers: str) -> Reply:
        return await self.client.delete(V3 + path, **headers)

    async def make(self, path: str, **fields: Any) -> dict[str, Any]:
        """POSTs one of a collection and gives it."""
        root = {"policies": "policy"}.get(path.split("/")[-1], path.split("/")[-1][:-1])
        reply = await self.post(path, {root: fields})
        assert reply.status == 201, reply
        found: dict[str, Any] = reply.json[root]
        return found


@dataclass
class Identity:
    cloud: Cloud
    admin: Who
    anybody: Who

    @property
    def tokens(self) -> Tokens:
        return self.cloud.runtime.contracts.get(TOKENS_KEPT)

    async def project(self, name: str, domain: str = "default") -> str:
        made = await self.admin.make("/projects", name=name, domain_id=domain)
        return str(made["id"])

    async def domain(self, name: str) -> str:
        return str((await self.admin.make("/domains", name=name))["id"])

    async def role(self, name: str) -> str:
        return str((await self.admin.get(f"/roles?name={name}")).json["roles"][0]["id"])

    async def grant(self, role: str, where: str, user: str) -> None:
        url = f"/{where}/users/{user}/roles/{await self.role(role)}"
        reply = await self.admin.put(url)
        assert reply.status == 204, reply

    async def user(self, name: str, domain: str = "default", **fields: Any) -> str:
        made = await self.admin.make("/users", name=name, domain_id=domain, **fields)
        return str(made["id"])

    async def who(self, name: str, role: str = "", where: str = "", domain: str = "default") -> Who:
        """A new user with a role at `projects/ID`, `domains/ID` or `system`, and his token there."""
        user = await self.user(name, domain)
        if where:
            await self.grant(role, where, user)
        return await self.token(user, where)

    async def token(self, user: str, where: str = "") -> Who:
        """A token as a password would give it."""
        places, _, id = where.partition("/")
        now = self.tokens.now_us()
        claims = Claims(
            user_id=user,
            methods=("password",),
            scope=places.removesuffix("s") if id else places,
            scope_id=id or ("all" if places else ""),
            issued_us=now,
            expires_us=now + 3_600_000_000,
            audit_ids=(new_audit_id(self.cloud.runtime.world),),
        )
        token = await self.tokens.issue(claims)
        project, domain = (id if places == "projects" else ""), (id if places == "domains" else "")
        return Who(self.anybody.client.as_(token), user, project, domain, token)

    async def login(self, **asked: Any) -> Reply:
        """POST /v3/auth/tokens; `scope` and the parts of `identity`."""
        scope = {"scope": asked.pop("scope")} if "scope" in asked else {}
        methods = asked.pop("methods", list(asked))
        body = {"auth": {"identity": {"methods": methods, **asked}, **scope}}
        return await self.anybody.post("/auth/tokens", body)

    async def password(self, user: str, password: str = PASSWORD, **more: Any) -> Reply:
        return await self.login(password={"user": {"id": user, "password": password}}, **more)


Test = Callable[[Identity], Awaitable[None]]


def alone(test: Test) -> Callable[[], None]:
    """Runs the test in a cloud that has identity and nothing else."""
    return alone_with()(test)


def alone_with(world: World | None = None, **settings: Any) -> Callable[[Test], Callable[[], None]]:
    """The same with these settings of identity, and in that world."""
    return lambda test: _run_in(test, world, settings)


def _run_in(test: Test, world: World | None, settings: dict[str, Any]) -> Callable[[], None]:
    async def run() -> None:
        chosen = {"identity": Settings(**settings)}
        async with cloud([SERVICE], hosts=0, settings=chosen, world=world) as c:
            token = c.admin.headers["x-auth-token"]
            admin = Who(c.admin, c.admin.user_id, c.admin.project_id, "", token)
            await test(Identity(c, admin, Who(c.client)))

    @functools.wraps(test)
    def wrapped() -> None:
        asyncio.run(run())

    del wrapped.__wrapped__  # pytest would look for fixtures in the test's own signature
    return wrapped

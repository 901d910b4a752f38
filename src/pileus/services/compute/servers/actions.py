"""Actions on a server: one POST, told apart by the body's only key.

https://docs.openstack.org/api-ref/compute/#servers-run-an-action-servers-action
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from msgspec import UNSET

from pileus.kernel.faults import Conflict, Invalid, NotFound, Unavailable
from pileus.kernel.resources import Context, operation
from pileus.services.compute import checks, instance_actions
from pileus.services.compute.agent_contract import COMPUTE_HOST
from pileus.services.compute.server import SERVERS, Server
from pileus.services.compute.servers import states
from pileus.services.compute.servers.addresses import look_again
from pileus.services.compute.servers.bodies import (
    AddGroup,
    ConsoleOutput,
    LockServer,
    RebootServer,
    RemoveGroup,
    ResetState,
)
from pileus.services.compute.servers.operations import (
    ADMIN,
    MEMBER,
    PATH,
    RULE,
    OfServer,
    act,
    plain,
)
from pileus.services.compute.servers.sagas import HARD_REBOOT, REBOOT, START, STOP
from pileus.services.network.contract import NETWORK

_CONSOLE = "os_compute_api:os-console-output"
_RESET = "os_compute_api:os-admin-actions:reset_state"
_LOCK = "os_compute_api:os-lock-server:"
_GROUPS = "os_compute_api:os-security-groups:"


class ServerActions(OfServer):
    rules: ClassVar[Mapping[str, str]] = {
        RULE + "start": MEMBER,
        RULE + "stop": MEMBER,
        RULE + "reboot": MEMBER,
        _CONSOLE: MEMBER,
        _RESET: ADMIN,
        _LOCK + "lock": MEMBER,
        _LOCK + "unlock": MEMBER,
        _LOCK + "unlock:unlock_override": ADMIN,
        _GROUPS + "add": MEMBER,
        _GROUPS + "remove": MEMBER,
    }

    start = plain(RULE + "start", "os-start", START)
    stop = plain(RULE + "stop", "os-stop", STOP)

    @operation("POST", PATH, RULE + "reboot", action="reboot", status=202)
    async def reboot(self, ctx: Context, server: Server, body: RebootServer) -> None:
        kind = body.type.upper()
        if kind not in ("SOFT", "HARD"):
            raise checks.wrong("type", body.type, f"{body.type!r} is not one of ['HARD', 'SOFT']")
        await act(ctx, HARD_REBOOT if kind == "HARD" else REBOOT, server, "reboot")

    @operation("POST", PATH, _CONSOLE, action="os-getConsoleOutput", status=200)
    async def console_output(
        self, ctx: Context, server: Server, body: ConsoleOutput
    ) -> dict[str, str]:
        """The end of the console; -1 or null is all that is kept."""
        if not server.host or not server.launched_at:
            raise Conflict(f"Instance {server.id} is not ready")
        lines = _lines(body.length)
        host = ctx.runtime.agents.proxy(COMPUTE_HOST, server.host)
        try:
            return {"output": await host.console_log(server.id, lines)}
        except NotFound:
            raise NotFound(f"Guest of instance {server.id} has no console.") from None
        except Unavailable as e:
            raise Conflict(
                f"The host of instance {server.id} does not answer.", internal=e.message
            ) from None

    @operation("POST", PATH, _RESET, action="os-resetState", status=202)
    async def reset_state(self, ctx: Context, server: Server, body: ResetState) -> None:
        """At once; a task that is under way goes on, and what it ends in holds then.

        A resize that was not confirmed still waits for it when the server is active again, and one that left
        its host must be unshelved.
        """
        if body.state not in (states.ACTIVE, states.ERROR):
            raise checks.wrong("state", body.state, "It is not one of ['active', 'error']")
        state = body.state
        if state == states.ACTIVE and server.move is not None:
            state = states.RESIZED
        if state == states.ACTIVE and server.shelved_image and not server.host:
            state = states.OFFLOADED
        async with ctx.runtime.store.tx() as tx:
            await SERVERS.change(tx, server, vm_state=state, fault=None)
            await instance_actions.record(tx, ctx, server, "resetState")

    # Locks

    @operation("POST", PATH, _LOCK + "lock", action="lock", status=202)
    async def lock(self, ctx: Context, server: Server, body: LockServer) -> None:
        own = server.project_id == ctx.caller.project_id
        reason = body.locked_reason if body.locked_reason is not UNSET else None
        if server.locked_by == "admin" and not ctx.caller.is_admin:
            raise Conflict(f"Instance {server.id} is locked")
        async with ctx.runtime.store.tx() as tx:
            await SERVERS.change(
                tx, server, locked_by="owner" if own else "admin", locked_reason=reason
            )
            await instance_actions.record(tx, ctx, server, "lock")

    @operation("POST", PATH, _LOCK + "unlock", action="unlock", status=202)
    async def unlock(self, ctx: Context, server: Server) -> None:
        if server.locked_by == "admin":
            ctx.require(_LOCK + "unlock:unlock_override", self.target(ctx, server))
        async with ctx.runtime.store.tx() as tx:
            await SERVERS.change(tx, server, locked_by="", locked_reason=None)
            await instance_actions.record(tx, ctx, server, "unlock")

    # Security groups

    @operation("POST", PATH, _GROUPS + "add", action="addSecurityGroup", status=202)
    async def add_group(self, ctx: Context, server: Server, body: AddGroup) -> None:
        await self._group(ctx, server, body.name, present=True)

    @operation("POST", PATH, _GROUPS + "remove", action="removeSecurityGroup", status=202)
    async def remove_group(self, ctx: Context, server: Server, body: RemoveGroup) -> None:
        await self._group(ctx, server, body.name, present=False)

    async def _group(self, ctx: Context, server: Server, name: str, *, present: bool) -> None:
        if not name.strip():
            raise Invalid("Security group name cannot be empty")
        await ctx.peer(NETWORK).set_guest_group(ctx.caller, server.id, name, present)
        await look_again(ctx.runtime, [server.id], wait=True)


def _lines(length: int | str | None) -> int | None:
    if length in (None, -1, "-1"):
        return None
    try:
        lines = int(length)
    except ValueError:
        lines = -2
    if lines < -1:
        raise checks.wrong("length", length, "It is not an integer of -1 or more")
    return lines

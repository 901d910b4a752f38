"""What all sagas of servers share: how the instance action went, its one event by the name that tools know from upstream."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import wraps

from pileus.kernel.sagas import Changes, Failure, Run, Saga, Step
from pileus.services.compute import instance_actions
from pileus.services.compute.server import SERVERS, Server
from pileus.services.compute.servers.states import LIFECYCLE

_EVENTS = {
    "create": "compute__do_build_and_run_instance",
    "delete": "compute_terminate_instance",
    "start": "compute_start_instance",
    "stop": "compute_stop_instance",
    "reboot": "compute_reboot_instance",
    "hard reboot": "compute_reboot_instance",
    "pause": "compute_pause_instance",
    "unpause": "compute_unpause_instance",
    "suspend": "compute_suspend_instance",
    "resume": "compute_resume_instance",
    "rebuild": "compute_rebuild_instance",
    "rescue": "compute_rescue_instance",
    "unrescue": "compute_unrescue_instance",
    "resize": "compute_prep_resize",
    "migrate": "compute_prep_resize",
    "os-migrateLive": "compute_live_migration",
    "evacuate": "compute_rebuild_instance",
    "confirmResize": "compute_confirm_resize",
    "revertResize": "compute_revert_resize",
    "shelve": "compute_shelve_instance",
    "shelveOffload": "compute_shelve_offload_instance",
    "unshelve": "compute_unshelve_instance",
    "soft delete": "compute_soft_delete_instance",
    "restore": "compute_restore_instance",
    "createImage": "compute_snapshot_instance",
    "createBackup": "compute_backup_instance",
    "attach_interface": "compute_attach_interface",
    "detach_interface": "compute_detach_interface",
    "attach_volume": "compute_attach_volume",
    "detach_volume": "compute_detach_volume",
    "swap_volume": "compute_swap_volume",
    "extend_volume": "compute_extend_volume",
    "follow_volume": "compute_swap_volume",  # as Nova says of a volume that Cinder moves
}
_GIVEN_UP = "It was given up."


async def success(run: Run[Server], note: str = "") -> None:
    await instance_actions.finish(run.runtime, run.id, event_of(run), run.record.host, note=note)


async def failure(run: Run[Server]) -> None:
    """As the undo of a step that leaves nothing else to undo."""
    e = run.entry
    error = e.error or _GIVEN_UP
    await instance_actions.finish(
        run.runtime,
        run.id,
        event_of(run),
        run.record.host,
        error=error,
        detail=e.detail,
        code=e.error_code,
    )


def event_of(run: Run[Server]) -> str:
    return _EVENTS[run.runtime.sagas.known[run.entry.saga].verb]


def noted(
    do: Callable[[Run[Server]], Awaitable[Changes | None]], *, timeout_s: float = 300
) -> Step[Server]:
    """A step that is all of a saga, and undoes itself where it fails."""

    @wraps(do)
    async def doing(run: Run[Server]) -> Changes | None:
        changes = await do(run)
        await success(run)
        return changes

    return Step(doing, failure, timeout_s=timeout_s)


def saga(
    event: str,
    verb: str,
    *steps: Step[Server],
    failed: Callable[[Server, Failure], Changes] = lambda server, failure: {},
    done: Callable[[Server, str], Changes] = lambda server, now: {},
) -> Saga[Server]:
    """Of servers. `event`: what follows `compute.instance.` in upstream's notification name."""
    name = f"compute.instance.{event}"
    return Saga(name, SERVERS, LIFECYCLE, verb, *steps, failed=failed, done=done)

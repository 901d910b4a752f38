"""The states of a server: `vm_state` is stable, `task_state` busy; the API's status is a view of both."""

from __future__ import annotations

from collections.abc import Iterable

from pileus.kernel.states import SAME, Lifecycle, Verb
from pileus.services.compute.server import KEPT

BUILDING, ACTIVE, STOPPED, ERROR, DELETED = "building", "active", "stopped", "error", "deleted"
PAUSED, SUSPENDED, RESCUED = "paused", "suspended", "rescued"
RESIZED, SOFT_DELETED = "resized", KEPT
SHELVED, OFFLOADED = "shelved", "shelved_offloaded"
REBUILDING = "rebuilding"
SCHEDULING, NETWORKING, SPAWNING = "scheduling", "networking", "spawning"
MAPPING = "block_device_mapping"
DELETING = "deleting"
MIGRATING = "migrating"
EVERY = frozenset(
    {BUILDING, ACTIVE, STOPPED, PAUSED, SUSPENDED, RESCUED, RESIZED, SHELVED, OFFLOADED}
    | {SOFT_DELETED, ERROR}
)
_WHOLE = frozenset({ACTIVE, STOPPED, PAUSED, SUSPENDED})  # there is a root disk at rest or in use
KEEPABLE = _WHOLE | {ERROR}  # a delete may keep it for a while
_HAS_VOLUMES = frozenset({ACTIVE, PAUSED, STOPPED, RESIZED, SOFT_DELETED, SHELVED, OFFLOADED})
TELLS_SIZES = (_HAS_VOLUMES | {SUSPENDED, RESCUED}) - {OFFLOADED}  # there is a guest to tell
ATTACHING, DETACHING, EXTENDING = "attaching_volume", "detaching_volume", "extending_volume"
SWAPPING, FOLLOWING = "swapping_volume", "following_volume"
PASSING = (ATTACHING, DETACHING, EXTENDING, FOLLOWING)  # soon over: who comes meanwhile waits

LIFECYCLE = Lifecycle(
    {
        "create": Verb(frozenset(), SCHEDULING, ACTIVE, ERROR),
        "delete": Verb(EVERY, DELETING, None, ERROR, interrupts=True),
        "start": Verb({STOPPED}, "powering-on", ACTIVE, SAME),
        "stop": Verb({ACTIVE, ERROR}, "powering-off", STOPPED, SAME),
        "reboot": Verb({ACTIVE}, "rebooting", SAME, SAME),
        "pause": Verb({ACTIVE}, "pausing", PAUSED, SAME),
        "unpause": Verb({PAUSED}, "unpausing", ACTIVE, SAME),
        "suspend": Verb({ACTIVE}, "suspending", SUSPENDED, SAME),
        "resume": Verb({SUSPENDED}, "resuming", ACTIVE, SAME),
        "rebuild": Verb({ACTIVE, STOPPED, ERROR}, REBUILDING, SAME, ERROR),
        "rescue": Verb({ACTIVE, STOPPED, ERROR}, "rescuing", RESCUED, SAME),
        "unrescue": Verb({RESCUED}, "unrescuing", ACTIVE, SAME),
        "resize": Verb({ACTIVE, STOPPED}, "resize_prep", RESIZED, SAME),
        "migrate": Verb({ACTIVE, STOPPED}, "resize_prep", RESIZED, SAME),
        "os-migrateLive": Verb({ACTIVE, PAUSED}, MIGRATING, SAME, SAME),
        "evacuate": Verb({ACTIVE, STOPPED, ERROR}, REBUILDING, SAME, ERROR),
        "confirmResize": Verb({RESIZED}, "resize_confirming", SAME, SAME),
        "revertResize": Verb({RESIZED}, "resize_reverting", SAME, SAME),
        "shelve": Verb(_WHOLE, "shelving", SAME, SAME),
        "shelveOffload": Verb({SHELVED}, "shelving_offloading", OFFLOADED, SAME),
        "unshelve": Verb({SHELVED, OFFLOADED}, "unshelving", ACTIVE, SAME),
        "soft delete": Verb(KEEPABLE, "soft-deleting", SOFT_DELETED, SAME, interrupts=True),
        "restore": Verb({SOFT_DELETED}, "restoring", ACTIVE, SAME),
        "createImage": Verb(_WHOLE, "image_snapshot_pending", SAME, SAME),
        "createBackup": Verb(_WHOLE, "image_backup", SAME, SAME),
        "attach_interface": Verb({ACTIVE, PAUSED, STOPPED}, "attaching_interface", SAME, SAME),
        "detach_interface": Verb({ACTIVE, PAUSED, STOPPED}, "detaching_interface", SAME, SAME),
        "attach_volume": Verb(_HAS_VOLUMES, ATTACHING, SAME, SAME),
        "detach_volume": Verb(_HAS_VOLUMES, DETACHING, SAME, SAME),
        "swap_volume": Verb({ACTIVE, PAUSED, RESIZED}, SWAPPING, SAME, SAME),
        "extend_volume": Verb(TELLS_SIZES, EXTENDING, SAME, SAME),
        "follow_volume": Verb(TELLS_SIZES, FOLLOWING, SAME, SAME),
        "hard reboot": Verb(
            {ACTIVE, STOPPED, PAUSED, SUSPENDED, ERROR}, "rebooting_hard", ACTIVE, ERROR
        ),
    },
    stable="vm_state",
    busy="task_state",
    observed={PAUSED, SUSPENDED, SHELVED},
    reset={ACTIVE, ERROR},
    noun="instance",
)

_RESIZING = dict.fromkeys(("resize_prep", "resize_migrating", "resize_finish"), "RESIZE")
_STATUS = {
    ACTIVE: {
        "": "ACTIVE",
        "rebooting": "REBOOT",
        MIGRATING: "MIGRATING",
        "rebooting_hard": "HARD_REBOOT",
        REBUILDING: "REBUILD",
        **_RESIZING,
    },
    BUILDING: {"": "BUILD"},
    STOPPED: {"": "SHUTOFF", "rebooting_hard": "HARD_REBOOT", REBUILDING: "REBUILD", **_RESIZING},
    RESIZED: {"": "VERIFY_RESIZE", "resize_reverting": "REVERT_RESIZE"},
    RESCUED: {"": "RESCUE"},
    SHELVED: {"": "SHELVED"},
    OFFLOADED: {"": "SHELVED_OFFLOADED"},
    SOFT_DELETED: {"": "SOFT_DELETED"},
    PAUSED: {"": "PAUSED", MIGRATING: "MIGRATING", "rebooting_hard": "HARD_REBOOT"},
    SUSPENDED: {"": "SUSPENDED", "rebooting_hard": "HARD_REBOOT"},
    ERROR: {"": "ERROR", REBUILDING: "REBUILD"},
    DELETED: {"": "DELETED"},
}
# Statuses that a list may be asked for although no server is ever in them here.
_FOREIGN = [
    "PASSWORD",
    "UNKNOWN",
]


def status_of(vm_state: str, task_state: str) -> str:
    """`ACTIVE`, `BUILD`, ... as the API shows it."""
    tasks = _STATUS.get(vm_state, {"": "UNKNOWN"})
    return tasks.get(task_state, tasks[""])


def states_of(statuses: Iterable[str]) -> tuple[list[str], list[str], bool]:
    """The vm_states and task_states (empty: any) that give these statuses; whether all words are known."""
    vm_states: set[str] = set()
    task_states: set[str] = set()
    known = True
    any_task = False
    for wanted in statuses:
        found = [
            (vm, task)
            for vm, tasks in _STATUS.items()
            for task, status in tasks.items()
            if status == wanted.upper()
        ]
        known = known and (bool(found) or wanted.upper() in _FOREIGN)
        for vm, task in found:
            vm_states.add(vm)
            any_task = any_task or not task
            task_states.add(task)
    return sorted(vm_states), [] if any_task else sorted(task_states), known

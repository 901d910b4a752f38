"""The states of volumes, snapshots and backups.

A volume's `status` is stable, its `task` busy; the API's status is the task or, where nothing goes on, the status.
What is attached sets `reserved`, `attaching`, `in-use` and `detaching`, and no verb leads there.
"""

from __future__ import annotations

from pileus.kernel.states import SAME, Lifecycle, Verb

AVAILABLE, IN_USE, ERROR = "available", "in-use", "error"
RESERVED, ATTACHING, DETACHING = "reserved", "attaching", "detaching"
AWAITING_TRANSFER = "awaiting-transfer"
CREATING, DELETING = "creating", "deleting"
ERROR_DELETING, ERROR_EXTENDING = "error_deleting", "error_extending"
ERROR_RESTORING, ERROR_MANAGING = "error_restoring", "error_managing"
ERROR_BACKING_UP = "error_backing-up"
MAINTENANCE, MIGRATING, RETYPING = "maintenance", "migrating", "retyping"
ATTACHED_STATES = frozenset({IN_USE, ATTACHING, DETACHING, RESERVED})
REST = frozenset({AVAILABLE, IN_USE})
FAILED = frozenset(
    {ERROR, ERROR_DELETING, ERROR_EXTENDING, ERROR_RESTORING, ERROR_MANAGING, ERROR_BACKING_UP}
)
# What an administrator may say that it is.
RESET = ATTACHED_STATES | FAILED | {AVAILABLE, CREATING, DELETING, MAINTENANCE, AWAITING_TRANSFER}

VOLUME = Lifecycle(
    {
        "create": Verb(frozenset(), CREATING, AVAILABLE, ERROR),
        "manage": Verb(frozenset(), "managing", AVAILABLE, ERROR_MANAGING),
        "delete": Verb(RESET, DELETING, None, ERROR_DELETING, interrupts=True),
        "extend": Verb(REST, "extending", SAME, ERROR_EXTENDING),
        "retype": Verb(REST, RETYPING, SAME, SAME),
        "migrate": Verb({AVAILABLE}, MIGRATING, SAME, SAME),
        "relocate": Verb({IN_USE}, MIGRATING, SAME, SAME),
        "revert": Verb({AVAILABLE}, "reverting", SAME, ERROR),
        "reimage": Verb({AVAILABLE, ERROR, RESERVED}, "downloading", SAME, ERROR),
        "upload": Verb(REST, "uploading", SAME, SAME),
    },
    stable="status",
    busy="task",
    observed=ATTACHED_STATES,
    reset=RESET,
    noun="volume",
)
_SETTLED = frozenset({AVAILABLE, ERROR, ERROR_DELETING})
SNAPSHOT = Lifecycle(
    {
        "create": Verb(frozenset(), CREATING, AVAILABLE, ERROR),
        "delete": Verb(_SETTLED, DELETING, None, ERROR_DELETING),
    },
    reset=_SETTLED,
    noun="snapshot",
)
BACKUP = Lifecycle(
    {
        "create": Verb(frozenset(), CREATING, AVAILABLE, ERROR),
        "restore": Verb({AVAILABLE}, "restoring", AVAILABLE, AVAILABLE),
        "delete": Verb(_SETTLED, DELETING, None, ERROR_DELETING),
    },
    reset=_SETTLED,
    noun="backup",
)
GROUP = Lifecycle({"delete": Verb({AVAILABLE, ERROR}, DELETING, None, ERROR)}, noun="group")
GROUP_SNAPSHOT = Lifecycle(
    {
        "create": Verb(frozenset(), CREATING, AVAILABLE, ERROR),
        "delete": Verb({AVAILABLE, ERROR}, DELETING, None, ERROR),
    },
    noun="group snapshot",
)

"""Two answers that only image has."""

from __future__ import annotations

from pileus.kernel.faults import Invalid, NotFound


class Gone(NotFound):
    """The image was deleted while its bytes came in."""

    status, title = 410, "Gone"


class RangeNotSatisfiable(Invalid):
    """The bytes asked for are not in the image."""

    status, title = 416, "Requested Range Not Satisfiable"

"""The back ends of a host as an operator names them: one, or several with a comma between.

    [NAME=]file[:FOLDER]                      files in that folder, else in the host's own
    [NAME=]rbd:POOL[:id=USER][:conf=PATH]     images of a Ceph pool

Types choose one by its name (`volume_backend_name`); one without goes by its host's, and its pool by `file` or POOL.
"""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from pileus.host import files
from pileus.host.rbd import Place
from pileus.kernel.faults import Invalid

_NOTE = "volume_back_end"  # in the host's folder
_ONE = re.compile(r"(?:([\w.-]{1,64})=)?(file|rbd)(?::(.*))?")


class BackEnd(msgspec.Struct, frozen=True):
    """`pool` is what its pool is called; `folder` is what it keeps on the machine; `place` is of Ceph's."""

    name: str
    pool: str
    folder: Path
    place: Place | None = None


def back_ends(state: Path, asked: str) -> list[BackEnd]:
    """Those asked for; they are noted, for a host that is told nothing goes on with what it has. Raises Invalid."""
    note = state / _NOTE
    if not asked:
        return _read(state, note.read_text() if note.exists() else "file")
    found = _read(state, asked)
    note.parent.mkdir(parents=True, exist_ok=True)
    files.write_atomically(note, asked.encode())
    return found


def _read(state: Path, text: str) -> list[BackEnd]:
    found = [_one(state, word.strip()) for word in text.split(",")]
    pools = [one.pool for one in found]
    places = [str(one.place.pool if one.place else one.folder) for one in found]
    for said in (pools, places):
        if twice := {one for one in said if said.count(one) > 1}:
            raise Invalid(f"{' and '.join(sorted(twice))}: two back ends of {text!r} have it.")
    return found


def _one(state: Path, word: str) -> BackEnd:
    match = _ONE.fullmatch(word)
    if match is None:
        text = "none of [NAME=]file, [NAME=]file:FOLDER and [NAME=]rbd:POOL[:id=USER][:conf=PATH]"
        raise Invalid(f"Back end {word!r} is {text}.")
    name, kind, place = match[1] or "", match[2], match[3] or ""
    folder = state / (f"volumes-{name}" if name else "volumes")
    if kind == "rbd":
        ceph = Place.named(place)
        return BackEnd(name, name or ceph.pool, folder, ceph)
    if place and not Path(place).is_absolute():
        raise Invalid(f"Back end {word!r}: folder {place} must begin with a slash.")
    return BackEnd(name, name or "file", Path(place) if place else folder)

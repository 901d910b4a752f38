"""Which of OpenStack's published security advisories (OSSA) a test here is named after: `docs/security.md`.

`advisories.tsv` holds them all: id, the services they apply to (none: nothing that Pileus means to have), what must
exist before there is anything to test (an action or a part of a path that an operation declares), title.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pileus.kernel.resources import Service

TABLE = Path(__file__).with_suffix(".tsv")
_TEST = re.compile(r"^\s*(?:async )?def (test_(?:ossa|cve)_\w+)", re.MULTILINE)


@dataclass(frozen=True)
class Advisory:
    id: str
    services: tuple[str, ...]  # empty: concerns nothing that Pileus means to have
    needs: str
    title: str


def advisories() -> list[Advisory]:
    """All that were published, in order."""
    with TABLE.open(newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [
            Advisory(r["id"], tuple(filter(None, r["services"].split(","))), r["needs"], r["title"])
            for r in rows
        ]


def named(test: str) -> Iterator[str]:
    """The ids that a test's name begins with: `test_ossa_2015_004_and_013_...` has two.

    `test_cve_2022_3277_...` stands for a flaw that got no advisory.
    """
    kind, year = "OSSA", ""
    for word in test.removeprefix("test_").split("_"):
        if word in ("ossa", "cve"):
            kind = "OSSA" if word == "ossa" else "CVE-ONLY"
        elif re.fullmatch(r"20\d\d", word):
            year = word
        elif re.fullmatch(r"\d{3,5}", word) and year:
            yield f"{kind}-{year}-{word}"
        elif word != "and":
            return


def tests(folders: Iterable[Path]) -> dict[str, list[str]]:
    """The tests of each id, from the sources."""
    found: dict[str, list[str]] = {}
    files = sorted(path for folder in folders for path in folder.rglob("*.py"))
    for path in files:
        for test in _TEST.findall(path.read_text()):
            for id in named(test):
                found.setdefault(id, []).append(test)
    return found


def exists(advisory: Advisory, services: Iterable[Service]) -> bool:
    """Whether there is something here that it could be about."""
    mine = [s for s in services if s.type.replace("-", "_") in advisory.services]
    if not advisory.needs:
        return bool(mine)
    operations = [op for service in mine for _, op in service.operations()]
    return any(advisory.needs in (op.action, *op.path.split("/")) for op in operations)


def page(services: Iterable[Service], found: Mapping[str, list[str]], note: str) -> str:
    """The whole of `docs/security.md`."""
    services = list(services)
    rows = advisories()
    tested = [a for a in rows if a.id in found]
    open_ = [a for a in rows if a.id not in found and exists(a, services)]
    later = [a for a in rows if a.id not in found and a.services and not exists(a, services)]
    lines = ["# Security: published advisories and the tests named after them", "", note, ""]
    lines += [
        f"OpenStack published {len(rows)} advisories that this project keeps count of. {len(tested)} have a test here that "
        f"is named after them (`test_ossa_...`), {len(open_)} concern something that exists here and have none yet, "
        f"{len(later)} concern something that does not exist here yet, and the rest nothing that will.",
        "",
        "A test named after an advisory shows that its flaw is not here; one that is missing shows nothing either way.",
        "",
    ]
    lines += ["## With a test", "", "| advisory | about | tests |", "|---|---|---|"]
    lines += [_row(a, ", ".join(f"`{t}`" for t in found[a.id])) for a in tested]
    lines += ["", "## Concern what exists, and have none", "", "| advisory | about | services |"]
    lines += ["|---|---|---|", *(_row(a, ", ".join(a.services)) for a in open_)]
    lines += ["", "## Concern what does not exist yet", "", "| advisory | about | waits for |"]
    lines += ["|---|---|---|", *(_row(a, a.needs or ", ".join(a.services)) for a in later), ""]
    return "\n".join(lines)


def _row(advisory: Advisory, last: str) -> str:
    return f"| {advisory.id} | {advisory.title} | {last} |"

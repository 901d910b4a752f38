"""How much of upstream's surface is declared here: `docs/coverage.md`.

`upstream_surface/SERVICE.tsv` holds method, path (an action after `#`) and since when; network's has only what Neutron's
own reference documents.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pileus.kernel.resources import Operation, Service

TABLES = Path(__file__).parent / "upstream_surface"
_PARAM = re.compile(r"{[^}]*}")


@dataclass(frozen=True)
class Upstream:
    """An operation of upstream's, as its reference spells it."""

    method: str
    path: str
    action: str
    since: str


def surface(service: Service) -> list[Upstream]:
    """All that upstream's reference has for the service; nothing if no table is kept."""
    table = TABLES / f"{service.type}.tsv"
    if not table.exists():
        return []
    with table.open(newline="") as lines:
        found = []
        for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE):
            path, _, action = row["path"].partition("#")
            found.append(Upstream(row["method"], path, action, row["since"]))
    return found


def answers(op: Operation, service: Service, asked: Upstream) -> bool:
    """Whether the declared operation is upstream's; a GET answers HEAD, too."""
    method = "GET" if asked.method == "HEAD" and op.method == "GET" else asked.method
    ours, theirs = _parts(op.path.removeprefix(service.prefix)), _parts(asked.path)
    return (
        op.method == method
        and op.action == asked.action
        and len(ours) == len(theirs)
        and all(o in ("{}", t) for o, t in zip(ours, theirs, strict=True))
    )


@cache
def _parts(path: str) -> tuple[str, ...]:
    return tuple(_PARAM.sub("{}", path).strip("/").split("/"))


def noun(asked: Upstream) -> str:
    """The collection: the first part of the path below the version."""
    parts = asked.path.strip("/").split("/")
    below = parts[1:] if re.fullmatch(r"v\d[\d.]*", parts[0]) else parts
    return below[0] if below and below[0] and "{" not in below[0] else "versions"


def page(services: Iterable[Service], note: str) -> str:
    """The whole of `docs/coverage.md`."""
    lines = ["# Coverage of upstream's surface", "", note, ""]
    lines += [
        "Counted are operations that upstream's API reference lists and that are **declared** here: a request is routed, "
        "authorized and answered. What is not declared answers 404. Whether an operation's *effect* is right, other pages "
        "say: `tests/conformance` runs the official suites. Network's list leaves out what is in no reference of Neutron's.",
        "",
    ]
    total = [0, 0]
    for service in services:
        asked = surface(service)
        ops = [op for _, op in service.operations()]
        here = [a for a in asked if any(answers(op, service, a) for op in ops)]
        total = [total[0] + len(here), total[1] + len(asked)]
        lines += [f"## {service.type}: {len(here)} of {len(asked)}", ""]
        lines += ["| collection | declared | not yet |", "|---|--:|---|", *_nouns(asked, here), ""]
    lines.insert(4, f"**{total[0]} of {total[1]}** operations of these services.\n")
    return "\n".join(lines)


def _nouns(asked: list[Upstream], here: list[Upstream]) -> list[str]:
    all_, have = Counter(map(noun, asked)), Counter(map(noun, here))
    rows = []
    for name in sorted(all_):
        missing = [a for a in asked if noun(a) == name and a not in here]
        if not have[name]:
            said = "all of it"
        elif len(missing) > 12:
            said = f"{len(missing)} more"
        else:
            said = ", ".join(f"`{_short(a, name)}`" for a in missing)
        rows.append(f"| {name} | {have[name]} of {all_[name]} | {said} |")
    return rows


def _short(asked: Upstream, name: str) -> str:
    if asked.action:
        return asked.action
    below = asked.path.partition(f"/{name}")[2]
    return f"{asked.method} {below or '/'}"

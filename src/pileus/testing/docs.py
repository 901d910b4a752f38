"""The pages in `docs/` that are written by the code they describe: `make docs`.

A test holds each page equal to what its generator says, so a page cannot grow old.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from pileus.kernel.resources import PUBLIC, Operation, Service
from pileus.kernel.versions import NO_VERSION, spelled
from pileus.node.control import find_services

from . import advisories, client_rules
from . import coverage as surface

PACKAGE = Path(__file__).parents[1]
_IMPORT = re.compile(r"^ *from pileus\.([\w.]+) import", re.MULTILINE)
NOTE = "*Written by `make docs`; do not edit.*"


def part_of(module: tuple[str, ...]) -> str:
    """`services/compute` for anything below it, `kernel` for anything in the kernel."""
    return "/".join(module[:2]) if module[0] == "services" else module[0]


def imports() -> Iterator[tuple[str, str]]:
    """Pairs (importing part, imported part) of the package; tests are not looked at."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = path.relative_to(PACKAGE).with_suffix("").parts
        if "tests" in module or module[0] in ("testing", "__init__"):
            continue
        for name in _IMPORT.findall(path.read_text()):
            target = tuple(name.split("."))
            if part_of(target) != part_of(module):
                yield part_of(module), part_of(target)


def modules() -> str:
    """Which part imports which; between services there is only `contract`."""
    known = {edge for edge in imports() if "services" not in edge}
    lines = ["# Who imports whom", "", NOTE, "", "```mermaid", "flowchart TD"]
    for importer, imported in sorted(known):
        lines.append(f'  {_id(importer)}["{importer}"] --> {_id(imported)}["{imported}"]')
    return "\n".join([*lines, "```", ""])


def _id(part: str) -> str:
    return part.replace("/", "_")


def operations() -> str:
    """Every operation of every service, as declared."""
    lines = ["# Operations", "", NOTE, ""]
    for service in find_services():
        rows = [_row(service, op) for _, op in service.operations()]
        lines += [f"## {service.type}: {len(rows)}", ""]
        lines += ["| | path | action | versions | rule |", "|---|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _row(service: Service, op: Operation) -> str:
    since = "" if op.since == NO_VERSION or service.versions is None else f"{spelled(op.since)}-"
    until = "" if op.until[0] == 1 << 30 else f"below {spelled(op.until)}"
    rule = "anybody" if op.rule == PUBLIC else f"`{op.rule}`"
    return f"| {op.method} | `{op.path or '/'}` | {op.action} | {since}{until} | {rule} |"


def states() -> str:
    """The life of each noun that has one."""
    lines = ["# States", "", NOTE, ""]
    for service in find_services():
        lives = {saga.table.name: saga.lifecycle for saga in service.all_sagas()}
        for name, lifecycle in sorted(lives.items()):
            lines += [f"## {name.replace('_', ' ')}", "", "```mermaid", lifecycle.mermaid()]
            lines += ["```", ""]
    return "\n".join(lines)


def coverage() -> str:
    """What upstream's reference lists, and what of it is declared."""
    return surface.page(find_services(), NOTE)


def security() -> str:
    """Published advisories, and the tests that are named after them."""
    folders = [PACKAGE, PACKAGE.parents[1] / "tests"]
    return advisories.page(find_services(), advisories.tests(folders), NOTE)


def rules() -> str:
    """What clients rely on, and the tests of it."""
    return client_rules.page(NOTE)


GENERATORS: dict[str, Callable[[], str]] = {
    "docs/client_rules.md": rules,
    "docs/coverage.md": coverage,
    "docs/modules.md": modules,
    "docs/operations.md": operations,
    "docs/security.md": security,
    "docs/states.md": states,
}


def main() -> None:
    root = PACKAGE.parents[1]
    for name, generate in GENERATORS.items():
        (root / name).write_text(generate())
        print(f"wrote {name}")


if __name__ == "__main__":
    main()

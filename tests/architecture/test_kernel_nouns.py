"""The kernel is mechanism: no name or word of its code is a noun of a service."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.architecture.sources import Source, sources

NOUNS = [
    "server",
    "flavor",
    "keypair",
    "hypervisor",
    "aggregate",
    "nova",
    "volume",
    "snapshot",
    "backup",
    "cinder",
    "image",
    "glance",
    "subnet",
    "subnetpool",
    "router",
    "floatingip",
    "neutron",
    "ovn",
    "container",
    "bucket",
    "swift",
    "allocation",
    "inventory",
    "trait",
    "placement",
    "loadbalancer",
    "octavia",
    "recordset",
    "designate",
    "secret",
    "barbican",
    "stack",
    "heat",
    "magnum",
    "trove",
    "zaqar",
    "manila",
]
# Errors are spelled as each project spells them, so names of projects are that vocabulary's subject; and on a bus there
# are clients and servers.
ALLOWED = {
    "kernel/faults.py": {"nova", "cinder", "glance", "neutron", "placement", "swift", "server"},
    "kernel/http.py": {"nova"},  # the dialect of an answer that belongs to no service
    "kernel/versions.py": {"nova"},  # the header that Nova's clients still send
    "kernel/bus.py": {"server"},
    "kernel/nats_bus.py": {"server"},
    "kernel/agents.py": {"server"},
}
# Of other people's libraries.
FOREIGN = {("uvicorn", "Server"), ("asyncio", "Server")}


def words(name: str) -> set[str]:
    """`serverPool`, `server_pool` and `SERVERS` all contain the word server."""
    name = name.replace("OpenStack", "").replace("openstack", "")
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    lower = {part.lower() for part in parts}
    return lower | {part.removesuffix("s") for part in lower}


def names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that code defines or uses, and every string that is a single word."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.arg(arg=name):
                yield node.lineno, name
            case ast.Attribute(value=ast.Name(id=owner), attr=name) if (owner, name) in FOREIGN:
                continue
            case ast.Attribute(attr=name):
                yield node.lineno, name
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.Constant(value=str(text)) if re.fullmatch(r"[A-Za-z_-]+", text):
                yield node.lineno, text


def nouns(source: Source) -> list[str]:
    allowed = ALLOWED.get(source.name, set())
    return [
        f"{source.name}:{line}: {name}"
        for line, name in names(source.tree)
        if (words(name) & set(NOUNS)) - allowed
    ]


KERNEL = [s for s in sources() if s.parts[0] == "kernel" and not s.is_test]


@pytest.mark.parametrize("source", KERNEL, ids=lambda source: source.name)
def test_a_kernel_module_knows_no_noun_of_a_service(source: Source) -> None:
    assert nouns(source) == []


def test_a_noun_is_found_in_any_spelling() -> None:
    code = "def bootServer(x): return x.SUBNETS['flavor_ref']\nclass Observer: pass"
    assert nouns(Source("kernel/x.py", code, ast.parse(code))) == [
        "kernel/x.py:1: bootServer",
        "kernel/x.py:1: SUBNETS",
        "kernel/x.py:1: flavor_ref",
    ]

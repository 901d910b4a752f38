"""Clock, chance, sockets, subprocesses and the environment are reached through the world, the hosts and the node only."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

from tests.architecture.sources import Source, dotted, ledgers, sources, surprises

MAY = ("host/", "node/", "cli/", "testing/")
WORLD = "kernel/world.py"
# A module all of whose calls reach outside, or the single names that do.
REACHES: dict[str, set[str] | None] = {
    "time": None,
    "random": None,
    "secrets": None,
    "socket": None,
    "subprocess": None,
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
    "uuid": {"uuid1", "uuid4"},
    "os": {"environ", "getenv", "urandom", "system", "popen", "fork", "execv"},
    "asyncio": {
        "create_subprocess_exec",
        "create_subprocess_shell",
        "open_connection",
        "open_unix_connection",
        "start_server",
        "start_unix_server",
        "sleep",
    },
}
# Types, and what only translates a name. Constants do nothing either.
HARMLESS = {
    "random.Random",
    "socket.socket",
    "socket.AddressFamily",
    "socket.if_nametoindex",
    "subprocess.Popen",
}


def imported(source: Source) -> dict[str, str]:
    """What a name of the module stands for: `{"dt": "datetime", "urandom": "os.urandom"}`."""
    known: dict[str, str] = {}
    for node in source.nodes:
        if isinstance(node, ast.Import):
            known |= {a.asname or a.name: a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            known |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return known


def reaches(source: Source) -> Iterator[str]:
    """Each use of something outside, as `module.name`."""
    known = imported(source)
    for node in source.nodes:
        if not isinstance(node, ast.Attribute | ast.Name) or _first(node) not in known:
            continue
        first, _, rest = dotted(node).partition(".")
        full = f"{known[first]}.{rest}".rstrip(".")
        owner, _, name = full.rpartition(".")
        owner = owner.rpartition(".")[2]
        if owner not in REACHES or _harmless(full) or _zero_sleep(node, source, full):
            continue
        wanted = REACHES[owner]
        if wanted is None or name in wanted:
            yield f"{owner}.{name}"


def _first(node: ast.expr) -> str:
    """The name that `name.of.something` begins with, or "" if it begins with anything else."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _harmless(full: str) -> bool:
    return full in HARMLESS or full.rpartition(".")[2].isupper()


def _zero_sleep(node: ast.AST, source: Source, full: str) -> bool:
    """`asyncio.sleep(0)` lets others run; it does not read a clock."""
    if full != "asyncio.sleep":
        return False
    calls = (n for n in source.nodes if isinstance(n, ast.Call) and n.func is node)
    return all(ast.unparse(argument) == "0" for call in calls for argument in call.args)


def outside() -> dict[str, int]:
    count: Counter[str] = Counter()
    for source in sources():
        if source.is_test or source.name == WORLD or source.name.startswith(MAY):
            continue
        count.update(f"{source.name}:{use}" for use in reaches(source))
    return dict(count)


def test_only_the_world_the_hosts_and_the_node_reach_outside() -> None:
    assert surprises(outside(), ledgers()["outside"]) == []


def test_every_way_to_the_clock_is_seen() -> None:
    code = "\n".join(
        [
            "import time, asyncio, datetime as dt, os",
            "from datetime import datetime",
            "from os import urandom",
            "def f(): return time.time(), dt.datetime.now(), datetime.now(), urandom(3)",
            "async def g():",
            "    await asyncio.sleep(0)",
            "    await asyncio.sleep(1)",
            "    return os.environ['X'], os.path.join('a', 'b'), dt.timedelta(1)",
        ]
    )
    assert sorted(reaches(Source("kernel/x.py", code, ast.parse(code)))) == [
        "asyncio.sleep",
        "datetime.now",
        "datetime.now",
        "os.environ",
        "os.urandom",
        "time.time",
    ]

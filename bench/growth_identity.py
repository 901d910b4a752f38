"""What identity costs as users and role assignments grow; writes a table and a curve.

    python -m bench.growth_identity [--cells 1,10,100] [--runs 7]

A cell is 100 users, 100 projects, 10 groups of 20 users and 1,000 assignments, all in the domain Default: every user
can go to 29 projects, every project is open to 29 users, and no cell shares anything with another. So each answer is
as long in a full cloud as in an empty one, and what grows is the cost of finding it. Cells are written through the
store while the cloud is down. Users, projects and tokens are drawn at random, so that a cache cannot flatter.
Passwords are hashed for next to nothing: what a login costs beside its hash is what can grow.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from argon2 import PasswordHasher

from bench import measure, page
from bench.clouds import Bench, Burst, one_process
from bench.curve import drawn
from pileus.kernel import auth
from pileus.kernel.sqlite import SqliteStore
from pileus.kernel.store import Tx
from pileus.kernel.world import World
from pileus.services.identity.assignments import ASSIGNMENTS, assignment
from pileus.services.identity.groups import GROUPS, MEMBERSHIPS, Group, Membership
from pileus.services.identity.roles import ROLES
from pileus.services.identity.tree import PROJECTS, Project
from pileus.services.identity.users import USERS, User

CURVE = page.ROOT / "docs" / "growth_identity.svg"
PASSWORD = "bench-password"
CHEAP = ["--set", "identity.password_hash_memory_kib=8", "--set", "identity.password_hash_passes=1"]
USERS_OF_CELL, ASSIGNMENTS_OF_CELL = 100, 1_000
FLAT = 2.0  # the last step over the first, which is a hundredth: trees grow a level, and outgrow the database's cache
Asked = tuple[str, str, dict[str, str], object]
Steps = dict[int, dict[str, list[float]]]  # cells -> case -> a value of each run


def id_of(kind: str, cell: int, number: int) -> str:
    return hashlib.md5(f"{kind} {cell} {number}".encode()).hexdigest()


# -- filling -------------------------------------------------------------------------------------


async def fill(state: Path, cells: range) -> None:
    """Writes cells into a cloud that is down."""
    hashed = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
    store = SqliteStore(str(state / "cloud.sqlite"), World())
    await store.start()
    try:
        member = await ROLES.one(store, name_key="member", domain_id="")
        assert member is not None
        for cell in cells:
            async with store.tx() as tx:
                await _things(tx, cell, hashed)
                await _assignments(tx, cell, member.id)
                await auth.revise(tx, "auth")
    finally:
        await store.stop()


async def _things(tx: Tx, cell: int, hashed: str) -> None:
    home = {"domain_id": "default"}
    for n in range(100):
        user = {"id": id_of("user", cell, n), "name": f"user-{cell}-{n}", "password_hash": hashed}
        extra = {"email": f"user-{cell}-{n}@example.org"}
        await USERS.insert(tx, User(**user, **home, extra=extra))
        project = {"id": id_of("project", cell, n), "name": f"project-{cell}-{n}"}
        await PROJECTS.insert(tx, Project(**project, **home, parent_id="default"))
    for n in range(10):
        group = {"id": id_of("group", cell, n), "name": f"group-{cell}-{n}"}
        await GROUPS.insert(tx, Group(**group, **home))


async def _assignments(tx: Tx, cell: int, role: str) -> None:
    """A user's own nine begin at his number, those of his two groups half way round: no project twice."""
    for n in range(100):
        user = id_of("user", cell, n)
        for step in range(9):
            place = f"project:{id_of('project', cell, (n + step) % 100)}"
            await ASSIGNMENTS.insert(tx, assignment(f"user:{user}", place, role))
        for g in (n // 10, (n // 10 + 1) % 10):
            group = id_of("group", cell, g)
            row = Membership(id=f"{group}:{user}", group_id=group, user_id=user)
            await MEMBERSHIPS.insert(tx, row)
    for g in range(10):
        actor = f"group:{id_of('group', cell, g)}"
        for step in range(10):
            place = f"project:{id_of('project', cell, (g * 10 + 50 + step) % 100)}"
            await ASSIGNMENTS.insert(tx, assignment(actor, place, role))


# -- asking --------------------------------------------------------------------------------------


@dataclass
class Visit:
    """One step's cloud, and what is asked of it."""

    bench: Bench
    cells: int
    tokens: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        url = urlsplit(self.bench.credentials.auth_url)
        self.root = "/identity/v3"
        self.burst = Burst(f"http://{url.netloc}", {})
        self.admin = {"X-Auth-Token": self.bench.client.token}

    def one(self, kind: str = "user") -> str:
        return id_of(kind, *self.drawn())

    def drawn(self) -> tuple[int, int]:
        return random.randrange(self.cells), random.randrange(100)

    def middle(self) -> str:
        """A user with at least twenty others of his cell behind him in a list: those are in order of their ids."""
        cell = random.randrange(self.cells)
        return sorted(id_of("user", cell, n) for n in range(100))[random.randrange(70)]

    def get(self, path: str, **headers: str) -> Asked:
        return "GET", self.root + path, {**self.admin, **headers}, None

    def as_somebody(self, path: str) -> Asked:
        return "GET", self.root + path, {"X-Auth-Token": random.choice(self.tokens)}, None

    def login(self) -> Asked:
        cell, n = self.drawn()
        user = {"id": id_of("user", cell, n), "password": PASSWORD}
        identity = {"methods": ["password"], "password": {"user": user}}
        scope = {"project": {"id": id_of("project", cell, n)}}
        body = {"auth": {"identity": identity, "scope": scope}}
        return "POST", self.root + "/auth/tokens", {}, body

    def new_project(self) -> Asked:
        body = {"project": {"name": uuid.uuid4().hex, "domain_id": "default"}}
        return "POST", self.root + "/projects", self.admin, body

    def grant(self) -> Asked:
        """Somebody gets a role on a project of another cell or half of his own away."""
        role = self.bench.client.call("GET", "identity", "/v3/roles?name=reader")["roles"][0]["id"]
        path = f"/projects/{self.one('project')}/users/{self.one()}/roles/{role}"
        return "PUT", self.root + path, self.admin, None

    def cpu_us(self, asked: Sequence[Asked]) -> tuple[float, list[bytes]]:
        """Microseconds of the cloud's CPU for one of them, and the answers' heads."""
        heads: list[bytes] = []
        spent = self.bench.cpu_us(lambda: heads.extend(self.burst.ask(*asked)), 1)
        return spent / len(asked), heads


def reads(v: Visit) -> dict[str, Callable[[], Asked]]:
    """What is asked again and again."""
    assigned = "/role_assignments?"
    return {
        "catalog": lambda: v.as_somebody("/auth/catalog"),
        "projects open to the caller (29)": lambda: v.as_somebody("/auth/projects"),
        "a user by id": lambda: v.get(f"/users/{v.one()}"),
        "a user by name": lambda: v.get("/users?name=user-{}-{}".format(*v.drawn())),
        "a project by name": lambda: v.get("/projects?name=project-{}-{}".format(*v.drawn())),
        "the domains": lambda: v.get("/domains"),
        "a page of 100 users": lambda: v.get("/users?limit=100"),
        "a page of 20 users, behind a marker": lambda: v.get(
            f"/users?limit=20&marker={v.middle()}"
        ),
        "a user's groups": lambda: v.get(f"/users/{v.one()}/groups"),
        "a user's projects (29)": lambda: v.get(f"/users/{v.one()}/projects"),
        "a group's users (20)": lambda: v.get(f"/groups/{_group(v)}/users"),
        "a user's assignments (9)": lambda: v.get(f"{assigned}user.id={v.one()}"),
        "the same, effective (58)": lambda: v.get(f"{assigned}user.id={v.one()}&effective"),
        "the same, with names": lambda: v.get(
            f"{assigned}user.id={v.one()}&effective&include_names"
        ),
        "a project's assignments, effective (58), with names": lambda: v.get(
            f"{assigned}scope.project.id={v.one('project')}&effective&include_names"
        ),
    }


def _group(v: Visit) -> str:
    return id_of("group", random.randrange(v.cells), random.randrange(10))


def one_run(v: Visit) -> Iterator[tuple[str, float]]:
    """Every case once: its name, and microseconds of CPU for one request."""
    spent, heads = v.cpu_us([v.login() for _ in range(200)])
    yield "token by password, without its hash", spent
    v.tokens = [_token(head) for head in heads]
    subjects = [v.get("/auth/tokens", **{"X-Subject-Token": t}) for t in v.tokens]
    yield "validation of a token never seen", v.cpu_us(subjects)[0]
    yield "validation of a token seen before", v.cpu_us(subjects * 5)[0]
    for path in ("/auth/catalog", "/auth/projects"):  # so that their tokens are known
        v.cpu_us([("GET", v.root + path, {"X-Auth-Token": t}, None) for t in v.tokens])
    for name, make in reads(v).items():
        yield name, v.cpu_us([make() for _ in range(200)])[0]
    if v.cells >= 10:
        yield "a page of 1,000 users", v.cpu_us([v.get("/users?limit=1000")] * 8)[0]
    yield "a new project", v.cpu_us([v.new_project() for _ in range(100)])[0]
    yield "a grant", v.cpu_us([v.grant() for _ in range(100)])[0]


def _token(head: bytes) -> str:
    lines = (line.partition(b": ") for line in head.split(b"\r\n"))
    return next(v.decode() for k, _, v in lines if k.lower() == b"x-subject-token")


def filled(folder: Path, cells: int) -> Path:
    """The state of a cloud that is down, with so many cells."""
    state = folder / str(cells)
    with one_process(state, "fake", CHEAP):
        pass
    asyncio.run(fill(state, range(cells)))
    return state


def measured(folder: Path, sizes: Sequence[int], runs: int) -> Steps:
    """All figures of clouds of so many cells.

    They run beside each other and are asked in turns, so that whatever else goes on on the machine is shared alike.
    The first run is not counted: statements are compiled in it.
    """
    found: Steps = {cells: {} for cells in sizes}
    states = [filled(folder, cells) for cells in sizes]
    with ExitStack() as stack:
        clouds = [stack.enter_context(one_process(state, "fake", CHEAP)) for state in states]
        visits = [Visit(cloud, cells) for cloud, cells in zip(clouds, sizes, strict=True)]
        for run in range(runs + 1):
            for visit in visits:
                for name, spent in one_run(visit):
                    if run:
                        found[visit.cells].setdefault(name, []).append(spent)
            print(f"run {run} of {runs}", flush=True)
        for visit in visits:
            visit.burst.close()
    return found


# -- telling -------------------------------------------------------------------------------------


def table(steps: Steps, heads: Sequence[str], growing: Sequence[str] = ()) -> list[str]:
    """A row for each figure, a column for each size, and whether it is flat, but for what must grow."""
    lines = [
        "| CPU us | " + " | ".join(heads) + " | last / first | |",
        "|---" + "|--:" * (len(heads) + 1) + "|---|",
    ]
    *_, last = steps.values()
    for name in last:
        known = [found.get(name, []) for found in steps.values()]
        cells = [
            " / ".join(f"{n:.0f}" for n in (min(v), median(v), max(v))) if v else "" for v in known
        ]
        rise = growth(known)
        verdict = "" if not known[0] else "flat" if rise <= FLAT else "GROWS"
        verdict = "" if name in growing else verdict
        lines.append("| " + " | ".join([name, *cells, f"{rise:.2f}", verdict]) + " |")
    return lines


def growth(known: Sequence[Sequence[float]]) -> float:
    """The last step's minimum over the first's: what others do on the machine only adds."""
    there = [min(values) for values in known if values]
    return there[-1] / there[0]


def text(steps: Steps, args: argparse.Namespace, began: str) -> str:
    command = f"python -m bench.growth_identity --cells {args.cells} --runs {args.runs}"
    what = (
        "driver fake, one process, SQLite with synchronous=FULL; every acknowledged write is on disk; argon2id of 8 KiB, "
        "one pass, as what is asked is all but the hash"
    )
    spread = f"CPU of the server, min / median / max of {args.runs} runs in turns, eight requests at a time"
    heads = [f"{c * USERS_OF_CELL:,} users, {c * ASSIGNMENTS_OF_CELL:,} assignments" for c in steps]
    return "\n".join(
        [
            "## Identity as it fills",
            "",
            *page.circumstances(command, what, began),
            f"- {spread}; every answer has the same length at each step",
            "",
            *table(steps, heads),
            "",
            f"![CPU of each request by the size of the cloud]({CURVE.name})",
        ]
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", default="1,10,100", help="of 100 users and 1,000 assignments")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--page", type=Path, default=page.PAGE)
    parser.add_argument("--curve", type=Path, default=CURVE)
    return parser.parse_args()


def main() -> int:
    args, began = arguments(), measure.load()
    sizes = [int(cells) for cells in args.cells.split(",")]
    with tempfile.TemporaryDirectory(prefix="pileus-growth-") as folder:
        steps = measured(Path(folder), sizes, args.runs)
    told = text(steps, args, began)
    page.write("growth identity", told, args.page)
    points = {c * USERS_OF_CELL: {n: min(v) for n, v in f.items()} for c, f in steps.items()}
    args.curve.write_text(drawn(points, "users (ten assignments each)", "CPU us"))
    print(f"{told}\nwrote {args.page} and {args.curve}")
    known = [[f.get(name, []) for f in steps.values()] for name in list(steps.values())[-1]]
    return int(any(growth(values) > FLAT for values in known))


if __name__ == "__main__":
    sys.exit(main())

"""`--floor NAME`: say how many cases ran, and fail if fewer than tests/ledgers.toml records for NAME.

`--database postgres`: clouds of tests keep their rows there.

A test that is not marked slow and hangs ends the run with the stacks of all threads (`timeout` in pyproject.toml).
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from pileus.testing.postgres_server import postgres
from pileus.testing.stores import PLACES

LEDGERS = Path(__file__).parent / "tests" / "ledgers.toml"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--floor", metavar="NAME", help="fail if fewer cases pass than recorded")
    parser.addoption("--database", choices=("sqlite", "postgres"), default="sqlite")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.timeout(0))
    if config.getoption("--database") == "postgres":
        apart = [item for item in items if item.get_closest_marker("sqlite")]
        config.hook.pytest_deselected(items=apart)
        items[:] = [item for item in items if item not in apart]


@pytest.fixture(scope="session", autouse=True)
def _database(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.config.getoption("--database") == "sqlite":
        yield
        return
    with postgres() as PLACES.server:
        yield


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    name = session.config.getoption("--floor")
    if name and exitstatus == pytest.ExitCode.OK and _passed(session) < _floor(name):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    name = terminalreporter.config.getoption("--floor")
    if not name:
        return
    ran, floor = len(terminalreporter.stats.get("passed", [])), _floor(name)
    terminalreporter.write_line(f"{ran} cases passed; at least {floor} must ({name})")
    if ran < floor:
        skipped = len(terminalreporter.stats.get("skipped", []))
        terminalreporter.write_line(
            f"fewer than recorded: where did they go? {skipped} were skipped: make setup", red=True
        )


def _passed(session: pytest.Session) -> int:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    return len(reporter.stats.get("passed", [])) if reporter else 0


def _floor(name: str) -> int:
    return int(tomllib.loads(LEDGERS.read_text())["cases"][name])

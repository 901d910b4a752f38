"""One service folder, all alike: read one, know all."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.architecture.sources import PACKAGE

SERVICES = sorted(
    path for path in (PACKAGE / "services").iterdir() if (path / "__init__.py").exists()
)
by_service = pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.name)


def top(path: Path) -> list[ast.stmt]:
    return ast.parse(path.read_text()).body


@by_service
def test_a_service_is_declared_in_its_init_and_nothing_else_stands_there(service: Path) -> None:
    body = top(service / "__init__.py")
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.AnnAssign, ast.Expr)
    assert [type(node).__name__ for node in body if not isinstance(node, allowed)] == []
    targets = [n.targets[0] for n in body if isinstance(n, ast.Assign)]
    targets += [n.target for n in body if isinstance(n, ast.AnnAssign)]
    assert "SERVICE" in [t.id for t in targets if isinstance(t, ast.Name)]


@by_service
def test_a_service_has_one_page_about_it_and_tests(service: Path) -> None:
    page = (service / "README.md").read_text()
    assert page.startswith("# ") and len(page.splitlines()) <= 80
    assert list((service / "tests").glob("test_*.py"))


@by_service
def test_a_service_with_drivers_has_a_protocol_a_fake_and_an_agent(service: Path) -> None:
    if (service / "drivers").is_dir():
        for name in ("driver.py", "drivers/fake.py", "agent.py"):
            assert (service / name).exists(), name


@by_service
def test_every_module_of_a_service_says_what_it_is(service: Path) -> None:
    silent = [
        str(path.relative_to(service))
        for path in service.rglob("*.py")
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert silent == []

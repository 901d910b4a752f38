"""Pages that are generated from declarations say what the declarations say now."""

from __future__ import annotations

import pytest

from pileus.testing.docs import GENERATORS
from tests.architecture.sources import ROOT


@pytest.mark.parametrize("name", GENERATORS)
def test_a_generated_page_is_current(name: str) -> None:
    assert (ROOT / name).read_text() == GENERATORS[name](), "run: make docs"


def test_every_page_that_says_it_is_generated_has_a_generator() -> None:
    pages = {
        str(page.relative_to(ROOT))
        for page in (ROOT / "docs").rglob("*.md")
        if "Written by `make docs`" in page.read_text()
    }
    assert pages == set(GENERATORS)

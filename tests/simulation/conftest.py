"""`--seeds N`: simulate under that many seeds (default 5). `--seed N`: under that one only."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

IN_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seeds", type=int, default=5, help="how many seeds to simulate under")
    parser.addoption("--seed", type=int, help="the only seed to simulate under")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        only = metafunc.config.getoption("--seed")
        seeds = range(metafunc.config.getoption("--seeds")) if only is None else [only]
        metafunc.parametrize("seed", seeds)


@pytest.fixture
def folder() -> Iterator[Path]:
    """The state of a simulated cloud; in memory where the machine has such a folder."""
    with tempfile.TemporaryDirectory(prefix="pileus-simulation-", dir=IN_MEMORY) as made:
        yield Path(made)

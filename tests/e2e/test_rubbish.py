"""Nothing that is sent makes a service break: no 5xx, no dropped connection, no answer that the document denies."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pileus.node.control import find_services
from pileus.testing.running import running
from tests.e2e.rubbish import Found, Site, ask, grounded

SERVICES = find_services()
QUICK = ("--phases", "fuzzing", "--max-examples", "2")
LONG = ("--phases", "coverage,fuzzing", "--max-examples", "100")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(tmp_path_factory.mktemp("rubbish") / "state") as cloud:
        cloud.wait_for_image()
        yield Site(cloud, list(SERVICES), cloud.client())


@pytest.mark.parametrize("service", [s.type for s in SERVICES])
@pytest.mark.parametrize(
    "options", [QUICK, pytest.param(LONG, marks=pytest.mark.slow)], ids=["quick", "long"]
)
def test_rubbish_is_refused_in_order(
    site: Site, service: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    (one,) = [s for s in SERVICES if s.type == service]

    def sent(who: str) -> Found:
        client = site.admin if who == "admin" else site.member
        client.login()
        (tmp_path / who).mkdir()
        document = grounded(one, site.known(client))
        return ask(document, site.cloud.url, client.token, tmp_path / who, *options)

    with ThreadPoolExecutor() as both:
        for found in both.map(sent, ["admin", "member"]):
            assert found.passed, found.report
            assert found.cases >= len({(op.method, op.path) for _, op in one.operations()})
    assert "Traceback" not in (site.cloud.state / "pileus.log").read_text()

"""What the pages on coverage, security and clients' rules count."""

from __future__ import annotations

import pytest

from pileus.node.control import find_services
from pileus.testing import client_rules
from pileus.testing.advisories import Advisory, advisories, exists, named
from pileus.testing.coverage import Upstream, answers, noun, surface
from pileus.testing.docs import PACKAGE

SERVICES = {service.type: service for service in find_services()}


@pytest.mark.parametrize(
    "test, ids",
    [
        ("test_ossa_2013_002_a_failing_store", ["OSSA-2013-002"]),
        ("test_ossa_2015_004_and_013_a_delete", ["OSSA-2015-004", "OSSA-2015-013"]),
        (
            "test_ossa_2015_014_2023_002_and_2024_001_an_image",
            ["OSSA-2015-014", "OSSA-2023-002", "OSSA-2024-001"],
        ),
        ("test_ossa_2014_013_a_method_named_100_times", ["OSSA-2014-013"]),
        ("test_cve_2022_3277_a_list_makes_nothing", ["CVE-ONLY-2022-3277"]),
    ],
)
def test_a_name_says_which_advisories_it_is_about(test: str, ids: list[str]) -> None:
    assert list(named(test)) == ids


def test_an_advisory_waits_for_what_it_is_about() -> None:
    known = {a.id: a for a in advisories()}
    assert len(known) >= 200
    assert exists(known["OSSA-2013-019"], SERVICES.values())
    later = Advisory("OSSA-2099-001", ("identity",), "what-is-not-there-yet", "")
    assert not exists(later, SERVICES.values())


@pytest.mark.parametrize(
    "method, path, action, found",
    [
        ("GET", "/v2.1/servers/{id}", "", True),
        ("HEAD", "/v2.1/servers/{id}", "", True),
        ("PATCH", "/v2.1/servers/{id}", "", False),
        ("POST", "/v2.1/servers/{server_id}/action", "os-start", True),
        ("POST", "/v2.1/servers/{server_id}/action", "", False),
        ("GET", "/v2.1/os-quota-sets/{id}/defaults", "", True),
        ("GET", "/v2.1/nonsense", "", False),
    ],
)
def test_an_operation_is_upstreams_if_method_path_and_action_are(
    method: str, path: str, action: str, found: bool
) -> None:
    compute = SERVICES["compute"]
    asked = Upstream(method, path, action, "")
    assert any(answers(op, compute, asked) for _, op in compute.operations()) is found


def test_every_service_has_a_surface_to_be_measured_by() -> None:
    for service in SERVICES.values():
        assert len(surface(service)) > 30, service.type
    assert noun(Upstream("GET", "/v2.0/ports/{id}", "", "")) == "ports"
    assert noun(Upstream("GET", "/v2.0", "", "")) == "versions"


def test_a_rule_of_clients_has_tests_that_are_there_or_says_what_it_waits_for() -> None:
    there = client_rules.tests([PACKAGE, PACKAGE.parents[1] / "tests"])
    every = client_rules.rules()
    assert [rule.number for rule in every] == list(range(1, len(every) + 1))
    assert [rule.number for rule in every if not rule.tests and not rule.later] == []
    assert [name for rule in every for name in rule.tests if name not in there] == []

"""The documents hold what is declared."""

from __future__ import annotations

from typing import Any

import pytest

from pileus.kernel.resources import Service
from pileus.kernel.versions import NO_VERSION, version
from pileus.node.control import find_services
from pileus.testing.openapi import document

SERVICES = {service.type: service for service in find_services()}


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_every_operation_of_the_highest_version_has_an_entry_and_every_reference_leads_somewhere(
    service: Service,
) -> None:
    found = document(service)
    high = version(service.versions.high) if service.versions else NO_VERSION
    wanted = {(op.path, op.method.lower()) for _, op in service.operations() if op.exists(high)}
    assert {(p, m) for p, entry in found["paths"].items() for m in entry} == wanted
    schemas = found["components"]["schemas"]
    assert {ref.rpartition("/")[2] for ref in _references(found)} <= schemas.keys()


def _references(part: Any) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [ref for inner in part.values() for ref in _references(inner)]
    return [ref for inner in part for ref in _references(inner)] if isinstance(part, list) else []


def test_actions_share_a_path_their_bodies_and_their_answers() -> None:
    paths = document(SERVICES["compute"])["paths"]
    act = paths["/compute/v2.1/servers/{server_id}/action"]["post"]
    schema = act["requestBody"]["content"]["application/json"]["schema"]
    assert {"rescue", "rebuild", "os-stop"} <= {
        key for s in schema["oneOf"] for key in s["required"]
    }
    assert {"200", "202", "4XX"} <= act["responses"].keys()


def test_a_field_that_ended_before_the_highest_version_is_not_in_the_document() -> None:
    schemas = document(SERVICES["compute"])["components"]["schemas"]
    (create,) = [s for name, s in schemas.items() if name.endswith(".CreateServer")]
    assert "personality" not in create["properties"] and "hostname" in create["properties"]
    assert create["additionalProperties"] is False

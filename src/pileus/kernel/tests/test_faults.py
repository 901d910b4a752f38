"""Errors in each project's dialect."""

from __future__ import annotations

import json

import pytest

from pileus.kernel import faults
from pileus.kernel.faults import (
    CINDER,
    GLANCE,
    KEYSTONE,
    NEUTRON,
    NOVA,
    PLACEMENT,
    Bug,
    Conflict,
    Dialect,
    Fault,
    Invalid,
    NoCapacity,
    NotAcceptable,
    NotFound,
    OverQuota,
    PreconditionFailed,
    Stale,
    Unauthenticated,
    Unavailable,
)

QUOTA = OverQuota("cores", 2, 9, 10)


def spoken(dialect: Dialect, fault: Fault) -> tuple[int, object]:
    status = dialect.status(fault)
    return status, json.loads(dialect.encode(fault, status, "req-1"))


@pytest.mark.parametrize(
    ("fault", "status", "key"),
    [
        (Invalid("m"), 400, "badRequest"),
        (Unauthenticated("m"), 401, "unauthorized"),
        (faults.Forbidden("m"), 403, "forbidden"),
        (NotFound("m"), 404, "itemNotFound"),
        (Conflict("m"), 409, "conflictingRequest"),
        (Stale("m"), 409, "conflictingRequest"),
        (faults.TooLarge("m"), 413, "overLimit"),
        (Unavailable("m"), 503, "serviceUnavailable"),
        (faults.NotImplementedYet("m"), 501, "notImplemented"),
        (NoCapacity("m"), 500, "computeFault"),
        (Bug("m"), 500, "computeFault"),
        (PreconditionFailed("m"), 412, "computeFault"),
    ],
)
def test_nova_names_the_kind_and_repeats_the_status(fault: Fault, status: int, key: str) -> None:
    assert spoken(NOVA, fault) == (status, {key: {"code": status, "message": "m"}})


def test_nova_says_not_acceptable_in_the_common_form() -> None:
    status, body = spoken(NOVA, NotAcceptable("m"))
    assert status == 406 and body == {
        "errors": [
            {
                "request_id": "req-1",
                "code": "",
                "status": 406,
                "title": "Not Acceptable",
                "detail": "m",
                "links": [],
            }
        ]
    }


@pytest.mark.parametrize(
    ("dialect", "status"),
    [(NOVA, 403), (CINDER, 413), (KEYSTONE, 403), (NEUTRON, 409), (GLANCE, 413), (PLACEMENT, 403)],
    ids=lambda x: getattr(x, "name", str(x)),
)
def test_over_quota_has_each_projects_status(dialect: Dialect, status: int) -> None:
    assert dialect.status(QUOTA) == status


def test_over_quota_says_what_was_asked_and_used() -> None:
    text = "Quota exceeded for cores: Requested 2, but already used 9 of 10 cores"
    assert QUOTA.message == text
    assert spoken(NOVA, QUOTA)[1] == {"forbidden": {"code": 403, "message": text}}
    assert spoken(CINDER, QUOTA)[1] == {"overLimit": {"code": 413, "message": text}}
    assert spoken(NEUTRON, QUOTA)[1] == {
        "NeutronError": {
            "type": "OverQuota",
            "message": "Quota exceeded for resources: ['cores'].",
            "detail": "",
        }
    }


@pytest.mark.parametrize(
    ("fault", "status", "kind"),
    [
        (Invalid("m"), 400, "HTTPBadRequest"),
        (Unauthenticated("m"), 401, "Unauthorized"),
        (faults.Forbidden("m"), 403, "PolicyNotAuthorized"),
        (NotFound("m"), 404, "HTTPNotFound"),
        (Conflict("m"), 409, "Conflict"),
        (Conflict("m", code="IpAddressInUse"), 409, "IpAddressInUse"),
        (PreconditionFailed("m"), 412, "RevisionNumberConstraintFailed"),
        (Bug("m"), 500, "HTTPInternalServerError"),
    ],
)
def test_neutron_names_the_exception(fault: Fault, status: int, kind: str) -> None:
    error = {"type": kind, "message": "m", "detail": ""}
    assert spoken(NEUTRON, fault) == (status, {"NeutronError": error})


def test_keystone_has_code_message_and_title() -> None:
    assert spoken(KEYSTONE, NotFound("m")) == (
        404,
        {"error": {"code": 404, "message": "m", "title": "Not Found"}},
    )
    assert spoken(KEYSTONE, Bug("m"))[1] == {
        "error": {"code": 500, "message": "m", "title": "Internal Server Error"}
    }


def test_glance_answers_a_page_and_escapes_what_it_says() -> None:
    fault = Conflict('<script>&"')
    assert GLANCE.content_type == "text/html; charset=UTF-8"
    page = GLANCE.encode(fault, GLANCE.status(fault), "req-1").decode()
    assert "<h1>409 Conflict</h1>" in page and "<title>409 Conflict</title>" in page
    assert '&lt;script&gt;&amp;"' in page and "<script>" not in page


def test_placement_has_a_code_of_its_own() -> None:
    error = {
        "status": 409,
        "title": "Conflict",
        "detail": "m",
        "code": "placement.concurrent_update",
        "request_id": "req-1",
    }
    fault = Conflict("m", code="placement.concurrent_update")
    assert spoken(PLACEMENT, fault) == (409, {"errors": [error]})
    assert spoken(PLACEMENT, Conflict("m"))[1] == {
        "errors": [{**error, "code": "placement.undefined_code"}]
    }


@pytest.mark.parametrize(
    ("dialect", "text"),
    [
        (NOVA, "Policy doesn't allow r:x to be performed."),
        (KEYSTONE, "You are not authorized to perform the requested action: r:x."),
        (NEUTRON, "(rule:r:x) is disallowed by policy"),
        (GLANCE, "You are not authorized to complete r:x action."),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_a_denial_names_its_rule(dialect: Dialect, text: str) -> None:
    denial = dialect.forbidden("r:x")
    assert denial.message == text and denial.status == 403


def test_a_fault_without_words_says_its_title_and_keeps_what_it_is_given() -> None:
    assert Conflict().message == "Conflict" and str(Conflict()) == "Conflict"
    fault = Conflict("m", code="c", internal="i", headers={"a": "b"})
    assert (fault.code, fault.internal, fault.headers) == ("c", "i", {"a": "b"})


def test_the_nearest_kind_decides_the_status() -> None:
    dialect = Dialect("x", NOVA.encode, {Conflict: 422})
    assert dialect.status(Stale()) == 422 and dialect.status(NotFound()) == 404

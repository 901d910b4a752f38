"""Microversions: both spellings of the header, and what is told back."""

from __future__ import annotations

import pytest

from pileus.kernel.faults import Invalid, NotAcceptable
from pileus.kernel.versions import Microversions, spelled, version

BOTH = Microversions(
    ("compute", "nova"),
    "2.1",
    "2.96",
    "X-OpenStack-Nova-API-Version",
    boundaries=[(2, 10), (2, 50)],
)
ONE = Microversions(("placement",), "1.0", "1.39")


@pytest.mark.parametrize(
    ("header", "legacy", "chosen"),
    [
        ("", "", (2, 1)),
        ("compute 2.90", "", (2, 90)),
        ("Compute 2.90", "", (2, 90)),
        ("nova 2.5", "", (2, 5)),
        ("", "2.60", (2, 60)),
        ("", "latest", (2, 96)),
        ("compute latest", "", (2, 96)),
        ("compute 2.7", "2.60", (2, 7)),
        ("volume 3.70", "2.60", (2, 60)),
        ("volume 3.70, compute 2.8", "", (2, 8)),
        ("compute 2.8,compute 2.9", "", (2, 8)),
        (" compute  2.8 ", "", (2, 8)),
    ],
)
def test_the_common_header_goes_before_the_services_own(
    header: str, legacy: str, chosen: tuple[int, int]
) -> None:
    at = BOTH.negotiate(header, legacy)
    assert at.version == chosen
    assert at.headers == {
        "openstack-api-version": f"compute {spelled(chosen)}",
        "x-openstack-nova-api-version": spelled(chosen),
        "vary": "OpenStack-API-Version, X-OpenStack-Nova-API-Version",
    }


def test_a_service_without_a_header_of_its_own_has_one_only() -> None:
    at = ONE.negotiate("placement 1.5", "")
    assert at.headers == {
        "openstack-api-version": "placement 1.5",
        "vary": "OpenStack-API-Version",
    }


@pytest.mark.parametrize("text", ["2.0", "2.97", "1.5", "3.1"])
def test_a_version_out_of_range_is_not_acceptable_and_says_the_range(text: str) -> None:
    with pytest.raises(NotAcceptable) as refused:
        BOTH.negotiate(f"compute {text}", "")
    assert refused.value.message == (
        f"Version {text} is not supported by the API. Minimum is 2.1 and maximum is 2.96."
    )


@pytest.mark.parametrize("text", ["", "2", "2.", ".1", "two.one", "2.1.1", "-2.1", "latest2"])
def test_a_malformed_version_is_invalid(text: str) -> None:
    with pytest.raises(Invalid, match="is of invalid format"):
        version(text)


def test_versions_of_one_shape_have_one_epoch() -> None:
    epochs = [BOTH.negotiate(f"compute 2.{n}", "").epoch for n in (1, 9, 10, 11, 49, 50, 96)]
    assert epochs == [0, 0, 1, 1, 1, 2, 2]


def test_answers_are_cached_but_not_without_end() -> None:
    own = Microversions(("own",), "1.0", "1.9")
    assert own.negotiate("own 1.5", "") is own.negotiate("own 1.5", "")
    for n in range(2000):
        own.negotiate(f"own 1.5, other {n}", "")
    assert len(own._cache) == 1000
    assert own.negotiate("own 1.6, other x", "").version == (1, 6)


def test_two_tens_are_more_than_nine() -> None:
    assert version("2.10") > version("2.9") and spelled(version("2.10")) == "2.10"

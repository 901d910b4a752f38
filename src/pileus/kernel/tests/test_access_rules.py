"""What an access rule lets pass."""

from __future__ import annotations

import time

import pytest

from pileus.kernel.access_rules import AccessRule, permits

TYPES = ("block-thing", "thingv3")


def passes(pattern: str, *paths: str) -> bool:
    rule = AccessRule(service="thingv3", method="GET", path=pattern)
    return permits([rule], TYPES, "GET", paths)


@pytest.mark.parametrize(
    ("pattern", "path", "good"),
    [
        ("/v3/things", "/v3/things", True),
        ("/v3/things", "/v3/things/a", False),
        ("/v3/things", "/v3/thing", False),
        ("/v3/things", "/v3/things\n", False),
        ("/v3/things/*", "/v3/things/a", True),
        ("/v3/things/*", "/v3/things/", False),
        ("/v3/things/*", "/v3/things/a/b", False),
        ("/v3/{project}/things", "/v3/p/things", True),
        ("/v3/{project}/things", "/v3/p/q/things", False),
        ("/v3/**", "/v3/p/q/things", True),
        ("/v3/**", "/v2/p", False),
        ("/v3/**/tags", "/v3/a/b/tags", True),
        ("/v3/a.b", "/v3/axb", False),
        ("/v3/a{b", "/v3/a{b", True),
        ("/v3/{a}{b}", "/v3/xy", True),
        ("/v3/a[bc", "/v3/a[bc", True),
        ("/v3/*s", "/v3/things", True),
        ("/v3/*s", "/v3/thing", False),
        ("/v3/**/**/tags", "/v3/a/tags", False),
        ("/v3/****tags", "/v3/tags", True),
        ("/v3/a**", "/v3/a", True),
        ("/v3/a*", "/v3/a", False),
        ("/v3/***x", "/v3/ax", True),
        ("/", "/", True),
    ],
)
def test_a_pattern_stands_for_whole_paths(pattern: str, path: str, good: bool) -> None:
    assert passes(pattern, path) is good


def test_one_spelling_and_one_rule_that_fit_are_enough() -> None:
    assert passes("/v3/things", "/thing-service/v3/things", "/v3/things")
    rules = [
        AccessRule(service="other", method="GET", path="/a"),
        AccessRule(service="block-thing", method="GET", path="/a"),
    ]
    assert permits(rules, TYPES, "GET", ["/a"])
    assert not permits(rules[:1], TYPES, "GET", ["/a"])
    assert not permits(rules, TYPES, "POST", ["/a"])
    assert not permits([], TYPES, "GET", ["/a"])


@pytest.mark.parametrize("sign", ["{x}", "**a", "*a", "{x}a", "a**{x}"])
def test_no_pattern_takes_long_whatever_the_path(sign: str) -> None:
    pattern = "/" + sign * (220 // len(sign))
    before = time.monotonic()
    assert not passes(pattern, "/" + "a" * 4000 + "/")
    assert time.monotonic() - before < 1

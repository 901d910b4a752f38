"""Query strings of lists."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from pileus.kernel.faults import Invalid
from pileus.kernel.query import (
    TAG_FILTERS,
    Filter,
    Listing,
    Query,
    boolean,
    extended,
    next_link,
)
from pileus.kernel.store import Match, Page

LIST = Listing(
    {
        "name": Filter(),
        "display": Filter("name", fold=True),
        "size": Filter(kind=int),
        "hot": Filter("is_hot", kind=bool),
        "min": Filter("size", kind=int, op="ge"),
        "like": Filter("name", op="regex"),
        **TAG_FILTERS,
    },
    {"name": "name", "created": "created_at", "id": "id"},
    default_limit=50,
    max_limit=100,
)
COLON = Listing({}, {"name": "name", "size": "size"}, colon_sort=True, default=(("id", False),))


def refusal(text: str, listing: Listing = LIST) -> str:
    with pytest.raises(Invalid) as refused:
        listing.parse(Query(text))
    return refused.value.message


def test_the_first_of_repeated_keys_all_of_them_and_whether_any() -> None:
    q = Query("a=1&a=2&b=&c=%20x%2B")
    assert (q.get("a"), q.all("a"), q.get("b", "z"), q.get("d", "z")) == ("1", ["1", "2"], "", "z")
    assert (q.get("c"), q.has("b"), q.has("d")) == (" x+", True, False)
    assert Query("").pairs == []


@pytest.mark.parametrize("text", ["a=%00", "a=x%00y", "%00=1", "a=\0"])
def test_a_nul_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="NUL"):
        Query(text)


@pytest.mark.parametrize("text", ["1", "true", "TRUE", "t", "yes", "y", "on"])
def test_truth_is_spelled_in_many_ways(text: str) -> None:
    assert boolean(text, "x") and Query(f"x={text}").flag("x")


@pytest.mark.parametrize("text", ["0", "false", "False", "f", "no", "n", "off"])
def test_so_is_falsehood(text: str) -> None:
    assert not boolean(text, "x") and not Query(f"x={text}").flag("x", True)


def test_a_flag_that_stands_alone_is_true_and_one_that_is_absent_as_told() -> None:
    assert Query("x").flag("x") and Query("x=").flag("x")
    assert not Query("").flag("x") and Query("").flag("x", True)
    with pytest.raises(Invalid, match="Invalid input for x: 'maybe' is not a boolean"):
        Query("x=maybe").flag("x")


@pytest.mark.parametrize(
    ("text", "filters"),
    [
        ("", {}),
        ("unknown=1", {}),
        ("name=a", {"name": "a"}),
        ("name=a&name=b", {"name": ["a", "b"]}),
        ("name=", {"name": ""}),
        ("display=AbC", {"name": "abc"}),
        ("name=AbC", {"name": "AbC"}),
        ("size=5", {"size": 5}),
        ("size=-5", {"size": -5}),
        ("hot=True", {"is_hot": 1}),
        ("hot=no", {"is_hot": 0}),
        ("min=3&min=4", {"size": Match("ge", 4)}),
        ("like=^a", {"name": Match("regex", "^a")}),
        ("tags=a,b", {"tags": Match("all", ["a", "b"])}),
        ("tags-any=a&tags-any=b,", {"tags": Match("any", ["a", "b"])}),
        ("not-tags=a", {"tags": Match("not_all", ["a"])}),
        ("not-tags-any=a", {"tags": Match("not_any", ["a"])}),
    ],
)
def test_declared_filters_become_columns(text: str, filters: dict[str, Any]) -> None:
    assert LIST.parse(Query(text)).filters == filters


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size=x", "Invalid input for size: 'x' is not an integer."),
        ("size=1.5", "Invalid input for size: '1.5' is not an integer."),
        ("size=" + "9" * 19, f"Invalid input for size: '{'9' * 19}' is not an integer."),
        ("hot=x", "Invalid input for hot: 'x' is not a boolean; use true or false."),
        ("like=(", "Invalid regular expression in like: "),
        ("limit=-1", "Invalid input for query parameters 'limit'. Value: -1. "),
        ("limit=x", "Invalid input for query parameters 'limit'. Value: x. "),
        ("limit=", "Invalid input for query parameters 'limit'. Value: . "),
        ("limit=9999999999", "Invalid input for query parameters 'limit'. "),
        ("sort_key=size", "Cannot sort by size; the sort keys are created, id, name."),
        ("sort_dir=up", "Unknown sort direction 'up'; it must be 'asc' or 'desc'."),
        ("sort_key=name&sort_dir=", "Unknown sort direction ''; it must be 'asc' or 'desc'."),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, message: str) -> None:
    assert refusal(text).startswith(message)


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+$",
        "(a|a)*$",
        "(a*)*b",
        "((a?){20})+",
        "a*a*a*a*b",
        "(a+){9}b",
        "(a+){2}b",
        "(ab|cd)+e",
        "a?b?c?d?",
        "(x)\\1",
        "(?=a)b",
        ".*" * 9,
    ],
)
def test_a_pattern_that_could_take_for_ever_is_refused(pattern: str) -> None:
    assert "too costly" in refusal("like=" + quote(pattern))


@pytest.mark.parametrize(
    "pattern",
    ["web", "^web-[0-9]+$", "web|db", "(web|db)-.*", "a.*b.*c.*", "a{3}b?", "[^x]+", "(ab){2}"],
)
def test_patterns_that_people_use_are_taken(pattern: str) -> None:
    page = LIST.parse(Query("like=" + quote(pattern)))
    assert page.filters == {"name": Match("regex", pattern)}


def test_what_policy_fixes_wins_over_what_is_asked() -> None:
    page = LIST.parse(Query("name=a&size=1"), name="mine", scopes=[{"owner": "o"}])
    assert page.filters == {"name": "mine", "size": 1} and page.scopes == ({"owner": "o"},)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("", 50),
        ("limit=1", 1),
        ("limit=999999999", 100),
        ("limit=7", 7),
        ("limit=0", 100),
        ("limit=100", 100),
        ("limit=101", 100),
    ],
)
def test_a_page_is_as_long_as_asked_but_not_longer_than_allowed(text: str, limit: int) -> None:
    assert LIST.parse(Query(text)).limit == limit


DOWN = (("created_at", True), ("id", True))


@pytest.mark.parametrize(
    ("text", "sorts"),
    [
        ("", DOWN),
        ("sort_dir=asc", (("created_at", False), ("id", False))),
        ("sort_dir=desc", DOWN),
        ("sort_key=name", (("name", True), ("id", True))),
        ("sort_key=name&sort_dir=asc", (("name", False), ("id", False))),
        (
            "sort_key=name&sort_key=created&sort_dir=asc&sort_dir=desc",
            (("name", False), ("created_at", True), ("id", True)),
        ),
        (
            "sort_key=name&sort_key=created&sort_dir=asc",
            (("name", False), ("created_at", False), ("id", False)),
        ),
        ("sort_key=id&sort_dir=asc", (("id", False),)),
        ("sort_key=id&sort_key=name&sort_dir=asc", (("id", False), ("name", False))),
        ("sort=name:asc", DOWN),
    ],
)
def test_sorts_end_with_the_id(text: str, sorts: tuple[tuple[str, bool], ...]) -> None:
    assert LIST.parse(Query(text)).sorts == sorts


@pytest.mark.parametrize(
    ("text", "sorts"),
    [
        ("", (("id", False),)),
        ("sort=name:asc,size:desc", (("name", False), ("size", True), ("id", True))),
        ("sort=name, size", (("name", True), ("size", True), ("id", True))),
        ("sort=name:desc&sort_key=size", (("name", True), ("id", True))),
        ("sort_key=size", (("size", False), ("id", False))),
    ],
)
def test_a_sort_may_be_one_word_where_the_api_has_that(
    text: str, sorts: tuple[tuple[str, bool], ...]
) -> None:
    assert COLON.parse(Query(text)).sorts == sorts


def test_marker_and_direction_of_the_page() -> None:
    page = LIST.parse(Query("marker=m1&page_reverse=True"))
    assert (page.marker, page.reverse) == ("m1", True)
    page = LIST.parse(Query("page_reverse=no"))
    assert (page.marker, page.reverse) == ("", False)


def test_the_next_page_is_asked_as_this_one_was() -> None:
    q = Query("limit=2&marker=old&page_reverse=true&name=a+b&name=c")
    assert next_link("http://x/y", q, "new id") == (
        "http://x/y?limit=2&name=a+b&name=c&marker=new+id"
    )


def test_a_page_may_be_narrowed() -> None:
    page = extended(Page({"a": 1}, limit=3), b=2)
    assert page.filters == {"a": 1, "b": 2} and page.limit == 3

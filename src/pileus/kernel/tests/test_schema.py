"""Bodies: what is refused, kept or ignored, what a version has, and the words of it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from msgspec import UNSET, Meta, Struct, UnsetType

from pileus.kernel.faults import Invalid
from pileus.kernel.schema import (
    IGNORE,
    KEEP,
    REFUSE,
    Body,
    absent,
    boundaries,
    bulk,
    explain,
    extras_of,
    names_of,
    parse,
    since,
    trim,
    until,
    unwrap,
    versioned,
)


class Knob(Struct, kw_only=True):
    turns: Annotated[int | UnsetType, since("2.7")] = UNSET


class Lid(Struct, kw_only=True):
    color: str = "red"
    knob: Knob | UnsetType = UNSET
    knobs: list[Knob] | UnsetType = UNSET
    shine: Annotated[int | UnsetType, since("2.5")] = UNSET


class Pot(Body):
    root, plural = "pot", "pots"
    name: Annotated[str, Meta(min_length=1, max_length=5)]
    size: int = 1
    is_hot: bool = False
    lid: Lid | UnsetType = UNSET
    lids: list[Lid] = []
    handle: Annotated[str | UnsetType | None, since("2.2")] = UNSET
    rust: Annotated[str | UnsetType, until("2.4")] = UNSET
    glaze: Annotated[str | UnsetType, since("2.3", "2.6")] = UNSET


class Bare(Body):
    unknown = KEEP
    lax = False
    name: str = ""
    size: int = 0


class Easy(Body):
    root, unknown = "easy", IGNORE
    beside = ("scheduler",)
    name: str = msgspec.field(default="", name="display-name")


def refusal(call: Any, *args: Any) -> str:
    with pytest.raises(Invalid) as refused:
        call(*args)
    return refused.value.message


FIELD = "Invalid input for field/attribute "


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ([], FIELD + "pot. [] is not of type 'object'"),
        ("x", FIELD + "pot. 'x' is not of type 'object'"),
        ({}, FIELD + "body. 'name' is a required property"),
        ({"name": ""}, FIELD + "name. Expected `str` of length >= 1"),
        ({"name": "123456"}, FIELD + "name. Expected `str` of length <= 5"),
        ({"name": 5}, FIELD + "name. Expected `str`, got `int`"),
        ({"name": "a", "size": "x"}, FIELD + "size. Expected `int`, got `str`"),
        ({"name": "a", "size": 1.5}, FIELD + "size. Expected `int`, got `float`"),
        ({"name": "a", "size": None}, FIELD + "size. Expected `int`, got `null`"),
        (
            {"name": "a", "b": 1},
            FIELD + "pot. Additional properties are not allowed ('b' was unexpected)",
        ),
        (
            {"name": "a", "b": 1, "c": 2},
            FIELD + "pot. Additional properties are not allowed ('b', 'c' were unexpected)",
        ),
        ({"name": "a", "lid": {"color": 1}}, FIELD + "lid.color. Expected `str`, got `int`"),
        ({"name": "a", "lids": [{}, 3]}, FIELD + "lids[1]. Expected `object`, got `int`"),
    ],
)
def test_what_does_not_fit_is_refused_in_jsonschemas_words(document: Any, message: str) -> None:
    assert refusal(Pot.take, document) == message


def test_a_long_value_is_shortened_in_the_refusal() -> None:
    message = refusal(Pot.take, "x" * 500)
    assert len(message) < 150 and message.endswith("is not of type 'object'") and "..." in message


def test_text_is_coerced_where_the_api_does_so_and_only_there() -> None:
    pot = Pot.take({"name": "a", "size": "7", "is_hot": "true"})
    assert (pot.size, pot.is_hot) == (7, True)
    assert "Expected `int`" in refusal(Bare.take, {"size": "7"})


def test_absent_is_not_null() -> None:
    at = (2, 2)
    assert Pot.take({"name": "a"}, at).handle is UNSET
    assert Pot.take({"name": "a", "handle": None}, at).handle is None
    assert Pot.take({"name": "a"}).given() == {
        "name": "a",
        "size": 1,
        "is_hot": False,
        "lids": [],
    }


def test_unknown_keys_may_be_kept_or_ignored() -> None:
    document = {"name": "a", "more": 1}
    assert Bare.take(document).name == "a"
    assert extras_of(Bare, document) == {"more": 1}
    assert Easy.take({"display-name": "e", "more": 1}).name == "e"
    assert document == {"name": "a", "more": 1}, "what the caller sent is not changed"


@pytest.mark.parametrize(
    ("field", "value", "versions"),
    [
        ("handle", "h", {(2, 1): False, (2, 2): True, (2, 9): True}),
        ("rust", "r", {(2, 1): True, (2, 3): True, (2, 4): False}),
        ("glaze", "g", {(2, 2): False, (2, 3): True, (2, 5): True, (2, 6): False}),
    ],
)
def test_a_field_exists_since_and_until_its_versions(
    field: str, value: str, versions: dict[tuple[int, int], bool]
) -> None:
    for at, exists in versions.items():
        document = {"name": "a", field: value}
        if exists:
            assert getattr(Pot.take(document, at), field) == value
        else:
            assert f"('{field}' was unexpected)" in refusal(Pot.take, document, at)


def test_fields_of_other_versions_are_refused_inside_too() -> None:
    for document in (
        {"name": "a", "lid": {"shine": 1}},
        {"name": "a", "lids": [{}, {"shine": 1}]},
    ):
        assert "('shine' was unexpected)" in refusal(Pot.take, document, (2, 4))
        Pot.take(document, (2, 5))
    for deeper in ({"knob": {"turns": 1}}, {"knobs": [{}, {"turns": 1}]}):
        assert "('turns' was unexpected)" in refusal(
            Pot.take, {"name": "a", "lids": [deeper]}, (2, 6)
        )
        Pot.take({"name": "a", "lids": [deeper]}, (2, 7))


def test_the_versions_at_which_a_body_changes_are_known() -> None:
    assert boundaries(Pot) == ((2, 2), (2, 3), (2, 4), (2, 6))
    assert boundaries(Easy) == ()
    assert {name for name, *_ in versioned(Pot)} == {"handle", "rust", "glaze"}
    assert absent(Pot, (2, 1)) == (("handle", "handle"), ("glaze", "glaze"))
    assert names_of(Easy) == {"display-name"}


def test_a_view_is_trimmed_to_its_version() -> None:
    view = Lid(color="blue", shine=3)
    assert trim(Lid(color="blue", shine=3), (2, 5)) == view
    assert msgspec.json.encode(trim(view, (2, 4))) == b'{"color":"blue"}'


@pytest.mark.parametrize(
    ("cls", "document", "answer"),
    [
        (Pot, {"pot": {"name": "a"}}, {"name": "a"}),
        (Pot, {"pot": None}, None),
        (Bare, {"name": "a"}, {"name": "a"}),
        (Easy, {"easy": {}, "anything": 1}, {}),
    ],
)
def test_the_root_is_taken_off(cls: type[Body], document: Any, answer: Any) -> None:
    assert unwrap(cls, document) == answer


@pytest.mark.parametrize(
    ("cls", "document", "message"),
    [
        (Pot, [], "Malformed request body: it must be a JSON object."),
        (Bare, 7, "Malformed request body: it must be a JSON object."),
        (Pot, {"pan": {}}, FIELD + "body. 'pot' is a required property"),
        (
            Pot,
            {"pot": {}, "pan": 1},
            "Additional properties are not allowed ('pan' was unexpected)",
        ),
    ],
)
def test_a_wrong_root_is_refused(cls: type[Body], document: Any, message: str) -> None:
    assert refusal(unwrap, cls, document) == message


def test_what_is_declared_may_stand_beside_the_root() -> None:
    class Strict(Easy):
        unknown = REFUSE

    assert unwrap(Strict, {"easy": {}, "scheduler": 1}) == {}
    assert "('other' was unexpected)" in refusal(unwrap, Strict, {"easy": {}, "other": 1})


def test_one_object_or_a_list() -> None:
    one = bulk(Pot, {"pot": {"name": "a"}})
    assert one.single and [p.name for p in one.items] == ["a"] and one.raw == [{"name": "a"}]
    two = bulk(Pot, {"pots": [{"name": "a"}, {"name": "b"}]})
    assert not two.single and [p.name for p in two.items] == ["a", "b"]
    assert two.raw == [{"name": "a"}, {"name": "b"}]
    empty: list[Any] = [{"pots": []}, {"pots": {}}, {"pots": None}]
    for bad in empty:
        assert "Unable to find 'pots' in request body" in refusal(bulk, Pot, bad)
    assert "'pot' is a required property" in refusal(bulk, Pot, {"pans": []})
    assert "unexpected" in refusal(bulk, Pot, {"pots": [{"name": "a", "rust": "r"}]}, (2, 4))
    assert "unexpected" in refusal(bulk, Pot, {"pot": {"name": "a", "rust": "r"}}, (2, 4))


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"nul", b"\xff", b'"\\ud800"', b"[" * 100_000, b'{"a":1}x', b"1e999", b"\x00"],
    ids=repr,
)
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    assert refusal(parse, raw) == "Malformed request body: it is not valid JSON."


@pytest.mark.parametrize(
    "raw", [rb'"a\u0000b"', rb'{"a\u0000": 1}', rb'"\\\u0000"', rb'["\u0000"]']
)
def test_a_nul_is_refused(raw: bytes) -> None:
    assert refusal(parse, raw) == "Strings may not contain NUL characters."


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (rb'"\\u0000"', "\\u0000"),
        (rb'"\\\\u0000"', "\\\\u0000"),
        (b'{"a": 9223372036854775807}', {"a": 9223372036854775807}),
        (b"[-9223372036854775808]", [-9223372036854775808]),
        (b'{"a": "9999999999999999999999"}', {"a": "9999999999999999999999"}),
        (b'{"a": 0.1234567890123456789}', {"a": 0.1234567890123456789}),
        (b'{"a": ": 99999999999999999999"}', {"a": ": 99999999999999999999"}),
    ],
)
def test_what_looks_bad_and_is_not_is_taken(raw: bytes, value: Any) -> None:
    assert parse(raw) == value


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a": 9223372036854775808}',
        b'{"a":9223372036854775808}',
        b"[-9223372036854775809]",
        b'{"a": {"b": [1, 99999999999999999999]}}',
    ],
)
def test_an_integer_that_no_database_holds_is_refused(raw: bytes) -> None:
    assert "must fit 64 bits" in refusal(parse, raw)


def test_a_text_that_msgspec_never_said_is_given_back() -> None:
    assert explain("something else") == "something else"
    assert explain("Object contains unknown field `x` - at `$.a.b`") == (
        FIELD + "a.b. Additional properties are not allowed ('x' was unexpected)"
    )
    assert explain("Object missing required field `x` - at `$.a`") == (
        FIELD + "a. 'x' is a required property"
    )

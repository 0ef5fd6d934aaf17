"""Untrusted values: refusals name path, value and expectation, and no text from a file can act on a terminal."""

import math
from typing import Annotated, Literal

import msgspec
import pytest
from batchscale.errors import InputError
from batchscale.printable import printable
from batchscale.untrusted_input import convert, misfit
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    size: int = 1
    colour: str = ""


class Outer(msgspec.Struct, forbid_unknown_fields=True):
    inner: Inner = msgspec.field(default_factory=Inner)
    sizes: list[int] = []
    table: dict[str, int] = {}
    mode: Literal["fast", "slow"] = "fast"


def refusal(data, to=Outer):
    with pytest.raises(InputError) as error:
        convert(data, to, "file.toml")
    message = str(error.value)
    assert message.isprintable()
    assert len(message) < 400
    return message


@given(st.text(), st.integers(8, 40))
def test_quoted_text_is_printable_ascii_and_short(text, longest):
    shown = printable(text, longest)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) <= longest


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"inner": {"size": "big"}}, "file.toml: inner.size: expected a whole number, found 'big'"),
        ({"inner": {"sise": 1}}, "file.toml: inner.sise: unknown key; did you mean size?"),
        ({"sizes": [1, "two"]}, "file.toml: sizes[1]: expected a whole number, found 'two'"),
        ({"colour": 1}, "file.toml: colour: unknown key, expected one of inner, sizes, table, mode"),
        ({"table": {"a": 1, "b": "two"}}, "file.toml: table.b: expected a whole number, found 'two'"),
        ({"mode": "fat"}, "file.toml: mode: expected one of 'fast', 'slow', found 'fat'"),
        ({"inner": 3}, "file.toml: inner: expected a table of size, colour, found 3"),
        ([1], "file.toml: top level: expected a table of inner, sizes, table, mode, found [1]"),
    ],
)
def test_a_refusal_names_file_path_and_value(data, message):
    assert refusal(data) == message


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\nb", "a`b", "\u202eabc", "`\n`", "x" * 10_000])
def test_a_key_is_named_and_cannot_act_on_a_terminal(name):
    assert "unknown key" in refusal({name: 1})
    assert "unknown key" in refusal({"inner": {name: 1}})
    refusal({"table": {name: "one"}})
    refusal({"inner": {"size": name}})


def test_values_nested_too_deeply_are_refused():
    deep = inner = []
    for _ in range(100_000):
        inner.append([])
        inner = inner[0]
    refusal({"sizes": deep})
    while deep:  # take it apart from the outside, since Python's own clean-up recurses
        deep = deep.pop()


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
)


@given(values)
def test_any_value_fits_or_is_refused_in_one_line(value):
    for data in (value, {"inner": value}, {"sizes": [value]}, {"table": {"name": value}}):
        message = ""
        try:
            convert(data, Outer, "file.toml")
        except InputError as error:
            message = str(error)
        assert not message or (message.isprintable() and message.startswith("file.toml: ") and len(message) < 400)


def test_a_value_inside_another_is_named_by_its_whole_path():
    found = misfit(["a"], list[int], "model_options.hidden")
    assert found == "model_options.hidden[0]: expected a whole number, found 'a'"
    assert misfit("a", int, "depth") == "depth: expected a whole number, found 'a'"
    assert misfit("a", int) == "top level: expected a whole number, found 'a'"
    assert misfit(1, int) is None
    found = misfit({"inner": {"sise": 1}}, Outer, "outer")
    assert found == "outer.inner.sise: unknown key; did you mean size?"


class Bounded(msgspec.Struct):
    share: Annotated[float, Meta(gt=0, lt=1)] | None = None
    bytes: Annotated[int, Meta(ge=1, le=1 << 20)] = 1
    sizes: Annotated[list[int], Meta(min_length=1, max_length=2)] | Literal["all"] = "all"
    name: Annotated[str, Meta(pattern="^[a-z]+$", description="lower-case letters")] = "a"
    text: Annotated[str, Meta(max_length=3)] = ""
    table: Annotated[dict[str, int], Meta(max_length=1)] = {}

    def __post_init__(self):
        if self.share == 0.5:
            raise ValueError("half is refused")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"share": 1}, "share: expected a number above 0 and below 1, found 1"),
        ({"share": math.nan}, "share: expected a number above 0 and below 1, found nan"),
        ({"bytes": 0}, "bytes: expected a whole number from 1 to 1,048,576, found 0"),
        ({"sizes": []}, "sizes: expected a list of 1 to 2 values or 'all', found []"),
        ({"sizes": ["all"]}, "sizes[0]: expected a whole number, found 'all'"),
        ({"name": "A"}, "name: expected lower-case letters, found 'A'"),
        ({"text": "four"}, "text: expected text of 0 to 3 characters, found 'four'"),
        ({"table": {"a": 1, "b": 2}}, "table: expected a table of 0 to 1 entries, found {'a': 1, 'b': 2}"),
        ({"table": 3}, "table: expected a table of 0 to 1 entries, found 3"),
        ({"share": 0.5, "unknown": 3}, "half is refused"),
    ],
)
def test_the_type_says_what_is_expected(data, message):
    assert refusal(data, Bounded) == f"file.toml: {message}"


def test_a_missing_field_is_named():
    class Needs(msgspec.Struct):
        size: int

    assert refusal({}, Needs) == "file.toml: size: missing, expected a whole number"


def test_messages_do_not_depend_on_the_wording_of_the_library(monkeypatch):
    convert_ = msgspec.convert

    def reworded(data, to):
        try:
            return convert_(data, to)
        except msgspec.ValidationError:
            raise msgspec.ValidationError("\x1b[31m quite another sentence") from None

    monkeypatch.setattr(msgspec, "convert", reworded)
    assert refusal({"inner": {"size": "big"}}) == "file.toml: inner.size: expected a whole number, found 'big'"
    assert "another sentence" in refusal({"share": 0.5}, Bounded)


def test_a_name_is_shown_as_it_is_written():
    assert refusal({"table": {".a.[b].": "two"}}).startswith("file.toml: table..a.[b].: expected a whole number")
    assert refusal({"x" * 100: 1}).startswith(f"file.toml: {'x' * 57}...: unknown key")
    assert refusal({"table": {"x" * 100: "two"}}).startswith(f"file.toml: table.{'x' * 57}...: expected")

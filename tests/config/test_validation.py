"""Untrusted values: what a refusal says, and that nothing of a stranger's text can act on a terminal."""

from typing import Literal

import msgspec
import pytest
from batchscale.config.validation import convert, explain
from batchscale.errors import InputError
from batchscale.printable import printable
from hypothesis import given
from hypothesis import strategies as st


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
        ({"inner": {"size": "big"}}, "file.toml: inner.size: expected a whole number, got text, found 'big'"),
        ({"inner": {"sise": 1}}, "file.toml: inner.sise: unknown key; did you mean size?"),
        ({"sizes": [1, "two"]}, "file.toml: sizes[1]: expected a whole number, got text, found 'two'"),
        ({"colour": 1}, "file.toml: colour: unknown key; known are inner, sizes, table, mode"),
        ({"table": {"a": 1, "b": "two"}}, "file.toml: table.b: expected a whole number, got text, found 'two'"),
        ({"mode": "fat"}, "file.toml: mode: expected one of 'fast', 'slow', found 'fat'"),
        ({"inner": 3}, "file.toml: inner: expected a table of size, colour, found 3"),
        ([1], "file.toml: top level: expected a table of inner, sizes, table, mode, found [1]"),
    ],
)
def test_a_refusal_names_file_path_and_value(data, message):
    assert refusal(data) == message


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\nb", "a`b", "\u202eabc", "`\n`", "x" * 10_000])
def test_a_stranger_s_key_is_named_and_cannot_act(name):
    assert "unknown key" in refusal({name: 1})
    assert "unknown key" in refusal({"inner": {name: 1}})
    refusal({"table": {name: "one"}})
    refusal({"inner": {"size": name}})


def test_what_is_nested_too_deeply_is_refused():
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


def test_what_lies_inside_another_value_is_named_by_its_whole_path():
    message = "Expected `int`, got `str` - at `$[0]`"
    said = explain(message, ["a"], list[int], inside="model_options.hidden")
    assert said == "model_options.hidden[0]: expected a whole number, got text, found 'a'"
    assert explain("Expected `int`, got `str`", "a", int, inside="depth").startswith("depth: expected")
    assert explain("Expected `int`, got `str`", "a", int).startswith("top level: expected")
    message = "Object contains unknown field `sise` - at `$.inner`"
    said = explain(message, {"inner": {"sise": 1}}, Outer, inside="outer")
    assert said == "outer.inner.sise: unknown key; did you mean size?"


def test_a_name_is_shown_as_it_is_written():
    assert refusal({"table": {".a.[b].": "two"}}).startswith("file.toml: table..a.[b].: expected a whole number")
    assert refusal({"x" * 100: 1}).startswith(f"file.toml: {'x' * 57}...: unknown key")
    assert refusal({"table": {"x" * 100: "two"}}).startswith(f"file.toml: table.{'x' * 57}...: expected")

"""Untrusted input to typed values: one clear line for whatever does not fit."""

from __future__ import annotations

import difflib
import math
import re
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec

from batchscale.errors import InputError
from batchscale.printable import LONGEST_REASON, LONGEST_VALUE, bare, printable
from batchscale.safe_files import T

_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`\Z")
_UNKNOWN = re.compile(r"unknown field `(?P<name>.*)`", re.DOTALL)
_TYPES = re.compile(r"`(?P<names>[a-z |]+)`")
_WORDS = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "object": "a table",
    "str": "text",
}
"""What the values of a TOML file are called, by msgspec's names."""
_PART = re.compile(r"\[(\d+|\.\.\.)\]|([^.\[\]]+)")


def convert(data: object, to: type[T], source: str) -> T:
    """Check `data` (parsed TOML or JSON) against the Struct `to`.

    Raises:
        InputError: names `source`, the field's full path, the value found and what would be right.
    """
    try:
        return msgspec.convert(data, to)
    except msgspec.ValidationError as error:
        raise InputError(f"{source}: {explain(str(error), data, to)}") from None
    except RecursionError:
        raise InputError(f"{source}: nested too deeply to be read") from None


def explain(message: str, data: object, to: object, inside: str = "") -> str:
    """Rewrite a msgspec message as `path: what would be right, found value`; `inside` is the path of `data` itself."""
    match = _PATH.search(message)
    reason = message[: match.start()] if match else message
    place = _find(data, to, match["path"] if match else "", inside)
    if unknown := _UNKNOWN.search(reason):
        return f"{_within(place.path, unknown['name'])}: unknown key{_instead(unknown['name'], place.hint)}"
    where = place.path or "top level"
    if isinstance(place.value, float) and math.isnan(place.value):
        return f"{where}: expected a number, found nan"
    shown = "" if place.value is None or isinstance(place.value, dict) else f", found {printable(place.value)}"
    return f"{where}: {_right(reason, place.hint)}{shown}"


class _Place(NamedTuple):
    path: str
    value: object
    hint: object


def _find(data: object, hint: object, path: str, there: str) -> _Place:
    """What lies at a msgspec path in data at `there`; a `[...]` in it is the first key whose value does not fit."""
    for index, field in _PART.findall(path):
        if index.isdigit():
            hint, there = _inside(hint, ""), f"{there}[{index}]"
            data = data[int(index)] if isinstance(data, list) and int(index) < len(data) else None
        else:
            table = data if isinstance(data, dict) else {}
            name = field or next((key for key in table if not _fits(table[key], _inside(hint, key))), "")
            hint, data, there = _inside(hint, name), table.get(name), _within(there, name)
    return _Place(there, data, hint)


def _within(there: str, name: str) -> str:
    return ".".join(filter(None, (there, bare(name))))


def _fits(value: object, hint: object) -> bool:
    try:
        msgspec.convert(value, hint)
    except msgspec.ValidationError:
        return False
    return True


def _alternatives(hint: object) -> list[object]:
    """The types that a value may have, unions and annotations taken apart."""
    if get_origin(hint) is Annotated:
        return _alternatives(get_args(hint)[0])
    if get_origin(hint) in (Union, UnionType):
        return [each for one in get_args(hint) for each in _alternatives(one)]
    return [hint]


def _inside(hint: object, name: str) -> object:
    """The type of a field, or of whatever a list or a dict holds."""
    for one in _alternatives(hint):
        if get_origin(one) in (dict, list):
            return get_args(one)[-1]
        if isinstance(one, type) and issubclass(one, msgspec.Struct):
            return get_type_hints(one, include_extras=True).get(name, Any)
    return Any


def _fields(hint: object) -> list[str]:
    return [name for one in _alternatives(hint) for name in getattr(one, "__struct_fields__", ())]


def _instead(name: str, hint: object) -> str:
    known = _fields(hint)
    close = difflib.get_close_matches(name[:LONGEST_VALUE], known, n=1)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; known are {', '.join(known)}" if known else ""


def _right(reason: str, hint: object) -> str:
    types = _alternatives(hint)
    choices = [choice for one in types if get_origin(one) is Literal for choice in get_args(one)]
    if choices and reason.startswith("Invalid enum value"):
        several = f"one of {', '.join(map(repr, choices))}" if len(choices) > 1 else repr(choices[0])
        return f"expected {several}{' or a list' if any(get_origin(one) is list for one in types) else ''}"
    if reason.startswith("Expected `object`") and (known := _fields(hint)):
        return f"expected a table of {', '.join(known)}"
    described = [meta.description for meta in getattr(hint, "__metadata__", ()) if meta.description]
    if described and " matching regex " in reason:
        return f"expected {described[0]}"
    return bare(_TYPES.sub(_in_words, reason[:1].lower() + reason[1:]), LONGEST_REASON)


def _in_words(types: re.Match[str]) -> str:
    """`bool | float` as true or false or a number; that a value may be left out says nothing about what is right."""
    names = [name for name in types["names"].split(" | ") if name != "null"]
    return " or ".join(_WORDS.get(name, name) for name in names)

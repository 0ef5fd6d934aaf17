"""Untrusted input: read small files safely, and convert their values to types, with one clear line on error."""

from __future__ import annotations

import difflib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import inspect

from batchscale.errors import InputError
from batchscale.printable import LONGEST_VALUE, bare, printable, reason

T = TypeVar("T")
REFUSALS = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""The exceptions that a decoder may raise on unknown bytes."""
_TYPE_WORDS = {
    inspect.BoolType: "true or false",
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
    inspect.StrType: "text",
    inspect.ListType: "a list",
    inspect.DictType: "a table",
}


def is_within(path: Path, folder: Path) -> bool:
    """Return True if a path is a folder or in it, links followed."""
    # Unlike Path.resolve, this raises nothing for a link to itself.
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))


def read_small(path: Path, most_bytes: int) -> bytes:
    """Read a regular file of at most `most_bytes`.

    Raises:
        InputError: if there is no such file, or it is larger.
    """
    try:
        refuse_endless(path, most_bytes)
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def refuse_endless(path: Path, most_bytes: int) -> None:
    """Check before opening a file that it is regular and has at most `most_bytes`: a pipe or a device may never end.

    Raises:
        InputError: if it is not a regular file, or is larger.
        OSError: if it does not exist or cannot be examined.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path}: cannot be read (not a regular file)")
    if found.st_size > most_bytes:
        raise InputError(f"{path}: {found.st_size} bytes, expected at most {most_bytes}")


def is_there(path: Path) -> bool:
    """Return True if a file is in its folder: a link that leads nowhere is there, and cannot be read."""
    return path.exists() or path.is_symlink()


def read_json(path: Path, to: type[T], most_bytes: int) -> T:
    """Read a small JSON file as the type `to`.

    Raises:
        InputError: if it cannot be read or is not valid.
    """
    try:
        return msgspec.json.decode(read_small(path, most_bytes), type=to)
    except REFUSALS as error:
        raise InputError(f"{path}: not valid ({reason(error)})") from None


def convert(data: object, to: type[T], source: str) -> T:
    """Convert parsed TOML or JSON to the type `to`.

    Args:
        data: Tables, lists, texts and numbers, as the parser returned them.
        to: A msgspec Struct, or any other type that msgspec knows.
        source: Name of the file, for messages.

    Raises:
        InputError: names `source`, the full path of the first field that does not fit, its value and what is expected.
    """
    try:
        return msgspec.convert(data, to)
    except msgspec.ValidationError as error:
        raise InputError(f"{source}: {misfit(data, to) or reason(error)}") from None
    except RecursionError:
        raise InputError(f"{source}: nested too deeply to be read") from None


def misfit(data: object, to: object, path: str = "") -> str | None:
    """Describe the first value in `data` that does not fit the type `to`; None if every single value fits.

    msgspec decides whether a value fits. The message is made from the type rather than from msgspec's own message,
    so that its wording is ours.

    Args:
        data: Parsed TOML or JSON.
        to: The type it should have.
        path: Position of `data` in the file, such as "workload.model_options.hidden"; empty for the whole file.
    """
    if _fits(data, to):
        return None
    for name, value, hint in _children(data, to):
        inside = f"{path}[{name}]" if isinstance(name, int) else ".".join(filter(None, (path, bare(name))))
        if hint is None:
            return f"{inside}: unknown key{_suggestion(str(name), to)}"
        if value is msgspec.UNSET:
            return f"{inside}: missing, expected {_expected(inspect.type_info(hint))}"
        if message := misfit(value, hint, inside):
            return message
    if isinstance(data, dict) and any(hasattr(kind, "__struct_fields__") for kind in _alternatives(to)):
        return None  # A check of the whole table failed, which only msgspec's message describes.
    return f"{path or 'top level'}: expected {_expected(inspect.type_info(to))}, found {printable(data)}"


def _fits(value: object, to: Any) -> bool:  # noqa: ANN401 - a type or a union of types
    try:
        msgspec.convert(value, to)
    except (msgspec.ValidationError, RecursionError):
        return False
    return True


def _children(data: object, to: object) -> Iterator[tuple[str | int, object, object]]:
    """Yield name, value and type of every value inside `data`; no type for an unknown key, UNSET for a missing one."""
    for kind in _alternatives(to):
        if isinstance(data, list) and get_origin(kind) is list:
            yield from ((number, value, get_args(kind)[0]) for number, value in enumerate(data))
        elif isinstance(data, dict) and get_origin(kind) is dict:
            yield from ((name, value, get_args(kind)[1]) for name, value in data.items())
        elif isinstance(data, dict) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            fields = {field.name: field for field in msgspec.structs.fields(kind)}
            unknown = None if kind.__struct_config__.forbid_unknown_fields else Any
            yield from ((name, one, fields[name].type if name in fields else unknown) for name, one in data.items())
            missing = (one for name, one in fields.items() if one.required and name not in data)
            yield from ((one.name, msgspec.UNSET, one.type) for one in missing)


def _alternatives(to: object) -> list[object]:
    """Take unions and annotations apart into the plain types that a value may have."""
    if get_origin(to) is Annotated:
        return _alternatives(get_args(to)[0])
    if get_origin(to) in (Union, UnionType):
        return [each for one in get_args(to) for each in _alternatives(one)]
    return [to]


def _suggestion(name: str, to: object) -> str:
    known = [field for one in _alternatives(to) for field in getattr(one, "__struct_fields__", ())]
    return did_you_mean(name, known) or f", expected one of {', '.join(known)}"


def did_you_mean(name: str, known: list[str]) -> str:
    """Return the end of a refusal that asks for the known name close to an unknown one; empty if none is."""
    close = difflib.get_close_matches(name[:LONGEST_VALUE], known, n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _expected(kind: inspect.Type) -> str:
    """Say in words which values a type allows, such as "a number above 0 and up to 1000"."""
    match kind:
        case inspect.Metadata(type=plain, extra_json_schema=schema):
            return (schema or {}).get("description") or _expected(plain)
        case inspect.UnionType(types=types):
            return " or ".join(_expected(one) for one in types if not isinstance(one, inspect.NoneType))
        case inspect.LiteralType(values=values):
            return f"{'one of ' if len(values) > 1 else ''}{', '.join(map(repr, values))}"
        case inspect.StructType(fields=fields):
            return f"a table of {', '.join(field.name for field in fields)}"
        case _:
            word = _TYPE_WORDS.get(type(kind), "another type")
            return " ".join(filter(None, (word, _allowed_range(kind), _allowed_length(kind))))


def _allowed_range(kind: inspect.Type) -> str:
    found = {name: getattr(kind, name, None) for name in ("gt", "ge", "lt", "le")}
    bounds = {name: f"{at:,}" if isinstance(at, int) else f"{at:g}" for name, at in found.items() if at is not None}
    if bounds.keys() == {"ge", "le"}:
        return f"from {bounds['ge']} to {bounds['le']}"
    words = {"gt": "above", "ge": "from", "lt": "below", "le": "up to"}
    return " and ".join(f"{words[name]} {bound}" for name, bound in bounds.items())


def _allowed_length(kind: inspect.Type) -> str:
    least, most = getattr(kind, "min_length", None), getattr(kind, "max_length", None)
    unit = {inspect.ListType: "values", inspect.StrType: "characters", inspect.DictType: "entries"}.get(type(kind))
    if most is None:
        return "" if least is None else f"of {least} or more {unit}"
    return f"of {least or 0:,} to {most:,} {unit}"

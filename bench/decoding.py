"""Untrusted input to typed values: one clear line for whatever does not fit."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bench.errors import InputError

T = TypeVar("T")
REFUSALS = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""What a decoder may raise on a stranger's bytes."""
_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`\Z")
_UNKNOWN = re.compile(r"unknown field `(?P<name>.*)`", re.DOTALL)
_PART = re.compile(r"\[(\d+|\.\.\.)\]|([^.\[\]]+)")
_LONGEST_VALUE = 60
_LONGEST_REASON = 160


def printable(text: object, longest: int = _LONGEST_VALUE) -> str:
    """Quote a stranger's value so that no control character or terminal escape survives, cut to `longest`."""
    try:
        shown = ascii(text)
    except RecursionError:
        shown = f"a deeply nested {type(text).__name__}"
    return shown if len(shown) <= longest else shown[: longest - 3] + "..."


def read_small(path: Path, most_bytes: int) -> bytes:
    """The bytes of a regular file of at most `most_bytes`; a pipe or a device, which may never end, is not opened.

    Raises:
        InputError: when there is no such file, or it is larger.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise InputError(f"{path}: cannot be read (not a regular file)")
        if found.st_size > most_bytes:
            raise InputError(f"{path}: larger than {most_bytes} bytes, the most it may be")
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def read_json(path: Path, to: type[T], most_bytes: int) -> T:
    """A small JSON file as `to`.

    Raises:
        InputError: when it cannot be read, or is not valid.
    """
    try:
        return msgspec.json.decode(read_small(path, most_bytes), type=to)
    except REFUSALS as error:
        raise InputError(f"{path}: not valid ({reason(error)})") from None


def reason(error: Exception) -> str:
    """Why a decoder refused, as a part of one line."""
    return printable(str(error), _LONGEST_REASON)[1:-1]


def convert(data: object, to: type[T], source: str) -> T:
    """Check `data` (parsed TOML or JSON) against the Struct `to`.

    Raises:
        InputError: names `source`, the field's full path, the value found and what would be right.
    """
    try:
        return msgspec.convert(data, to)
    except msgspec.ValidationError as error:
        raise InputError(f"{source}: {explain(str(error), data)}") from None
    except RecursionError:
        raise InputError(f"{source}: nested too deeply to be read") from None


def explain(message: str, data: object) -> str:
    """Rewrite a msgspec message as `path: what is wrong, found value`."""
    match = _PATH.search(message)
    reason = message[: match.start()] if match else message
    path = match["path"] if match else ""
    unknown = _UNKNOWN.search(reason)
    if unknown:
        full = f"{path}.{unknown['name']}".lstrip(".")
        return f"{printable(full)[1:-1]}: unknown key"
    reason = printable(reason[:1].lower() + reason[1:], _LONGEST_REASON)[1:-1]
    found = _lookup(data, path)
    shown = "" if found is None or isinstance(found, dict) else f", found {printable(found)}"
    return f"{path or 'top level'}: {reason}{shown}"


def _lookup(data: object, path: str) -> Any:  # noqa: ANN401 - whatever a stranger wrote
    for index, name in _PART.findall(path):
        if name and isinstance(data, dict):
            data = data.get(name)
        elif index.isdigit() and isinstance(data, list) and int(index) < len(data):
            data = data[int(index)]
        else:
            return None
    return data

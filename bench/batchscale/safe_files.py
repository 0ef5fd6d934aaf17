"""Read small files from strangers: bounded in size, never a pipe or a device, one clear line on error."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TypeVar

import msgspec

from batchscale.errors import InputError
from batchscale.printable import reason

T = TypeVar("T")
REFUSALS = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""The exceptions a decoder may raise on unknown bytes."""


def read_small(path: Path, most_bytes: int) -> bytes:
    """The bytes of a regular file of at most `most_bytes`.

    Raises:
        InputError: when there is no such file, or it is larger.
    """
    try:
        refuse_endless(path, most_bytes)
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def refuse_endless(path: Path, most_bytes: int) -> None:
    """Ask for a regular file of at most `most_bytes` before opening it: a pipe or a device may never end.

    Raises:
        InputError: when it is something else, or larger.
        OSError: when there is nothing, or nothing that can be asked.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path}: cannot be read (not a regular file)")
    if found.st_size > most_bytes:
        raise InputError(f"{path}: larger than {most_bytes} bytes, the most it may be")


def read_json(path: Path, to: type[T], most_bytes: int) -> T:
    """A small JSON file as `to`.

    Raises:
        InputError: when it cannot be read, or is not valid.
    """
    try:
        return msgspec.json.decode(read_small(path, most_bytes), type=to)
    except REFUSALS as error:
        raise InputError(f"{path}: not valid ({reason(error)})") from None

"""Read the scalars of TensorBoard's event files, without TensorBoard: records of a few fields of Protocol Buffers.

A record is a length, its checksum, an event and its checksum (TensorFlow's TFRecord). Of an event are read: wall time
(field 1), step (2) and the values of its summary (5); of a value: tag (1), number (2) or tensor (8) with one number.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from batchscale.analysis.outside.curve_tables import settings_of_file
from batchscale.analysis.outside.lines import LARGEST_FILE_BYTES, MOST_ROWS
from batchscale.analysis.outside.runs import (
    Asked,
    Evaluation,
    Reading,
    choose_column,
    made_run,
    score_value,
)
from batchscale.errors import InputError
from batchscale.printable import bare
from batchscale.untrusted_input import refuse_endless

MARK = ".tfevents."
"""In the name of every event file."""
MOST_TAGS = 1_000
LONGEST_EVENT = 1 << 24
_HEADER, _CHECKSUM = 12, 4
_FLOAT, _DOUBLE = 1, 2
"""Numbers of the types of a tensor."""
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_LONGEST_VARINT = 10

Field = tuple[int, int | bytes]


def read_events(path: Path, asked: Asked) -> Reading:
    """Read one run: all event files of the folder, since a run that was continued writes another one.

    Its settings are in the name of its folder, in Lightning's file of hyperparameters next to it, or given. Its clock
    is the wall time of the events.

    Raises:
        InputError: when a file is no event file, or holds no score.
    """
    files = sorted(one for one in path.absolute().parent.iterdir() if MARK in one.name and not one.is_symlink())
    scalars: dict[str, dict[int, tuple[float, float]]] = {}
    count = 0
    for file in files:
        for wall, step, tag, value in _scalars(file):
            count += 1
            if count > MOST_ROWS or len(scalars) > MOST_TAGS:
                raise InputError(f"{file}: more than {MOST_ROWS:,} scalars or {MOST_TAGS:,} tags")
            scalars.setdefault(tag, {})[step] = (wall, value)
    chosen = choose_column(scalars, asked, str(path))
    score, metric = chosen
    start = min(wall for found in scalars.values() for wall, _ in found.values())
    evaluations = [
        Evaluation(step, score_value(value, f"{path}: {bare(score)}"), wall - start)
        for step, (wall, value) in sorted(scalars[score].items())
    ]
    known = settings_of_file(path)
    run = made_run(str(path), known, replace(asked, metric=metric), "steps", evaluations)
    note = f"{bare(path.name, 60)}: the score is {bare(score)}; training is counted by step."
    return Reading([run], metric, [note], chosen.name)


def _scalars(path: Path) -> Iterator[tuple[float, int, str, float]]:
    """Yield wall time, step, tag and value of each scalar."""
    for number, event in enumerate(_events(path)):
        try:
            fields = list(_fields(event))
            wall = next((_number(value, "<d") for key, value in fields if key == 1), 0.0)
            step = next((value for key, value in fields if key == 2 and isinstance(value, int)), 0)
            for summary in (value for key, value in fields if key == 5 and isinstance(value, bytes)):
                for tag, value in _values(summary):
                    yield wall, step, tag, value
        except (ValueError, struct.error):
            raise InputError(f"{path}: event {number}: not an event of TensorBoard") from None


def _events(path: Path) -> Iterator[bytes]:
    """Yield the events; an incomplete last one, of a run that still writes or was killed, is left out."""
    try:
        refuse_endless(path, LARGEST_FILE_BYTES)
        with path.open("rb") as file:
            while len(header := file.read(_HEADER)) == _HEADER:
                (length,) = struct.unpack("<Q", header[:8])
                if length > LONGEST_EVENT:
                    raise InputError(f"{path}: an event of {length} bytes, expected at most {LONGEST_EVENT}")
                event = file.read(length)
                if len(event) < length or len(file.read(_CHECKSUM)) < _CHECKSUM:
                    return
                yield event
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def _values(summary: bytes) -> Iterator[tuple[str, float]]:
    for key, value in _fields(summary):
        if key == 1 and isinstance(value, bytes):
            fields = dict(_fields(value))
            tag, number, tensor = fields.get(1), fields.get(2), fields.get(8)
            if isinstance(tag, bytes) and isinstance(number, bytes):
                yield tag.decode("utf-8", "replace"), _number(number, "<f")
            elif isinstance(tag, bytes) and isinstance(tensor, bytes) and (found := _of_tensor(tensor)) is not None:
                yield tag.decode("utf-8", "replace"), found


def _of_tensor(tensor: bytes) -> float | None:
    """Return the number of a tensor that holds one; None for images, texts, histograms and all else."""
    fields = dict(_fields(tensor))
    form = {_FLOAT: "<f", _DOUBLE: "<d"}.get(int(fields.get(1) or 0))
    content = fields.get(4) or fields.get(5 if form == "<f" else 6)
    if form is None or not isinstance(content, bytes) or len(content) != struct.calcsize(form):
        return None
    return _number(content, form)


def _number(value: int | bytes, form: str) -> float:
    if isinstance(value, int):
        raise ValueError("a whole number where a float was expected")
    return struct.unpack(form, value)[0]


def _fields(message: bytes) -> Iterator[Field]:
    """Yield number and value of each field of a message: an int for a varint, else its bytes."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if kind == _BYTES:
            length, at = _varint(message, at)
        else:
            length = {_EIGHT_BYTES: 8, _FOUR_BYTES: 4}.get(kind, len(message) + 1)
        if at + length > len(message):
            raise ValueError("a field beyond its message")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(_LONGEST_VARINT):
        if at + place >= len(message):
            break
        byte = message[at + place]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, at + place + 1
    raise ValueError("a number without an end")

"""A table as data: what the terminal, the pages and the CSV files each show in their own way."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Scalar = str | float | int | bool | None


@dataclass(frozen=True)
class Column:
    """A heading; `text` columns align left, `prose` columns also wrap."""

    title: str
    text: bool = False
    prose: bool = False


@dataclass(frozen=True)
class Entry:
    """What a person reads, and the plain value (SI units) that sorting and CSV use."""

    text: str
    value: Scalar = None


@dataclass(frozen=True)
class Line:
    """One row; `anchor` is the batch size it is found by, `best` marks the winner."""

    cells: Sequence[Entry]
    anchor: str = ""
    best: bool = False


@dataclass(frozen=True)
class Grid:
    """A captioned table."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Line] = field(default_factory=list)


def said(value: float | None, form: Callable[[float], str], otherwise: str = "—") -> Entry:
    """A number in words with its plain value behind it; `otherwise` where there is none."""
    if value is None or math.isnan(value):
        return Entry(otherwise)
    return Entry(form(value), value if math.isfinite(value) else None)


def as_csv(names: Sequence[str], rows: Sequence[Sequence[Scalar]]) -> bytes:
    """UTF-8 CSV with one heading line; null is an empty field, and no field can start a spreadsheet formula."""
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_safe(value) for value in row] for row in rows)
    return sheet.getvalue().encode()


FORMULA_STARTS = tuple("=+-@\t\r")


def _safe(value: Scalar) -> Scalar:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_STARTS) else value

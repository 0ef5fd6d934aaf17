"""Read a CSV or TSV file line by line: plain numbers, bounded sizes, and refusals with file, row and column."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from batchscale.analysis.outside import parquet
from batchscale.config.experiment import LARGEST_BATCH_SIZE
from batchscale.errors import InputError
from batchscale.printable import printable, reason
from batchscale.untrusted_input import refuse_endless

LARGEST_FILE_BYTES = 64 << 20
MOST_ROWS = 1_000_000
LONGEST_LINE = 100_000
LONGEST_NAME = 80
LEAST_AMOUNT, LARGEST_AMOUNT = 1e-12, 1e12
LARGEST_RATE = 1e9
LARGEST_COUNT = 10**12
_AMOUNT = re.compile(r"[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]{1,3})?|\.[0-9]+([eE][-+]?[0-9]{1,3})?")
_COUNT = re.compile(r"[0-9]{1,15}(\.0{1,6})?")
NOT_NEGATIVE = "expected 0 or more (--metric NAME:score, or NAME:cost where less is better, may be negative)"
NOT_FINITE = re.compile(r"[-+]?(inf|infinity|nan)", re.IGNORECASE)


@dataclass(frozen=True)
class Line:
    """The fields of one line with its place, for refusals."""

    path: Path
    number: int
    fields: Mapping[str, str]

    def complain(self, column: str, what: str) -> InputError:
        """Return the one-line error about one field."""
        return InputError(f"{self.path}: row {self.number}: {column}: {what}, found {printable(self.fields[column])}")

    def amount(self, column: str, largest: float = LARGEST_AMOUNT) -> float:
        """Return a positive number of at most `largest`."""
        value = self._plain(column, "a number above 0")
        if not LEAST_AMOUNT <= value <= largest:
            raise self.complain(column, f"out of range, expected {LEAST_AMOUNT:g} to {largest:g}")
        return value

    def rate(self, column: str) -> float:
        """Return a learning rate."""
        return self.amount(column, LARGEST_RATE)

    def at_least_zero(self, column: str, expected: str = "a number from 0") -> float:
        """Return a number from 0; a negative one is refused with what was expected."""
        value = self._plain(column, expected)
        if value > LARGEST_AMOUNT:
            raise self.complain(column, f"out of range, expected 0 to {LARGEST_AMOUNT:g}")
        return value

    def score(self, column: str, *, signed: bool) -> float | None:
        """Return a score, from 0 unless it may have a sign; None where it is not finite."""
        text = self.fields[column]
        if NOT_FINITE.fullmatch(text):
            return None
        if not text.startswith("-") or not _AMOUNT.fullmatch(text[1:]):
            return self.at_least_zero(column)
        if not signed:
            raise self.complain(column, f"negative, {NOT_NEGATIVE}")
        if float(text) < -LARGEST_AMOUNT:
            raise self.complain(column, f"out of range, expected {-LARGEST_AMOUNT:g} to {LARGEST_AMOUNT:g}")
        return float(text)

    def count(self, column: str, least: int, most: int = LARGEST_COUNT) -> int:
        """Return a whole number from `least` to `most`; other tools may write 64 as 64.0."""
        text = self.fields[column]
        if not _COUNT.fullmatch(text) or not least <= int(text.partition(".")[0]) <= most:
            raise self.complain(column, f"not a whole number from {least} to {most}")
        return int(text.partition(".")[0])

    def batch_size(self, column: str) -> int:
        """Return a batch size."""
        return self.count(column, 1, LARGEST_BATCH_SIZE)

    def optional_amount(self, column: str) -> float | None:
        """Return a positive number; None where the column is missing or the field empty."""
        return self.amount(column) if self.fields.get(column) else None

    def name(self, column: str) -> str | None:
        """Return a short text; None where the column is missing."""
        text = self.fields.get(column)
        if text is not None and not (0 < len(text) <= LONGEST_NAME and text.isprintable()):
            raise self.complain(column, f"not a name of 1 to {LONGEST_NAME} printable characters")
        return text

    def _plain(self, column: str, expected: str) -> float:
        text = self.fields[column]
        if text.startswith("-") and _AMOUNT.fullmatch(text[1:]):
            raise self.complain(column, f"negative, expected {expected}")
        if not _AMOUNT.fullmatch(text):
            raise self.complain(column, "not a plain number such as 12.5")
        return float(text)


def header(path: Path) -> list[str]:
    """Return the names in the first line of a table; empty for an empty file.

    Raises:
        InputError: when the file cannot be read, or is not UTF-8 text.
    """
    return next(_rows(path), [])


def lines(path: Path) -> Iterator[Line]:
    """Yield the lines after the header; empty lines are left out.

    Raises:
        InputError: on the first line that is too long, or has other fields than the header.
    """
    rows = _rows(path)
    names = next(rows, [])
    for number, fields in enumerate(rows, 2):
        if fields:
            yield _line(path, number, names, fields)


def _rows(path: Path) -> Iterator[list[str]]:
    try:
        refuse_endless(path, LARGEST_FILE_BYTES)
        if parquet.is_parquet(path):
            yield from parquet.rows(path, MOST_ROWS)
            return
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline(LONGEST_LINE + 1)
            delimiter = "\t" if "\t" in first and "," not in first else ","
            if ";" in first and delimiter not in first:
                raise InputError(f"{path}: row 1: fields are separated by ';', expected commas or tabs")
            file.seek(0)
            for fields in csv.reader(_bounded(file, path), strict=True, delimiter=delimiter):
                yield [field.strip() for field in fields]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a UTF-8 CSV file ({reason(error)})") from None


def _bounded(file: Iterator[str], path: Path) -> Iterator[str]:
    for number, text in enumerate(file, 1):
        if len(text) > LONGEST_LINE:
            raise InputError(f"{path}: row {number}: too long, expected at most {LONGEST_LINE} characters")
        if number > MOST_ROWS:
            raise InputError(f"{path}: row {number}: too many rows, expected at most {MOST_ROWS:,}")
        yield text


def _line(path: Path, number: int, names: Sequence[str], fields: Sequence[str]) -> Line:
    if len(fields) != len(names):
        at = names[min(len(fields), len(names) - 1)] if names else "header"
        raise InputError(
            f"{path}: row {number}: {printable(at)[1:-1]}: {len(fields)} fields, where the header has {len(names)}"
        )
    return Line(path, number, dict(zip(names, fields, strict=True)))

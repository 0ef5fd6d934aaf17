"""Strangers' CSV files, read in full suspicion: known columns, plain numbers, one line naming file, row and column."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from batchscale.errors import InputError
from batchscale.printable import bare, printable, reason
from batchscale.safe_files import refuse_endless

LARGEST_FILE_BYTES = 64 << 20
MOST_ROWS = 1_000_000
LONGEST_LINE = 4_000
LONGEST_NAME = 80
LARGEST_COUNT = 10**12
LEAST_AMOUNT, LARGEST_AMOUNT = 1e-12, 1e12

_AMOUNT = re.compile(r"[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]{1,3})?|\.[0-9]+([eE][-+]?[0-9]{1,3})?")
_UNREACHED = re.compile(r"[-+]?(inf|infinity|nan|none|null|na|n/a|never|-)", re.IGNORECASE)
_COUNT = re.compile(r"[0-9]{1,15}")

NEEDS = ("epochs_to_target", "steps_to_target", "examples_to_target")
SPEEDS = ("examples_per_second", "seconds_per_step", "seconds_per_epoch")


@dataclass(frozen=True)
class Need:
    """A row of a convergence table: `amount` in `unit`, None when the target was not reached."""

    batch_size: int
    seed: int
    learning_rate: float | None
    unit: str
    amount: float | None


@dataclass(frozen=True)
class Timing:
    """A row of a throughput table: `amount` in `unit`."""

    batch_size: int
    machine: str | None
    unit: str
    amount: float
    watts: float | None


@dataclass(frozen=True)
class Line:
    """The fields of one line and where it stands, so that every complaint can say."""

    path: Path
    number: int
    fields: Mapping[str, str]

    def complain(self, column: str, what: str) -> InputError:
        """The one-line error about one field."""
        return InputError(f"{self.path}: row {self.number}: {column}: {what}, found {printable(self.fields[column])}")

    def amount(self, column: str) -> float:
        """A positive number."""
        text = self.fields[column]
        if text.startswith("-") and _AMOUNT.fullmatch(text[1:]):
            raise self.complain(column, "negative; a number above 0 is right")
        if not _AMOUNT.fullmatch(text):
            raise self.complain(column, "not a plain number such as 12.5")
        value = float(text)
        if not LEAST_AMOUNT <= value <= LARGEST_AMOUNT:
            raise self.complain(column, f"out of range; {LEAST_AMOUNT:g} to {LARGEST_AMOUNT:g} is right")
        return value

    def count(self, column: str, least: int) -> int:
        """A whole number of at least `least`."""
        text = self.fields[column]
        if not _COUNT.fullmatch(text) or not least <= int(text) <= LARGEST_COUNT:
            raise self.complain(column, f"not a whole number from {least} to {LARGEST_COUNT}")
        return int(text)

    def optional_amount(self, column: str) -> float | None:
        """A positive number, None where the column or the field is empty."""
        return self.amount(column) if self.fields.get(column) else None

    def name(self, column: str) -> str | None:
        """A short text; None where there is no such column."""
        text = self.fields.get(column)
        if text is not None and not (0 < len(text) <= LONGEST_NAME and text.isprintable()):
            raise self.complain(column, f"not a name of 1 to {LONGEST_NAME} printable characters")
        return text


def read_needs(path: Path) -> list[Need]:
    """A convergence table: batch_size, seed, one column of `NEEDS` (blank = not reached), perhaps learning_rate.

    Raises:
        InputError: names file, row and column of the first thing wrong; also on a (batch size, seed, rate) given twice.
    """
    needs: dict[tuple[int, int, float | None], Need] = {}
    for line, unit in _lines(path, ("batch_size", "seed"), NEEDS, ("learning_rate",)):
        rate = line.amount("learning_rate") if "learning_rate" in line.fields else None
        if _UNREACHED.fullmatch(line.fields[unit]):
            raise line.complain(unit, "not a plain number; leave the field empty for a run that missed the target")
        need = Need(line.count("batch_size", 1), line.count("seed", 0), rate, unit, line.optional_amount(unit))
        key = (need.batch_size, need.seed, need.learning_rate)
        if key in needs:
            raise line.complain("seed", "a second row for this batch size, seed and learning rate")
        needs[key] = need
    if not needs:
        raise InputError(f"{path}: row 2: batch_size: no rows; one row per run is right")
    return list(needs.values())


def read_timings(path: Path) -> list[Timing]:
    """A throughput table: batch_size, one column of `SPEEDS`, perhaps watts and machine; repeated sizes are rounds.

    Raises:
        InputError: names file, row and column of the first thing wrong.
    """
    timings = [
        Timing(
            line.count("batch_size", 1), line.name("machine"), unit, line.amount(unit), line.optional_amount("watts")
        )
        for line, unit in _lines(path, ("batch_size",), SPEEDS, ("watts", "machine"))
    ]
    if not timings:
        raise InputError(f"{path}: row 2: batch_size: no rows; one row per timed round is right")
    return timings


def _lines(
    path: Path, required: Sequence[str], one_of: Sequence[str], optional: Sequence[str]
) -> Iterator[tuple[Line, str]]:
    """The lines of a table with the one unit column it has."""
    try:
        refuse_endless(path, LARGEST_FILE_BYTES)
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(_bounded(file, path), strict=True)
            names = [name.strip() for name in next(rows, [])]
            unit = _unit(path, names, required, one_of, optional)
            for number, fields in enumerate(rows, 2):
                if fields:
                    yield _line(path, number, names, fields), unit
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a UTF-8 CSV file ({reason(error)})") from None


def _bounded(file: Iterator[str], path: Path) -> Iterator[str]:
    for number, text in enumerate(file, 1):
        if len(text) > LONGEST_LINE:
            raise InputError(f"{path}: row {number}: longer than {LONGEST_LINE} characters, the most a row may be")
        if number > MOST_ROWS:
            raise InputError(f"{path}: row {number}: more than {MOST_ROWS:,} rows, the most a table may have")
        yield text


def _line(path: Path, number: int, names: Sequence[str], fields: Sequence[str]) -> Line:
    if len(fields) != len(names):
        at = names[min(len(fields), len(names) - 1)]
        raise InputError(f"{path}: row {number}: {at}: {len(fields)} fields, where the header has {len(names)}")
    return Line(path, number, dict(zip(names, (field.strip() for field in fields), strict=True)))


def _unit(
    path: Path, names: Sequence[str], required: Sequence[str], one_of: Sequence[str], optional: Sequence[str]
) -> str:
    """The one column of `one_of` that the header has."""
    right = f"{', '.join(required)} and one of {', '.join(one_of)} (optional: {', '.join(optional)}) are right"
    where = f"{path}: row 1"
    for name in names:
        if name not in (*required, *one_of, *optional):
            raise InputError(f"{where}: {bare(name) or 'empty'}: unknown column; {right}")
        if names.count(name) > 1:
            raise InputError(f"{where}: {name}: a column given twice; {right}")
    for name in required:
        if name not in names:
            raise InputError(f"{where}: {name}: missing column; {right}")
    units = [name for name in one_of if name in names]
    if not units:
        raise InputError(f"{where}: {one_of[0]}: missing column; {right}")
    if len(units) > 1:
        raise InputError(f"{where}: {units[1]}: a second unit beside {units[0]}; {right}")
    return units[0]

"""Read the two tables that hold one number per row: what each run needed to reach the target, and speeds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from batchscale.analysis.outside.lines import Line, header, lines
from batchscale.errors import InputError
from batchscale.printable import bare

NEEDS = ("epochs_to_target", "steps_to_target", "examples_to_target")
SPEEDS = ("examples_per_second", "tokens_per_second", "seconds_per_step", "seconds_per_epoch")
_UNREACHED = re.compile(r"[-+]?(inf|infinity|nan|none|null|na|n/a|never|-)", re.IGNORECASE)
_OUT_OF_MEMORY = re.compile(r"|oom|out[ _-]of[ _-]memory|did not fit", re.IGNORECASE)


@dataclass(frozen=True)
class Need:
    """What one run needed: `amount` in `unit`, None where the target was not reached."""

    batch_size: int
    seed: int
    learning_rate: float | None
    unit: str
    amount: float | None


@dataclass(frozen=True)
class Timing:
    """A row of a throughput table: `amount` in `unit`, None where the batch did not fit into memory."""

    batch_size: int
    machine: str | None
    unit: str
    amount: float | None
    watts: float | None


def read_needs(path: Path) -> list[Need]:
    """Read a convergence table: batch_size, seed, one column of `NEEDS` (blank: not reached), perhaps learning_rate.

    Raises:
        InputError: on the first error, with file, row and column; also where a (batch size, seed, rate) is given twice.
    """
    needs: dict[tuple[int, int, float | None], Need] = {}
    for line, unit in _lines(path, ("batch_size", "seed"), NEEDS, ("learning_rate",)):
        rate = line.rate("learning_rate") if "learning_rate" in line.fields else None
        if _UNREACHED.fullmatch(line.fields[unit]):
            raise line.complain(unit, "not a plain number; leave the field empty for a run that missed the target")
        need = Need(line.batch_size("batch_size"), line.count("seed", 0), rate, unit, line.optional_amount(unit))
        key = (need.batch_size, need.seed, need.learning_rate)
        if key in needs:
            raise line.complain("seed", "a second row for this batch size, seed and learning rate")
        needs[key] = need
    if not needs:
        raise InputError(f"{path}: row 2: batch_size: no rows, expected one row per run")
    return list(needs.values())


def read_timings(path: Path) -> list[Timing]:
    """Read a throughput table: batch_size, one column of `SPEEDS`, perhaps watts and machine.

    Several rows of a batch size are rounds. A blank speed, or OOM, marks a batch size that did not fit into memory.

    Raises:
        InputError: on the first error, with file, row and column.
    """
    timings = [
        Timing(
            line.batch_size("batch_size"), line.name("machine"), unit, _speed(line, unit), line.optional_amount("watts")
        )
        for line, unit in _lines(path, ("batch_size",), SPEEDS, ("watts", "machine"))
    ]
    if not timings:
        raise InputError(f"{path}: row 2: batch_size: no rows, expected one row per timed round")
    return timings


def _speed(line: Line, unit: str) -> float | None:
    if _OUT_OF_MEMORY.fullmatch(line.fields[unit]):
        return None
    if not line.at_least_zero(unit, "a number above 0"):
        raise line.complain(unit, "out of range; leave the field empty for a batch size that did not fit")
    return line.amount(unit)


def _lines(
    path: Path, required: Sequence[str], one_of: Sequence[str], optional: Sequence[str]
) -> Iterator[tuple[Line, str]]:
    """Yield the lines of a table, each with the name of the unit column."""
    unit = _unit(path, header(path), required, one_of, optional)
    for line in lines(path):
        yield line, unit


def _unit(
    path: Path, names: Sequence[str], required: Sequence[str], one_of: Sequence[str], optional: Sequence[str]
) -> str:
    """Return the one column of `one_of` that the header has."""
    expected = f"expected {', '.join(required)} and one of {', '.join(one_of)} (optional: {', '.join(optional)})"
    where = f"{path}: row 1"
    for name in names:
        if name not in (*required, *one_of, *optional):
            raise InputError(f"{where}: {bare(name) or 'empty'}: unknown column, {expected}")
        if names.count(name) > 1:
            raise InputError(f"{where}: {name}: a column given twice, {expected}")
    for name in required:
        if name not in names:
            raise InputError(f"{where}: {name}: missing column, {expected}")
    units = [name for name in one_of if name in names]
    if not units:
        raise InputError(f"{where}: {one_of[0]}: missing column, {expected}")
    if len(units) > 1:
        raise InputError(f"{where}: {units[1]}: a second unit next to {units[0]}, {expected}")
    return units[0]

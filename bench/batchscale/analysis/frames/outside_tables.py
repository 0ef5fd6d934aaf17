"""Read CSV tables that were measured elsewhere, and turn them into rows.

Tables are untrusted: known columns, plain numbers, bounded sizes; a refusal is one line with file, row and column.
What a row needs and no table holds is filled with the marked placeholders below.
"""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from batchscale.config import experiment as experiments
from batchscale.config.experiment import Experiment
from batchscale.errors import InputError
from batchscale.printable import bare, printable, reason
from batchscale.records.row_types import Curve, Environment, Machine, MachineFile, Round, Trial
from batchscale.untrusted_input import refuse_endless

NOT_RECORDED = "not recorded"
ENVIRONMENT = "0000"
UNKNOWN_TARGET = 0.5
"""Placeholder for a target that was not given; it is never shown, since `imported.json` records none."""
UNKNOWN_RATE = 1.0
"""Placeholder for a learning rate that the tables do not name."""
ANY_EPOCHS = 1e5
"""Placeholder for the budget of epochs."""
LARGEST_EXAMPLES = 10**15


def machines_of(timings: Iterable[Timing], path: Path) -> dict[str, list[Timing]]:
    """Group timings by the name of their machine.

    Raises:
        InputError: when two names would give the same name of a folder.
    """
    found: dict[str, list[Timing]] = defaultdict(list)
    for timing in timings:
        found[timing.machine or "imported"].append(timing)
    folders = Counter(slug(name) for name in found)
    for name in found:
        if folders[slug(name)] > 1:
            raise InputError(f"{path}: machine: {printable(name)} and another name differ too little; rename one")
    return dict(found)


def slug(name: str) -> str:
    """Return the name as part of a path; it has no dot, so that it equals no file name of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "machine"


def _origin(experiment: Experiment, machine: str) -> dict[str, str | bool]:
    return {
        "experiment": experiment.name,
        "fingerprint": experiment.fingerprint,
        "machine": machine,
        "environment": ENVIRONMENT,
        "code": "imported",
        "dirty": False,
        "recorded": NOT_RECORDED,
    }


def trial_rows(
    needs: Sequence[Need], experiment: Experiment, machine: str, train_examples: int | None, path: Path
) -> Iterator[Trial]:
    """Yield trials whose curve is the one crossing that is known.

    Runs at several rates become search trials: they choose the rate, and claims rest on them.
    """
    several = len({(need.batch_size, need.learning_rate) for need in needs}) > len({need.batch_size for need in needs})
    for need in needs:
        examples = _examples(need, train_examples, path)
        yield msgspec.convert(
            {
                **_origin(experiment, machine),
                "kind": "trial",
                "phase": "search" if several else "confirm",
                "batch_size": need.batch_size,
                "learning_rate": need.learning_rate or UNKNOWN_RATE,
                "seed": need.seed,
                "status": "ok",
                "train_examples": train_examples or 1,
                "steps": examples // need.batch_size if examples else 0,
                "curve": _curve(examples, need.batch_size, experiment.goal.threshold),
                "microbatch_size": need.batch_size,
                "lanes": 1,
            },
            Trial,
        )


def _examples(need: Need, train_examples: int | None, path: Path) -> int | None:
    """Convert a need to examples; None where the target was not reached."""
    per_unit = {"examples_to_target": 1, "steps_to_target": need.batch_size, "epochs_to_target": train_examples}
    factor = per_unit[need.unit]
    if factor is None:
        raise InputError(f"{path}: row 1: {need.unit}: expected --train-examples N, the examples in an epoch")
    if need.amount is None:
        return None
    return min(max(1, round(need.amount * factor)), LARGEST_EXAMPLES)


def _curve(examples: int | None, batch_size: int, target: float) -> Curve:
    """Return a curve of an evaluation just before the crossing and one at it; empty where nothing crossed."""
    seen = [] if examples is None else [at for at in (examples - 1, examples) if at > 0]
    accuracy: list[float | None] = [target if at == examples else 0.0 for at in seen]
    steps = [at // batch_size for at in seen]
    return Curve(examples=seen, steps=steps, scores={"accuracy": accuracy})


def round_rows(
    timings: Sequence[Timing], experiment: Experiment, machine: str, train_examples: int | None, path: Path
) -> Iterator[Round]:
    """Yield timings as rounds of one step."""
    seen: Counter[int] = Counter()
    for timing in timings:
        seconds = _seconds_per_step(timing, train_examples, path)
        seen[timing.batch_size] += 1
        yield msgspec.convert(
            {
                **_origin(experiment, machine),
                "kind": "round",
                "batch_size": timing.batch_size,
                "loop": "dispatch",
                "precision": experiment.workload.precision,
                "round": seen[timing.batch_size] - 1,
                "steps": 1,
                "seconds": seconds,
                "joules": timing.watts * seconds if timing.watts else None,
            },
            Round,
        )


def _seconds_per_step(timing: Timing, train_examples: int | None, path: Path) -> float:
    if timing.unit == "seconds_per_step":
        seconds = timing.amount
    elif timing.unit == "examples_per_second":
        seconds = timing.batch_size / timing.amount
    elif train_examples is None:
        raise InputError(f"{path}: row 1: seconds_per_epoch: expected --train-examples N, the examples in an epoch")
    else:
        seconds = timing.amount * timing.batch_size / train_examples
    if not 0 < seconds <= 1e9:
        raise InputError(f"{path}: {timing.unit}: {timing.amount:g} at batch size {timing.batch_size} is no step time")
    return seconds


def experiment_of(
    needs: Sequence[Need], timings: Sequence[Timing], target: float | None, convergence: Path
) -> Experiment:
    """Build an experiment with the batch sizes of the tables.

    Raises:
        InputError: when the batch sizes are more, or larger, than an experiment can have.
    """
    sizes = sorted({need.batch_size for need in needs} | {timing.batch_size for timing in timings})
    table = {
        "title": f"Measurements from {bare(convergence.name)}",
        "workload": {"dataset": "imported", "model": "imported", "optimizer": "imported"},
        "target": {"accuracy": target or UNKNOWN_TARGET},
        "batch_sizes": {"values": sizes},
        "learning_rate": {"anchor": UNKNOWN_RATE},
        "budget": {"epochs": ANY_EPOCHS},
    }
    return experiments.parse(table, "imported", str(convergence))


def unknown_machine(name: str) -> MachineFile:
    """Return a machine of which only the name is known."""
    machine = Machine(
        name=slug(name),
        platform="cpu",
        device_kind=name,
        device_count=1,
        cpu=NOT_RECORDED,
        cpu_cores=1,
        host_memory_bytes=0,
    )
    software = Environment(python=NOT_RECORDED, os=NOT_RECORDED, packages={})
    return MachineFile(machine=machine, environments={ENVIRONMENT: software})


LARGEST_FILE_BYTES = 64 << 20
MOST_ROWS = 1_000_000
LONGEST_LINE = 4_000
LONGEST_NAME = 80
LEAST_AMOUNT, LARGEST_AMOUNT = 1e-12, 1e12
LARGEST_COUNT = 10**12
_AMOUNT = re.compile(r"[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]{1,3})?|\.[0-9]+([eE][-+]?[0-9]{1,3})?")
_UNREACHED = re.compile(r"[-+]?(inf|infinity|nan|none|null|na|n/a|never|-)", re.IGNORECASE)
_COUNT = re.compile(r"[0-9]{1,15}")
NEEDS = ("epochs_to_target", "steps_to_target", "examples_to_target")
SPEEDS = ("examples_per_second", "seconds_per_step", "seconds_per_epoch")


@dataclass(frozen=True)
class Need:
    """A row of a convergence table: `amount` in `unit`, None where the target was not reached."""

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
    """The fields of one line with its place, for refusals."""

    path: Path
    number: int
    fields: Mapping[str, str]

    def complain(self, column: str, what: str) -> InputError:
        """Return the one-line error about one field."""
        return InputError(f"{self.path}: row {self.number}: {column}: {what}, found {printable(self.fields[column])}")

    def amount(self, column: str) -> float:
        """Return a positive number."""
        text = self.fields[column]
        if text.startswith("-") and _AMOUNT.fullmatch(text[1:]):
            raise self.complain(column, "negative, expected a number above 0")
        if not _AMOUNT.fullmatch(text):
            raise self.complain(column, "not a plain number such as 12.5")
        value = float(text)
        if not LEAST_AMOUNT <= value <= LARGEST_AMOUNT:
            raise self.complain(column, f"out of range, expected {LEAST_AMOUNT:g} to {LARGEST_AMOUNT:g}")
        return value

    def count(self, column: str, least: int) -> int:
        """Return a whole number of at least `least`."""
        text = self.fields[column]
        if not _COUNT.fullmatch(text) or not least <= int(text) <= LARGEST_COUNT:
            raise self.complain(column, f"not a whole number from {least} to {LARGEST_COUNT}")
        return int(text)

    def optional_amount(self, column: str) -> float | None:
        """Return a positive number; None where the column is missing or the field empty."""
        return self.amount(column) if self.fields.get(column) else None

    def name(self, column: str) -> str | None:
        """Return a short text; None where the column is missing."""
        text = self.fields.get(column)
        if text is not None and not (0 < len(text) <= LONGEST_NAME and text.isprintable()):
            raise self.complain(column, f"not a name of 1 to {LONGEST_NAME} printable characters")
        return text


def read_needs(path: Path) -> list[Need]:
    """Read a convergence table: batch_size, seed, one column of `NEEDS` (blank: not reached), perhaps learning_rate.

    Raises:
        InputError: on the first error, with file, row and column; also where a (batch size, seed, rate) is given twice.
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
        raise InputError(f"{path}: row 2: batch_size: no rows, expected one row per run")
    return list(needs.values())


def read_timings(path: Path) -> list[Timing]:
    """Read a throughput table: batch_size, one column of `SPEEDS`, perhaps watts and machine.

    Several rows of a batch size are rounds.

    Raises:
        InputError: on the first error, with file, row and column.
    """
    timings = [
        Timing(
            line.count("batch_size", 1), line.name("machine"), unit, line.amount(unit), line.optional_amount("watts")
        )
        for line, unit in _lines(path, ("batch_size",), SPEEDS, ("watts", "machine"))
    ]
    if not timings:
        raise InputError(f"{path}: row 2: batch_size: no rows, expected one row per timed round")
    return timings


def _lines(
    path: Path, required: Sequence[str], one_of: Sequence[str], optional: Sequence[str]
) -> Iterator[tuple[Line, str]]:
    """Yield the lines of a table, each with the name of the unit column."""
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
            raise InputError(f"{path}: row {number}: too long, expected at most {LONGEST_LINE} characters")
        if number > MOST_ROWS:
            raise InputError(f"{path}: row {number}: too many rows, expected at most {MOST_ROWS:,}")
        yield text


def _line(path: Path, number: int, names: Sequence[str], fields: Sequence[str]) -> Line:
    if len(fields) != len(names):
        at = names[min(len(fields), len(names) - 1)]
        raise InputError(f"{path}: row {number}: {at}: {len(fields)} fields, where the header has {len(names)}")
    return Line(path, number, dict(zip(names, (field.strip() for field in fields), strict=True)))


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

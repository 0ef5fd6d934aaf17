"""Tables as data, for the terminal, the pages and CSV files; the table of batch sizes and that of timed variants."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from batchscale.analysis import number_format
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import CELL, values
from batchscale.analysis.metrics import hardware
from batchscale.analysis.summary_types import BatchSizeSummary, Estimate, Summary
from batchscale.config.goal import Goal
from batchscale.statistics.intervals import finite

Scalar = str | float | int | bool | None
UNKNOWN = "—"


@dataclass(frozen=True)
class Column:
    """A heading.

    Attributes:
        text: align the column left.
        prose: align it left and let it wrap.
        name: a title that does not depend on the workload, by which the column is found.
    """

    title: str
    text: bool = False
    prose: bool = False
    name: str = ""


@dataclass(frozen=True)
class Entry:
    """One entry of a table: the text to read, and the plain value (SI units) for sorting and CSV."""

    text: str
    value: Scalar = None


@dataclass(frozen=True)
class TableRow:
    """One row of a table.

    Attributes:
        anchor: the batch size that figures find it by.
        best: mark it.
    """

    entries: Sequence[Entry]
    anchor: str = ""
    best: bool = False


@dataclass(frozen=True)
class Table:
    """A table with a caption."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[TableRow] = field(default_factory=list)


def entry(value: float | None, form: Callable[[float], str], otherwise: str = UNKNOWN) -> Entry:
    """Return a number as an entry; `otherwise` where there is none."""
    if value is None or math.isnan(value):
        return Entry(otherwise)
    return Entry(form(value), value if math.isfinite(value) else None)


def as_csv(names: Sequence[str], rows: Sequence[Sequence[Scalar]]) -> bytes:
    """Return UTF-8 CSV with one heading line; null is an empty field, and no field can start a spreadsheet formula."""
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


COLUMNS = (
    Column("Batch size"),
    Column("Tokens per step"),
    Column("Status", text=True),
    Column("Examples/s"),
    Column("Tokens/s"),
    Column("Loop", text=True),
    Column("Step"),
    Column("Epoch"),
    Column("Learning rate"),
    Column("Epochs to target"),
    Column("Steps to target"),
    Column("Tokens to target"),
    Column("Time to target"),
    Column("Best score"),
    Column("Levelled off", text=True),
    Column("Averaged parameters"),
    Column("First seen there"),
    Column("Test score"),
    Column("Regime", text=True),
    Column("Compile"),
    Column("Memory"),
    Column("FLOP/s, of peak"),
)
"""The columns of the table of batch sizes."""
CORE = (
    *("Batch size", "Tokens per step", "Status", "Examples/s", "Tokens/s", "Learning rate", "Epochs to target"),
    *("Steps to target", "Tokens to target", "Time to target", "Best score"),
)
"""The columns that a terminal has room for, by name."""
FIRST_OUT = (
    *("Tokens to target", "Examples/s", "Tokens/s", "Tokens per step", "Epochs to target", "Steps to target"),
    *("Learning rate", "Best score", "Status"),
)
"""The columns that a narrow terminal leaves out, in this order."""
POINTED_AT = (
    *("Tokens per step", "Examples/s", "Tokens/s", "Epochs to target", "Steps to target", "Tokens to target"),
    *("Time to target", "Best score"),
)
"""The columns shown while a reader points at a batch size in a figure."""
WHERE_MEASURED = (
    *("Tokens per step", "Tokens/s", "Steps to target", "Tokens to target", "Averaged parameters", "Epoch"),
)
"""The columns left out where no batch size has a value."""
FROM_STEPS = ("Examples/s", "Step", "Regime")
"""The columns that are left out too, where steps are not known."""
FROM_EPOCHS = ("Epochs to target", "First seen there")
"""The columns that are left out too, where epochs are not known; steps take their place, if these are known."""
FROM_CURVES = ("Time to target", "Levelled off")
"""The columns that are left out too, where only final scores are known."""

STATUS = {
    "ok": "reached",
    "not_reached": "not reached",
    "out_of_memory": "out of memory",
    "not_measured": "not measured",
}
OF_AVERAGES = ("best_averaged_score", "averaged_score_gain")
OF_TOKENS = ("batch_size_tokens", "tokens_per_second", "tokens_to_target")
OF_EPOCHS = ("seconds_per_epoch",)
SCORES = ("best_score", "best_score_by_steps", *OF_AVERAGES)
NO_ESTIMATE = Estimate(median=None, interval=(None, None))


def columns(summary: Summary) -> list[Column]:
    """Return the columns with score and examples named: "Best accuracy" for "Best score", "Windows/s" for text."""
    goal = summary.goal or summary.scored
    metric = number_format.metric(goal) if goal else "score"
    speed = f"{summary.example.capitalize()}s/s"
    titles = (column.title.replace("score", metric).replace("Examples/s", speed) for column in COLUMNS)
    return [replace(column, title=title, name=column.title) for column, title in zip(COLUMNS, titles, strict=True)]


def places(table: Table, names: Sequence[str]) -> list[int]:
    """Return the indices of the columns with these names, in the order of the names; a table may lack some."""
    return [at for name in names for at, column in enumerate(table.columns) if column.name == name]


def batch_size_table(summary: Summary) -> Table:
    """Return the table with one row for each batch size, the fastest to the target marked."""
    best = summary.time_optimal.batch_size if summary.time_optimal else None
    lines = [_of_batch_size(cell, summary.goal or summary.scored) for cell in summary.cells]
    titled = columns(summary)
    may_lack = [*WHERE_MEASURED]
    may_lack += FROM_STEPS if summary.steps_reason else ()
    may_lack += FROM_EPOCHS if summary.epochs_reason else ()
    if summary.counted_in == "budgets":
        may_lack += FROM_CURVES
        may_lack += ["Status"] if {cell.status for cell in summary.cells} == {"not_measured"} else []
    shown = [
        at
        for at, column in enumerate(titled)
        if column.name not in may_lack or any(line[at].value is not None for line in lines)
    ]
    rows = [
        TableRow([line[at] for at in shown], str(cell.batch_size), cell.batch_size == best)
        for cell, line in zip(summary.cells, lines, strict=True)
    ]
    return Table(caption(titled[at].name for at in shown), [titled[at] for at in shown], rows)


def caption(names: Iterable[str]) -> str:
    """Return what the columns with these names show."""
    shown = set(names)
    if "Time to target" not in shown:
        return "Median best scores, with 95% intervals."
    needs = next((f"{unit} and time" for unit in ("Epochs", "Steps") if f"{unit} to target" in shown), "Time")
    first = "First seen there: the median over seeds of the epochs at the first evaluation at the target. "
    levelled = "Levelled off: whether the budget was long enough for the curve to level off. "
    return (
        f"{needs} after which the typical run reached the target, and median best scores, with 95% intervals."
        f" {first * ('First seen there' in shown)}{levelled * ('Levelled off' in shown)}The batch size that reaches the"
        " target fastest is marked."
    )


def described(summary: Summary) -> dict[int, str]:
    """Return by batch size its most important numbers, one a line."""
    shown, table = {}, batch_size_table(summary)
    for row in table.rows:
        state = [row.entries[at].text for at in places(table, ["Status"])]
        facts = [f"{table.columns[at].title}: {row.entries[at].text}" for at in places(table, POINTED_AT)]
        shown[int(row.anchor)] = "\n".join([": ".join([f"Batch size {row.anchor}", *state]), *facts])
    return shown


def status(cell: BatchSizeSummary) -> str:
    """Return in words whether a batch size reached the target, and with how many seeds if not with all."""
    words = STATUS.get(cell.status, cell.status)
    if cell.status == "not_reached" and not cell.seeds_reached and cell.first_evaluation_epochs is not None:
        return "seen, but not by the typical run"
    if cell.status == "not_measured" and cell.seeds_reached:
        return "reached, not timed"
    some_missed = cell.status in ("ok", "not_reached") and 0 < cell.seeds_reached < cell.seeds
    return f"{words}, {cell.seeds_reached} of {cell.seeds} seeds" if some_missed else words


def loop(cell: BatchSizeSummary) -> str:
    """Return in words the loop that the speed of a batch size was measured with."""
    split = f", {cell.accumulation} microbatches a step" if (cell.accumulation or 1) > 1 else ""
    return f"{cell.loop}{split}" if cell.loop else UNKNOWN


def flat(summary: Summary) -> tuple[list[str], list[list[Scalar]]]:
    """Return column names and rows for CSV: every field of every batch size in SI units.

    An estimate becomes three columns: median, low and high. Fields of averaged parameters, tokens and timed epochs are
    left out where no batch size has them.
    """
    names: list[str] = []
    rows: list[list[Scalar]] = []
    absent = [
        name
        for names in (OF_AVERAGES, OF_TOKENS, OF_EPOCHS)
        for name in names
        if not any(getattr(cell, other) for cell in summary.cells for other in names)
    ]
    fields = [name for name in BatchSizeSummary.__struct_fields__ if name not in absent]
    for cell in summary.cells:
        pairs = [pair for name in fields for pair in _spread(name, getattr(cell, name))]
        names = [name for name, _ in pairs]
        rows.append([value for _, value in pairs])
    return names, rows


def _of_batch_size(cell: BatchSizeSummary, goal: Goal | None) -> list[Entry]:
    score = partial(number_format.score, goal) if goal else number_format.number
    rate = entry(cell.best_learning_rate, number_format.number)
    at_edge = " (edge)" if cell.at_grid_edge else ""
    return [
        Entry(str(cell.batch_size), cell.batch_size),
        entry(cell.batch_size_tokens, number_format.number),
        Entry(status(cell)),
        entry(cell.examples_per_second, number_format.short),
        entry(cell.tokens_per_second, number_format.short),
        Entry(loop(cell)),
        entry(cell.seconds_per_step, number_format.seconds),
        entry(cell.seconds_per_epoch, number_format.seconds),
        Entry(", ".join([f"{rate.text}{at_edge}", *number_format.options(cell.best_options)]), rate.value),
        _estimate(cell.epochs_to_target, number_format.number),
        _estimate(NO_ESTIMATE if cell.epochs_to_target.median else cell.steps_to_target, number_format.number),
        _estimate(cell.tokens_to_target or NO_ESTIMATE, number_format.short),
        _duration(cell.time_to_target),
        _estimate(cell.best_score, score),
        _levelled_off(cell),
        _estimate(cell.best_averaged_score or NO_ESTIMATE, score),
        entry(cell.first_evaluation_epochs, number_format.number),
        entry(cell.test_score, score),
        Entry((cell.regime or UNKNOWN).replace("_", " ")),
        entry(cell.compile_seconds, number_format.seconds),
        entry(cell.memory_bytes, number_format.mebibytes),
        _flops(cell.achieved_flops_per_second, cell.fraction_of_peak),
    ]


def _levelled_off(cell: BatchSizeSummary) -> Entry:
    words = {True: "yes", False: "not seen", None: "not known"}
    return Entry(UNKNOWN) if cell.best_score.median is None else Entry(words[cell.levelled_off], cell.levelled_off)


def _flops(rate: float | None, share: float | None) -> Entry:
    """Return FLOP/s, counted from the model, and their share of the measured matrix-multiply rate."""
    of_peak = "" if rate is None or share is None else f", {number_format.percent(share)}"
    return entry(rate, lambda value: f"{number_format.flops_per_second(value)}{of_peak}")


def _estimate(estimate: Estimate, form: number_format.Form) -> Entry:
    if estimate.median is None:
        return Entry(UNKNOWN)
    return Entry(f"{form(estimate.median)} ({number_format.between(estimate.interval, form)})", estimate.median)


def _duration(estimate: Estimate) -> Entry:
    if estimate.median is None:
        return Entry(UNKNOWN)
    interval = number_format.seconds_between(estimate.interval, estimate.median)
    return Entry(f"{number_format.seconds(estimate.median)} ({interval})", estimate.median)


def _spread(name: str, value: object) -> list[tuple[str, Scalar]]:
    """Return a field as one column or, for estimates and intervals, as several; the same columns whatever the value."""
    if name.endswith("_to_target") or name in SCORES:
        estimate = value if isinstance(value, Estimate) else NO_ESTIMATE
        return [(name, estimate.median), *_ends(name, estimate.interval)]
    if isinstance(value, tuple):
        return _ends(name, value)
    if isinstance(value, dict):
        return [(name, number_format.assignments(value) or None)]
    return [(name, value if isinstance(value, str | int | float) else None)]


def _ends(name: str, interval: number_format.Interval) -> list[tuple[str, Scalar]]:
    low, high = interval
    return [(f"{name}_low", low), (f"{name}_high", high)]


ALWAYS = ("batch_size", "loop")
"""The columns of CELL that every table of timed variants has; others are shown where they differ."""
VARIANT_TITLES = {
    "batch_size": "Batch size",
    "loop": "Loop",
    "input": "Input from",
    "precision": "Precision",
    "devices": "Devices",
    "accumulation": "Microbatches a step",
}
VARIANT_FACTS = (
    Column("Status", text=True),
    Column("Examples/s"),
    Column("Slowest to fastest round"),
    Column("FLOP/s, of peak"),
    Column("Memory"),
    Column("Message", prose=True),
)


def timed_variants_table(frames: Frames) -> Table | None:
    """Return one row for each variant of a step that was compiled, failures included; None where none was."""
    if frames.compilations.empty:
        return None
    rounds = {key: values(rows, "examples_per_second") for key, rows in frames.rounds.groupby(list(CELL))}
    known = frames.compilations.sort_values(list(CELL), kind="stable")
    shown = [name for name in CELL if name in ALWAYS or len(known[name].unique()) > 1]
    columns = [Column(VARIANT_TITLES[name], text=CELL[name] == "object") for name in shown]
    facts = VARIANT_FACTS if any(isinstance(message, str) for message in known["message"]) else VARIANT_FACTS[:-1]
    if frames.tokens_per_example:
        facts = [replace(fact, title=fact.title.replace("Examples", "Windows")) for fact in facts]
    rows = [TableRow(line[: len(columns) + len(facts)]) for line in _of_variants(frames, known, rounds, shown)]
    caption = (
        "Medians over rounds. The answer uses the fastest loop at each batch size, on one device that holds the data,"
        " in the precision of the training runs. The peak is the matrix-multiply rate in the precision of each row."
    )
    return Table(caption, [*columns, *facts], rows)


def _of_variants(
    frames: Frames, known: pd.DataFrame, rounds: Mapping[Hashable, np.ndarray], shown: Sequence[str]
) -> Iterator[list[Entry]]:
    for variant in known.to_dict("records"):
        speeds = rounds.get(tuple(variant[name] for name in CELL), np.array([]))
        keys = [variant[name] for name in shown]
        named = [Entry(key) if isinstance(key, str) else Entry(number_format.whole(key), key) for key in keys]
        yield [*named, *_of_variant(frames, variant, speeds)]


def _of_variant(frames: Frames, variant: Mapping[Hashable, Any], speeds: np.ndarray) -> list[Entry]:
    median = float(np.median(speeds)) if len(speeds) else None
    needed = variant["predicted_bytes"] if np.isfinite(variant["predicted_bytes"]) else variant["peak_bytes"]
    return [
        Entry(variant["status"].replace("_", " ")),
        entry(median, number_format.short),
        Entry(number_format.between([speeds.min(), speeds.max()], number_format.short) if len(speeds) else UNKNOWN),
        flops_of_variant(frames, variant, median),
        entry(needed, number_format.mebibytes),
        Entry(variant["message"] or ""),
    ]


def flops_of_variant(frames: Frames, variant: Mapping[Hashable, Any], per_second: float | None) -> Entry:
    """Return the FLOP/s at a speed in examples per second, and their share of the peak of all devices together.

    Virtual devices share one processor, and so one peak.
    """
    rate = finite(variant["flops_per_example"] * per_second) if per_second else None
    alone = hardware.peak(frames, variant["precision"])
    devices = 1 if frames.machine.machine.virtual_devices else variant["devices"]
    return _flops(rate, rate / (devices * alone) if rate is not None and alone else None)

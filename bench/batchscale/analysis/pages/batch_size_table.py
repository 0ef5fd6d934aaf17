"""The table of every batch size, once, for the terminal, the page and the CSV."""

from __future__ import annotations

from batchscale.analysis import number_format
from batchscale.analysis.pages.text_table import Column, Entry, Grid, Line, Scalar, said
from batchscale.analysis.summary_types import BatchSizeSummary, Estimate, Summary

COLUMNS = (
    Column("Batch size"),
    Column("Status", text=True),
    Column("Examples/s"),
    Column("Loop", text=True),
    Column("Step"),
    Column("Learning rate"),
    Column("Epochs to target"),
    Column("Time to target"),
    Column("Best accuracy"),
    Column("Averaged parameters"),
    Column("Test accuracy"),
    Column("Regime", text=True),
    Column("Compile"),
    Column("Memory"),
    Column("FLOP/s, of peak"),
)
CORE = (0, 1, 2, 5, 6, 7, 8)
"""The columns a terminal has room for."""
FIRST_OUT = (2, 6, 5, 8, 1)
"""Those that a narrow one does without, in this order."""
POINTED_AT = (2, 6, 7, 8)
"""What pointing at a batch size in a figure shows."""
WHERE_MEASURED = (9,)
"""The columns that are left out where no cell has a value; all above lie before them."""

STATUS = {
    "ok": "reached",
    "not_reached": "not reached",
    "out_of_memory": "out of memory",
    "not_measured": "not measured",
}
OF_AVERAGES = ("best_ema_accuracy", "ema_accuracy_gain")
ACCURACIES = ("best_accuracy", "best_accuracy_by_steps", *OF_AVERAGES)
NO_ESTIMATE = Estimate(median=None, interval=(None, None))


def table(summary: Summary) -> Grid:
    """Every cell, the fastest to the target marked."""
    best = summary.time_optimal.batch_size if summary.time_optimal else None
    lines = [_entries(cell) for cell in summary.cells]
    empty = {at for at in WHERE_MEASURED if all(line[at].value is None for line in lines)}
    shown = [at for at in range(len(COLUMNS)) if at not in empty]
    rows = [
        Line([line[at] for at in shown], str(cell.batch_size), cell.batch_size == best)
        for cell, line in zip(summary.cells, lines, strict=True)
    ]
    columns = [COLUMNS[at] for at in shown]
    return Grid("Medians over seeds with 95% intervals; the fastest to the target is marked.", columns, rows)


def described(summary: Summary) -> dict[int, str]:
    """By batch size, its row in a few lines."""
    shown = {}
    for line in table(summary).rows:
        facts = [f"{COLUMNS[at].title}: {line.cells[at].text}" for at in POINTED_AT]
        shown[int(line.anchor)] = "\n".join([f"Batch size {line.anchor}: {line.cells[1].text}", *facts])
    return shown


def status(cell: BatchSizeSummary) -> str:
    """What became of a cell, in words."""
    told = STATUS.get(cell.status, cell.status)
    some_missed = cell.status in ("ok", "not_reached") and 0 < cell.seeds_reached < cell.seeds
    return f"{told}, {cell.seeds_reached} of {cell.seeds} seeds" if some_missed else told


def loop(cell: BatchSizeSummary) -> str:
    """How a cell was timed, in words."""
    pieces = f", {cell.accumulation} microbatches a step" if (cell.accumulation or 1) > 1 else ""
    return f"{cell.loop}{pieces}" if cell.loop else "—"


def flat(summary: Summary) -> tuple[list[str], list[list[Scalar]]]:
    """Column names and rows for CSV: every field of every cell in SI units, estimates as median, low and high.

    Those of averaged parameters only where some cell has them.
    """
    names: list[str] = []
    rows: list[list[Scalar]] = []
    averaged = any(getattr(cell, name) for cell in summary.cells for name in OF_AVERAGES)
    fields = [name for name in BatchSizeSummary.__struct_fields__ if averaged or name not in OF_AVERAGES]
    for cell in summary.cells:
        pairs = [pair for name in fields for pair in _spread(name, getattr(cell, name))]
        names = [name for name, _ in pairs]
        rows.append([value for _, value in pairs])
    return names, rows


def _entries(cell: BatchSizeSummary) -> list[Entry]:
    rate = said(cell.best_learning_rate, number_format.number)
    at_edge = " (edge)" if cell.at_grid_edge else ""
    return [
        Entry(str(cell.batch_size), cell.batch_size),
        Entry(status(cell)),
        said(cell.examples_per_second, number_format.short),
        Entry(loop(cell)),
        said(cell.seconds_per_step, number_format.seconds),
        Entry(", ".join([f"{rate.text}{at_edge}", *number_format.options(cell.best_options)]), rate.value),
        _estimate(cell.epochs_to_target, number_format.number),
        _duration(cell.time_to_target),
        _estimate(cell.best_accuracy, number_format.accuracy),
        _estimate(cell.best_ema_accuracy or NO_ESTIMATE, number_format.accuracy),
        said(cell.test_accuracy, number_format.accuracy),
        Entry((cell.regime or "—").replace("_", " ")),
        said(cell.compile_seconds, number_format.seconds),
        said(cell.memory_bytes, number_format.mebibytes),
        _arithmetic(cell),
    ]


def _arithmetic(cell: BatchSizeSummary) -> Entry:
    """What the model's arithmetic comes to per second, and the share of the measured matrix-multiply rate."""
    rate = said(cell.achieved_flops_per_second, number_format.flops_per_second)
    share = cell.fraction_of_peak
    return rate if share is None else Entry(f"{rate.text}, {number_format.percent(share)}", rate.value)


def _estimate(estimate: Estimate, form: number_format.Form) -> Entry:
    if estimate.median is None:
        return Entry("—")
    return Entry(f"{form(estimate.median)} ({number_format.between(estimate.interval, form)})", estimate.median)


def _duration(estimate: Estimate) -> Entry:
    if estimate.median is None:
        return Entry("—")
    interval = number_format.seconds_between(estimate.interval, estimate.median)
    return Entry(f"{number_format.seconds(estimate.median)} ({interval})", estimate.median)


def _spread(name: str, value: object) -> list[tuple[str, Scalar]]:
    """A field as one column or, for estimates and intervals, as several; the same columns whatever the value."""
    if name.endswith("_to_target") or name in ACCURACIES:
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

"""A comparison as tables, CSV and a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from batchscale.analysis import number_format
from batchscale.analysis.compare.compare import LEAST_DIFFERENCE, QUANTITIES, Comparison, Quantity, Ratio
from batchscale.analysis.figures import comparison as figures
from batchscale.analysis.figures import encode, style
from batchscale.analysis.figures.drawing import NothingToDrawError, add_tokens
from batchscale.analysis.pages import html
from batchscale.analysis.pages.html import PageFigure
from batchscale.analysis.pages.tables import UNKNOWN, Column, Entry, Scalar, Table, TableRow, as_csv, entry
from batchscale.analysis.summary_types import Summary
from batchscale.analysis.text.answer import asked
from batchscale.records import row_files

NAME = "compare.html"
TITLES: dict[Quantity, str] = {
    "examples_per_second": "Throughput",
    "time_to_target": "Time to target",
    "joules_to_target": "Energy to target",
}
OUTCOMES = {"faster": "faster", "slower": "slower", "same": "the same within noise"}


@dataclass(frozen=True)
class Plot:
    """A figure of the page before it is drawn.

    Attributes:
        name: part of its id.
        title, caption: above the drawing.
        draw: raises NothingToDrawError where the results have nothing to compare.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[], Figure]


def write_comparison(comparison: Comparison, out: Path, home: str | None = None) -> Path:
    """Write `compare.html`, `compare.csv` and `compare.json` into `out`; return the path of the page.

    Raises:
        InputError: when the disk reports an error.
    """
    row_files.write_json(out / "compare.json", comparison)
    content = as_csv(*_flat(comparison))
    row_files.write_whole(out / "compare.csv", content)
    row_files.write_whole(out / NAME, render(comparison, html.data_address(content, "text/csv"), home))
    return out / NAME


def render(comparison: Comparison, csv_address: str, home: str | None = None) -> bytes:
    """Return the page.

    Args:
        comparison: to show.
        csv_address: where a reader downloads `compare.csv`.
        home: the address of the page to go back to, where there is one.
    """
    first = comparison.summaries[0]
    return html.render(
        "compare.html.jinja",
        title=f"{first.title}: {number_format.listed(comparison.labels)}",
        sentences=sentences(comparison),
        differences=comparison.differences,
        notices=list(dict.fromkeys(one.notice for one in comparison.summaries if one.notice)),
        optima=optima(comparison),
        plots=_figures(comparison),
        ratios=table(comparison),
        download={"name": "compare.csv", "address": csv_address},
        home=home,
    )


def sentences(comparison: Comparison) -> list[str]:
    """Return which result is faster where, the batch size that suits all, and the best score of each in a time."""
    found = [_verdict(comparison, at) for at in range(len(comparison.against))]
    if fleet := comparison.fleet:
        loss = number_format.percent(fleet.greatest_loss)
        most = f"takes at most {loss} more time than the fastest of each" if fleet.greatest_loss else "is their fastest"
        found.append(f"One batch size for all: every result reaches the target at {fleet.batch_size}, which {most}.")
    for label, summary in zip(comparison.labels, comparison.summaries, strict=True):
        if summary.within:
            found.append(f"{label}: {asked(summary)}")
    return found


def optima(comparison: Comparison) -> Table:
    """Return the optima of each result."""
    columns = [Column("Result", text=True), Column("Fastest to target"), Column("Time"), Column("Tied", text=True)]
    example = comparison.summaries[0].example
    columns += [Column(f"Most {example}s/s at"), Column(f"{example.capitalize()}s/s"), Column("Least energy at")]
    rows = [
        TableRow(_optima_cells(label, one)) for label, one in zip(comparison.labels, comparison.summaries, strict=True)
    ]
    return Table("The optima of each result.", columns, rows)


def table(comparison: Comparison) -> Table:
    """Return every ratio with its interval and verdict, one row per result and batch size."""
    measured = {ratio.quantity for side in comparison.against for ratio in side.ratios}
    quantities: list[Quantity] = [quantity for quantity in QUANTITIES if quantity in measured]
    columns = [Column("Batch size"), Column("Result", text=True)]
    for quantity in quantities:
        columns += [Column(f"{TITLES[quantity]} ratio"), Column("Verdict", text=True)]
    rows = []
    for side in comparison.against:
        found = {(ratio.batch_size, ratio.quantity): ratio for ratio in side.ratios}
        for size in sorted({size for size, _ in found}):
            cells = [entry for quantity in quantities for entry in _ratio_cells(found.get((size, quantity)))]
            rows.append(TableRow([Entry(str(size), size), Entry(side.label), *cells], anchor=str(size)))
    least = number_format.percent(LEAST_DIFFERENCE)
    caption = (
        f"Ratios to {comparison.labels[0]}. “Same” means that the interval contains 1, or that the difference is below"
        f" {least}."
    )
    return Table(caption, columns, rows)


def _verdict(comparison: Comparison, at: int) -> str:
    side, first = comparison.against[at], comparison.labels[0]
    quantity: Quantity = "examples_per_second" if comparison.throughput_only else "time_to_target"
    found = [ratio for ratio in side.ratios if ratio.quantity == quantity and ratio.outcome != "not comparable"]
    compared = TITLES[quantity]
    if not found:
        return f"{compared}: {side.label} and {first} cannot be compared, because no batch size has both."
    counts = {
        outcome: [r.batch_size for r in found if r.outcome == outcome] for outcome in ("faster", "slower", "same")
    }
    where = {outcome: f"at {number_format.batch_sizes(sizes)}" for outcome, sizes in counts.items() if sizes}
    if len(where) == 1:
        where = dict.fromkeys(where, "at every batch size")
    outcomes = number_format.listed(f"{OUTCOMES[outcome]} {sizes}" for outcome, sizes in where.items())
    return f"{compared}: compared with {first}, {side.label} is {outcomes}."


def _optima_cells(label: str, summary: Summary) -> list[Entry]:
    time, speed, energy = summary.time_optimal, summary.throughput_optimal, summary.energy_optimal
    others = [size for size in time.tied if size != time.batch_size] if time else []
    return [
        Entry(label),
        entry(time.batch_size if time else None, number_format.whole),
        entry(time.seconds if time else None, number_format.seconds),
        Entry(number_format.listed(others) or UNKNOWN),
        entry(speed.batch_size if speed else None, number_format.whole),
        entry(speed.examples_per_second if speed else None, number_format.short),
        entry(energy.batch_size if energy else None, number_format.whole),
    ]


def _ratio_cells(ratio: Ratio | None) -> list[Entry]:
    if ratio is None:
        return [Entry(UNKNOWN), Entry(UNKNOWN)]
    interval = f" ({number_format.between(ratio.interval)})" if ratio.value is not None else ""
    shown = entry(ratio.value, number_format.number)
    return [Entry(f"{shown.text}{interval}", shown.value), Entry(ratio.outcome)]


def _flat(comparison: Comparison) -> tuple[list[str], list[list[Scalar]]]:
    names = ["side", "over", "quantity", "batch_size", "ratio", "ratio_low", "ratio_high", "verdict"]
    rows: list[list[Scalar]] = [
        [side.label, comparison.labels[0], one.quantity, one.batch_size, one.value, *one.interval, one.outcome]
        for side in comparison.against
        for one in side.ratios
    ]
    return names, rows


def _figures(comparison: Comparison) -> list[PageFigure]:
    """Draw each figure that the results have something for."""
    labels, summaries = comparison.labels, comparison.summaries
    against = [(side.label, side.ratios) for side in comparison.against]
    throughputs = Plot("throughputs", "Throughput", "Higher is faster.", lambda: figures.throughputs(labels, summaries))
    times = Plot(
        "times",
        "Time to the target",
        "Lower is faster; rings mark each optimum.",
        lambda: figures.times(labels, summaries),
    )
    ratios = [_ratio_plot(quantity, labels[0], against) for quantity in QUANTITIES]
    budgets = Plot(
        "time-budgets",
        "Score within a time",
        "The best score of each result within a time of training, each at its best batch size.",
        lambda: figures.time_budgets(labels, summaries),
    )
    plots = [throughputs, ratios[0]] if comparison.throughput_only else [throughputs, times, budgets, *ratios]
    rows = {int(row.anchor): f"Batch size {row.anchor}" for row in table(comparison).rows}
    alt_text = " ".join(sentences(comparison))
    shown = []
    with style.applied():
        for plot in plots:
            try:
                figure = plot.draw()
                add_tokens(figure, summaries[0])
                files = encode(figure, ("png", "svg"))
            except NothingToDrawError:
                continue
            image = html.image(files["svg"], files["png"], plot.name, alt_text, rows)
            shown.append(PageFigure(plot.name, plot.title, plot.caption, image))
    return shown


def _ratio_plot(quantity: Quantity, first: str, against: list[tuple[str, list[Ratio]]]) -> Plot:
    title = f"Ratio: {TITLES[quantity].lower()}"
    caption = f"Relative to {first}. A bar that crosses the dashed line is no significant difference."
    return Plot(f"ratio-{quantity}", title, caption, lambda: figures.ratios(first, against, quantity))

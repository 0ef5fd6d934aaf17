"""A comparison as tables, CSV and a page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from matplotlib.figure import Figure

from batchscale.analysis import number_format
from batchscale.analysis.compare.compare import LEAST_DIFFERENCE, QUANTITIES, Comparison, Quantity, Ratio
from batchscale.analysis.figures import comparison as figures
from batchscale.analysis.figures import encode, style
from batchscale.analysis.figures.drawing import NothingToDrawError
from batchscale.analysis.pages import inline_svg, page_templates
from batchscale.analysis.pages.page_templates import Shown
from batchscale.analysis.pages.text_table import Column, Entry, Grid, Line, as_csv, said
from batchscale.analysis.summary_types import Summary
from batchscale.records import row_files

NAME = "compare.html"
TITLES: dict[Quantity, str] = {
    "examples_per_second": "Throughput",
    "time_to_target": "Time to target",
    "joules_to_target": "Energy to target",
}
SAID = {"faster": "faster", "slower": "slower", "same": "the same within noise"}


@dataclass(frozen=True)
class Picture:
    """A figure of the page before it is drawn."""

    name: str
    title: str
    caption: str
    finding: str
    draw: Callable[[], Figure]


def write_comparison(comparison: Comparison, out: Path, home: str | None = None) -> Path:
    """Write `compare.html`, `compare.csv` and `compare.json` into `out`; returns the page.

    Raises:
        InputError: when the disk refuses.
    """
    row_files.write_json(out / "compare.json", comparison)
    content = as_csv(*_flat(comparison))
    row_files.write_whole(out / "compare.csv", content)
    row_files.write_whole(out / NAME, render(comparison, page_templates.data_address(content, "text/csv"), home))
    return out / NAME


def render(comparison: Comparison, csv_address: str, home: str | None = None) -> bytes:
    """The page; `home` is the address of the page to go back to, where there is one."""
    first = comparison.summaries[0]
    return page_templates.render(
        "compare.html.jinja",
        title=f"{first.title}: {number_format.listed(comparison.labels)}",
        sentences=sentences(comparison),
        differences=comparison.differences,
        notices=list(dict.fromkeys(one.notice for one in comparison.summaries if one.notice)),
        optima=optima(comparison),
        plots=_pictures(comparison),
        ratios=table(comparison),
        download={"name": "compare.csv", "address": csv_address},
        home=home,
    )


def sentences(comparison: Comparison) -> list[str]:
    """Who is faster, and which batch size suits all."""
    told = [_held_against(comparison, at) for at in range(len(comparison.against))]
    if fleet := comparison.fleet:
        loss = number_format.percent(fleet.greatest_loss)
        cost = (
            "and is the fastest on each"
            if fleet.greatest_loss == 0
            else f"and costs none more than {loss} over its own best"
        )
        told.append(f"One batch size for all: {fleet.batch_size} brings every side to the target {cost}.")
    return told


def optima(comparison: Comparison) -> Grid:
    """Where each side's optima lie."""
    columns = [Column("Side", text=True), Column("Fastest to target"), Column("Time"), Column("Tied", text=True)]
    columns += [Column("Most examples/s at"), Column("Examples/s"), Column("Least energy at")]
    rows = [Line(_optima_cells(label, one)) for label, one in zip(comparison.labels, comparison.summaries, strict=True)]
    return Grid("The optima of each side.", columns, rows)


def table(comparison: Comparison) -> Grid:
    """Every ratio with its interval and verdict, one line per side and batch size."""
    measured = {ratio.quantity for side in comparison.against for ratio in side.ratios}
    quantities: list[Quantity] = [quantity for quantity in QUANTITIES if quantity in measured]
    columns = [Column("Batch size"), Column("Side", text=True)]
    for quantity in quantities:
        columns += [Column(f"{TITLES[quantity]} ratio"), Column("Verdict", text=True)]
    rows = []
    for side in comparison.against:
        found = {(ratio.batch_size, ratio.quantity): ratio for ratio in side.ratios}
        for size in sorted({size for size, _ in found}):
            cells = [entry for quantity in quantities for entry in _ratio_cells(found.get((size, quantity)))]
            rows.append(Line([Entry(str(size), size), Entry(side.label), *cells], anchor=str(size)))
    least = number_format.percent(LEAST_DIFFERENCE)
    caption = f"Ratios to {comparison.labels[0]}; “same” is within the interval, or within {least}."
    return Grid(caption, columns, rows)


def _held_against(comparison: Comparison, at: int) -> str:
    side = comparison.against[at]
    quantity: Quantity = "examples_per_second" if comparison.throughput_only else "time_to_target"
    found = [ratio for ratio in side.ratios if ratio.quantity == quantity and ratio.outcome != "not comparable"]
    what = TITLES[quantity].lower()
    if not found:
        return f"The {what} of {side.label} and {comparison.labels[0]} cannot be compared: no batch size has both."
    counts = {
        outcome: [r.batch_size for r in found if r.outcome == outcome] for outcome in ("faster", "slower", "same")
    }
    where = {outcome: f"at {number_format.listed(sizes)}" for outcome, sizes in counts.items() if sizes}
    if len(where) == 1:
        where = dict.fromkeys(where, "at every batch size")
    told = number_format.listed(f"{SAID[outcome]} {sizes}" for outcome, sizes in where.items())
    return f"By {what}, {side.label} is {told}, held against {comparison.labels[0]}."


def _optima_cells(label: str, summary: Summary) -> list[Entry]:
    time, speed, energy = summary.time_optimal, summary.throughput_optimal, summary.energy_optimal
    others = [size for size in time.tied if size != time.batch_size] if time else []
    return [
        Entry(label),
        said(time.batch_size if time else None, number_format.whole),
        said(time.seconds if time else None, number_format.seconds),
        Entry(number_format.listed(others) or "—"),
        said(speed.batch_size if speed else None, number_format.whole),
        said(speed.examples_per_second if speed else None, number_format.short),
        said(energy.batch_size if energy else None, number_format.whole),
    ]


def _ratio_cells(ratio: Ratio | None) -> list[Entry]:
    if ratio is None:
        return [Entry("—"), Entry("—")]
    interval = f" ({number_format.between(ratio.interval)})" if ratio.value is not None else ""
    shown = said(ratio.value, number_format.number)
    return [Entry(f"{shown.text}{interval}", shown.value), Entry(ratio.outcome)]


def _flat(comparison: Comparison) -> tuple[list[str], list[list[str | float | int | None]]]:
    names = ["side", "over", "quantity", "batch_size", "ratio", "ratio_low", "ratio_high", "verdict"]
    rows: list[list[str | float | int | None]] = [
        [side.label, comparison.labels[0], one.quantity, one.batch_size, one.value, *one.interval, one.outcome]
        for side in comparison.against
        for one in side.ratios
    ]
    return names, rows


def _pictures(comparison: Comparison) -> list[Shown]:
    labels, summaries = comparison.labels, comparison.summaries
    against = [(side.label, side.ratios) for side in comparison.against]
    told = " ".join(sentences(comparison))
    pictures = [
        Picture("throughputs", "Throughput", "Higher is faster.", told, lambda: figures.throughputs(labels, summaries)),
        Picture(
            "times",
            "Time to the target",
            "Lower is faster; rings mark each optimum.",
            told,
            lambda: figures.times(labels, summaries),
        ),
    ]
    for quantity in QUANTITIES:
        caption = f"Over {labels[0]}: a bar that crosses the dashed line is no difference."
        pictures.append(
            _ratio_picture(quantity, f"Ratio: {TITLES[quantity].lower()}", caption, told, labels[0], against)
        )
    kept = pictures[:1] + pictures[2:3] if comparison.throughput_only else pictures
    return [shown for picture in kept if (shown := _show(picture, comparison))]


def _ratio_picture(
    quantity: Quantity, title: str, caption: str, told: str, first: str, against: list[tuple[str, list[Ratio]]]
) -> Picture:
    return Picture(f"ratio-{quantity}", title, caption, told, lambda: figures.ratios(first, against, quantity))


def _show(picture: Picture, comparison: Comparison) -> Shown | None:
    rows = {int(line.anchor): f"Batch size {line.anchor}" for line in table(comparison).rows}
    images: list[Markup] = []
    for name, width in (("wide", style.TWO_COLUMNS_INCHES), ("narrow", style.ONE_COLUMN_INCHES)):
        with style.applied(width):
            try:
                svg = encode(picture.draw(), "svg")
            except NothingToDrawError:
                return None
        images.append(inline_svg.inline(svg, f"{name}-{picture.name}", picture.finding, rows))
    return Shown(picture.name, picture.title, picture.caption, *images)

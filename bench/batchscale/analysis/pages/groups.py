"""The answers for groups of runs: sentences, a table, figures, and the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from batchscale.analysis import number_format
from batchscale.analysis.figures import encode, style
from batchscale.analysis.figures import groups as figures
from batchscale.analysis.figures.drawing import NothingToDrawError
from batchscale.analysis.pages import html
from batchscale.analysis.pages.html import PageFigure
from batchscale.analysis.pages.tables import UNKNOWN, Column, Entry, Table, TableRow, as_csv, entry
from batchscale.analysis.summary.groups import GroupAnswer, Groups, Movement, Rests, numeric
from batchscale.analysis.summary_parts import Ranged
from batchscale.analysis.summary_types import CriticalBatchSize
from batchscale.config.goal import METRICS
from batchscale.printable import bare
from batchscale.records import row_files

PAGE, DATA, CSV = "groups.html", "groups.json", "groups.csv"


def write_groups(groups: Groups, out: Path) -> Path:
    """Write the page, the JSON and the CSV of all groups into `out`; return the path of the page.

    Raises:
        InputError: when the disk reports an error.
    """
    row_files.write_json(out / DATA, groups)
    answers = table(groups)
    content = as_csv(
        [column.title for column in answers.columns],
        [[one.text if one.value is None else one.value for one in row.entries] for row in answers.rows],
    )
    row_files.write_whole(out / CSV, content)
    page = html.render(
        "groups.html.jinja",
        title=f"{len(groups.answers)} groups by {number_format.listed(map(bare, groups.columns))}",
        sentences=sentences(groups),
        plots=list(_figures(groups)),
        answers=answers,
        download={"name": CSV, "address": html.data_address(content, "text/csv")},
    )
    row_files.write_whole(out / PAGE, page)
    return out / PAGE


def sentences(groups: Groups) -> list[str]:
    """Return how the optima move, one sentence each, and how many groups have no surface."""
    runs = sum(one.runs for one in groups.answers)
    found = [f"{runs:,} runs in {len(groups.answers)} groups by {number_format.listed(map(bare, groups.columns))}."]
    if groups.goal is not None:
        found[0] = f"{found[0][:-1]}, trained to {number_format.goal(groups.goal)}."
    found += [_moves(one) for one in groups.movements]
    without = sum(one.score_surface is None for one in groups.answers)
    if without:
        found.append(f"{without} of {len(groups.answers)} groups support no surface; the table has the reasons.")
    return found


def _moves(movement: Movement) -> str:
    name = figures.NAMES[movement.quantity]
    if movement.reason:
        return f"How the {name} moves is not known: {movement.reason}."
    powers = (f"{bare(column)}^{_power(one)}" for column, one in movement.exponents.items())
    rests = RESTS[movement.rests_on]
    return f"The {name} moves as {' x '.join(powers)}, fitted to {rests} in {movement.groups} groups."


RESTS: dict[Rests, str] = {
    "surface": "their surfaces",
    "best run": "the best runs",
    "fit": "the examples to the target",
    "least time": "the least times to the target",
}


def _power(one: Ranged) -> str:
    ends = number_format.between(one.interval, number_format.exponent)
    return f"{number_format.exponent(one.value)} ({number_format.with_level(ends)})"


def table(groups: Groups) -> Table:
    """Return one row for each group."""
    titles = [*groups.columns, "Runs", "Best batch size", "Best rate", groups.name or "Score"]
    columns = [Column(bare(title)) for title in titles]
    columns += [Column("Tied", text=True), Column("Within the tolerance", text=True)]
    columns += [Column(title) for title in ("Surface: batch size", "Surface: rate", "Rate grows as", "Noise of a run")]
    columns.append(Column("No surface because", prose=True))
    if groups.goal is not None:
        columns += [Column("Critical batch size"), Column("Fastest batch size"), Column("Least time")]
        columns.append(Column("Not known because", prose=True))
    reached = groups.goal is not None
    rows = [
        TableRow([*_own(one, groups), *_of_surface(one), *(_to_the_goal(one) if reached else [])])
        for one in groups.answers
    ]
    caption = (
        "The best batch size by its median score with its best learning rate, and the best point of a smooth surface"
        " through all runs of the group, with 95% intervals. An end outside of the grid is open."
    )
    return Table(caption, columns, rows)


def _own(one: GroupAnswer, groups: Groups) -> list[Entry]:
    best, share = one.score_optimal, METRICS[groups.metric].is_share
    ties = [size for size in best.tied if size != best.batch_size] if best else []
    near = [size for size in best.within_tolerance or [] if size != best.batch_size] if best else []
    return [
        *(Entry(bare(one.group[column]), one.group[column]) for column in groups.columns),
        Entry(str(one.runs), one.runs),
        Entry(str(best.batch_size), best.batch_size) if best else Entry(UNKNOWN),
        entry(one.learning_rate, number_format.number),
        entry(best.score if best else None, number_format.percent if share else lambda value: f"{value:.5g}"),
        Entry(number_format.listed(ties) or "none"),
        Entry(number_format.listed(near) or ("none" if best and best.tolerance else UNKNOWN)),
    ]


def _of_surface(one: GroupAnswer) -> list[Entry]:
    found = one.score_surface
    if found is None:
        return [*[Entry(UNKNOWN)] * 4, Entry(one.score_surface_reason or "")]
    return [
        *(_ranged(part) for part in (found.batch_size, found.learning_rate)),
        Entry(f"B^{number_format.exponent(found.exponent.value)}", found.exponent.value),
        Entry(number_format.number(found.noise), found.noise),
        Entry(""),
    ]


def _to_the_goal(one: GroupAnswer) -> list[Entry]:
    knee, time = one.critical_batch_size, one.time_optimal
    reasons = dict.fromkeys(filter(None, (one.critical_batch_size_reason, one.time_optimal_reason)))
    return [
        _ranged(knee) if knee else Entry(UNKNOWN),
        Entry(str(time.batch_size), time.batch_size) if time else Entry(UNKNOWN),
        entry(time.seconds if time else None, number_format.duration),
        Entry("; ".join(reasons)),
    ]


def _ranged(part: Ranged | CriticalBatchSize) -> Entry:
    low, high = ("open" if end is None else number_format.number(end) for end in part.interval)
    return Entry(f"{number_format.number(part.value)} ({low} to {high})", part.value)


def _figures(groups: Groups) -> Iterator[PageFigure]:
    """Draw the optima against every column of numbers."""
    with style.applied():
        for number, column in enumerate(numeric(groups.columns, groups.answers)):
            try:
                drawn = figures.against(groups, column)
            except NothingToDrawError:
                continue
            title = f"Optima against {bare(column)}"
            files = encode(drawn, ("svg", "png"))
            image = html.image(files["svg"], files["png"], f"groups-{number}", title, {})
            yield PageFigure(f"groups-{number}", title, "Each point is a group of runs.", image)

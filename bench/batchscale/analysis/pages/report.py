"""The report of one results folder: summary, figures, tables, and a page that stands alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from batchscale.analysis import figures, number_format
from batchscale.analysis.figures import style
from batchscale.analysis.frames import frames
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import values
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.pages import html, tables
from batchscale.analysis.pages.html import PageFigure
from batchscale.analysis.pages.tables import UNKNOWN, Column, Entry, Table, TableRow, entry
from batchscale.analysis.summary import build
from batchscale.analysis.summary.build import summarize, trained_on
from batchscale.analysis.summary_types import FurtherTarget, Optimum, ParallelPoint, Summary
from batchscale.analysis.text import answer, method
from batchscale.analysis.text.captions import VIRTUAL, origin
from batchscale.config.experiment import shipped
from batchscale.config.goal import Goal
from batchscale.records import results_folder, row_files
from batchscale.records.curves import UNITS

LARGEST_EMBEDDED_BYTES = 150_000
NAME = results_folder.REPORT
FILES = (*results_folder.PUBLISHED, results_folder.SUMMARY)
"""The other files of a results folder, to which the page links where they exist."""
SHORT_RUN_SECONDS = 0.02
"""Shorter runs are mostly overhead: a call costs about 0.1 ms, and a run makes one for each evaluation."""
UNCONFIRMED = "†"
"""Follows a batch size of a further target whose learning rate was not confirmed."""


@dataclass(frozen=True)
class Download:
    """A CSV table of the page.

    Attributes:
        name: of the file.
        address: the whole content where it is small, else the name of the file next to the page.
        content: what a line of it is.
    """

    name: str
    address: str
    content: str


def write_report(folder: Path, within: float | None = None) -> Summary:
    """Write `summary.json`, `figures/`, the CSV files and `report.html` into a results folder.

    Returns the summary that they were made from. The page is `folder / NAME`. See `summarize` for `within`.

    Raises:
        InputError: when the folder's files are missing or not valid, nothing was evaluated within the time, or the disk
            reports an error.
    """
    sweep = Sweep.of(frames.load(folder))
    summary = summarize(sweep, within)
    build.write(folder, summary)
    write_page(folder, sweep, summary)
    return summary


def write_page(folder: Path, sweep: Sweep, summary: Summary, home: str | None = None) -> None:
    """Write the figures, the CSV files and the page of a summary.

    Args:
        folder: to write into.
        sweep: of the results folder.
        summary: of the same sweep.
        home: the address of the page to go back to, where there is one.
    """
    measured = sweep.frames
    plots, not_drawn = _draw_all(folder / "figures", sweep, summary)
    page = html.render(
        "report.html.jinja",
        title=summary.title,
        machine=summary.machine,
        subtitle=subtitle(measured, summary),
        notices=answer.notices(summary),
        answer=answer.answer(summary),
        facts_shown=answer.facts(summary),
        plots=plots,
        not_drawn=not_drawn,
        batch_sizes=tables.batch_size_table(summary),
        timed_variants=tables.timed_variants_table(measured),
        downloads=list(_write_csv(folder, measured, summary)),
        further=further_targets(summary),
        several_devices=several_devices(summary),
        verdicts=verdicts(summary),
        verified=verifications(measured),
        method=method.paragraphs(sweep, summary),
        looks=looks(summary),
        machine_table=machine(measured),
        reproduce=reproduce(measured, summary),
        files=[name for name in FILES if (folder / name).is_file()],
        home=home,
    )
    row_files.write_whole(folder / NAME, page)


def _draw_all(folder: Path, sweep: Sweep, summary: Summary) -> tuple[list[PageFigure], list[figures.Drawing]]:
    """Draw every figure once, write its files, and show it; return the figures and those that cannot be drawn."""
    rows = tables.described(summary)
    shown, not_drawn = [], []
    with style.applied():
        for drawing in figures.draw(sweep, summary, figures.PLOTS, ("png", "svg")):
            if not drawing.files:
                for form in ("png", "svg"):  # of fewer rows, or of another version
                    (folder / f"{drawing.plot.name}.{form}").unlink(missing_ok=True)
                not_drawn.append(drawing)
                continue
            figures.write(drawing, folder)
            plot = drawing.plot
            alt_text = plot.alt_text(sweep, summary)
            image = html.image(drawing.files["svg"], drawing.files["png"], plot.name, alt_text, rows)
            shown.append(PageFigure(plot.name, plot.title, plot.caption, image, plot.remark(summary)))
    return shown, not_drawn


def _write_csv(folder: Path, measured: Frames, summary: Summary) -> Iterator[Download]:
    """Write the tables of batch sizes, of training runs and of rounds as CSV files."""
    trials = measured.trials.assign(
        options=[number_format.assignments(dict(one)) for one in measured.trials["options"]]
    )
    trials, rounds = _as_known(measured, _without(trials, SOMETIMES), _without(measured.rounds, SOMETIMES))
    contents = {
        "cells.csv": ("one line per batch size", tables.as_csv(*tables.flat(summary))),
        "trials.csv": ("one line per training run", _frame_csv(trials)),
        "rounds.csv": ("one line per timed round", _frame_csv(rounds)),
    }
    for name, (content, data) in contents.items():
        row_files.write_whole(folder / name, data)
        small = len(data) <= LARGEST_EMBEDDED_BYTES
        yield Download(name, html.data_address(data, "text/csv") if small else name, content)


SOMETIMES = (
    *("best_averaged_score", "epochs", "seconds_per_epoch", "seconds_to_target", "budgets_to_target"),
    *(f"previous_{unit}" for unit in UNITS),
)
"""Columns of trials and rounds that are left out of their files where nothing is known."""


def _without(rows: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the rows without those of the columns that are null everywhere."""
    return rows.drop(columns=[name for name in names if name in rows and not rows[name].notna().to_numpy().any()])


def _as_known(measured: Frames, trials: pd.DataFrame, rounds: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return both frames with blanks where imported tables record nothing."""
    if not measured.imported:
        return trials, rounds
    if not measured.imported.learning_rates:
        trials = trials.assign(learning_rate=np.nan)
    return trials, rounds.assign(loop="", precision="")


def _frame_csv(rows: pd.DataFrame) -> bytes:
    return tables.as_csv(list(rows.columns), [list(row) for row in rows.itertuples(index=False)])


def subtitle(measured: Frames, summary: Summary) -> str:
    """Return machine, workload, seeds and source of convergence in one line."""
    described = measured.machine.machine
    device = "" if described.device_kind in described.name else f" ({described.device_kind})"
    return origin(measured, summary).replace(summary.machine, f"{summary.machine}{device}", 1)


def verdicts(summary: Summary) -> Table | None:
    """Return each claim of the 2015 experiment with the verdict of these measurements; None without verdicts."""
    rows = [
        TableRow([Entry(str(one.claim)), Entry(one.statement), Entry(one.verdict), Entry(one.numbers)])
        for one in summary.verdicts
    ]
    columns = (
        Column("Claim"),
        Column("Statement", prose=True),
        Column("Verdict", text=True),
        Column("Because", prose=True),
    )
    caption = (
        "Claims of a widely read 2015 experiment with LeNet on MNIST, each judged by the measurements of this page."
    )
    return Table(caption, columns, rows) if rows else None


def looks(summary: Summary) -> Table | None:
    """Return the looks of a study; None where every batch size got as many seeds."""
    if summary.looks is None:
        return None
    titles = ("Look", "Seeds", "Chance of an error")
    columns = [*map(Column, titles), *(Column(title, text=True) for title in ("Compared", "Out", "Joined"))]
    rows = [
        TableRow(
            [
                Entry(str(one.number), one.number),
                Entry(str(one.seeds), one.seeds),
                Entry(number_format.percent(one.alpha), one.alpha),
                *(Entry(number_format.listed(sizes) or "none") for sizes in (one.compared, one.out, one.added)),
            ]
        )
        for one in summary.looks.made
    ]
    caption = "Every comparison that decided which batch sizes got more seeds. A batch size that is out stays out."
    return Table(caption, columns, rows)


def verifications(measured: Frames) -> Table | None:
    """Return the runs that were trained alone to the target, with the steps and the time predicted for them."""
    same = ["batch_size", "learning_rate", "options", "seed", "status", "predicted_steps", "steps"]
    runs = measured.verifications.groupby(same, dropna=False, as_index=False)
    timed = runs.agg(runs=("seconds", "size"), seconds=("seconds", "median"), predicted=("predicted_seconds", "median"))
    rows = [TableRow(_verified(run)) for run in timed.to_dict("records")]
    titles = ("Batch size", "Learning rate", "Seed", "Status", "Runs", "Steps predicted", "Steps measured")
    titles += ("Time predicted", "Time measured", "Difference", "Difference per step")
    columns = [Column(title, text=title == "Status") for title in titles]
    caption = (
        "Each run was trained to the target again, alone. Predicted time = steps of the mapped run x measured seconds "
        "per step. The time of a repeated run is the median. Mapped and single runs round differently, so one may "
        "reach the target an evaluation later than the other. The last column compares the speed alone."
    )
    if np.any(values(timed, "predicted") < SHORT_RUN_SECONDS):
        caption += " In runs as short as these, starting a call for each evaluation takes longer than the steps do."
    return Table(caption, columns, rows) if rows else None


def _verified(run: Mapping[str, Any]) -> list[Entry]:
    off = run["seconds"] / run["predicted"] - 1 if run["predicted"] > 0 else None
    steps = run["predicted_steps"] / run["steps"] if run["steps"] > 0 else math.nan
    return [
        Entry(number_format.whole(run["batch_size"]), run["batch_size"]),
        Entry(number_format.point(run["learning_rate"], dict(run["options"])), run["learning_rate"]),
        Entry(number_format.whole(run["seed"])),
        Entry(run["status"].replace("_", " ")),
        Entry(number_format.whole(run["runs"]), run["runs"]),
        entry(run["predicted_steps"], number_format.whole),
        entry(run["steps"], number_format.whole),
        entry(run["predicted"], number_format.seconds),
        entry(run["seconds"], number_format.seconds),
        entry(off, _off),
        entry(None if off is None else (1 + off) * steps - 1, _off),
    ]


def _off(share: float) -> str:
    return f"{100 * share:+.1f}%"


def further_targets(summary: Summary) -> Table | None:
    """Return the answers for other targets, from the same learning curves; None without any."""
    rows = [TableRow(_further_cells(one, summary.goal)) for one in summary.further_targets]
    columns = [Column("Target"), Column("Fastest"), Column("Time"), Column("Tied", text=True)]
    columns += [Column("Critical batch size"), Column("Reached by", text=True)]
    caption = "Other targets, read from the same learning curves."
    goal = summary.goal
    harder = [one for one in summary.further_targets if goal and goal.better(one.threshold, goal.threshold)]
    if goal and (ends := [one.within_epochs for one in harder if one.within_epochs]):
        within, own = number_format.epochs(ends[0]), number_format.target(goal)
        side = "above" if goal.direction == "at least" else "below"
        caption += f" Targets {side} {own} are judged within {within}, because runs that reach {own} may end there."
    if any(one.unconfirmed for one in summary.further_targets):
        caption += f" {UNCONFIRMED} not confirmed: judged by the seeds that also chose the learning rate."
    return Table(caption, columns, rows) if rows else None


def _further_cells(one: FurtherTarget, goal: Goal | None) -> list[Entry]:
    best, critical = one.time_optimal, one.critical_batch_size
    return [
        Entry(number_format.target(goal.at(one.threshold)) if goal else UNKNOWN, one.threshold),
        Entry(str(best.batch_size), best.batch_size) if best else Entry(UNKNOWN),
        entry(best.seconds if best else None, number_format.seconds),
        Entry(_tied_list(best)),
        entry(critical.value if critical else None, lambda value: number_format.number(value, 2)),
        Entry(
            number_format.listed(f"{size}{UNCONFIRMED * (size in one.unconfirmed)}" for size in one.reached) or "none"
        ),
    ]


def _tied_list(best: Optimum | None) -> str:
    return number_format.listed(size for size in best.tied if size != best.batch_size) or "none" if best else UNKNOWN


def several_devices(summary: Summary) -> Table | None:
    """Return speed, updates and epochs of every batch that was divided among several devices; None without any."""
    speed = f"{summary.example.capitalize()}s/s"
    titles = ("Devices", "Batch size", speed, "Efficiency: same batch", "Efficiency: one batch per device")
    joined = ("Updates per epoch", "Epochs to target", "Ratio to epochs at one part", "Time to target")
    caption = (
        "A batch is divided into equal parts, one per device. Efficiency is the speed divided by the product of the"
        " number of devices and the speed of one device. The one device trains either the same batch or one part of it."
        " The ratio divides the epochs at the whole batch size by the epochs at the size of one part."
    )
    note = f" Here {VIRTUAL}." if summary.virtual_devices else ""
    rows = [TableRow(_parallel_cells(one)) for one in summary.data_parallel]
    return Table(caption + note, [Column(title) for title in (*titles, *joined)], rows) if rows else None


def _parallel_cells(one: ParallelPoint) -> list[Entry]:
    return [
        Entry(str(one.devices), one.devices),
        Entry(str(one.batch_size), one.batch_size),
        entry(one.examples_per_second, number_format.short),
        entry(one.strong_efficiency, number_format.percent),
        entry(one.weak_efficiency, number_format.percent),
        entry(one.updates_per_epoch, number_format.number),
        entry(one.epochs_to_target, number_format.number),
        entry(one.epochs_ratio, number_format.number),
        entry(one.time_to_target, number_format.seconds),
    ]


def machine(measured: Frames) -> Table:
    """Return the machine and every software environment that the rows name."""
    described = measured.machine.machine
    columns = Column("Item", text=True), Column("Value", prose=True)
    before = measured.machine.trained_on
    except_before = ", except the trials that were trained before" if before else ""
    caption = f"The rows were measured on this machine with this software{except_before}."
    if measured.imported:
        return Table(caption, columns, [TableRow([Entry("Device"), Entry(described.device_kind)])])
    memory = described.device_memory_bytes
    pairs = [
        ("Device", f"{described.device_count} x {described.device_kind} ({described.platform})"),
        ("Device memory", number_format.mebibytes(memory) if memory else "not reported"),
        ("Processor", f"{described.cpu}, {described.cpu_cores} cores"),
        ("Memory", number_format.mebibytes(described.host_memory_bytes)),
    ]
    pairs += [("Trained before", trained_on(one)) for one in before]
    for name, software in sorted(measured.machine.environments.items()):
        packages = ", ".join(f"{package} {version}" for package, version in sorted(software.packages.items()))
        pairs.append((f"Environment {name[:8]}", f"Python {software.python}, {software.os}, {packages}"))
        extras = {"driver": software.driver or "", "XLA flags": software.xla_flags, **software.settings}
        set_here = "; ".join(f"{key} {value}" for key, value in extras.items() if value)
        pairs += [("Settings", set_here)] if set_here else []
    rows = [TableRow([Entry(name), Entry(text)]) for name, text in pairs]
    return Table(caption, columns, rows)


def reproduce(measured: Frames, summary: Summary) -> str:
    """Return the commands that measure this again."""
    if measured.imported:
        speeds = " --throughput CSV" if measured.amounts.timed_in else ""
        return f"batchscale analyze --convergence CSV{speeds} --out DIR"
    joined = " --convergence-from FOLDER" if summary.convergence_from else ""
    source = summary.experiment if summary.experiment in shipped() else "experiment.toml"
    return f"batchscale run {source}{joined}\nbatchscale report results/local/{summary.experiment}/MACHINE"

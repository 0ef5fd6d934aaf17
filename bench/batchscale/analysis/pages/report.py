"""The report of one results folder: summary, figures, tables, and a page that stands alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from batchscale.analysis import figures, number_format
from batchscale.analysis.figures import style
from batchscale.analysis.frames import frames
from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import values
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.pages import html, sections, tables
from batchscale.analysis.pages.html import PageFigure
from batchscale.analysis.summary import summary_file
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.summary_types import Summary
from batchscale.analysis.text import answer, method
from batchscale.records import results_folder, row_files

LARGEST_EMBEDDED_BYTES = 150_000
NAME = results_folder.REPORT
FILES = (*results_folder.PUBLISHED, results_folder.SUMMARY)
"""The other files of a results folder, to which the page links where they exist."""


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


def write_report(folder: Path) -> Summary:
    """Write `summary.json`, `figures/`, the CSV files and `report.html` into a results folder.

    Returns the summary that they were made from. The page is `folder / NAME`.

    Raises:
        InputError: when the folder's files are missing or not valid, or the disk refuses.
    """
    sweep = Sweep.of(frames.load(folder))
    summary = summarize(sweep)
    summary_file.write(folder, summary)
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
        subtitle=sections.subtitle(measured, summary),
        notices=answer.notices(summary),
        answer=answer.answer(summary),
        facts_shown=answer.facts(summary),
        plots=plots,
        not_drawn=not_drawn,
        batch_sizes=tables.batch_size_table(summary),
        timed_variants=tables.timed_variants_table(measured),
        downloads=list(_write_csv(folder, measured, summary)),
        further=sections.further_targets(summary),
        several_devices=sections.several_devices(summary),
        verdicts=sections.verdicts(summary),
        verified=sections.verifications(measured),
        method=method.paragraphs(sweep, summary),
        machine_table=sections.machine(measured),
        reproduce=sections.reproduce(measured, summary),
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
    if np.isnan(values(trials, "best_ema_accuracy")).all():
        trials = trials.drop(columns="best_ema_accuracy")
    contents = {
        "cells.csv": ("one line per batch size", tables.as_csv(*tables.flat(summary))),
        "trials.csv": ("one line per training run", _frame_csv(trials)),
        "rounds.csv": ("one line per timed round", _frame_csv(measured.rounds)),
    }
    for name, (content, data) in contents.items():
        row_files.write_whole(folder / name, data)
        small = len(data) <= LARGEST_EMBEDDED_BYTES
        yield Download(name, html.data_address(data, "text/csv") if small else name, content)


def _frame_csv(rows: pd.DataFrame) -> bytes:
    return tables.as_csv(list(rows.columns), [list(row) for row in rows.itertuples(index=False)])

"""One results folder, read: summary, figures, tables, and a page that stands alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from markupsafe import Markup

from batchscale.analysis import number_format
from batchscale.analysis.figures import draw, encode, style, write_figures
from batchscale.analysis.frames import frames
from batchscale.analysis.frames.frames import ROW_FILES, Frames
from batchscale.analysis.frames.schema import values
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.pages import (
    batch_size_table,
    inline_svg,
    page_templates,
    sections,
    text_table,
    timed_variants_table,
)
from batchscale.analysis.pages.page_templates import Shown
from batchscale.analysis.summary import summary_file as summaries
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.summary_types import Summary
from batchscale.analysis.text import answer, method
from batchscale.records import row_files

LARGEST_INLINE_BYTES = 300_000
LARGEST_LINKED_BYTES = 150_000
NAME = "report.html"
FILES = ("experiment.toml", "machine.json", *ROW_FILES, "summary.json")
"""What else a results folder holds, linked where it is there."""


@dataclass(frozen=True)
class Missing:
    """A figure the rows do not support."""

    title: str
    reason: str


@dataclass(frozen=True)
class Download:
    """A tidy table: inside the page where it is small, else the file beside it."""

    name: str
    address: str
    says: str


def write_report(folder: Path) -> Summary:
    """Write `summary.json`, `figures/`, the tidy CSV files and `report.html` into a results folder.

    Returns the summary that they were made from. The page is `folder / NAME`.

    Raises:
        InputError: when the folder's files are missing or not valid, or the disk refuses.
    """
    measured = frames.load(folder)
    summary = summarize(Sweep.of(measured))
    summaries.write(folder, summary)
    write_page(folder, measured, summary)
    return summary


def write_page(folder: Path, measured: Frames, summary: Summary, home: str | None = None) -> Path:
    """Write the figures, the CSV files and the page of a summary that is already made; returns the page.

    `home` is the address of the page to go back to, where there is one.
    """
    plots, missing = _show_all(folder / "figures", measured, summary)
    page = page_templates.render(
        "report.html.jinja",
        title=summary.title,
        machine=summary.machine,
        subtitle=sections.subtitle(measured, summary),
        notices=answer.notices(summary),
        answer=answer.answer(summary),
        facts_shown=answer.facts(summary),
        plots=plots,
        not_drawn=missing,
        cells=batch_size_table.table(summary),
        ways=timed_variants_table.table(measured),
        downloads=_write_tables(folder, measured, summary),
        further=sections.further_targets(summary),
        several_devices=sections.several_devices(summary),
        verdicts=sections.verdicts(summary),
        verified=sections.verifications(measured),
        method=method.paragraphs(measured, summary),
        machine_table=sections.machine(measured),
        reproduce=sections.reproduce(measured, summary),
        files=[name for name in FILES if (folder / name).is_file()],
        home=home,
    )
    row_files.write_whole(folder / NAME, page)
    return folder / NAME


def _show_all(folder: Path, measured: Frames, summary: Summary) -> tuple[list[Shown], list[Missing]]:
    """Write every figure, and show it for wide and for narrow screens; what cannot be drawn comes with the reason."""
    rows = batch_size_table.described(summary)
    shown, missing = [], []
    write_figures(measured, summary, folder)
    with style.applied(style.ONE_COLUMN_INCHES):
        for drawing in draw(measured, summary):
            plot = drawing.plot
            if drawing.figure is None:
                missing.append(Missing(plot.title, drawing.reason))
                continue
            finding = plot.finding(measured, summary)
            wide = (folder / f"{plot.name}.{form}" for form in ("svg", "png"))
            narrow = (encode(drawing.figure, form) for form in ("svg", "png"))
            images = [
                _image((path.read_bytes() for path in wide), f"wide-{plot.name}", finding, rows),
                _image(narrow, f"narrow-{plot.name}", finding, rows),
            ]
            shown.append(Shown(plot.name, plot.title, plot.caption, *images, remark=plot.remark(summary)))
    return shown, missing


def _image(files: Iterator[bytes], name: str, finding: str, rows: dict[int, str]) -> Markup:
    """Of an SVG and a PNG file the first inline, or the second where so much is drawn that the page would be heavy."""
    svg = next(files)
    if len(svg) <= LARGEST_INLINE_BYTES:
        return inline_svg.inline(svg, name, finding, rows)
    return Markup('<img src="{}" alt="{}">').format(page_templates.data_address(next(files), "image/png"), finding)


def _write_tables(folder: Path, measured: Frames, summary: Summary) -> list[Download]:
    trials = measured.trials.assign(
        options=[number_format.assignments(dict(one)) for one in measured.trials["options"]]
    )
    if np.isnan(values(trials, "best_ema_accuracy")).all():
        trials = trials.drop(columns="best_ema_accuracy")
    tables = {
        "cells.csv": ("one line per batch size", text_table.as_csv(*batch_size_table.flat(summary))),
        "trials.csv": ("one line per training run", _frame_csv(trials)),
        "rounds.csv": ("one line per timed round", _frame_csv(measured.rounds)),
    }
    downloads = []
    for name, (says, content) in tables.items():
        row_files.write_whole(folder / name, content)
        small = len(content) <= LARGEST_LINKED_BYTES
        downloads.append(Download(name, page_templates.data_address(content, "text/csv") if small else name, says))
    return downloads


def _frame_csv(rows: pd.DataFrame) -> bytes:
    return text_table.as_csv(list(rows.columns), [list(row) for row in rows.itertuples(index=False)])

"""One results folder, read: summary, figures, tables, and a page that stands alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from markupsafe import Markup

from bench import store
from bench.analysis import answer, cell_table, embed, frames, grid, pages, sections, style
from bench.analysis import summary as summaries
from bench.analysis.figures import Drawing, draw, encode, write_figures
from bench.analysis.frames import Frames
from bench.analysis.summarize import summarize
from bench.analysis.summary import Summary

LARGEST_INLINE_BYTES = 200_000
LARGEST_LINKED_BYTES = 150_000
NAME = "report.html"


@dataclass(frozen=True)
class Shown:
    """A figure on a page, drawn once for wide and once for narrow screens."""

    name: str
    title: str
    caption: str
    wide: Markup
    narrow: Markup


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


def write_report(folder: Path) -> Path:
    """Write `summary.json`, `figures/`, the tidy CSV files and `report.html` into a results folder; returns the page.

    Raises:
        InputError: when the folder's files are missing or not valid, or the disk refuses.
    """
    measured = frames.load(folder)
    summary = summarize(measured)
    summaries.write(folder, summary)
    write_figures(measured, summary, folder / "figures")
    return write_page(folder, measured, summary)


def write_page(folder: Path, measured: Frames, summary: Summary) -> Path:
    """Write the CSV files and the page of a summary that is already made; returns the page."""
    downloads = _write_tables(folder, measured, summary)
    plots, missing = show_all(measured, summary)
    page = pages.render(
        "report.html.jinja",
        title=summary.title,
        machine=summary.machine,
        subtitle=sections.subtitle(measured, summary),
        notices=answer.notices(summary),
        answer=answer.sentences(summary),
        facts_shown=answer.facts(summary),
        plots=plots,
        not_drawn=missing,
        cells=cell_table.table(summary),
        downloads=downloads,
        verdicts=sections.verdicts(summary),
        verified=sections.verifications(measured),
        reference=sections.reference(summary),
        further=sections.further_targets(summary),
        method=sections.method(measured, summary),
        machine_table=sections.machine(measured),
        reproduce=sections.reproduce(summary),
    )
    store.write_whole(folder / NAME, page)
    return folder / NAME


def show_all(measured: Frames, summary: Summary) -> tuple[list[Shown], list[Missing]]:
    """Every figure as a part of a page, and those that cannot be drawn with the reason."""
    rows = cell_table.described(summary)
    images: dict[float, list[Markup | None]] = {}
    drawings: list[Drawing] = []
    for width in (style.TWO_COLUMNS_INCHES, style.ONE_COLUMN_INCHES):
        with style.applied(width):
            drawings = list(draw(measured, summary))
            name = "wide" if width == style.TWO_COLUMNS_INCHES else "narrow"
            images[width] = [_image(one, name, one.plot.finding(measured, summary), rows) for one in drawings]
    shown = [
        Shown(one.plot.name, one.plot.title, one.plot.caption, wide, narrow)
        for one, wide, narrow in zip(drawings, *images.values(), strict=True)
        if wide is not None and narrow is not None
    ]
    return shown, [Missing(one.plot.title, one.reason) for one in drawings if one.figure is None]


def _image(drawing: Drawing, prefix: str, finding: str, rows: dict[int, str]) -> Markup | None:
    """Inline SVG, or a PNG where so much is drawn that SVG would make the page heavy."""
    if drawing.figure is None:
        return None
    svg = encode(drawing.figure, "svg")
    if len(svg) <= LARGEST_INLINE_BYTES:
        return embed.inline(svg, f"{prefix}-{drawing.plot.name}", finding, rows)
    address = pages.data_address(encode(drawing.figure, "png"), "image/png")
    return Markup('<img src="{}" alt="{}">').format(address, finding)


def _write_tables(folder: Path, measured: Frames, summary: Summary) -> list[Download]:
    tables = {
        "cells.csv": ("one line per batch size", grid.as_csv(*cell_table.flat(summary))),
        "trials.csv": ("one line per training run", _frame_csv(measured.trials)),
        "rounds.csv": ("one line per timed round", _frame_csv(measured.rounds)),
    }
    downloads = []
    for name, (says, content) in tables.items():
        store.write_whole(folder / name, content)
        small = len(content) <= LARGEST_LINKED_BYTES
        downloads.append(Download(name, pages.data_address(content, "text/csv") if small else name, says))
    return downloads


def _frame_csv(rows: pd.DataFrame) -> bytes:
    return grid.as_csv(list(rows.columns), [list(row) for row in rows.itertuples(index=False)])

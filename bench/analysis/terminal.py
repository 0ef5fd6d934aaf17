"""The answer on a terminal: a table with the winner marked, plain text when piped."""

from __future__ import annotations

import sys
from typing import TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.analysis import cell_table, sentences
from bench.analysis.grid import Grid
from bench.analysis.summary import Summary
from bench.errors import visible

PIPED_WIDTH = 240
"""Wide enough for rates with three options beside them."""


def render(summary: Summary, file: TextIO | None = None) -> None:
    """Print the answer in two sentences and the table of batch sizes.

    What comes from files is printed as `Text`, in which neither markup nor an escape sequence means anything.
    """
    console = console_for(file)
    for line in sentences.notices(summary):
        console.print(plain(line), style="bold yellow")
    console.print(table(cell_table.table(summary), cell_table.CORE))
    for sentence in sentences.answer(summary):
        console.print(plain(sentence), style="bold")


def console_for(file: TextIO | None = None) -> Console:
    """A console on `file` (standard output); one that is not a terminal gets no colour and is not cut to 80 columns."""
    to = file or sys.stdout
    return Console(file=to, highlight=False, soft_wrap=not to.isatty(), width=None if to.isatty() else PIPED_WIDTH)


def table(grid: Grid, columns: tuple[int, ...] | None = None) -> Table:
    """A grid, or some of its columns, the best row marked with a star."""
    chosen = columns or tuple(range(len(grid.columns)))
    shown = Table(box=None, pad_edge=False, header_style="bold", caption=plain(grid.caption), caption_justify="left")
    shown.add_column("")
    for at in chosen:
        wraps = grid.columns[at].text or grid.columns[at].prose
        shown.add_column(plain(grid.columns[at].title), justify="left" if wraps else "right", no_wrap=not wraps)
    for line in grid.rows:
        entries = [plain(line.cells[at].text) for at in chosen]
        shown.add_row("*" if line.best else "", *entries, style="bold green" if line.best else "")
    return shown


def plain(text: str) -> Text:
    """Text in which neither markup nor a control character of a file means anything to the terminal."""
    return Text(visible(text))

"""The answer on a terminal: a table with the fastest batch size marked, plain text when piped."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from batchscale.analysis import number_format
from batchscale.analysis.pages import tables
from batchscale.analysis.pages.tables import Table
from batchscale.analysis.summary_types import Summary
from batchscale.analysis.text import answer
from batchscale.printable import visible

PIPED_WIDTH = 240
"""Wide enough for learning rates with three other options."""
UNBOUNDED = 10_000


def render(summary: Summary, file: TextIO | None = None) -> None:
    """Print the notices, the table of batch sizes and the answer.

    They go to `file`, or to standard output when it is None. Words from files are printed as `Text`, in which neither
    markup nor an escape sequence has a meaning.
    """
    console = console_for(file)
    for line in answer.notices(summary):
        console.print(plain(line), style="bold yellow")
    whole = tables.batch_size_table(summary)
    core, first_out = (tables.places(whole, names) for names in (tables.CORE, tables.FIRST_OUT))
    shown = replace(whole, caption=tables.caption(whole.columns[at].name for at in core))
    console.print(table(shown, core, first_out))
    for paragraph in answer.answer(summary):
        console.print(plain(paragraph), style="bold")


class PipedConsole(Console):
    """A console that leaves a closed pipe to the command line, which ends quietly and with success."""

    def on_broken_pipe(self) -> None:
        """Raise the error again."""
        raise BrokenPipeError


def console_for(file: TextIO | None = None) -> Console:
    """Return a console on `file` (standard output when None); if it is no terminal, without colour and not cut."""
    to = file or sys.stdout
    return PipedConsole(file=to, highlight=False, soft_wrap=not to.isatty(), width=None if to.isatty() else PIPED_WIDTH)


@dataclass(frozen=True)
class FittedTable:
    """A table that fits the terminal without cutting a text: rows become taller, then columns are left out.

    Attributes:
        table: the whole table.
        columns: indices of the columns to print.
        first_out: the columns to leave out where there is no room, in this order.
    """

    table: Table
    columns: Sequence[int]
    first_out: Sequence[int]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the first layout that has room, else the narrowest."""
        unbounded, layouts = options.update(width=UNBOUNDED), list(self._layouts())
        needed = [Measurement.get(console, unbounded, shown).minimum for shown in layouts]
        fitting = (shown for shown, width in zip(layouts, needed, strict=True) if width <= options.max_width)
        yield next(fitting, layouts[-1])

    def _layouts(self) -> Iterator[RichTable]:
        yield self._table(self.columns, folded=False)
        for count in range(len(self.first_out) + 1):
            yield self._table([at for at in self.columns if at not in self.first_out[:count]], folded=True)

    def _table(self, columns: Sequence[int], *, folded: bool) -> RichTable:
        absent = [self.table.columns[at].title for at in self.columns if at not in columns]
        caption = f"{self.table.caption} No room for {number_format.listed(absent)}." if absent else self.table.caption
        shown = RichTable(box=None, pad_edge=False, header_style="bold", caption=plain(caption), caption_justify="left")
        shown.add_column("", min_width=1)
        columns_of_texts = [self._add_column(shown, at, folded=folded) for at in columns]
        for row, *texts in zip(self.table.rows, *columns_of_texts, strict=True):
            shown.add_row("*" if row.best else "", *texts, style="bold green" if row.best else "")
        return shown

    def _add_column(self, shown: RichTable, at: int, *, folded: bool) -> list[Text]:
        """Add a column whose numbers stay whole; return its texts."""
        column = self.table.columns[at]
        wraps = column.text or column.prose
        texts, title = [visible(row.entries[at].text) for row in self.table.rows], visible(column.title)
        if folded and not wraps:
            texts = [text.replace(" (", "\n(").replace(", ", ",\n") for text in texts]
            title = "\n".join(textwrap.wrap(title, max([1, *map(_width, texts)]), break_long_words=False))
        least = None if wraps else max(map(_width, [title, *texts]))
        justify = "left" if wraps else "right"
        shown.add_column(Text(title), justify=justify, no_wrap=not wraps, min_width=least, overflow="fold")
        return [Text(text) for text in texts]


def table(whole: Table, columns: Sequence[int] | None = None, first_out: Sequence[int] = ()) -> FittedTable:
    """Return a table, or some of its columns, to print on a console, the best row marked with a star.

    Args:
        whole: the table with all its columns.
        columns: indices of the columns; all when None.
        first_out: the columns that a narrow terminal leaves out, in this order; the last ones first if empty.
    """
    chosen = columns or range(len(whole.columns))
    return FittedTable(whole, chosen, first_out or chosen[:0:-1])


def _width(text: str) -> int:
    return max(map(cell_len, text.splitlines()), default=0)


def plain(text: str) -> Text:
    """Return text in which neither markup nor a control character of a file has a meaning to the terminal."""
    return Text(visible(text))

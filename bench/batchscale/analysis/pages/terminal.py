"""The answer on a terminal: a table with the winner marked, plain text when piped."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from batchscale.analysis import number_format
from batchscale.analysis.pages import batch_size_table
from batchscale.analysis.pages.text_table import Grid
from batchscale.analysis.summary_types import Summary
from batchscale.analysis.text import answer
from batchscale.printable import visible

PIPED_WIDTH = 240
"""Wide enough for rates with three options beside them."""
UNBOUNDED = 10_000


def render(summary: Summary, file: TextIO | None = None) -> None:
    """Print the answer in two sentences and the table of batch sizes.

    What comes from files is printed as `Text`, in which neither markup nor an escape sequence means anything.
    """
    console = console_for(file)
    for line in answer.notices(summary):
        console.print(plain(line), style="bold yellow")
    console.print(table(batch_size_table.table(summary), batch_size_table.CORE, batch_size_table.FIRST_OUT))
    for sentence in answer.answer(summary):
        console.print(plain(sentence), style="bold")


def console_for(file: TextIO | None = None) -> Console:
    """A console on `file` (standard output); one that is not a terminal gets no colour and is not cut to 80 columns."""
    to = file or sys.stdout
    return Console(file=to, highlight=False, soft_wrap=not to.isatty(), width=None if to.isatty() else PIPED_WIDTH)


@dataclass(frozen=True)
class Fitted:
    """Columns of a grid, of which nothing is cut: where there is no room, rows become taller, then `first_out` go."""

    grid: Grid
    columns: Sequence[int]
    first_out: Sequence[int]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The first layout that has room, else the narrowest."""
        unbounded, layouts = options.update(width=UNBOUNDED), list(self._layouts())
        needed = [Measurement.get(console, unbounded, shown).minimum for shown in layouts]
        fitting = (shown for shown, width in zip(layouts, needed, strict=True) if width <= options.max_width)
        yield next(fitting, layouts[-1])

    def _layouts(self) -> Iterator[Table]:
        yield self._table(self.columns, folded=False)
        for count in range(len(self.first_out) + 1):
            yield self._table([at for at in self.columns if at not in self.first_out[:count]], folded=True)

    def _table(self, columns: Sequence[int], *, folded: bool) -> Table:
        absent = [self.grid.columns[at].title for at in self.columns if at not in columns]
        caption = f"{self.grid.caption} No room for {number_format.listed(absent)}." if absent else self.grid.caption
        shown = Table(box=None, pad_edge=False, header_style="bold", caption=plain(caption), caption_justify="left")
        shown.add_column("", min_width=1)
        columns_of_texts = [self._add_column(shown, at, folded=folded) for at in columns]
        for line, *texts in zip(self.grid.rows, *columns_of_texts, strict=True):
            shown.add_row("*" if line.best else "", *texts, style="bold green" if line.best else "")
        return shown

    def _add_column(self, shown: Table, at: int, *, folded: bool) -> list[Text]:
        """Add a column whose numbers stay whole; returns its cells."""
        column = self.grid.columns[at]
        wraps = column.text or column.prose
        texts, title = [visible(line.cells[at].text) for line in self.grid.rows], visible(column.title)
        if folded and not wraps:
            texts = [text.replace(" (", "\n(").replace(", ", ",\n") for text in texts]
            title = "\n".join(textwrap.wrap(title, max([1, *map(_width, texts)]), break_long_words=False))
        least = None if wraps else max(map(_width, [title, *texts]))
        justify = "left" if wraps else "right"
        shown.add_column(Text(title), justify=justify, no_wrap=not wraps, min_width=least, overflow="fold")
        return [Text(text) for text in texts]


def table(grid: Grid, columns: Sequence[int] | None = None, first_out: Sequence[int] = ()) -> Fitted:
    """A grid, or some of its columns, the best row marked with a star.

    A narrow terminal does without `first_out`, in that order; unless given, without the last ones.
    """
    chosen = columns or range(len(grid.columns))
    return Fitted(grid, chosen, first_out or chosen[:0:-1])


def _width(text: str) -> int:
    return max(map(cell_len, text.splitlines()), default=0)


def plain(text: str) -> Text:
    """Text in which neither markup nor a control character of a file means anything to the terminal."""
    return Text(visible(text))

"""The answer on a terminal."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import msgspec
import pytest
from batchscale.analysis.pages import tables, terminal
from batchscale.analysis.pages.tables import Column, Entry, Table, TableRow
from rich.console import Console


def rendered(summary):
    file = io.StringIO()
    terminal.render(summary, file)
    return file.getvalue()


def test_the_winner_is_marked(summarized):
    (line,) = [line for line in rendered(summarized).splitlines() if line.startswith("*")]
    assert line.split()[1] == str(summarized.time_optimal.batch_size)


def test_piped_output_is_plain_and_not_cut(summarized):
    shown = rendered(summarized)
    assert "\x1b" not in shown
    assert "…" not in shown
    assert len([line for line in shown.splitlines() if "reached" in line]) >= len(summarized.cells) - 1


def test_a_folder_in_which_nothing_was_measured_is_answered_too(summarized, on_screen):
    nothing = msgspec.structs.replace(summarized, cells=[], time_optimal=None)
    assert "Batch size" in rendered(nothing)
    assert any("Batch" in line for line in on_screen(nothing, 40))


def test_names_can_neither_colour_nor_move_the_cursor(summarized):
    hostile = msgspec.structs.replace(summarized, machine="[bold red]evil[/]\x1b[2J\x07", notice="[link=x]\x1b]0;t\x07")
    shown = rendered(hostile)
    assert "[bold red]evil[/]" in shown
    assert "[link=x]" in shown
    assert not any(letter in shown for letter in "\x1b\x07")


class Screen(io.StringIO):
    """A file that says that it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture
def on_screen(monkeypatch):
    """What stands on the lines of a terminal of so many columns."""

    def show(summary, columns):
        for name, value in {"COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"}.items():
            monkeypatch.setenv(name, value)
        screen = Screen()
        terminal.render(summary, screen)
        return re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue()).splitlines()

    return show


def missing(summary, lines, *titles):
    """Words of these columns, headings included, that the lines do not hold whole."""
    table, shown = tables.batch_size_table(summary), " ".join(lines).split()
    columns = [at for at, column in enumerate(table.columns) if column.title in titles]
    texts = [
        text for at in columns for text in (table.columns[at].title, *(row.entries[at].text for row in table.rows))
    ]
    return [word for text in texts for word in text.split() if word not in shown]


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 132, 240])
def test_a_terminal_shows_the_mark_and_whole_numbers_at_any_width(summarized, on_screen, columns):
    lines = on_screen(summarized, columns)
    assert missing(summarized, lines, "Batch size", "Time to target") == []
    (line,) = [line for line in lines if line.startswith("*")]
    assert line.split()[1] == str(summarized.time_optimal.batch_size)
    assert max(map(len, lines)) <= columns
    assert "…" not in "".join(lines)


def test_a_terminal_of_80_columns_tells_what_became_of_each_batch_size_and_what_has_no_room(summarized, on_screen):
    lines = on_screen(summarized, 80)
    assert missing(summarized, lines, "Status", "Learning rate", "Best accuracy") == []
    assert "No room for Examples/s and Epochs to target." in " ".join(" ".join(lines).split())
    wide = on_screen(summarized, 240)
    assert missing(summarized, wide, *(set(tables.CORE) - set(tables.WHERE_MEASURED) - {"Best score"})) == []
    assert "No room" not in " ".join(wide)


def test_other_tables_do_without_their_last_columns():
    made = Table("Rates.", [Column("Side", text=True), Column("Speed"), Column("Need")])
    made = replace(made, rows=[TableRow([Entry("here"), Entry("1234567 (1 to 2)"), Entry("7654321 (3 to 4)")])])
    for columns, shown in ((80, "Speed Need"), (22, "Speed")):
        file = io.StringIO()
        Console(file=file, width=columns).print(terminal.table(made))
        assert file.getvalue().split("\n")[0].split() == ["Side", *shown.split()]
        assert "1234567" in file.getvalue()
    assert "No room for Need." in " ".join(file.getvalue().split())

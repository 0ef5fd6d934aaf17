"""The answer on a terminal."""

from __future__ import annotations

import io

import msgspec

from bench.analysis import terminal


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


def test_names_can_neither_colour_nor_move_the_cursor(summarized):
    hostile = msgspec.structs.replace(summarized, machine="[bold red]evil[/]\x1b[2J\x07", notice="[link=x]\x1b]0;t\x07")
    shown = rendered(hostile)
    assert "[bold red]evil[/]" in shown
    assert "[link=x]" in shown
    assert not any(letter in shown for letter in "\x1b\x07")

"""Time left, by arithmetic on a clock whose truth is known."""

import io

import msgspec
import pytest
from batchscale.config import plan
from batchscale.measure.control.progress import Item, Progress, confirm_trials, later_blocks, readable
from tiny_workload import experiment


class Terminal(io.StringIO):
    def isatty(self):
        return True


def progress(output=None):
    now = [0.0]
    made = Progress(output=output or io.StringIO(), clock=lambda: now[0])
    made.begin("tiny")
    return made, now


def test_time_left_is_guessed_then_measured():
    made, _ = progress()
    made.plan("search", 1000, 10.0)
    assert made.remaining_seconds() == 100
    made.advance("search", 10, 0.5)
    assert made.remaining_seconds() == 99, "one percent is too little to measure the rest by"
    made.advance("search", 490, 9.5)
    assert made.remaining_seconds() == pytest.approx(500 / 50)


def test_items_and_experiments_add_up():
    made, _ = progress()
    made.plan("search", 100, 10.0)
    made.plan("confirm", 50, 10.0)
    made.begin("other")
    made.plan("search", 30, 10.0)
    assert made.remaining_seconds() == 18
    made.close("search")
    assert made.remaining_seconds() == 15


def test_more_work_than_expected_never_makes_time_left_negative():
    item = Item(expected=10, guessed_rate=1, done=12, seconds=12)
    assert item.remaining_seconds() == 0
    made, _ = progress()
    made.plan("search", 10, 1.0)
    made.advance("search", 25, 5)
    assert made.remaining_seconds() == 0


def test_work_beyond_the_plan_is_shown_with_the_most_that_it_can_take():
    output = io.StringIO()
    made, now = progress(output)
    made.plan("confirm", 100, 10.0)
    for trained, at_most in ((60, 0), (40, 60), (30, 10)):
        now[0] += 10.0
        made.advance("confirm", trained, trained / 10, at_most=at_most)
    made.close("confirm")
    made.show("page", force=True)
    shown = ["confirm | 4 s", "confirm | up to 6 s", "confirm | up to 1 s", "page | 0 s"]
    assert output.getvalue().splitlines() == [f"tiny | {line} left" for line in shown]


def test_closed_work_leaves_nothing_and_unknown_work_is_no_error():
    made, _ = progress()
    made.plan("search", 10, 1.0)
    made.close("search")
    made.close("never planned")
    assert made.remaining_seconds() == 0


def test_lines_come_now_and_then_where_nobody_watches():
    output = io.StringIO()
    made, now = progress(output)
    made.plan("search", 100, 1.0)
    for second in range(25):
        now[0] = float(second)
        made.advance("search", 1, 1.0, "B=4")
    lines = output.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0] == "tiny | search B=4 | 1 min 39 s left"


def test_the_time_left_is_not_shown_before_all_work_is_planned():
    output = io.StringIO()
    made, now = progress(output)
    made.plan("search", 100, 1.0)
    made.show("trying", planned=False)
    now[0] = 100.0
    made.show("training")
    assert output.getvalue().splitlines() == ["tiny | trying", "tiny | training | 1 min 40 s left"]


def test_a_terminal_has_one_live_line_and_lines_that_stay():
    output = Terminal()
    made, _ = progress(output)
    made.plan("search", 100, 1.0)
    made.advance("search", 1, 1.0)
    made.say("done")
    assert output.getvalue().count("\r\x1b[2K") == 2
    assert output.getvalue().endswith("done\n")


def test_a_live_line_is_no_wider_than_the_terminal_which_could_not_clear_it(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    output = Terminal()
    made, _ = progress(output)
    made.show("training very many things at once")
    assert output.getvalue() == "\r\x1b[2Ktiny | training ver"


def test_no_name_of_a_folder_acts_on_the_terminal():
    output = io.StringIO()
    made, _ = progress(output)
    made.say("a\x1b[2J: torn\nmended\r")
    assert output.getvalue() == "a\\x1b[2J: torn\nmended\\r\n"


def test_quiet_is_quiet():
    output = io.StringIO()
    made = Progress(output=output, quiet=True)
    made.plan("search", 1, 1.0)
    made.advance("search", 1, 1.0)
    made.say("hello")
    assert output.getvalue() == ""


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3600, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_seconds_are_readable(seconds, text):
    assert readable(seconds) == text


@pytest.mark.parametrize(("seeds", "blocks"), [(1, 0), (3, 0), (4, 0.66), (5, 1.1), (8, 1.4), (30, 1.4)])
def test_looks_plan_as_many_blocks_of_rounds_as_their_seeds_allow(seeds, blocks):
    looked = experiment(seeds={"search": 1, "confirm": seeds}, confirm={"looks": [3, 6, 12, 24]})
    assert later_blocks(looked) == pytest.approx(blocks)
    assert later_blocks(experiment(seeds={"search": 1, "confirm": seeds})) == 0


def test_looks_plan_the_mean_seeds_of_a_batch_size_and_the_first_ones_for_its_best_score():
    tier = plan.Tier(4, [4, 8])
    looked = experiment(seeds={"search": 1, "confirm": 10}, confirm={"looks": [3, 6]}, learning_rate={"anchor": 0.1})
    assert confirm_trials(looked, tier) == pytest.approx(2 * (0.6 * 3 * 1.2 + 0.2 * 3 + 10))
    alike = msgspec.structs.replace(looked, confirm=None)
    assert confirm_trials(alike, tier) == pytest.approx(2 * 1.6 * 10 * 1.2)

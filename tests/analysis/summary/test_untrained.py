"""What no run came to is null: batch sizes that the budget gives no step, and accuracies that nobody looked at."""

from __future__ import annotations

import csv
import io

import msgspec
import pytest
import simulated_folder
from batchscale.analysis.figures import choose, style
from batchscale.analysis.frames import frames
from batchscale.analysis.metrics import observations
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.pages import tables
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.text import answer
from batchscale.config.goal import Goal
from batchscale.records.row_types import Curve, Trial
from simulated_answers import TRUTH, answered, cell
from simulated_rows import TRUTH as SMALL
from simulated_rows import change, trained

UNTRAINED = 2048
GOAL = Goal(metric="accuracy", threshold=0.95)
NOTHING = Curve(examples=[], steps=[], accuracy=[], loss=[])


def without_steps(row):
    """A run of the largest batch size as one whose budget is less than one batch; it is tested as it was drawn."""
    if not isinstance(row, Trial) or row.batch_size != UNTRAINED:
        return row
    return change(row, status="ok", steps=0, curve=NOTHING, noise=None, test_scores={"accuracy": 0.1})


def within(epochs, rows=None, truth=TRUTH):
    experiment = simulated_folder.experiment(truth)
    experiment = change(experiment, budget=change(experiment.budget, epochs=epochs))
    return frames.from_rows(
        experiment, simulated_folder.machine_file(), simulated_folder.rows(truth) if rows is None else rows
    )


@pytest.fixture(scope="module")
def found():
    return answered(rows=list(map(without_steps, simulated_folder.rows(TRUTH))))


def test_a_batch_size_without_a_step_has_no_answer(found):
    one = cell(found, UNTRAINED)
    assert (one.status, one.message) == ("not_measured", "the training runs ended before their first step")
    assert (one.seeds, one.claims_on, one.test_score, one.best_learning_rate) == (0, None, None, None)
    for quantity in ("best_score", "epochs_to_target", "steps_to_target", "time_to_target"):
        assert msgspec.to_builtins(getattr(one, quantity)) == {"median": None, "interval": (None, None)}
    assert one.examples_per_second, "it was timed"


def test_it_is_neither_best_nor_tied_and_leaves_the_other_answers_alone(found):
    without = [row for row in simulated_folder.rows(TRUTH) if not isinstance(row, Trial) or row.batch_size != UNTRAINED]
    assert UNTRAINED not in found.score_optimal.tied + found.score_optimal_by_steps.tied
    others = answered(rows=without)
    assert change(found, cells=[], totals=others.totals) == change(others, cells=[])
    assert f"{UNTRAINED}" not in " ".join(answer.answer(found))


def test_it_is_left_blank_in_every_table(found):
    table = tables.batch_size_table(found)
    texts = {column.title: entry.text for column, entry in zip(table.columns, table.rows[-1].entries, strict=True)}
    blank = ("Learning rate", "Epochs to target", "Time to target", "Best accuracy", "Test accuracy")
    assert {texts[title] for title in blank} == {"—"}
    assert texts["Status"] == "not measured"
    *_, row = csv.DictReader(io.StringIO(tables.as_csv(*tables.flat(found)).decode()))
    assert {row[f"best_score{end}"] for end in ("", "_low", "_high")} == {""}


def test_it_is_in_no_figure_of_accuracies(found):
    (plot,) = choose(["best_score"])
    with style.applied():
        axes = plot.draw(Sweep.of(within(TRUTH.epochs)), found).axes[0]
    drawn = {round(size) for line in axes.get_lines() for size in line.get_xdata()}
    assert max(drawn) < UNTRAINED / 1.5


def test_an_accuracy_that_was_first_looked_at_after_the_budget_is_unknown_and_the_target_is_not():
    found = summarize(Sweep.of(within(0.3)))
    late = [one for one in found.cells if one.batch_size > 512]
    assert [one.best_score.median for one in late] == [None, None]
    assert all(one.status == "ok" and one.time_to_target.median for one in late)
    assert max(found.score_optimal.tied) <= 512
    assert found.score_optimal_by_steps_reason == "no training run was evaluated within the budget"
    nowhere = summarize(Sweep.of(within(0.1)))
    assert nowhere.score_optimal_reason == "no training run was evaluated within the budget"


def test_an_evaluation_at_the_end_of_the_budget_is_within_it():
    """A budget of 40000.6 examples is trained and evaluated as 40001."""
    last = Curve(examples=[40_001], steps=[40_001], accuracy=[0.7], loss=[None])
    rows = [change(trained(), batch_size=1, curve=last)]
    assert observations.best_scores(GOAL, within(4.00006, rows, SMALL).trials).high.tolist() == [-0.7]


def test_an_accuracy_of_zero_has_no_sign():
    rows = [
        change(row, curve=change(row.curve, accuracy=[0.0] * len(row.curve.scores["accuracy"])))
        if isinstance(row, Trial)
        else row
        for row in simulated_folder.rows(TRUTH)
    ]
    assert {str(one.best_score.median) for one in answered(rows=rows).cells} == {"0.0"}

"""Options searched beside the learning rate: each is compared at its own best rate, and the best is told everywhere."""

import csv
from dataclasses import replace

import msgspec
import numpy as np
import pandas as pd
import pytest
import simulated_folder
from batchscale.analysis import figures, number_format
from batchscale.analysis.figures import learning_rates
from batchscale.analysis.figures.drawing import NothingToDrawError
from batchscale.analysis.frames import frames
from batchscale.analysis.frames.schema import only, values
from batchscale.analysis.metrics import observations, scaling
from batchscale.analysis.metrics.observations import together
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.pages import tables
from batchscale.analysis.summary import build
from batchscale.analysis.text import answer
from batchscale.config import plan
from batchscale.config.experiment import LearningRate
from batchscale.config.vocabulary import Point
from batchscale.decisions.rate_choice import Choice
from hypothesis import given
from hypothesis import strategies as st
from truth import RICH

MOMENTUM = "momentum"


def replaced(summary, **cell):
    cells = [msgspec.structs.replace(one, **cell) for one in summary.cells]
    return msgspec.structs.replace(summary, cells=cells)


def test_a_value_is_worth_what_its_best_rate_makes_of_it(measured):
    best, points = (
        observations.at_best(Sweep.of(measured).searched_points, MOMENTUM),
        Sweep.of(measured).searched_points,
    )
    assert len(best) == len(RICH.batch_sizes) * len(RICH.momenta)
    for size, value, epochs in zip(best["batch_size"], best["value"], best["needed"], strict=True):
        own = only(points, (points["batch_size"] == size) & (points["options"] == ((MOMENTUM, value),)))
        assert len(own) == 5
        assert epochs == values(own, "needed").min()
        lowest, highest = own["rate"].min(), own["rate"].max()
        (chosen,) = best.loc[(best["batch_size"] == size) & (best["value"] == value)].itertuples()
        assert chosen.at_edge == (chosen.rate in (lowest, highest))
    slow, fast = (values(only(best, best["value"] == value), "needed") for value in (0.5, 0.9))
    assert np.median(slow / fast) == pytest.approx(RICH.momenta[0.5], rel=0.15)


def test_the_best_value_is_in_the_summary_the_table_the_csv_and_the_alternative_text(sweep, summarized):
    searched = [cell for cell in summarized.cells if cell.best_learning_rate is not None]
    assert len(searched) == len(RICH.batch_sizes)
    assert all(cell.best_options == RICH.best_options for cell in searched)
    (plot,) = figures.choose(["searched_options"])
    assert plot.alt_text(sweep, summarized).startswith("Best momentum: 0.9 (the largest tried) at batch sizes 4, 8, ")
    least = replaced(summarized, best_options={MOMENTUM: 0.5})
    assert plot.alt_text(sweep, least).startswith("Best momentum: 0.5 (the smallest tried) at batch sizes 4, 8, ")
    (column,) = tables.places(tables.batch_size_table(summarized), ["Learning rate"])
    assert all("momentum 0.9" in row.entries[column].text for row in tables.batch_size_table(summarized).rows)
    at_edge = replaced(summarized, at_grid_edge=True)
    assert all("(edge), momentum 0.9" in row.entries[column].text for row in tables.batch_size_table(at_edge).rows)
    names, rows = tables.flat(summarized)
    assert {row[names.index("best_options")] for row in rows} == {"momentum=0.9"}
    assert {row[names.index("best_options_for_score")] for row in rows} <= {"momentum=0.9", "momentum=0.5"}


def test_the_table_of_trials_names_the_options_of_each(measured, reported):
    with (reported / "trials.csv").open(newline="") as file:
        told = [row["options"] for row in csv.DictReader(file)]
    assert told == [f"momentum={dict(one)[MOMENTUM]}" for one in measured.trials["options"]]
    assert set(told) == {"momentum=0.5", "momentum=0.9"}


def test_a_line_for_each_value_and_none_without_a_sweep(sweep, summarized, tmp_path):
    figure = learning_rates.searched_options(sweep, summarized)
    labels = [line.get_label() for line in figure.axes[0].lines]
    assert labels == ["momentum 0.5", "momentum 0.9"]
    simulated_folder.write(tmp_path, simulated_folder.Truth())
    plain = Sweep.of(frames.load(tmp_path))
    with pytest.raises(NothingToDrawError, match="no optimizer options were searched"):
        learning_rates.searched_options(plain, build.summarize(plain))


def test_a_value_that_never_reaches_the_target_has_no_line(tmp_path):
    simulated_folder.write(tmp_path, simulated_folder.Truth(momenta={0.0: 1e6, 0.9: 1.0}))
    found = Sweep.of(frames.load(tmp_path))
    missed, reached = learning_rates.searched_options(found, build.summarize(found)).axes[0].lines
    assert np.isnan(missed.get_ydata()).all()
    assert np.isfinite(reached.get_ydata()).all()


def test_rates_of_different_momenta_are_compared_by_what_a_long_run_makes_of_them(tmp_path, monkeypatch):
    """The momentum rises with the batch size and the rate falls by as much: only the effective rate keeps its law."""
    truth = simulated_folder.Truth(momenta={0.0: 1.0, 0.9: 1.0})
    simulated_folder.write(tmp_path, truth)
    measured = frames.load(tmp_path)

    def choice(size):
        momentum = 0.0 if size < 100 else 0.9
        rates = [truth.rate(size) * (1 - momentum) * factor for factor in (0.5, 1.0, 2.0)]
        points = [Point(rate, (("momentum", momentum),)) for rate in rates]
        return Choice(for_target=points[1], for_score=points[1], equally_fast=[], tried=points)

    claims = observations.claims(measured, truth.target)
    chosen = {size: replace(claim, choice=choice(size)) for size, claim in claims.items()}
    monkeypatch.setattr(observations, "claims", lambda *_: chosen)
    found = scaling.learning_rates(Sweep.of(measured))
    assert found.effective
    assert found.overall.value == pytest.approx(truth.rate_exponent)


@given(st.floats(1e-6, 10), st.floats(-0.99, 0.99))
def test_the_effective_rate_is_what_a_constant_gradient_adds_up_to(rate, momentum):
    speed, steps = 0.0, 4000
    for _ in range(steps):
        speed = momentum * speed + rate
    assert plan.effective_rate(Point(rate, (("momentum", momentum),))) == pytest.approx(speed, rel=1e-6)
    assert plan.effective_rate(Point(rate)) == rate


def test_every_option_has_a_panel_that_names_it_and_colours_of_its_own(tmp_path):
    simulated_folder.write(tmp_path, momenta={0.5: 1.5, 0.9: 1.0})
    one = frames.load(tmp_path)
    decays = (0.0, 0.1)
    trials = pd.concat(
        one.trials.assign(options=[(*beside, ("weight_decay", decay)) for beside in one.trials["options"]])
        for decay in decays
    )
    search = {**one.experiment.search, "weight_decay": list(decays)}
    both = replace(one, trials=trials, experiment=msgspec.structs.replace(one.experiment, search=search))
    panels = learning_rates.searched_options(Sweep.of(both), build.summarize(Sweep.of(one))).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["momentum", "weight decay"]
    colours = {line.get_color() for axes in panels for line in axes.lines if line.get_label().startswith(("m", "w"))}
    assert len(colours) == 4


def test_the_rates_of_all_momenta_share_the_rows_of_the_map(measured):
    found = Sweep.of(measured).searched_points
    for size in RICH.batch_sizes:
        own = only(found, found["batch_size"] == size)
        assert own.groupby("options")["rate"].nunique().tolist() == [5, 5]
        assert own["rate"].nunique() == 5


@given(st.floats(1e-6, 10), st.floats(1.2, 10), st.lists(st.sampled_from([0.0, 0.5, 0.9, 0.99]), min_size=1))
def test_rates_that_files_round_stand_in_one_row_and_others_do_not(anchor, factor, momenta):
    table = LearningRate(anchor=anchor, factor=factor, rule="none")
    grids = [[*plan.learning_rates(table, 1, (("momentum", momentum),))] for momentum in momenta]
    effective = [rate / (1 - momentum) for grid, momentum in zip(grids, momenta, strict=True) for rate in grid]
    assert len(np.unique(together(effective))) == table.grid_size


def test_the_fastest_and_the_most_accurate_are_told_with_what_each_was_trained_with(summarized):
    told = {fact.name: fact.more for fact in answer.facts(summarized)}
    cells = {cell.batch_size: cell for cell in summarized.cells}
    fastest, best = cells[summarized.time_optimal.batch_size], cells[summarized.score_optimal.batch_size]
    assert (
        f"at learning rate {number_format.number(fastest.best_learning_rate)}, momentum 0.9"
        in told["Fastest to the target"]
    )
    rate = number_format.point(best.best_learning_rate_for_score, best.best_options_for_score)
    assert told["Most accurate"].endswith(f" at learning rate {rate}")

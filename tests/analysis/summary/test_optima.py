"""The best batch size under each metric: what is tied, how far behind the next lies, and where the sweep ends."""

from __future__ import annotations

import numpy as np
import pytest
from batchscale.analysis.summary import build
from batchscale.analysis.summary_types import CostOptimal, ScoreOptimal, TimeOptimal
from batchscale.config.goal import Goal
from batchscale.statistics import ties
from batchscale.statistics.intervals import DRAWS, LEVEL, Locations, Repetitions, interval, locate
from batchscale.statistics.ties import Contest
from hypothesis import given
from hypothesis import strategies as st
from simulated_answers import answered

SIZES = np.array([8, 16, 32, 64])


def certain(values):
    """Locations without spread."""
    medians = np.asarray(values, dtype=np.float64)
    return Locations(medians, medians, np.zeros((DRAWS, len(medians))), np.tile(medians, (DRAWS, 1)))


def repeated(values, spread=0.01):
    return locate([Repetitions.exact([value - spread, value, value + spread]) for value in values])


ACCURACY, LOSS = Goal(metric="accuracy", threshold=0.9), Goal(metric="loss", threshold=1.0)


def contest(locations, sizes=SIZES, tried=None, out_of_memory=None, **more):
    sizes = np.asarray(sizes)
    return Contest(
        sizes,
        locations,
        np.ones(len(sizes), bool) if tried is None else np.isin(sizes, tried),
        np.isin(sizes, out_of_memory or []),
        "a metric",
        **more,
    )


def test_the_best_is_the_least_and_what_never_arrives_never_wins():
    assert contest(certain([3.0, 1.0, 2.0, np.inf])).best == 1
    assert contest(certain([np.nan, np.inf, 2.0, 5.0])).best == 2
    assert contest(certain([-np.inf, 1.0, 2.0, 3.0])).best == 1
    assert contest(certain([np.inf, np.nan, np.inf, np.inf])).best is None


def test_the_interval_of_a_winner_holds_its_value():
    """Many seeds that all crossed between the same two evaluations: where between them, nobody knows."""
    cell = Repetitions(np.full(3000, np.log(2.0)), np.full(3000, np.log(3.0)))
    low, high = contest(locate([cell]), sizes=[16]).found(0)["interval"]
    assert low < 3.0 <= high


def test_a_clear_winner_is_described_in_full():
    locations = repeated(np.log([4.0, 1.0, 2.0, 8.0]))
    assert contest(locations).found(1) == {
        "batch_size": 16,
        "interval": interval(np.exp(locations.draws[:, 1])),
        "tied": [16],
        "at_edge": False,
        "edge": None,
        "margin": pytest.approx(1.0),
        "next_best": 32,
        "metric": "a metric",
        "test": ties.TEST,
        "level": LEVEL,
    }


def test_ties_span_from_the_smallest_to_the_largest_and_hold_the_best_itself():
    found = contest(repeated([1.0, 9.0, 1.001, 1.0005], spread=0.1)).found(0)
    assert found["tied"] == [8, 32, 64]
    assert contest(repeated([1.0, 5.0, 9.0, 9.0])).found(2)["tied"] == [8, 32]


def test_what_was_measured_once_says_so():
    assert contest(certain(range(4)), spread=ties.NEIGHBOURS).found(0)["test"] == f"{ties.TEST}; {ties.NEIGHBOURS}"


@pytest.mark.parametrize(
    ("best", "tried", "out_of_memory", "edge"),
    [
        (0, [8, 16, 32, 64], [], "smallest"),
        (1, [8, 16, 32, 64], [], None),
        (3, [8, 16, 32, 64], [], "largest"),
        (1, [16, 32, 64], [], "smallest"),
        (2, [8, 16, 32], [], "largest"),
        (2, [8, 16, 32], [64], "memory"),
        (3, [8, 16, 32, 64], [64], "largest"),
        (2, [8, 16, 32], [8], "largest"),
        (1, [8, 16, 32], [64], None),
        (1, [16], [], "only"),
        (1, [16], [32], "memory"),
    ],
)
def test_an_optimum_at_an_end_of_what_was_tried_says_what_ended_there(best, tried, out_of_memory, edge):
    found = contest(certain([4.0] * 4), tried=tried, out_of_memory=out_of_memory).found(best)
    assert found["edge"] == edge
    assert found["at_edge"] == (edge in ("smallest", "largest", "only"))


def test_no_batch_size_is_smaller_than_one():
    found = contest(certain([4.0] * 4), sizes=[1, 2, 4, 8]).found(0)
    assert (found["edge"], found["at_edge"]) == (None, False)


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=4), st.sampled_from([None, ACCURACY]))
def test_the_margin_is_a_ratio_of_times_and_a_difference_of_accuracies(values, goal):
    one = contest(certain(values), SIZES[: len(values)], goal=goal)
    found, (least, second, *_) = one.found(one.best), sorted(values)
    behind = np.exp(second) / np.exp(least) - 1 if goal is None else second - least
    assert found["margin"] == pytest.approx(behind, abs=1e-12)
    assert values[SIZES.tolist().index(found["next_best"])] == second


@pytest.mark.parametrize("values", [[1.0], [1.0, np.inf], [1.0, np.nan]])
def test_without_a_second_there_is_no_margin(values):
    found = contest(certain(values), SIZES[: len(values)]).found(0)
    assert (found["margin"], found["next_best"]) == (None, None)


@pytest.mark.parametrize(
    "answer",
    [
        lambda one: build.optimum(TimeOptimal, one, seconds=one.value),
        lambda one: build.optimum(ScoreOptimal, one, score=one.value, budget="10 epochs"),
        build.most_examples_per_second,
    ],
)
def test_where_nothing_arrived_there_is_no_optimum(answer):
    assert answer(contest(certain([np.inf] * 4))) is None
    assert answer(contest(certain([3.0, 2.0, 4.0, np.inf]))).batch_size == 16


def test_each_answer_is_in_its_own_unit():
    times = contest(repeated(np.log([9.0, 5.0, 7.0, 8.0])))
    priced = build.optimum(CostOptimal, times, cost=times.value, price_per_hour=2.5)
    assert (priced.cost, priced.price_per_hour) == (pytest.approx(5), 2.5)
    low, high = priced.interval
    assert low < 5 < high
    assert np.isnan(contest(certain([np.inf] * 4)).value)


def test_an_accuracy_keeps_its_sign_and_its_bounds():
    most = contest(repeated([-0.9, -0.99, -0.5, -0.1], 0.03), goal=ACCURACY)
    best = build.optimum(ScoreOptimal, most, score=most.value, budget="10 epochs")
    assert (best.batch_size, best.score) == (16, pytest.approx(0.99))
    low, high = best.interval
    assert 0.9 < low < 0.99 < high == 1.0
    worst = contest(repeated([-0.02, -0.01, -0.01, 0.0], 0.03), goal=ACCURACY)
    assert worst.interval(worst.best)[0] == 0


def test_the_best_loss_is_the_least_and_is_never_below_zero():
    least = contest(repeated([0.9, 0.02, 0.5, 1.1], 0.03), goal=LOSS)
    best = build.optimum(ScoreOptimal, least, score=least.value, budget="10 epochs")
    assert (best.batch_size, best.score) == (16, pytest.approx(0.02))
    low, high = best.interval
    assert low == 0
    assert 0.02 < high < 0.1


def test_throughput_is_the_inverse_of_seconds_per_example_and_nearly_is_five_percent():
    locations = repeated(-np.log([100.0, 189.9, 190.1, 200.0]), 0.001)
    best = build.most_examples_per_second(contest(locations))
    assert best.examples_per_second == pytest.approx(200)
    assert best.smallest_within_5_percent == 32
    low, high = best.interval
    assert 199 < low < 200 < high < 201
    unknown = Locations(locations.medians, locations.centres, locations.errors, locations.draws * np.nan)
    assert build.most_examples_per_second(contest(unknown)).interval == (None, None)


def test_the_fitted_optimum_is_given_where_both_curves_are_there():
    both, timed_once = answered(), answered(batch_sizes=(16, 32))
    alpha_over_beta = both.affine_step_time.knee_batch_size
    predicted = np.sqrt(alpha_over_beta * both.critical_batch_size.value)
    best = both.time_optimal
    assert best.fitted_batch_size == pytest.approx(predicted)
    low, high = best.fitted_interval
    assert low < predicted < high
    assert timed_once.critical_batch_size is None
    assert (timed_once.time_optimal.fitted_batch_size, timed_once.time_optimal.fitted_interval) == (None, None)

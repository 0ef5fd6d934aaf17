"""Statistics tested as statistics: on worlds whose truth is known, intervals must cover it as often as they claim."""

from __future__ import annotations

import numpy as np
import pytest
from batchscale.analysis.statistics import intervals
from batchscale.analysis.statistics.comparison import tied_with_least
from batchscale.analysis.statistics.intervals import Repetitions, estimate, interval, locate
from hypothesis import given, settings
from hypothesis import strategies as st

CELLS = 8
WHERE = np.linspace(-1, 1, CELLS)
VALLEY = 10 + 1.2 * WHERE**2
WORLDS = 100


def nominal(share, worlds):
    """Whether a share seen over `worlds` may come from a chance of at least 95%, to Monte Carlo error."""
    return share >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / worlds)


def observe(random, truth, seeds, sigma, *, quantum=None, limit=np.inf, draw=None):
    """Repetitions around `truth` (cells,); rounded up to `quantum` on the natural scale, missed beyond `limit`."""
    cells = []
    for cell, mean in enumerate(truth):
        noise = (draw or random.standard_normal)(seeds)
        spread = sigma[cell] if np.ndim(sigma) else sigma
        values = mean + spread * noise
        seen = np.sort(values[values <= limit])
        low = high = seen
        if quantum:
            high = np.log(np.ceil(np.exp(seen) / quantum) * quantum)
            low = np.log(np.maximum(np.exp(high) - quantum, 1.0))
        cells.append(Repetitions(low, high, int((values > limit).sum()), limit, logarithmic=quantum is not None))
    return cells


def contains(ends, truth):
    low, high = (np.inf if end is None else end for end in ends)
    return low <= truth <= high


def coverage(truth, seeds, sigma, **world):
    """How often intervals hold the true medians, and tied sets the truly least cell."""
    random = np.random.default_rng(seeds)
    reachable = np.where(truth > world.get("limit", np.inf), np.inf, truth)
    covered = held = 0
    for _ in range(WORLDS):
        found = locate(observe(random, truth, seeds, sigma, **world), WHERE)
        covered += sum(contains(interval(found.draws[:, cell]), reachable[cell]) for cell in range(CELLS))
        held += tied_with_least(found)[np.argmin(truth)]
    return covered / (WORLDS * CELLS), held / WORLDS


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=9), st.integers(0, 8))
def test_a_cell_that_was_seen_exactly_is_centred_on_its_median(reached, misses):
    cell = Repetitions(np.sort(reached), np.sort(reached), misses)
    (centre,), (median,) = (getattr(locate([cell]), name) for name in ("centres", "medians"))
    if np.isfinite(median):
        assert centre == pytest.approx(median)


def test_a_target_had_by_the_first_evaluation_was_reached_anywhere_before_it_alike():
    first, second = (1.0, 1000.0), (1000.0, 2000.0)

    def located(*crossed):
        low, high = np.log(crossed).T
        return locate([Repetitions(low, high, logarithmic=True)] * 4, np.arange(4.0))

    at_once, apart = located(first, first, first), located(first, second, second)
    assert np.exp(at_once.centres) == pytest.approx(500, rel=0.01)
    low, high = np.exp(interval(at_once.draws[:, 0]))
    assert 10 < low < 50
    assert 950 < high < 2000
    low, high = np.exp(interval(apart.draws[:, 0]))
    assert 500 < low < 1000
    assert 2000 < high < 5000


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_intervals_cover_and_tied_sets_hold_the_best_with_few_seeds(seeds):
    covered, held = coverage(VALLEY, seeds, 0.1)
    assert nominal(covered, WORLDS * CELLS / 2)
    assert nominal(held, WORLDS)


def test_intervals_are_not_wider_than_they_must_be():
    covered, _ = coverage(VALLEY, 5, 0.1)
    assert covered < 0.99


def test_intervals_cover_when_cells_differ_in_their_noise():
    covered, held = coverage(VALLEY, 3, 0.1 * np.exp(0.7 * np.sin(5 * WHERE)))
    assert nominal(covered, WORLDS * CELLS / 2)
    assert nominal(held, WORLDS)


def test_intervals_cover_when_noise_is_skewed():
    random = np.random.default_rng(3)
    covered, held = coverage(VALLEY, 3, 0.1, draw=lambda size: random.exponential(size=size) - np.log(2))
    assert covered > 0.9
    assert nominal(held, WORLDS)


def test_intervals_cover_when_evaluations_are_further_apart_than_seeds():
    covered, held = coverage(VALLEY, 3, 0.02, quantum=3000)
    assert nominal(covered, WORLDS * CELLS / 2)
    assert nominal(held, WORLDS)


def test_intervals_cover_when_runs_are_censored():
    covered, held = coverage(VALLEY, 5, 0.2, limit=10.9)
    assert covered > 0.92
    assert nominal(held, WORLDS)


def test_where_nothing_differs_the_best_is_left_out_no_more_often_than_stated():
    _, held = coverage(np.full(CELLS, 10.0), 3, 0.1)
    assert nominal(held, WORLDS)


def test_what_was_measured_once_takes_its_spread_from_its_neighbours():
    covered, held = coverage(VALLEY, 1, 0.1)
    assert nominal(covered, WORLDS * CELLS / 2)
    assert nominal(held, WORLDS)


def test_a_clear_winner_stands_alone():
    random = np.random.default_rng(0)
    found = locate(observe(random, np.array([10.0, 9.0, 10.0, 11.0]), 5, 0.02), np.arange(4.0))
    assert tied_with_least(found).tolist() == [False, True, False, False]


def test_with_no_way_to_know_the_spread_every_cell_is_tied_and_no_interval_is_given():
    found = locate([Repetitions.exact([1.0]), Repetitions.exact([2.0])], np.arange(2.0))
    assert tied_with_least(found).all()
    assert interval(found.draws[:, 0]) == (None, None)


@pytest.mark.parametrize(("misses", "median"), [(0, 1.0), (2, 1.2), (3, np.inf), (5, np.inf)])
def test_misses_count_as_infinite(misses, median):
    reached = np.array([0.8, 0.9, 1.0, 1.1, 1.2])[: 5 - misses] if misses != 2 else np.array([0.8, 0.9, 1.2])
    cell = Repetitions(reached, reached, misses)
    assert cell.median == median
    other = Repetitions.exact([2.0, 2.1, 2.2])
    _, high = interval(locate([cell, other], np.arange(2.0)).draws[:, 0])
    assert (high is None) == (misses > 0)


def test_a_cell_that_never_arrives_is_tied_with_nothing():
    found = locate([Repetitions(np.array([]), np.array([]), 4), Repetitions.exact([1.0, 1.1])], np.arange(2.0))
    assert tied_with_least(found).tolist() == [False, True]
    assert estimate(found.medians[0], found.draws[:, 0]).median is None


values = st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=2, max_size=6)


@settings(max_examples=30, deadline=None)
@given(st.lists(values, min_size=2, max_size=5), st.floats(-3, 3))
def test_locations_move_with_the_data_and_repeat_exactly(cells, by):
    found = locate([Repetitions.exact(one) for one in cells])
    again = locate([Repetitions.exact(one) for one in cells])
    moved = locate([Repetitions.exact(np.array(one) + by) for one in cells])
    np.testing.assert_array_equal(found.draws, again.draws)
    np.testing.assert_allclose(moved.medians, found.medians + by, atol=1e-9)
    np.testing.assert_allclose(moved.errors, found.errors, rtol=1e-3, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(values, min_size=2, max_size=5))
def test_an_estimate_holds_its_median_and_the_best_is_always_tied(cells):
    found = locate([Repetitions.exact(one) for one in cells])
    for cell in range(len(cells)):
        one = estimate(found.medians[cell], found.draws[:, cell])
        low, high = one.interval
        assert one.median is not None
        assert low is not None
        assert high is not None
        assert low <= one.median <= high
    assert tied_with_least(found)[np.argmin(found.centres)]


def test_draws_about_two_unlike_seeds_pass_all_numbers_without_a_warning():
    found = locate([Repetitions.exact(np.log([1.0, 1e12]), logarithmic=True)])
    assert found.draws.max() > np.log(np.finfo(np.float64).max)
    one = estimate(found.medians[0], found.draws[:, 0], intervals.exp)
    assert one.interval[0] < one.median < one.interval[1]
    assert intervals.exp(np.array([0.0, 1e4])).tolist() == [1.0, np.inf]


def test_a_draw_is_one_world_for_all_cells():
    found = locate([Repetitions.exact([1.0, 2.0, 3.0]), Repetitions.exact([1.0, 2.0, 3.0])])
    assert found.draws.shape == (intervals.DRAWS, 2)
    assert abs(np.corrcoef(found.draws.T)[0, 1]) < 0.1

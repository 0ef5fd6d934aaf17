"""Intervals of medians: their level in simulated worlds, and their variances and errors by closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from batchscale.statistics import intervals
from batchscale.statistics.intervals import DRAWS, Repetitions, estimate, interval, locate
from batchscale.statistics.ties import tied_with_least
from hypothesis import given, settings
from hypothesis import strategies as st
from long_proofs import long_unless
from scipy import special

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


@pytest.mark.parametrize("seeds", long_unless([3], [2, 3, 5]))
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


@pytest.mark.slow
def test_intervals_cover_when_noise_is_skewed():
    random = np.random.default_rng(3)
    covered, held = coverage(VALLEY, 3, 0.1, draw=lambda size: random.exponential(size=size) - np.log(2))
    assert covered > 0.9
    assert nominal(held, WORLDS)


def test_intervals_cover_when_evaluations_are_further_apart_than_seeds():
    covered, held = coverage(VALLEY, 3, 0.02, quantum=3000)
    assert nominal(covered, WORLDS * CELLS / 2)
    assert nominal(held, WORLDS)


@pytest.mark.slow
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


EXACT = Repetitions.exact
CERTAIN = 1e12
"""Degrees of freedom at which a variance is as good as known."""


def bracketed(low, high, misses=0, limit=np.inf):
    return Repetitions(np.asarray(low, float), np.asarray(high, float), misses, limit)


def test_a_variance_is_that_of_the_middles_and_never_below_what_rounding_causes():
    assert intervals._variance(EXACT([1.0, 3.0])) == 2.0
    assert intervals._variance(bracketed([0.0, 2.0], [1.0, 3.0])) == 2.0
    assert intervals._variance(bracketed([0.0, 0.0], [0.6, 0.6])) == pytest.approx(0.36 / 12)
    assert intervals._variance(bracketed([0.0, 0.0], [9.0, 9.0])) == pytest.approx(np.log(4) ** 2 / 12)
    assert intervals._variance(EXACT([5.0, 5.0])) == 1e-14
    assert np.isnan(intervals._variance(EXACT([5.0])))


def test_a_variance_is_never_below_the_least_either():
    def spread(values, least):
        return replace(EXACT(values), least_spread=least)

    assert intervals._variance(spread([5.0, 5.0], 0.5)) == 0.25
    assert intervals._variance(spread([1.0, 3.0], 0.5)) == 2.0
    order = np.arange(5.0)
    line = [spread([at], 0.5 if at == 3 else 0.25) for at in order]
    assert intervals._from_neighbours(line, order)[0].tolist() == [0.25] * 5
    bent = [spread([at**3], 0.5) for at in order]
    assert (
        intervals._from_neighbours(bent, order)[0].tolist()
        == intervals._from_neighbours([EXACT([at**3]) for at in order], order)[0].tolist()
    )


@pytest.mark.parametrize("value", [1e-3, 0.1, np.pi**2 / 6, 5.0, 400.0])
def test_the_inverse_of_trigamma_is_its_inverse(value):
    assert special.polygamma(1, intervals._trigamma_inverse(value)) == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize(("prior", "prior_freedom"), [(2.0, 6.0), (1e-4, 20.0)])
def test_the_prior_of_many_variances_is_found(prior, prior_freedom):
    random = np.random.default_rng(1)
    freedom = random.choice([2.0, 4.0, 9.0], 20_000)
    truths = prior * prior_freedom / random.chisquare(prior_freedom, len(freedom))
    seen = truths * random.chisquare(freedom) / freedom
    found, found_freedom = intervals._prior(seen, freedom)
    assert found == pytest.approx(prior, rel=0.05)
    assert found_freedom == pytest.approx(prior_freedom, rel=0.1)


def test_variances_that_do_not_differ_are_pooled_by_their_degrees_of_freedom():
    assert intervals._prior(np.array([1.0, 4.0]), np.array([3.0, 1.0])) == (1.75, np.inf)
    assert intervals._prior(np.array([1.0, 1.1, 1.2, 1.3]), np.full(4, 5.0)) == (pytest.approx(1.15), np.inf)
    assert intervals._prior(np.array([1e-6, 1.0, 1e6]), np.full(3, 9.0))[1] < 1


def test_every_cell_has_the_pooled_variance_where_cells_do_not_differ():
    cells = [EXACT([0.0, 2.0]), EXACT([5.0, 5.0 + np.sqrt(12.0)]), EXACT([1.0])]
    variances, freedom = intervals._moderated(cells, None)
    np.testing.assert_allclose(variances, 4.0)
    np.testing.assert_allclose(freedom, 2.0)


def test_each_cell_is_drawn_towards_what_all_have_in_common():
    spreads = [1e-4, 1e-2, 1.0, 1e2]
    cells = [EXACT([0.0, spread, 2 * spread, 3 * spread]) for spread in spreads]
    own, freedom = np.array([np.var([0, 1, 2, 3], ddof=1) * spread**2 for spread in spreads]), np.full(4, 3.0)
    prior, prior_freedom = intervals._prior(own, freedom)
    excess = np.var(np.log(own), ddof=1) - special.polygamma(1, 1.5)
    assert special.polygamma(1, prior_freedom / 2) == pytest.approx(excess)
    variances, found = intervals._moderated([*cells, EXACT([7.0])], None)
    np.testing.assert_allclose(variances[:4], (prior_freedom * prior + 3 * own) / (prior_freedom + 3))
    assert variances[4] == pytest.approx(prior)
    np.testing.assert_allclose(found, [*np.full(4, prior_freedom + 3), prior_freedom])


def test_what_misses_cut_off_tells_nothing_of_the_spread_while_anything_else_does():
    whole, cut = EXACT([0.0, 2.0]), bracketed([0.0, 9.0], [0.0, 9.0], misses=3)
    variances, freedom = intervals._moderated([whole, cut], None)
    np.testing.assert_allclose((variances, freedom), ([2.0, 2.0], [1.0, 1.0]))
    variances, freedom = intervals._moderated([EXACT([1.0]), cut], None)
    np.testing.assert_allclose((variances, freedom), ([40.5, 40.5], [1.0, 1.0]))


@pytest.mark.parametrize("where", [np.arange(6.0), np.array([0.0, 1.0, 1.5, 4.0, 9.0, 9.1])])
def test_cells_measured_once_scatter_about_lines_between_their_neighbours(where):
    straight = [EXACT([3.0 - 2 * at]) for at in where]
    variances, freedom = intervals._moderated(straight, where)
    np.testing.assert_allclose(variances, 1e-14, atol=1e-20)
    np.testing.assert_allclose(freedom, 4.0)
    assert np.isnan(intervals._moderated(straight, None)[0]).all()
    assert np.isnan(intervals._moderated(straight[:3], where[:3])[0]).all()


def test_an_alternating_scatter_of_one_is_a_variance_of_eight_thirds():
    """Each residual about its neighbours' middle is 2, of which 1 + 1/4 + 1/4 parts are variance."""
    cells = [bracketed([(-1) ** at - 0.1], [(-1) ** at + 0.1]) for at in range(6)]
    variances, freedom = intervals._moderated([*cells, EXACT([])], np.arange(7.0))
    np.testing.assert_allclose(variances, 8 / 3)
    np.testing.assert_allclose(freedom, 4.0)
    uneven, _ = intervals._moderated([EXACT([value]) for value in (0.0, 3.0, 0.0, 0.0)], np.array([0.0, 1.0, 4.0, 5.0]))
    about_first, about_second = 3.0, -0.75 * 3.0 / 3
    expected = np.mean(
        [about_first**2 / (1 + (3 / 4) ** 2 + (1 / 4) ** 2), about_second**2 / (1 + (1 / 4) ** 2 + (3 / 4) ** 2)]
    )
    np.testing.assert_allclose(uneven, expected)


@pytest.mark.parametrize(("count", "variance"), [(0, 1.0), (1, 1.0), (2, 0.5), (3, 0.4487), (25, np.pi / 50)])
def test_errors_of_a_median_have_the_variance_of_the_median_of_normals(count, variance):
    cells = [EXACT(range(count)), EXACT(range(count))]
    random = np.random.default_rng(2)
    errors = intervals._median_errors(cells, np.array([1.0, 9.0]), np.full(2, CERTAIN), random)
    assert errors.shape == (DRAWS, 2)
    np.testing.assert_allclose(np.var(errors, axis=0), [variance, 9 * variance], rtol=0.1)
    np.testing.assert_allclose(np.mean(errors, axis=0), 0, atol=0.2)
    assert abs(np.corrcoef(errors.T)[0, 1]) < 0.1


@pytest.mark.parametrize("freedom", [0.5, 3.0, 8.0])
def test_an_unknown_variance_makes_errors_student_like_together(freedom):
    random = np.random.default_rng(3)
    errors = intervals._median_errors([EXACT([1.0])] * 2, np.ones(2), np.full(2, freedom), random)
    for share in (0.75, 0.9):
        np.testing.assert_allclose(np.quantile(errors, share, axis=0), special.stdtrit(freedom, share), rtol=0.12)
    assert np.corrcoef(np.log(np.abs(errors)).T)[0, 1] > 0.03


def test_the_chance_of_a_miss_is_jeffreys_posterior():
    cells = [EXACT([1.0]), bracketed([1.0] * 3, [1.0] * 3, misses=1), bracketed([], [], misses=4)]
    rates = intervals._miss_rates(cells, np.random.default_rng(4))
    assert rates.shape == (DRAWS, 3)
    assert (rates[:, 0] == 0).all()
    for column, (misses, found) in ((1, (1.5, 3.5)), (2, (4.5, 0.5))):
        assert np.mean(rates[:, column]) == pytest.approx(misses / (misses + found), abs=0.01)
        assert np.var(rates[:, column]) == pytest.approx(
            misses * found / (misses + found) ** 2 / (misses + found + 1), rel=0.1
        )


def test_a_cell_without_misses_lies_between_its_evaluations():
    within = np.array([0.0, 0.25, 1.0])
    centre, drawn = intervals._place(bracketed([1.0, 2.0, 3.0], [2.0, 4.0, 9.0]), within, np.zeros(3))
    assert centre == 3.0
    np.testing.assert_allclose(drawn, [2.0, 2.5, 4.0])


def test_misses_move_the_median_up_among_what_was_reached_and_beyond_it_at_a_half():
    low, high = np.arange(5.0), np.arange(5.0) + 1
    rates = np.array([0.0, 0.25, 0.4999, 0.5, 0.9])
    centre, drawn = intervals._place(bracketed(low, high, misses=1), np.full(5, 0.5), rates)
    np.testing.assert_allclose(drawn[:2], [2.5, 5 * 0.5 / 0.75])
    assert drawn[2] == pytest.approx(4.5, abs=0.01)
    assert np.isinf(drawn[3:]).all()
    assert centre == pytest.approx(3.0), "half way between the third and the fourth of six"
    centre, _ = intervals._place(bracketed(low, high, misses=5), np.full(1, 0.5), np.full(1, 0.5))
    assert centre == 4.5


def test_what_lies_beyond_the_limit_was_never_reached():
    found = locate([bracketed([1.0] * 5, [1.0] * 5, misses=1, limit=1.0), EXACT([0.0, 4.0])], np.arange(2.0))
    assert 0.3 < np.mean(np.isinf(found.draws[:, 0])) < 0.9
    assert (found.draws[:, 0][np.isfinite(found.draws[:, 0])] <= 1.0).all()
    assert np.isfinite(found.draws[:, 1]).all()
    assert np.isfinite(locate([bracketed([1.0] * 2, [1.0] * 2, limit=0.5)]).draws).all()


def test_a_miss_is_no_error_of_the_median():
    found = locate([bracketed([1.0] * 5, [1.0] * 5, misses=3), bracketed([1.0] * 5, [1.0] * 5)])
    assert np.isinf(found.draws[:, 0]).any()
    assert np.abs(found.errors).max() < 1e-5


def test_cells_without_anything_are_unknown_and_those_with_misses_alone_never_arrive():
    found = locate([EXACT([]), bracketed([], [], misses=2), EXACT([1.0, 2.0])])
    assert np.isnan(found.medians[0])
    assert np.isnan(found.centres[0])
    assert np.isnan(found.draws[:, 0]).all()
    assert found.medians[1] == found.centres[1] == np.inf
    assert np.isposinf(found.draws[:, 1]).all()
    np.testing.assert_allclose((found.medians[2], found.centres[2]), 1.5)
    assert np.isfinite(found.errors[:, 1:]).all()


def test_errors_hold_rounding_as_draws_do():
    found = locate([bracketed([0.0, 0.0], [1.0, 1.0]), EXACT([5.0, 5.0])], np.arange(2.0))
    np.testing.assert_allclose(found.draws, found.centres + found.errors)
    assert np.std(found.errors[:, 0]) > np.sqrt(1 / 12)


def test_streams_are_independent_and_each_repeats():
    one, again, other = (locate([EXACT([1.0, 2.0])], stream=stream).draws for stream in (0, 0, 1))
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(one, locate([EXACT([1.0, 2.0])]).draws)
    assert abs(np.corrcoef(one[:, 0], other[:, 0])[0, 1]) < 0.1


def test_medians_of_logarithms_are_logarithms_of_medians():
    assert EXACT([1.0, 3.0]).median == 2.0
    assert EXACT(np.log([1.0, 3.0]), logarithmic=True).median == pytest.approx(np.log(2.0))
    assert (EXACT([1.0, 3.0]).count, EXACT([1.0, 3.0]).misses) == (2, 0)
    assert EXACT([1, 2]).low.dtype == np.float64


def test_sums_and_shifts_of_locations():
    one, other = locate([EXACT([1.0, 2.0])], stream=1), locate([EXACT([5.0, 9.0])], stream=2)
    both, moved = one + other, one.shifted(np.array([3.0]))
    for name in ("medians", "centres", "errors", "draws"):
        np.testing.assert_array_equal(getattr(both, name), getattr(one, name) + getattr(other, name))
        by = 0.0 if name == "errors" else 3.0
        np.testing.assert_array_equal(getattr(moved, name), getattr(one, name) + by)


@pytest.mark.parametrize(
    ("median", "draws", "expected"),
    [
        (2.0, np.ones(100), (2.0, (1.0, 2.0))),
        (0.0, np.ones(100), (0.0, (0.0, 1.0))),
        (1.0, np.ones(100), (1.0, (1.0, 1.0))),
        (np.inf, np.ones(100), (None, (1.0, None))),
        (np.inf, np.full(100, np.inf), (None, (None, None))),
        (1.0, np.full(100, np.nan), (1.0, (None, None))),
        (1.0, np.r_[np.full(90, 0.5), np.full(10, np.inf)], (1.0, (0.5, None))),
        (0.5, np.linspace(0, 1, 1001), (0.5, (0.025, 0.975))),
    ],
)
def test_an_estimate_is_the_median_in_its_interval(median, draws, expected):
    found = estimate(median, draws)
    assert (found.median, found.interval) == (expected[0], pytest.approx(expected[1]))
    if np.isfinite(median):
        exponential = estimate(median, draws, np.exp)
        assert exponential.median == pytest.approx(np.exp(median))
        ends = tuple(None if end is None else pytest.approx(np.exp(end)) for end in found.interval)
        assert exponential.interval == ends


def test_an_interval_leaves_out_two_and_a_half_percent_on_each_side():
    assert interval(np.arange(1.0, 1011.0)) == (26.0, 985.0)
    assert interval(np.r_[np.full(30, -np.inf), np.zeros(970)]) == (None, 0.0)
    assert interval(np.r_[np.nan, np.zeros(9)]) == (None, None)

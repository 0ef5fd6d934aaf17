from __future__ import annotations

import numpy as np
import pytest
from batchscale.analysis.statistics.curve_fit import Refusal, best_between_knees, fit_knee
from batchscale.analysis.statistics.intervals import DRAWS, Repetitions, locate

SIZES = 2 ** np.arange(4, 12)
WORLDS = 60


def observed(random, knee, *, seeds=3, sigma=0.08, outlier=0.0, misfit=0.0, sizes=SIZES):
    truth = 10 + np.log1p(sizes / knee) + misfit * random.standard_normal(len(sizes))
    truth[3] += outlier
    cells = [Repetitions.exact(mean + sigma * random.standard_normal(seeds)) for mean in truth]
    return locate(cells, np.log(sizes))


def fitted(random, knee, **world):
    found = observed(random, knee, **world)
    return fit_knee(world.get("sizes", SIZES), found.centres, found.errors)


def covered(knee, **world):
    random = np.random.default_rng(1)
    fits = [fitted(random, knee, **world) for _ in range(WORLDS)]
    return np.mean([fit.interval[0] <= knee <= fit.interval[1] for fit in fits])


def exactly(values, sizes=SIZES):
    return fit_knee(sizes, np.log(values), np.zeros((DRAWS, len(sizes))))


@pytest.mark.parametrize("knee", [40.0, 200.0, 1000.0])
def test_a_knee_without_noise_is_found(knee):
    fit = exactly(7.0 * (1 + SIZES / knee))
    assert fit.knee == pytest.approx(knee, rel=0.01)
    assert fit.scale == pytest.approx(7.0, rel=0.01)
    assert fit.fit_error < 0.01
    assert fit(3 * knee) == pytest.approx(28, rel=0.02)


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_the_interval_of_a_knee_covers_the_truth(seeds):
    assert covered(200.0, seeds=seeds) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / WORLDS)


def test_the_interval_covers_where_the_model_itself_is_off():
    assert covered(200.0, sigma=0.03, misfit=0.08) >= 0.82


@pytest.mark.parametrize("outlier", [0.8, -0.8])
def test_one_wild_cell_does_not_move_the_knee_beyond_its_interval(outlier):
    random = np.random.default_rng(4)
    for _ in range(10):
        state = random.bit_generator.state
        clean = fitted(random, 200.0, sigma=0.03)
        random.bit_generator.state = state
        wild = fitted(random, 200.0, sigma=0.03, outlier=outlier)
        assert wild.outliers == [int(SIZES[3])]
        assert clean.interval[0] <= wild.knee <= clean.interval[1]


def test_fewer_than_four_cells_are_refused():
    with pytest.raises(Refusal, match="3 batch sizes have a value"):
        exactly(1 + SIZES[:3] / 100, SIZES[:3])


def test_cells_without_a_value_do_not_count():
    values = np.where(SIZES > 64, np.nan, 1.0 + SIZES)
    with pytest.raises(Refusal, match="3 batch sizes"):
        exactly(values)


def test_data_that_do_not_bend_are_refused():
    with pytest.raises(Refusal, match="do not bend"):
        fitted(np.random.default_rng(0), 1e7)


def test_data_that_bent_before_the_sweep_are_refused():
    with pytest.raises(Refusal, match="bent before"):
        fitted(np.random.default_rng(0), 1e-3)


def test_a_curve_of_another_kind_is_refused():
    with pytest.raises(Refusal, match=r"fit error|far from"):
        exactly(np.exp(1.5 * np.cos(np.arange(8) * 2.0)))


def test_the_optimum_between_two_knees_is_where_their_product_is_least():
    needs, step = exactly(5.0 * (1 + SIZES / 300)), exactly(0.01 * (1 + SIZES / 40))
    best, (low, high) = best_between_knees(needs, step)
    along = np.geomspace(1, 1e5, 20_001)
    least = along[np.argmin(needs(along) / along * step(along))]
    assert best == pytest.approx(least, rel=0.01)
    assert low <= best <= high


def test_four_cells_are_enough_and_their_sizes_are_told():
    fit = exactly(3.0 * (1 + SIZES[2:6] / 200), SIZES[2:6])
    assert fit.batch_sizes == SIZES[2:6].tolist()
    assert fit.outliers == []
    assert all(isinstance(size, int) for size in fit.batch_sizes)
    assert fit.knee == pytest.approx(200, rel=1e-3)


def test_cells_that_were_not_reached_are_no_part_of_a_fit():
    values = np.where(SIZES == 64, np.nan, 3.0 * (1 + SIZES / 200))
    assert exactly(values).batch_sizes == [size for size in SIZES.tolist() if size != 64]


def test_a_cell_counts_by_its_own_precision():
    """The one that is known to a factor of two, and lies 10% off, moves nothing."""
    random = np.random.default_rng(5)
    errors = 1e-4 * random.standard_normal((DRAWS, len(SIZES)))
    errors[:, 3] = 0.7 * random.standard_normal(DRAWS)
    values = np.log(7.0 * (1 + SIZES / 200)) + np.where(np.arange(len(SIZES)) == 3, 0.1, 0.0)
    fit = fit_knee(SIZES, values, errors)
    assert fit.knee == pytest.approx(200, rel=1e-4)
    low, high = fit.interval
    assert high - low < 1
    equal = fit_knee(SIZES, values, errors[:, [0]] * np.ones(len(SIZES)))
    assert abs(equal.knee - 200) > 2


def test_without_errors_the_interval_is_the_knee_itself():
    fit = exactly(7.0 * (1 + SIZES / 200))
    assert fit.interval == pytest.approx((fit.knee, fit.knee), rel=1e-2)
    assert fit.knee_draws.shape == (DRAWS,)


def test_what_the_errors_do_not_explain_widens_the_interval_by_as_much():
    """A misfit of a given size, told as error or left unexplained, gives intervals of like width."""
    random = np.random.default_rng(6)
    misfit = 0.05 * np.array([1, -1, -1, 1, 1, -1, -1, 1])
    values = np.log(7.0 * (1 + SIZES / 200)) + misfit
    unexplained = fit_knee(SIZES, values, np.zeros((DRAWS, len(SIZES))))
    spread = np.sqrt(np.sum(misfit**2) / (len(SIZES) - 2))
    told = fit_knee(SIZES, values, spread * random.standard_normal((DRAWS, len(SIZES))))
    widths = [np.log(fit.interval[1] / fit.interval[0]) for fit in (unexplained, told)]
    # Six degrees of freedom: Student's 97.5% point is 2.45 where a known spread has 1.96.
    assert widths[0] / widths[1] == pytest.approx(2.45 / 1.96, rel=0.12)
    assert unexplained.fit_error == pytest.approx(told.fit_error) == pytest.approx(0.05, rel=0.1)


def test_streams_of_two_fits_are_independent_and_each_repeats():
    values, errors = np.log(7.0 * (1 + SIZES / 200)) + 0.02 * np.cos(np.arange(8)), np.zeros((DRAWS, len(SIZES)))
    default, zero, one = (fit_knee(SIZES, values, errors, *stream).knee_draws for stream in ((), (0,), (1,)))
    np.testing.assert_array_equal(default, zero)
    assert abs(np.corrcoef(zero, one)[0, 1]) < 0.1


def noisy_quadratic_steps(batch_size, goal, curvatures, noise, rates):
    """Steps until the expected loss of SGD on a noisy quadratic falls to `goal`, at the best constant rate.

    With loss = sum h w^2 / 2, gradient noise of variance c / B per axis and rate a, each axis obeys
    E w^2(t) = (1 - a h)^(2t) (1 - v) + v with v = a c / (B h (2 - a h)), which is closed form in t.
    """
    best = np.inf
    for rate in rates:
        shrink = (1 - rate * curvatures) ** 2
        floor = rate * noise / batch_size / (curvatures * (2 - rate * curvatures))
        steps = np.unique(np.geomspace(1, 1e6, 4000).astype(int))
        powers = shrink[:, None] ** steps
        loss = 0.5 * (curvatures[:, None] * (powers * (1 - floor[:, None]) + floor[:, None])).sum(axis=0)
        reached = np.flatnonzero(loss <= goal)
        best = min(best, steps[reached[0]] if len(reached) else np.inf)
    return best


def test_the_noisy_quadratic_model_bends_once_and_is_fitted():
    curvatures = 1 / np.arange(1, 21.0)
    sizes = 4 ** np.arange(0, 8)
    rates = np.geomspace(1e-3, 1.5, 60)
    steps = np.array([noisy_quadratic_steps(size, 0.05, curvatures, curvatures, rates) for size in sizes])
    fit = exactly(steps * sizes, sizes)
    assert (np.diff(steps) <= 0).all()
    assert fit.fit_error < 0.3
    least_steps, least_examples = steps.min(), (steps * sizes).min()
    assert fit.knee == pytest.approx(least_examples / least_steps, rel=0.6)

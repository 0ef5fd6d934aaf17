"""Fitted knees: whole fits in simulated worlds, and each part of a fit by closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from batchscale.statistics import curve_fit
from batchscale.statistics.curve_fit import Refusal, best_between_knees, fit_knee, fit_slope
from batchscale.statistics.intervals import DRAWS, Repetitions, locate
from long_proofs import long_unless
from scipy import special, stats

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


@pytest.mark.parametrize("seeds", long_unless([2], [1, 2, 5]))
def test_the_interval_of_a_knee_covers_the_truth(seeds):
    assert covered(200.0, seeds=seeds) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / WORLDS)


@pytest.mark.slow
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
    with pytest.raises(Refusal, match="a fit needs 4 batch sizes with a value, and found 3"):
        exactly(1 + SIZES[:3] / 100, SIZES[:3])


def test_cells_without_a_value_do_not_count():
    values = np.where(SIZES > 64, np.nan, 1.0 + SIZES)
    with pytest.raises(Refusal, match="found 3"):
        exactly(values)


def test_data_that_do_not_bend_are_refused():
    with pytest.raises(Refusal, match=r"do not bend.* knee is above .* with no upper bound"):
        fitted(np.random.default_rng(0), 1e7)


def test_data_that_bent_before_the_sweep_are_refused():
    with pytest.raises(Refusal, match=r"do not bend.* knee is below .* with no lower bound"):
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


GRID = np.geomspace(SIZES.min() / curve_fit.REACH, SIZES.max() * curve_fit.REACH, curve_fit.GRID)
SHAPES = np.log1p(SIZES / GRID[:, None])
CURVE = np.log(7.0 * (1 + SIZES / 200))
MISFIT = 0.05 * np.array([1, -1, -1, 1, 1, -1, -1, 1])
AT_128 = np.where(SIZES == 128, 1.0, 0.0)
EXACT, EQUAL = np.zeros(len(SIZES)), np.ones(len(SIZES))


@pytest.mark.parametrize(("off", "least", "most"), [(0.0, 1.0, 1.0), (0.117, 0.55, 0.7), (0.3, 0.0, 0.0)])
def test_influence_is_what_tukey_gives_residuals_in_units_of_five_percent(off, least, most):
    values = CURVE + off * AT_128
    found = curve_fit._influence(values, SHAPES, EXACT)
    assert least - 1e-3 <= found[3] <= most
    position, level = curve_fit._least_squares(values[None], SHAPES, np.maximum(found, 1e-6))
    residuals = np.abs(values - level[0] - curve_fit._shape(SHAPES, position[0]))
    np.testing.assert_allclose(found, (1 - np.minimum(residuals / (4.685 * 0.05), 1) ** 2) ** 2, atol=1e-4)


def test_what_the_cells_errors_or_the_misfit_of_all_explains_is_no_outlier():
    assert curve_fit._influence(CURVE + 0.3 * AT_128, SHAPES, 0.2 * EQUAL)[3] > 0.75
    rough = 0.15 * np.array([1, -1, -1, 2, 1, -1, -1, 1])
    assert curve_fit._influence(CURVE + rough, SHAPES, EXACT)[3] > 0.5


@pytest.mark.parametrize("knee", [16.0 / 50, 300.0, 2048.0 * 50])
def test_least_squares_finds_a_knee_between_and_near_the_ends_of_the_grid(knee):
    values = np.stack([np.log1p(SIZES / knee), 3.0 + np.log1p(SIZES / knee)])
    position, level = curve_fit._least_squares(values, SHAPES, EQUAL)
    np.testing.assert_allclose(curve_fit._between(GRID, position), knee, rtol=2e-3)
    np.testing.assert_allclose(level, [0.0, 3.0], atol=2e-3)
    np.testing.assert_allclose(curve_fit._shape(SHAPES, position[0]), values[0], atol=2e-3)


@pytest.mark.parametrize("end", [0, -1])
def test_least_squares_stays_on_the_grid(end):
    position, _ = curve_fit._least_squares(SHAPES[[end]], SHAPES, EQUAL)
    assert position[0] == (0 if end == 0 else curve_fit.GRID - 1)
    np.testing.assert_allclose(curve_fit._shape(SHAPES, position[0]), SHAPES[end])


def test_the_unexplained_spread_leaves_out_the_outliers_and_what_errors_explain():
    spread, error = curve_fit._unexplained(CURVE + MISFIT, SHAPES, EQUAL, EXACT)
    assert spread == pytest.approx(error * np.sqrt(8 / 6))
    less, same = curve_fit._unexplained(CURVE + MISFIT, SHAPES, EQUAL, 0.03 * EQUAL)
    assert less == pytest.approx(np.sqrt(spread**2 - 0.03**2))
    assert same == error
    assert curve_fit._unexplained(CURVE + MISFIT, SHAPES, EQUAL, EQUAL)[0] == 0
    unheard = np.where(AT_128, 1e-9, 1.0)
    assert curve_fit._unexplained(CURVE + MISFIT + 5 * AT_128, SHAPES, unheard, EXACT)[1] < 0.06


def test_cells_are_weighed_by_influence_over_all_the_variance_there_is():
    own = np.array([0.01, 0.01, 0.08, 0.08, 0.01, 0.08, 0.01, 0.01])
    values = CURVE + 1.4 * MISFIT
    influence = curve_fit._influence(values, SHAPES, own)
    unexplained, _ = curve_fit._unexplained(values, SHAPES, influence, own)
    assert 0.02 < unexplained < 0.1
    position, _ = curve_fit._least_squares(values[None], SHAPES, influence / (own**2 + unexplained**2))
    errors = own * np.resize([1.0, -1.0], (DRAWS, 1))
    assert curve_fit.fit_knee(SIZES, values, errors).knee == pytest.approx(
        curve_fit._between(GRID, position)[0], rel=1e-4
    )


@pytest.mark.parametrize(("silent", "freedom"), [(0, 6), (3, 3), (6, 1)])
def test_what_is_unexplained_is_student_like_with_two_degrees_fewer_than_cells(silent, freedom):
    weights = np.where(np.arange(len(SIZES)) < silent, 1e-12, 1.0)
    draws = curve_fit._bootstrap(CURVE, np.zeros((100_000, len(SIZES))), 1e-4, SHAPES, weights, 0)
    (position, *_), _ = curve_fit._least_squares(CURVE[None], SHAPES, weights)
    middle, far = np.quantile(np.abs(draws - position), [0.5, 0.9])
    assert far / middle == pytest.approx(special.stdtrit(freedom, 0.95) / special.stdtrit(freedom, 0.75), rel=0.02)


def refuse(knee=200.0, error=0.0, outliers=(), cells=8):
    curve_fit._refuse(np.full(DRAWS, knee), error, list(outliers), SIZES[:cells].astype(float))


def test_a_curve_that_more_than_a_quarter_of_the_cells_contradict_is_refused():
    refuse(outliers=[16, 32])
    refuse(outliers=[16], cells=7)
    with pytest.raises(Refusal, match=r"^3 of 8 batch sizes are far from every such curve"):
        refuse(outliers=[16, 32, 64])
    with pytest.raises(Refusal, match=r"^2 of 7 batch sizes are far from every such curve"):
        refuse(outliers=[16, 32], cells=7)


def test_limits_are_where_they_are_said_to_be():
    for knee in (16 / 89, 2048 * 89.0):
        refuse(knee)
    refuse(error=0.30)
    with pytest.raises(Refusal, match="the fit error of 31% is above the 30%"):
        refuse(error=0.31)
    with pytest.raises(Refusal, match=r"above 1\.86e\+05 with no upper bound"):
        refuse(2048 * 91.0)
    with pytest.raises(Refusal, match=r"below 0\.174 with no lower bound"):
        refuse(16 / 92)


def test_a_slope_and_its_interval_are_those_of_ordinary_least_squares():
    random = np.random.default_rng(3)
    where, values = random.standard_normal(9), random.standard_normal(9) + 5
    where = where - where.mean()
    known = stats.linregress(where, values)
    reach = stats.t.ppf(0.975, 7) * known.stderr
    slope, ends = fit_slope(where, values, 7)
    assert slope == pytest.approx(known.slope)
    assert ends == pytest.approx((known.slope - reach, known.slope + reach))
    _, wider = fit_slope(where, values, 7, least_variance=100.0)
    assert wider[0] < ends[0]
    assert wider[1] > ends[1]


def test_powers_are_those_of_separate_regressions_where_columns_are_orthogonal():
    random = np.random.default_rng(3)
    where = np.array([(x, y) for x in (-1.0, 0.0, 1.0) for y in (2.0, 4.0, 9.0)])
    values = 5 + 0.7 * where[:, 0] - 0.2 * where[:, 1] + 0.1 * random.standard_normal(9)
    centred = where - where.mean(axis=0)
    residuals = values - values.mean()
    expected = [float(column @ values / (column @ column)) for column in centred.T]
    residuals = residuals - centred @ np.array(expected)
    spread = np.sqrt(residuals @ residuals / 6)
    found = curve_fit.fit_powers(where, values)
    for (power, (low, high)), one, column in zip(found, expected, centred.T, strict=True):
        off = stats.t.ppf(0.975, 6) * spread / np.sqrt(column @ column)
        assert (power, low, high) == pytest.approx((one, one - off, one + off), rel=1e-9)


def test_powers_need_two_more_values_than_parameters_and_columns_that_move_apart():
    line = np.arange(5.0)[:, None]
    ((power, _),) = curve_fit.fit_powers(line[:4], 2 * line[:4, 0])
    assert power == pytest.approx(2)
    with pytest.raises(Refusal, match=r"^3 groups have an answer, and an exponent needs 4$"):
        curve_fit.fit_powers(line[:3], line[:3, 0])
    with pytest.raises(Refusal, match=r"^the columns move together in these groups, so that their exponents cannot"):
        curve_fit.fit_powers(np.concatenate([line, 3 * line + 1], axis=1), line[:, 0])

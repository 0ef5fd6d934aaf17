"""The parts of a fit by closed forms: least squares on a grid, Tukey's weights, what is unexplained and refused."""

from __future__ import annotations

import numpy as np
import pytest
from batchscale.analysis.statistics import curve_fit
from batchscale.analysis.statistics.curve_fit import Refusal
from batchscale.analysis.statistics.intervals import DRAWS
from scipy import special

SIZES = 2 ** np.arange(4, 12)
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
    with pytest.raises(Refusal, match=r"^3 of 8 batch sizes lie far"):
        refuse(outliers=[16, 32, 64])
    with pytest.raises(Refusal, match=r"^2 of 7 batch sizes lie far"):
        refuse(outliers=[16, 32], cells=7)


def test_limits_are_where_they_are_said_to_be():
    for knee in (16 / 89, 2048 * 89.0):
        refuse(knee)
    refuse(error=0.30)
    with pytest.raises(Refusal, match="the fit error of 31% is above the 30%"):
        refuse(error=0.31)
    with pytest.raises(Refusal, match=r"above 1\.86e\+05 with no upper bound"):
        refuse(2048 * 91.0)
    with pytest.raises(Refusal, match=r"below 0\.174, no lower bound"):
        refuse(16 / 92)

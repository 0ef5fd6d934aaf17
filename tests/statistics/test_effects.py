"""Effects of arms in tables with common rows: least squares by closed forms, errors that hold, no error in common."""

from __future__ import annotations

import numpy as np
import pytest
from batchscale.statistics import effects
from batchscale.statistics.effects import (
    BLOCK_FREEDOM,
    BLOCK_SPREAD,
    PSEUDO_MEDIAN,
    of_blocks,
    of_seeds,
    pseudo_medians,
)
from hypothesis import given
from hypothesis import strategies as st


@pytest.fixture
def random():
    return np.random.default_rng(0)


def difference_variance(part, one=0, other=1):
    covariance = part.covariance
    return covariance[one, one] + covariance[other, other] - 2 * covariance[one, other]


def test_a_complete_table_gives_column_means_and_the_variances_of_what_rows_do_not_share(random):
    table = random.standard_normal((7, 4)) + 10 * random.standard_normal((7, 1)) + np.arange(4.0)
    found = of_seeds(table)
    residuals = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean()
    pooled = (residuals**2).sum() / (6 * 3)
    np.testing.assert_allclose(found.centres, table.mean(axis=0))
    # Four variances of like size are pooled, so each pair differs by the variance of two means.
    assert difference_variance(found.parts["seeds"]) == pytest.approx(2 * pooled / 7, rel=0.5)
    assert found.parts["seeds"].freedom.max() <= 18 + 1e-9


@given(st.floats(-50, 50), st.integers(0, 6))
def test_a_level_that_a_whole_row_has_in_common_changes_no_difference(level, row):
    table = np.random.default_rng(1).standard_normal((7, 3))
    moved = table.copy()
    moved[row] += level
    before, after = of_seeds(table), of_seeds(moved)
    np.testing.assert_allclose(np.diff(after.centres), np.diff(before.centres), atol=1e-9)
    np.testing.assert_allclose(after.parts["seeds"].covariance, before.parts["seeds"].covariance, atol=1e-9)


def test_an_incomplete_table_is_fitted_by_least_squares(random):
    table = random.standard_normal((6, 4)) + 5 * random.standard_normal((6, 1))
    table[3:, 1] = np.nan
    table[0, 2] = np.nan
    rows, arms = np.nonzero(np.isfinite(table))
    design = np.concatenate([np.eye(4)[arms], np.eye(6)[rows]], axis=1)
    solved = np.linalg.lstsq(design, table[rows, arms], rcond=None)[0]
    found = of_seeds(table)
    np.testing.assert_allclose(np.diff(found.centres), np.diff(solved[:4]))
    # The arms are those of an average row.
    assert found.centres.mean() == pytest.approx(solved[:4].mean() + solved[4:].mean())


def test_the_covariance_is_that_of_repeated_tables(random):
    known = np.ones((6, 4), dtype=bool)
    known[3:, 1] = known[0, 2] = False
    spreads = np.array([0.5, 1.0, 1.5, 2.0])
    draws = 5 * random.standard_normal((20_000, 6, 1)) + spreads * random.standard_normal((20_000, 6, 4))
    fit = effects._fit(np.where(known, 0.0, np.nan))
    expected = effects._covariance(fit, known, np.broadcast_to(spreads**2, known.shape))
    filled = np.where(known, draws, 0.0)
    centred = np.where(known, draws - (filled.sum(axis=2) / known.sum(axis=1))[..., None], 0.0).sum(axis=1)
    observed = np.cov((centred @ fit.inverse).T)
    for one, other in ((0, 1), (1, 2), (0, 3)):
        pair = effects.Part(observed, spreads)
        assert difference_variance(pair, one, other) == pytest.approx(
            difference_variance(effects.Part(expected, spreads), one, other), rel=0.05
        )


def test_residuals_have_as_many_degrees_of_freedom_as_leverage_leaves(random):
    table = random.standard_normal((5, 3))
    fit = effects._fit(table)
    np.testing.assert_allclose((1 - fit.leverage).sum(axis=0), 4 * 2 / 3)
    table[4, 0] = np.nan
    left = np.isfinite(table)
    assert (1 - effects._fit(table).leverage)[left].sum() == pytest.approx(14 - (5 + 3 - 1))


def test_rows_that_do_not_connect_the_arms_leave_them_unpaired():
    table = np.full((8, 2), np.nan)
    table[:4, 0], table[4:, 1] = [1.0, 2.0, 3.0, 4.0], [11.0, 12.0, 13.0, 14.0]
    found = of_seeds(table)
    assert found.centres.tolist() == [2.5, 12.5]
    assert difference_variance(found.parts["seeds"]) == pytest.approx(2 * np.var([1, 2, 3, 4], ddof=1) / 4)


def test_runs_that_missed_are_counted_and_those_that_were_not_made_are_not():
    table = np.array([[1.0, 2.0, np.inf], [1.5, np.inf, np.inf], [1.2, 2.2, np.nan], [1.1, 2.5, np.inf]])
    found = of_seeds(table)
    assert found.misses.tolist() == [0, 1, 3]
    assert found.runs.tolist() == [4, 4, 3]
    assert np.isfinite(found.centres).tolist() == [True, True, False]


def test_what_was_measured_once_has_an_unknown_error():
    assert np.isnan(of_seeds(np.array([[1.0, 2.0]])).parts["seeds"].covariance).all()
    assert np.isnan(of_blocks(np.array([[[1.0, 2.0]]])).parts["rounds"].covariance).all()


def test_one_block_errs_by_its_rounds_and_by_the_block_that_is_expected(random):
    rounds = 0.1 * random.standard_normal((1, 8, 2))
    found = of_blocks(rounds)
    within = rounds[0].var(axis=0, ddof=1).mean()
    assert difference_variance(found.parts["rounds"]) == pytest.approx(2 * PSEUDO_MEDIAN * within / 8)
    assert difference_variance(found.parts["blocks"]) == pytest.approx(2 * BLOCK_SPREAD**2)
    assert found.parts["blocks"].freedom.tolist() == [BLOCK_FREEDOM] * 2


def test_a_drift_that_a_whole_block_shares_is_no_error(random):
    rounds = 0.1 * random.standard_normal((4, 8, 3))
    drift = np.array([0.0, 1.0, -2.0, 5.0])[:, None, None]
    before, after = of_blocks(rounds), of_blocks(rounds + drift)
    np.testing.assert_allclose(np.diff(after.centres), np.diff(before.centres), atol=1e-9)
    np.testing.assert_allclose(after.parts["blocks"].covariance, before.parts["blocks"].covariance, atol=1e-9)


@pytest.mark.parametrize("spread", [0.0, 0.04, 0.15])
def test_many_blocks_show_how_much_a_size_errs_by_its_block(random, spread):
    blocks = spread * random.standard_normal((60, 1, 5)) + 0.1 * random.standard_normal((60, 10, 5))
    part = of_blocks(blocks).parts["blocks"]
    assert np.sqrt(difference_variance(part) * 60 / 2) == pytest.approx(spread, abs=0.02)


def test_sizes_that_were_dropped_from_later_blocks_stay_comparable(random):
    blocks = np.zeros((3, 4, 2)) + np.array([0.0, 5.0, 9.0])[:, None, None] + np.array([0.0, 0.3])
    blocks = blocks + 1e-3 * random.standard_normal(blocks.shape)
    blocks[1:, :, 1] = np.nan
    assert np.diff(of_blocks(blocks).centres)[0] == pytest.approx(0.3, abs=0.01)


def pseudo_median(values):
    return pseudo_medians(np.asarray(values, dtype=np.float64).reshape(1, -1, 1)).item()


def test_the_pseudo_median_is_exact_for_symmetric_values_and_unmoved_by_a_wild_one(random):
    assert pseudo_median([1.0, 2.0, 3.0]) == 2
    assert pseudo_median([1.0, 3.0]) == 2
    assert pseudo_median([4.0]) == 4
    assert pseudo_median([0.0, 1.0, 10.0]) == pytest.approx((1 + 5) / 2)
    values = random.standard_normal(15)
    assert abs(pseudo_median(np.append(values, 1e6)) - pseudo_median(values)) < 0.5
    drawn = pseudo_medians(random.standard_normal((3000, 10, 1)))
    assert np.var(drawn) * 10 == pytest.approx(PSEUDO_MEDIAN, abs=0.08)


def test_rounds_that_were_not_timed_do_not_count(random):
    values = random.standard_normal((3, 7, 2))
    fewer = np.concatenate([values, np.full((3, 4, 2), np.nan)], axis=1)
    np.testing.assert_allclose(pseudo_medians(fewer), pseudo_medians(values))
    fewer[1, :, 0] = np.nan
    assert np.isnan(pseudo_medians(fewer)).tolist() == [[False, False], [True, False], [False, False]]
    whole, padded = of_blocks(values), of_blocks(np.concatenate([values, np.full((3, 4, 2), np.nan)], axis=1))
    np.testing.assert_allclose(padded.centres, whole.centres)
    np.testing.assert_allclose(padded.parts["rounds"].covariance, whole.parts["rounds"].covariance)


def test_arms_of_one_size_share_its_timing_and_so_its_error(random):
    timing = of_blocks(random.standard_normal((1, 6, 2))).spread_over(np.array([0, 1, 1]))
    for part in timing.parts.values():
        assert difference_variance(part, 1, 2) == pytest.approx(0, abs=1e-12)
        assert difference_variance(part, 0, 1) > 0
    both = of_seeds(random.standard_normal((5, 3)))
    product = both.with_timing(timing).shifted(np.arange(3.0))
    np.testing.assert_allclose(product.centres, both.centres + timing.centres + np.arange(3))
    assert set(product.parts) == {"seeds", "rounds", "blocks"}


def test_a_limit_stands_for_runs_that_missed_with_the_spread_of_the_others(random):
    """Its differences err as those of a column of numbers would, and the other columns are as they were without it."""
    values = random.normal(0, 0.1, (4, 3))
    table = np.column_stack([values, np.full(4, np.inf)])
    limits = np.array([np.nan, np.nan, np.nan, 2.0])
    found, without = of_seeds(table, later_than=limits), of_seeds(values)
    np.testing.assert_allclose(found.centres, [*without.centres, 2.0])
    assert found.is_limit.tolist() == [False, False, False, True]
    part, known = found.parts["seeds"], without.parts["seeds"]
    spread = part.covariance.diagonal()[:, None] + part.covariance.diagonal() - 2 * part.covariance
    of_known = known.covariance.diagonal()[:, None] + known.covariance.diagonal() - 2 * known.covariance
    np.testing.assert_allclose(spread[:3, :3], of_known, atol=1e-12)
    variances = 4 * known.covariance.diagonal() / (1 - 1 / 3)
    assert spread[3, 0] == pytest.approx((variances[0] + variances.mean()) / 4, rel=0.5)
    assert found.misses.tolist() == [0, 0, 0, 4]


def test_a_limit_is_of_no_use_where_a_run_crossed():
    found = of_seeds(np.array([[0.0, np.inf], [0.1, 1.0]]), later_than=np.array([np.nan, 5.0]))
    assert not found.is_limit.any()
    assert found.centres[1] == pytest.approx(1.0, abs=0.1)

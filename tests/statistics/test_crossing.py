"""Crossings of a target: exact where curves are exact, and unbiased with true intervals where they are noisy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from batchscale.statistics.crossing import (
    additive,
    jackknife_error,
    locate_crossing,
    lowest_until,
    smooth,
    table_of,
    typical_of,
    without_collapse,
)
from scipy import stats
from simulated_curves import CurveTruth

EXAMPLES = np.arange(1, 41) * 100.0
TRUTH = CurveTruth()


def falling(at, slope=-0.3, offsets=(0.0,)):
    """Straight scores that reach 0 after `at` examples, one run for each offset."""
    return slope * np.log(EXAMPLES / at) + np.array(offsets)[:, None]


def test_straight_curves_cross_where_they_cross():
    found = locate_crossing(EXAMPLES, falling(1234.0), 0.0)
    assert found.typical == pytest.approx(np.log(1234.0), abs=1e-6)
    assert found.slope == pytest.approx(-0.3)
    assert found.flags == frozenset()
    assert found.first_seen.tolist() == [np.log(1300.0)]


@pytest.mark.parametrize(("target", "evaluations"), [(0.1, 25.0), (0.1, 200.0), (0.02, 25.0)])
def test_a_bend_moves_the_crossing_little(target, evaluations):
    """An exponential decay bends downward over log examples; lines that are fitted once cross it 4.5% too early."""
    examples = np.arange(evaluations, 4001, evaluations)
    found = locate_crossing(examples, -examples[None] / 500, np.log(target))
    assert found.typical == pytest.approx(np.log(-500 * np.log(target)), abs=0.03)


def test_each_run_has_the_crossing_of_its_own_parallel_curve_and_the_typical_run_their_mean():
    offsets = np.array([0.05, -0.02, 0.03, -0.06])
    found = locate_crossing(EXAMPLES, falling(1000.0, -0.5, offsets), 0.0)
    np.testing.assert_allclose(found.values, np.log(1000.0) + offsets / 0.5, atol=1e-6)
    assert found.typical == pytest.approx(found.values.mean())


def test_runs_that_end_at_different_examples_lose_nothing():
    offsets = np.array([0.05, -0.02, 0.03, -0.06])
    scores = falling(1000.0, -0.5, offsets)
    for row, end in zip(scores, (18, 40, 25, 16), strict=True):
        row[end:] = np.nan
    found = locate_crossing(EXAMPLES, scores, 0.0)
    np.testing.assert_allclose(found.values, np.log(1000.0) + offsets / 0.5, atol=1e-6)


def test_runs_that_are_early_or_late_on_a_bending_curve_spread_as_their_crossings_do():
    """Such a run is far from the typical one where the curve is steep, and near it where the curve has levelled off."""
    late = np.array([0.12, -0.05, -0.07])
    examples = np.arange(1, 101) * 10.0
    scores = np.log(0.01 + np.exp(-examples / np.exp(late)[:, None] / 50.0))
    found = locate_crossing(examples, scores, float(np.log(0.05)))
    np.testing.assert_allclose(found.values - found.typical, late, atol=0.02)


def test_the_lowest_score_until_some_examples_is_on_the_line_and_stays_after_its_end():
    offsets = np.array([0.1, -0.1])
    rising = np.where(EXAMPLES > 2000, falling(2000.0, 0.3), falling(2000.0, -0.3, offsets))
    found = lowest_until(EXAMPLES, rising, np.array([50.0, 500.0, 3000.0, 9000.0]))
    assert np.isnan(found.typical[0])
    assert found.typical[1] == pytest.approx(-0.3 * np.log(500 / 2000), abs=4e-3)
    np.testing.assert_allclose(found.runs[:, 1] - found.typical[1], offsets, atol=4e-3)
    assert found.slopes[1:] == pytest.approx([-0.3, 0, 0], abs=4e-3)
    assert found.typical[2] == found.typical[3] < found.typical[1]
    assert found.ended.tolist() == [False, False, False, True]
    assert lowest_until(EXAMPLES[:2], rising[:, :2], np.array([500.0])) is None


def test_the_typical_run_is_where_the_smooth_curve_of_all_runs_crosses_wherever_they_end():
    examples, scores = replace(TRUTH, past_target=1.3).draw(np.random.default_rng(8), 7)
    assert len({int(np.isfinite(row).sum()) for row in scores}) > 2
    seen = np.isfinite(scores).any(axis=0)
    curve, levels = additive(np.log(examples[seen]), scores[:, seen])
    found = locate_crossing(examples, scores, TRUTH.log_target)
    assert levels.sum() == pytest.approx(0, abs=1e-9)
    value, slope = smooth(curve, np.array([found.typical]))
    assert value[0] == pytest.approx(TRUTH.log_target, abs=1e-4)
    assert slope[0] == pytest.approx(found.slope, abs=1e-3)


@pytest.mark.parametrize("factor", [0.01, 3.0, 55_000.0])
def test_the_unit_of_examples_does_not_matter(factor):
    examples, scores = TRUTH.draw(np.random.default_rng(3), 5)
    one, other = (locate_crossing(scale * examples, scores, TRUTH.log_target) for scale in (1.0, factor))
    assert other.typical - one.typical == pytest.approx(np.log(factor), abs=1e-6)
    np.testing.assert_allclose(other.values - one.values, np.log(factor), atol=1e-6)


def test_the_order_of_runs_does_not_matter():
    examples, scores = TRUTH.draw(np.random.default_rng(4), 6)
    order = np.array([3, 1, 5, 0, 4, 2])
    one, other = (
        locate_crossing(examples, scores, TRUTH.log_target),
        locate_crossing(examples, scores[order], TRUTH.log_target),
    )
    np.testing.assert_allclose(other.values, one.values[order], atol=1e-9)


def test_one_lucky_evaluation_moves_the_first_evaluation_and_hardly_the_crossing():
    scores = falling(2000.0, offsets=(0.0,) * 5)
    lucky = scores.copy()
    lucky[:, 9] = -0.01
    before, after = (locate_crossing(EXAMPLES, each, 0.0) for each in (scores, lucky))
    assert np.median(after.first_seen) - np.median(before.first_seen) < -0.6
    assert abs(after.typical - before.typical) < 0.06


def test_a_run_is_cut_where_it_collapses_for_good_and_not_at_a_single_spike():
    spike, twice, last, rising = np.tile(falling(1000.0), (4, 1))
    spike[20] += 2
    twice[20:22] += 2
    last[39] += 2
    rising[20:] += 0.4
    kept = without_collapse(np.stack([spike, twice, last, rising]))
    assert np.isfinite(kept).sum(axis=1).tolist() == [40, 20, 39, 40]


def test_a_collapse_after_the_crossing_is_no_miss_and_one_before_it_is():
    scores = falling(1000.0, offsets=(0.0,) * 3)
    scores[0, 20:] = 2.0
    scores[1, 5:] = 2.0
    found = locate_crossing(EXAMPLES, scores, 0.0)
    assert np.isinf(found.values).tolist() == [False, True, False]
    assert found.misses == 1
    assert found.values[0] == pytest.approx(np.log(1000.0), abs=1e-6)


def test_with_misses_the_typical_run_is_the_median_over_all_runs():
    values = np.array([1.0, 2.0, 3.0, 4.0, np.inf])
    share, spread = 0.2, np.std([1, 2, 3, 4], ddof=1)
    assert typical_of(values) == pytest.approx(2.5 + spread * stats.norm.ppf(0.5 / (1 - share)))
    assert typical_of(values, 0.1) == pytest.approx(2.5 + 0.1 * stats.norm.ppf(0.625))
    assert typical_of(values[:4]) == 2.5
    assert typical_of(np.array([1.0, np.inf])) == np.inf
    random = np.random.default_rng(0)
    runs = np.where(random.random(200_000) < 0.3, np.inf, random.standard_normal(200_000))
    assert typical_of(runs) == pytest.approx(np.median(runs), abs=0.02)


def test_runs_that_never_come_near_miss():
    found = locate_crossing(EXAMPLES, falling(1e6), 0.0)
    assert (found.typical, found.misses, found.flags) == (np.inf, 1, {"never"})
    most = falling(1000.0, offsets=(0.0, 5.0, 5.0))
    assert locate_crossing(EXAMPLES, most, 0.0).flags == {"never"}


def test_runs_that_still_fall_when_they_end_are_later_than_their_end():
    found = locate_crossing(EXAMPLES, falling(10_000.0, offsets=(0.02, -0.02)), 0.0)
    assert found.flags == {"never"}
    assert np.isinf(found.values).all()
    assert found.later_than == pytest.approx(np.log(EXAMPLES[-1]))


def _shortened(scores):
    scores[1, -3:] = np.nan
    return scores


def _collapsed(scores):
    scores[1, -3:] += 1
    return scores


@pytest.mark.parametrize(
    "scores",
    [
        pytest.param(falling(1e9, -0.05, (0.02, -0.02)), id="flat: it may never cross"),
        pytest.param(falling(1.3 * EXAMPLES[-1], offsets=(0.0, 0.0)), id="about to cross"),
        pytest.param(_shortened(falling(10_000.0, offsets=(0.0, 0.0))), id="one run ended before"),
        pytest.param(_collapsed(falling(10_000.0, offsets=(0.0, 0.0))), id="one run collapsed"),
        pytest.param(falling(10_000.0)[:, :2], id="too few evaluations"),
        pytest.param(falling(1000.0, offsets=(0.0, 2.0)), id="one run crossed"),
    ],
)
def test_runs_that_never_crossed_are_not_later_than_their_end_for_all_one_knows(scores):
    assert np.isnan(locate_crossing(EXAMPLES[: scores.shape[1]], scores, 0.0).later_than)


def test_runs_whose_mean_stays_above_the_target_miss_despite_lucky_evaluations():
    scores = np.full((3, 40), 0.1) + 0.001 * np.arange(40)[::-1]
    scores[:, 30] = -0.001
    found = locate_crossing(EXAMPLES, scores, 0.0)
    assert found.misses == 3
    assert found.flags == {"never"}
    assert np.isfinite(found.first_seen).all()


@pytest.mark.parametrize(
    ("at", "slope", "flags"),
    [
        (80.0, -0.3, {"first"}),
        (150.0, -0.3, set()),
        (1000.0, -0.09, {"flat"}),
        (3600.0, -0.3, {"end"}),
        (1000.0, -0.11, set()),
    ],
)
def test_an_estimate_that_is_not_to_be_trusted_says_why(at, slope, flags):
    assert locate_crossing(EXAMPLES, falling(at, slope), 0.0).flags == flags


def test_a_score_that_falls_slowly_by_its_nature_has_its_own_flat_slope():
    offsets = np.array([0.01, -0.01])
    found = locate_crossing(EXAMPLES, falling(1000.0, -0.05, offsets), 0.0, flat=-0.02)
    assert found.flags == frozenset()
    np.testing.assert_allclose(found.values, np.log(1000.0) + offsets / 0.05, atol=1e-6)
    held = locate_crossing(EXAMPLES, falling(1000.0, -0.05, offsets), 0.0)
    assert held.flags == {"flat"}
    np.testing.assert_allclose(held.values, np.log(1000.0) + offsets / 0.08, atol=1e-6)


def test_with_too_few_evaluations_to_smooth_the_first_at_the_target_stands_in():
    examples = np.array([100.0, 200.0])
    found = locate_crossing(examples, np.array([[1.0, -1.0], [-1.0, -2.0], [1.0, 0.5]]), 0.0)
    assert found.values.tolist() == [np.log(200), np.log(100), np.inf]
    assert found.flags == {"first"}
    assert locate_crossing(np.zeros(0), np.zeros((2, 0)), 0.0).flags == {"never"}


def test_runs_are_arranged_by_their_examples():
    examples, table = table_of([(np.array([1.0, 3.0]), np.array([5.0, 6.0])), (np.array([2.0]), np.array([7.0]))])
    assert examples.tolist() == [1, 2, 3]
    np.testing.assert_array_equal(table, [[5, np.nan, 6], [np.nan, 7, np.nan]])
    assert table_of([])[1].shape == (0, 0)


def test_leaving_out_runs_gives_the_spread_of_their_values():
    random = np.random.default_rng(1)
    drawn = [TRUTH.draw(random, 7) for _ in range(20)]
    jackknife = [jackknife_error(examples, scores, TRUTH.log_target) ** 2 for examples, scores in drawn]
    spread = [locate_crossing(*one, TRUTH.log_target).values.var(ddof=1) / 7 for one in drawn]
    assert np.mean(jackknife) == pytest.approx(np.mean(spread), rel=0.2)
    assert np.isnan(jackknife_error(EXAMPLES, falling(1000.0), 0.0))


def study(truth, worlds, runs=7, seed=0):
    """Errors of the typical crossing (worlds,), and how often its 95% t interval holds the truth."""
    random = np.random.default_rng(seed)
    errors, covered = [], 0
    for _ in range(worlds):
        found = locate_crossing(*truth.draw(random, runs), truth.log_target)
        values = found.values[np.isfinite(found.values)]
        errors.append(found.typical - np.log(truth.crossing))
        reach = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
        covered += abs(errors[-1]) <= reach
    return np.array(errors), covered / worlds


ENDED_LATER = replace(TRUTH, past_target=1.42)
COLLAPSING = replace(TRUTH, collapsing=0.2)


@pytest.mark.parametrize("truth", [TRUTH, ENDED_LATER, COLLAPSING])
def test_the_pooled_crossing_is_unbiased_and_its_interval_true_in_a_few_worlds(truth):
    errors, coverage = study(truth, 60, seed=2)
    assert abs(errors.mean()) <= 0.02 + 3 * 0.05 / np.sqrt(60)
    assert errors.std() <= 0.065
    assert coverage >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 60)


@pytest.mark.slow
@pytest.mark.parametrize("truth", [TRUTH, ENDED_LATER, COLLAPSING])
def test_the_pooled_crossing_reaches_its_figures(truth):
    errors, coverage = study(truth, 600)
    print(f"bias {errors.mean():+.4f}, sd {errors.std():.4f}, coverage {coverage:.3f}")
    assert abs(errors.mean()) <= 0.02
    assert errors.std() <= 0.055
    assert 0.92 <= coverage <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("past_target", [TRUTH.past_target, 1.42])
def test_four_times_as_many_evaluations_do_not_move_the_answer(past_target):
    """Nor where runs end at 1.42 times their first evaluation at the target, which then comes earlier."""
    often, _ = study(replace(TRUTH, per_epoch=16, past_target=past_target), 400)
    seldom, _ = study(replace(TRUTH, past_target=past_target), 400)
    print(f"change of the median answer: {np.expm1(np.median(often) - np.median(seldom)):+.2%}")
    assert abs(np.expm1(np.median(often) - np.median(seldom))) <= 0.02


def test_runs_that_end_at_their_first_evaluation_at_the_target_are_flagged_and_later_ends_are_not():
    random = np.random.default_rng(5)
    flagged = dict.fromkeys((1.0, 1.42), 0)
    for past in flagged:
        truth = replace(TRUTH, past_target=past)
        for _ in range(30):
            flagged[past] += "end" in locate_crossing(*truth.draw(random, 7), truth.log_target).flags
    assert flagged[1.0] >= 28
    assert flagged[1.42] <= 5

"""Which arms can be the best, and by how much an arm exceeds the best at most: closed forms, and levels that hold."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from batchscale.statistics.comparison import compare
from batchscale.statistics.effects import Effects, Part, of_seeds
from scipy import stats

MANY = 1e6
"""Degrees of freedom of a variance that is as good as known."""


def known(centres, spreads, freedom=MANY, misses=None, runs=10.0):
    """Independent estimates with known errors."""
    centres = np.asarray(centres, dtype=np.float64)
    part = Part(np.diag(np.square(np.broadcast_to(spreads, centres.shape))), np.full(len(centres), freedom))
    missed = np.zeros(len(centres)) if misses is None else np.asarray(misses, dtype=np.float64)
    return Effects(centres, {"seeds": part}, missed, np.full(len(centres), runs), np.full(len(centres), 0.2))


def compared(effects, alpha=0.05, **options):
    return compare(effects, np.ones(len(effects.centres), dtype=bool), alpha, **options)


@pytest.mark.parametrize("alpha", [0.004, 0.05, 0.2])
def test_two_arms_are_told_apart_at_the_one_sided_point_and_bounded_by_it(alpha):
    point = stats.norm.ppf(1 - alpha)
    spread = 0.1 * np.sqrt(2)
    near = compared(known([0.0, 0.9 * point * spread], 0.1), alpha)
    far = compared(known([0.0, 1.1 * point * spread], 0.1), alpha)
    assert near.tied.tolist() == [True, True]
    assert far.tied.tolist() == [True, False]
    assert near.critical == pytest.approx(point, rel=0.06)
    np.testing.assert_allclose(near.bounds, [0.1 * point * spread, 1.9 * point * spread], atol=0.06 * point * spread)
    assert far.bounds[0] == 0


def test_an_estimated_variance_asks_for_students_point():
    for freedom in (3.0, 12.0):
        found = compared(known([0.0, 0.0], 0.1, freedom), draws=40_000)
        assert found.critical == pytest.approx(stats.t.ppf(0.95, freedom), rel=0.03)


def test_the_recommended_arm_has_the_least_bound_which_need_not_be_the_least_estimate():
    found = compared(known([0.0, 0.01, 0.005], [0.3, 0.01, 0.3]))
    assert np.argmin(found.centres) == 0
    assert found.recommended == 1
    assert found.bounds[1] == min(found.bounds)


def test_the_bounds_use_the_largest_critical_value_of_the_arms():
    """The noisy arm errs alike against both others; a quiet one errs almost independently (Sidak's point)."""
    found = compared(known([0.0, 0.0, 0.0], [0.3, 0.01, 0.01]), draws=40_000)
    assert found.critical == pytest.approx(stats.norm.ppf(np.sqrt(0.95)), abs=0.03)
    assert found.bounds[0] == pytest.approx(found.critical * np.hypot(0.3, 0.01), rel=1e-6)
    assert stats.norm.ppf(0.95) < found.critical - 0.2


def test_an_arm_that_is_out_bounds_nothing():
    """The noisy arm is out at its own point, and within the larger point that bounds are made with."""
    spread = float(np.hypot(0.3, 0.01))
    found = compared(known([1.8 * spread, 0.0, 0.0], [0.3, 0.01, 0.01]), draws=40_000)
    assert found.tied.tolist() == [False, True, True]
    assert (found.critical - 1.8) * spread > 0.04
    np.testing.assert_allclose(found.bounds[1:], found.critical * np.sqrt(2) * 0.01)
    assert np.isinf(found.bounds[0])


def test_a_common_error_cancels():
    independent = known([0.0, 0.1], 0.5)
    shared = Effects(
        independent.centres,
        {"seeds": Part(np.full((2, 2), 0.25) + 1e-6 * np.eye(2), np.full(2, MANY))},
        independent.misses,
        independent.runs,
        independent.spreads,
    )
    assert compared(independent).tied.tolist() == [True, True]
    assert compared(independent).variances["seeds"][0, 1] == pytest.approx(2 * 0.25)
    assert compared(shared).variances["seeds"][0, 1] == pytest.approx(2e-6)
    assert compared(shared).tied.tolist() == [True, False]
    assert compared(shared).bounds[0] == 0


def test_only_what_is_still_in_is_compared():
    among = np.array([False, True, True])
    found = compare(known([-9.0, 0.0, 0.01], 0.1), among, 0.05)
    assert found.tied.tolist() == [False, True, True]
    assert np.isinf(found.bounds).tolist() == [True, False, False]


def test_a_single_arm_is_the_best_of_those_measured():
    found = compared(known([1.0], 0.1))
    assert (found.tied.tolist(), found.bounds.tolist(), found.recommended) == ([True], [0.0], 0)
    assert found.shares(0) == {}


def test_an_unknown_error_decides_nothing():
    found = compared(of_seeds(np.array([[0.0, 5.0]])))
    assert found.tied.tolist() == [True, True]
    assert np.isinf(found.bounds).all()
    assert found.recommended == 0


def test_an_arm_without_a_value_stays_in_and_leaves_all_others_unbounded():
    found = compared(known([0.0, 0.01, np.nan], 0.1, misses=[0, 0, 3], runs=3.0), 0.004)
    assert found.tied.tolist() == [True, True, True]
    assert np.isinf(found.bounds).all()
    assert found.recommended == 0


def test_an_arm_that_surely_misses_more_than_half_is_out():
    found = compared(known([0.0, 0.01, np.nan], 0.1, misses=[0, 0, 10]), 0.004)
    assert found.tied.tolist() == [True, True, False]
    assert np.isfinite(found.bounds).tolist() == [True, True, False]
    alone = compared(known([0.0, np.nan], 0.1, misses=[0, 10]), 0.004)
    assert alone.tied.tolist() == [True, False]
    assert alone.bounds[0] == 0


def limited(limit, seeds=3, spread=0.05):
    """Two arms that hardly differ, and one whose runs all ended at `limit` short of the target."""
    values = spread * np.random.default_rng(1).standard_normal((seeds, 2))
    table = np.column_stack([values, np.full(seeds, np.inf)])
    return compared(of_seeds(table, later_than=np.array([np.nan, np.nan, limit])), 0.004)


def test_an_arm_is_out_where_even_its_lower_limit_is_too_late():
    late = limited(3.0)
    assert late.tied.tolist() == [True, True, False]
    assert np.isfinite(late.bounds).tolist() == [True, True, False]


def test_a_limit_that_is_not_late_leaves_its_arm_in_unbounded_and_bounds_the_others_less():
    late, near, unknown = limited(3.0), limited(0.0), limited(np.nan)
    assert near.tied.all()
    assert np.isfinite(near.bounds).tolist() == [True, True, False]
    assert min(near.bounds) >= min(late.bounds)
    assert np.isinf(unknown.bounds).all()
    assert np.isnan(near.centres[2])
    early = limited(-9.0)
    assert early.tied.all(), "nothing is out because of what an arm might be at best"
    assert early.recommended in (0, 1)
    assert np.isfinite(early.bound_after({}))


def test_misses_make_an_arm_later_and_less_sure_and_nothing_is_measured_against_a_doubtful_one():
    whole, some = compared(known([0.0, 0.5], 0.01)), compared(known([0.0, 0.5], 0.01, misses=[2, 0]))
    late = 0.2 * stats.norm.ppf(0.5 / 0.8)
    assert whole.tied.tolist() == [True, False]
    assert some.centres[0] == pytest.approx(late, abs=0.03)
    assert some.tied.tolist() == [True, True]
    assert np.isinf(some.bounds[0])
    many = compared(known([0.0, 0.5], 0.01, misses=[8, 0], runs=60.0))
    assert many.tied.tolist() == [True, False]


def test_more_data_of_a_source_shrinks_the_bound_by_its_share():
    part = Part(np.diag([0.01, 0.01]), np.full(2, MANY))
    base = known([0.0, 0.0], 0.1)
    both = Effects(base.centres, {"seeds": part, "rounds": part}, base.misses, base.runs, base.spreads)
    found = compared(both)
    assert found.shares(0) == pytest.approx({"seeds": 0.5, "rounds": 0.5})
    bound = min(found.bounds)
    assert found.bound_after({}) == pytest.approx(bound)
    assert found.bound_after({"seeds": 4.0}) == pytest.approx(bound * np.sqrt(0.5 + 0.125))
    assert found.bound_after({"seeds": 4.0, "rounds": 4.0}) == pytest.approx(bound / 2)


def test_the_same_rows_give_the_same_answer():
    table = np.random.default_rng(0).standard_normal((5, 4))
    one, other = compared(of_seeds(table)), compared(of_seeds(table))
    assert one.bounds.tolist() == other.bounds.tolist()
    assert compared(of_seeds(table), stream=1).bounds.tolist() != one.bounds.tolist()


def test_the_answer_does_not_depend_on_signs_and_order_of_eigenvectors(monkeypatch):
    """They differ between machines."""
    effects, decompose = of_seeds(np.random.default_rng(0).standard_normal((5, 4))), np.linalg.eigh
    here = compared(effects).bounds
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: (decompose(matrix)[0][::-1], -decompose(matrix)[1][:, ::-1]))
    assert compared(effects).bounds.tolist() == pytest.approx(here.tolist(), rel=1e-9)


def level(worlds, truth, correlation, alpha, seed=0):
    """How often the truly best arm is tied, and the bounds of all arms hold, with seven seeds of unequal spread."""
    random = np.random.default_rng(seed)
    held = bounded = 0
    for _ in range(worlds):
        own = np.sqrt(1 - correlation) * random.standard_normal((7, len(truth)))
        shared = np.sqrt(correlation) * random.standard_normal((7, 1))
        spread = 0.13 * np.exp(0.2 * random.standard_normal(len(truth)))
        found = compared(of_seeds(truth + spread * (own + shared)), alpha, draws=2000)
        held += found.tied[np.argmin(truth)]
        bounded += bool((truth - truth.min() <= found.bounds + 1e-12).all())
    return held / worlds, bounded / worlds


FLAT = np.array([0.0, 0.0, 0.0, 0.01, 0.01, 0.3])
LEAST = 0.95 - 3 * np.sqrt(0.95 * 0.05 / 60)


def test_the_level_holds_in_a_few_worlds():
    held, bounded = level(60, FLAT, 0.26, 0.05)
    assert held >= LEAST
    assert bounded >= LEAST


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.26, 0.6])
def test_the_level_holds_for_the_set_and_for_all_bounds_together(correlation):
    held, bounded = level(800, FLAT, correlation, 0.05)
    print(f"correlation {correlation}: best tied {held:.3f}, all bounds hold {bounded:.3f}")
    assert held >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / 800)
    assert bounded >= 0.95 - 2 * np.sqrt(0.95 * 0.05 / 800)


def drawn(worlds):
    """The runs (3, arms) of each world; in truth, the first arm is among the best."""
    random, truth = np.random.default_rng(0), np.array([0.0, 0.0, 0.0, 0.05, 0.4])
    for _ in range(worlds):
        spread = 0.13 * np.exp(0.2 * random.standard_normal(len(truth)))
        shared, own = random.standard_normal((3, 1)), random.standard_normal((3, len(truth)))
        yield truth + spread * (np.sqrt(0.26) * shared + np.sqrt(0.74) * own)


def is_out_at_limit(values, horizon, alpha):
    """Whether the best arm is out if all of its runs end at `horizon`."""
    missed = values.copy()
    missed[:, 0] = np.inf
    limits = np.array([horizon, *[np.nan] * 4])
    return bool(compared(of_seeds(missed, later_than=limits), alpha, draws=1000).out[0])


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.004, 0.0095])
def test_a_limit_calls_the_best_arm_out_no_more_often_than_the_level_allows(alpha):
    """The horizon ranges from one that all runs miss to one that only late ones do.

    The levels are those of looks: at 5%, three misses of three call an arm out whenever its runs ended.
    """
    worlds = list(drawn(3000))
    is_out = cache(lambda world: bool(compared(of_seeds(worlds[world]), alpha, draws=1000).out[0]))
    for horizon in (-1.0, -0.1, 0.0, 0.1):
        missed = [world for world, values in enumerate(worlds) if (values[:, 0] > horizon).all()]
        out = sum(is_out_at_limit(worlds[world], horizon, alpha) for world in missed)
        trained_on = sum(map(is_out, missed))
        share, allowed = out / len(worlds), alpha + 3 * np.sqrt(alpha * (1 - alpha) / len(worlds))
        print(f"horizon {horizon}, alpha {alpha}: {len(missed)} missed, {out} out, {trained_on} if trained on")
        assert share <= allowed
        assert out <= trained_on + 3 * np.sqrt(trained_on + 1)

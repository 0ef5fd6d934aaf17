"""The surface of learning rates: exact where trials are, careful where they are not, better than each size alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from batchscale.statistics import rate_surface
from batchscale.statistics.curve_fit import Refusal
from batchscale.statistics.rate_surface import Trials, fit_surface
from scipy import optimize
from simulated_rates import SIZES, TRUTHS, RateTruth, best_trial_of_each, regrets


@pytest.fixture
def random():
    return np.random.default_rng(0)


def chosen(trials, **options):
    return np.array([choice.rate for choice in fit_surface(trials, **options).choices])


def only(trials, kept):
    return Trials(trials.batch_sizes[kept], trials.rates[kept], trials.log_examples[kept], trials.reached[kept])


@pytest.mark.parametrize("name", ["as fitted", "diverges"])
def test_the_gradient_is_that_of_the_loss(name, random):
    trials, _ = TRUTHS[name].draw(random)
    sizes, which = np.unique(trials.batch_sizes, return_inverse=True)
    problem = rate_surface._problem(sizes, which, trials)
    at = rate_surface._maximum(problem) + 0.1 * random.standard_normal(2 * 9 + 6)
    numeric = optimize.approx_fprime(at, lambda x: rate_surface._loss(x, problem)[0], 1e-6)
    np.testing.assert_allclose(rate_surface._loss(at, problem)[1], numeric, rtol=1e-3, atol=1e-3)


def test_without_noise_the_surface_is_the_truth(random):
    truth = RateTruth()
    trials, best = truth.draw(random, noise=1e-3)
    found = fit_surface(trials)
    np.testing.assert_allclose(found.ridge, best, atol=0.05)
    assert found.curvature_below == pytest.approx(0.15, rel=0.1)
    assert found.curvature_above == pytest.approx(0.4, rel=0.1)
    low, high = found.band
    assert np.all((low < found.best_rates) & (found.best_rates < high))


def test_the_band_holds_the_best_rates_about_as_often_as_it_claims(random):
    held = []
    for _ in range(30):
        trials, best = RateTruth().draw(random)
        low, high = np.log2(fit_surface(trials).band)
        held.append((low <= best) & (best <= high))
    assert 0.85 <= np.mean(held) <= 1


def test_doubt_leans_low_because_a_rate_that_is_too_high_costs_more(random):
    trials, _ = RateTruth().draw(random, noise=0.01)
    found = fit_surface(trials)
    fine = found.ridge[4] + np.linspace(-2, 2, 801)
    best = fine[np.argmin(found.expected_regret(found.ridge[4], fine))]
    assert -0.3 < best - found.ridge[4] < -0.03
    assert found.curvature_above > found.curvature_below


def test_regret_is_cut_off_and_least_near_the_ridge(random):
    trials, _ = RateTruth().draw(random)
    found = fit_surface(trials)
    far = found.expected_regret(0.0, np.array([-30.0, 0.0, 30.0]))
    assert far[[0, 2]].tolist() == pytest.approx([rate_surface.MOST_REGRET] * 2)
    assert far[1] < 0.1


def test_a_chosen_rate_is_within_those_tried_and_a_tried_one_where_between_gains_nothing(random):
    trials, _ = RateTruth().draw(random)
    for choice in fit_surface(trials).choices:
        tried = trials.rates[trials.batch_sizes == choice.batch_size]
        assert tried.min() <= choice.rate <= tried.max()
        assert choice.tried == (choice.rate in tried)
        assert not choice.by_neighbours
    among = {choice.tried for choice in fit_surface(trials).choices}
    assert among == {True, False}
    assert all(choice.tried for choice in fit_surface(trials, between=False).choices)
    high = only(trials, trials.rates >= np.median(trials.rates[trials.batch_sizes == 256]))
    assert all(choice.rate >= high.rates.min() for choice in fit_surface(high).choices)


def test_a_size_that_never_reached_the_target_takes_its_rate_from_the_neighbours(random):
    trials, best = RateTruth().draw(random, noise=0.02)
    lost = trials.batch_sizes == 256
    changed = replace(trials, reached=trials.reached & ~lost, log_examples=np.where(lost, -1.0, trials.log_examples))
    found = fit_surface(changed)
    assert [choice.by_neighbours for choice in found.choices] == (SIZES == 256).tolist()
    assert found.ridge[4] == pytest.approx(best[4], abs=0.2)
    whole = fit_surface(trials)
    assert found.ridge_errors[4] > whole.ridge_errors[4]


def test_one_lucky_trial_at_a_high_rate_does_not_choose_it(random):
    trials, best = RateTruth().draw(random, noise=0.05)
    at = np.flatnonzero((trials.batch_sizes == 256) & (np.log2(trials.rates) > best[4] + 0.7))[0]
    lucky = trials.log_examples.copy()
    lucky[at] = trials.log_examples[trials.batch_sizes == 256].min() - 0.05
    changed = replace(trials, log_examples=lucky, reached=np.ones_like(trials.reached))
    assert best_trial_of_each(changed)[4] == trials.rates[at]
    assert chosen(changed)[4] < 0.8 * trials.rates[at]


def test_trials_far_above_the_best_say_no_more_than_that_they_are_far(random):
    trials, _ = RateTruth().draw(random, noise=0.05)
    best = np.array([trials.log_examples[trials.batch_sizes == size].min() for size in trials.batch_sizes])
    far = trials.log_examples - best > 0.9
    assert far.sum() > 3
    far_off, farther = (
        replace(trials, log_examples=np.where(far, best + by, trials.log_examples), reached=trials.reached | far)
        for by in (1.5, 5.0)
    )
    np.testing.assert_allclose(fit_surface(farther).ridge, fit_surface(far_off).ridge, atol=1e-3)
    limit = np.where(far, best + rate_surface.NEARBY, trials.log_examples)
    censored = replace(trials, log_examples=limit, reached=trials.reached & ~far)
    np.testing.assert_allclose(fit_surface(farther).ridge, fit_surface(censored).ridge, atol=1e-3)


def test_one_wild_trial_hardly_moves_the_ridge(random):
    trials, _ = RateTruth().draw(random, noise=0.05)
    at = int(np.flatnonzero(trials.batch_sizes == 256)[1])
    wild = trials.log_examples.copy()
    wild[at] += 0.8
    moved = fit_surface(replace(trials, log_examples=wild)).ridge - fit_surface(trials).ridge
    assert abs(moved[4]) < 0.05


def test_the_order_of_trials_and_the_unit_of_examples_do_not_matter(random):
    trials, _ = RateTruth().draw(random)
    order = random.permutation(len(trials.rates))
    np.testing.assert_allclose(chosen(only(trials, order)), chosen(trials), rtol=1e-6)
    moved = replace(trials, log_examples=trials.log_examples + 11)
    np.testing.assert_allclose(fit_surface(moved).ridge, fit_surface(trials).ridge, atol=0.02)


def test_an_untried_size_takes_a_rate_between_those_of_its_neighbours(random):
    trials, _ = RateTruth().draw(random, noise=0.01)
    found = fit_surface(trials)
    assert found.rate_at(64) < found.rate_at(96) < found.rate_at(128)
    assert found.rate_at(128) == pytest.approx(found.best_rates[3], rel=0.2)


def test_what_cannot_support_a_surface_is_refused(random):
    trials, _ = RateTruth().draw(random)
    with pytest.raises(Refusal, match=r"2 batch sizes have 3 rates and reached the target, and a surface .* needs 3"):
        fit_surface(only(trials, trials.batch_sizes <= 32))
    with pytest.raises(Refusal, match=r"^0 batch sizes"):
        fit_surface(only(trials, np.arange(45) % 5 < 2))
    with pytest.raises(Refusal, match=r"^0 batch sizes"):
        fit_surface(replace(trials, reached=np.zeros(45, dtype=bool)))
    three = only(trials, trials.batch_sizes <= 64)
    assert len(fit_surface(three).choices) == 3


@pytest.mark.parametrize("name", TRUTHS)
def test_the_surface_chooses_better_than_each_size_alone_in_a_few_searches(name):
    surface, alone = (
        np.mean([regrets(TRUTHS[name], np.random.default_rng(seed), choose) for seed in range(15)])
        for choose in (chosen, best_trial_of_each)
    )
    assert surface < 0.75 * alone
    assert surface < 0.06


@pytest.mark.slow
@pytest.mark.parametrize("name", TRUTHS)
def test_the_surface_reaches_its_figures(name):
    random = np.random.default_rng(7)
    found = np.array([regrets(TRUTHS[name], random, chosen) for _ in range(400)])
    print(f"{name}: mean regret {found.mean():.4f}, above 0.15 {np.mean(found > 0.15):.2%}")
    assert found.mean() <= 0.05
    assert np.mean(found > 0.15) <= 0.05

"""Looks: what is out stays out, seeds go to what is left, every stop has its reason, and the error stays within 5%."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from batchscale.statistics.looks import (
    ALLOWED,
    ALPHAS,
    LAST_SHARE,
    SEEDS,
    Rules,
    State,
    decide,
    middle_sizes,
    planned_alpha,
)
from simulated_looks import LANE_EPOCHS, TIMES, search


def state(log_times, seeds=3, **changes):
    """A look at runs and rounds that hardly err, of sizes with these log times to the target."""
    random = np.random.default_rng(0)
    count = len(log_times)
    log_times = np.asarray(log_times, dtype=np.float64)
    sizes = changes.pop("sizes", tuple(16 * 2**k for k in range(count)))
    made = State(
        look=0,
        sizes=sizes,
        out=np.zeros(count, dtype=bool),
        log_examples=log_times + 0.002 * random.standard_normal((seeds, count)),
        log_seconds=np.log(np.unique(sizes)) + 1e-3 * random.standard_normal((9, 20, len(set(sizes)))),
        cost=np.ones(count),
        left=1e6,
    )
    return replace(made, **changes)


def test_no_more_error_is_spent_than_five_percent():
    assert sum(ALPHAS) == pytest.approx(ALLOWED)
    assert len(ALPHAS) == len(SEEDS)


def test_one_that_is_left_ends_the_search():
    decision = decide(state([2.0, 1.0, 0.0, 1.0]))
    assert decision.stop == "one left"
    assert decision.out.tolist() == [True, True, False, True]
    assert (decision.seeds, decision.added) == (3, ())


def test_each_look_has_its_own_chance_of_error():
    assert decide(state([0.0, 1.0])).comparison.alpha == pytest.approx(ALPHAS[0])
    third = decide(state([0.0, 1.0], seeds=12, look=2), Rules(spent=sum(ALPHAS[:2])))
    assert third.comparison.alpha == pytest.approx(ALPHAS[2])
    with pytest.raises(ValueError, match="seeds: 7 values, expected at most 6"):
        Rules(seeds=(1, 2, 3, 4, 5, 6, 7))


def test_looks_after_a_last_one_share_what_it_left():
    spent = 0.03
    planned = []
    for look in range(2, len(ALPHAS)):
        planned.append(planned_alpha(look, spent + sum(planned)))
    assert sum(planned) == pytest.approx(ALLOWED - spent)
    assert planned[1:] == pytest.approx(planned[:-1]), "as the planned ones, which are equal from the third look on"


def test_where_the_budget_ends_the_looks_the_last_comparison_has_most_of_the_error_that_is_left():
    """Two arms differ by so much that the planned error keeps both, and the last comparison does not."""
    random, never = np.random.default_rng(1), Rules(tolerance=0.0)
    apart = np.array([0.0, 2.0, 0.25, 2.0])
    close = state(apart, log_examples=apart + 0.1 * random.standard_normal((3, 4)))
    going, ended = decide(close, never), decide(replace(close, left=0.0), never)
    assert (going.stop, going.out.tolist()) == (None, [False, True, False, True])
    assert ended.comparison.alpha == pytest.approx(ALPHAS[0] + LAST_SHARE * (ALLOWED - ALPHAS[0]))
    assert (ended.stop, ended.out.tolist()) == ("one left", [False, True, True, True])


def test_where_all_runs_miss_none_is_left():
    missed = state([0.0, 1.0], log_examples=np.full((12, 2), np.inf), look=2)
    assert decide(missed).stop == "none left"
    few = state([0.0, 1.0], log_examples=np.full((3, 2), np.inf))
    assert decide(few).stop is None


def test_what_is_out_stays_out_and_is_compared_with_nothing():
    earlier = np.array([False, True, False, False])
    decision = decide(state([2.0, -5.0, 0.0, 1.0], out=earlier))
    assert decision.out.tolist() == [True, True, False, True]
    assert not decision.comparison.among[1]


def test_a_bound_within_the_tolerance_ends_the_search():
    decision = decide(state([0.0, 2.0, 0.001, 2.0]), Rules(tolerance=0.2))
    assert decision.stop == "within the tolerance"
    assert decision.comparison.tied.tolist() == [True, False, True, False]
    assert decide(state([0.0, 2.0, 0.001, 2.0]), Rules(tolerance=0.001)).stop is None


def test_neighbours_an_octave_apart_end_the_search_and_two_octaves_do_not():
    never = Rules(tolerance=0.0)
    assert decide(state([2.0, 0.0, 0.0, 2.0]), never).stop == "within an octave"
    far = decide(state([0.0, 2.0, 0.0, 2.0]), never)
    assert (far.stop, far.seeds) == (None, 6)


def test_the_schedule_ends():
    last = state([0.0, 2.0, 0.0, 2.0], seeds=96, look=len(SEEDS) - 1)
    assert decide(last, Rules(tolerance=0.0)).stop == "last look"


@pytest.mark.parametrize(
    ("seeds", "left", "more"),
    [(3, 100.0, 3), (3, 6.0, 3), (3, 5.9, 2), (3, 3.9, 0), (3, 0.0, 0), (12, 24.0, 12), (12, 7.9, 3), (12, 5.9, 0)],
)
def test_seeds_are_those_of_the_next_look_or_as_many_whole_ones_as_still_count(seeds, left, more):
    """Two sizes of cost 1 are left: at least 2 seeds, and a quarter of those there are, make a look."""
    look = SEEDS.index(seeds)
    decision = decide(state([0.0, 2.0, 0.0, 2.0], seeds=seeds, look=look, left=left), Rules(tolerance=0.0))
    assert decision.seeds == seeds + more
    assert decision.stop == (None if more else "budget")


def test_seeds_that_just_fit_are_not_lost_to_rounding():
    exact = state([0.0, 2.0, 0.0, 2.0], cost=np.full(4, 0.1), left=0.6)
    assert 0.6 / 0.2 < 3
    assert decide(exact, Rules(tolerance=0.0)).seeds == 6


def test_untried_neighbours_are_added_before_a_search_may_end():
    coarse = state([2.0, 0.0, 2.0], sizes=(16, 64, 256))
    decision = decide(coarse)
    assert (decision.stop, decision.added) == (None, (32, 128))
    assert decide(coarse, Rules(finest=4.0)).stop == "one left"


def test_added_sizes_pay_for_the_seeds_that_the_others_have():
    coarse = state([2.0, 0.0, 2.0], sizes=(16, 64, 256), cost=np.array([1.0, 2.0, 4.0]))
    # Halfway on a log scale, 32 costs 1.5 and 128 costs 3 a seed, and both need 6 seeds.
    whole = 3 * 2.0 + 6 * 4.5
    assert decide(replace(coarse, left=whole)).added == (32, 128)
    assert decide(replace(coarse, left=whole)).seeds == 6
    assert decide(replace(coarse, left=whole - 0.1)).seeds == 5
    # Too little for the added sizes ends a search that has its answer, and gives another one the seeds it can have.
    assert decide(replace(coarse, left=6.0)).stop == "one left"
    tied = state([0.0, 2.0, 0.0], sizes=(16, 64, 256), left=15.0)
    assert decide(tied, Rules(tolerance=0.0)).added == (32, 128)
    assert decide(replace(tied, left=7.9), Rules(tolerance=0.0)).added == ()
    assert decide(replace(tied, left=7.9), Rules(tolerance=0.0)).seeds == 6


@pytest.mark.parametrize(
    ("sizes", "left", "finest", "added"),
    [
        ((16, 64, 256), (1,), 2.0, (32, 128)),
        ((16, 64, 256), (0,), 2.0, (32,)),
        ((16, 32, 64), (1,), 2.0, ()),
        ((16, 32, 64), (1,), 1.5, (24, 48)),
        ((16, 24, 32), (1,), 1.5, ()),
        ((32, 96), (0,), 1.5, (48,)),
        ((16, 256), (0,), 2.0, (64,)),
        ((1, 2), (0,), 1.5, ()),
    ],
)
def test_middle_sizes_are_round_numbers_next_to_what_is_left(sizes, left, finest, added):
    kept = np.array([at in left for at in range(len(sizes))])
    assert middle_sizes(sizes, kept, finest, lambda _: 1) == added


def test_middle_sizes_are_multiples_of_what_they_must_be():
    kept = np.array([True, True])
    assert middle_sizes((256, 512), kept, 1.5, lambda _: 128) == (384,)
    assert middle_sizes((256, 512), kept, 1.5, lambda _: 256) == ()


def test_two_rates_of_a_size_are_two_arms_of_one_size():
    random = np.random.default_rng(0)
    arms = state([0.0, 0.0, 2.0], sizes=(64, 64, 256), log_seconds=np.log([64.0, 256.0]) + np.zeros((1, 5, 2)))
    arms = replace(arms, log_seconds=arms.log_seconds + 0.5 * random.standard_normal((1, 5, 2)))
    decision = decide(arms, Rules(finest=4.0))
    assert decision.comparison.variances["rounds"][0, 1] == pytest.approx(0, abs=1e-12)
    assert decision.comparison.variances["rounds"][0, 2] > 0


def test_the_same_rows_give_the_same_decision():
    one, other = (decide(state([0.0, 0.02, 0.01, 0.3])) for _ in range(2))
    assert one.comparison.bounds.tolist() == other.comparison.bounds.tolist()
    assert (one.stop, one.seeds) == (other.stop, other.seeds)


@pytest.mark.parametrize("name", ["sharp", "mlp"])
def test_a_few_searches_end_with_the_best_size_and_a_true_bound(name):
    random = np.random.default_rng(3)
    ended = [search(name, random, draws=1000) for _ in range(12)]
    assert np.mean([one.holds_best for one in ended]) >= 0.9
    assert np.mean([one.regret <= one.bound for one in ended]) >= 0.9
    assert max(one.spent for one in ended) <= 830
    assert np.mean([one.octaves for one in ended]) <= 2.5


MOST_OCTAVES = {("mlp", 0.0): 2.0, ("mlp", 0.04): 2.5, ("sharp", 0.0): 0.9, ("monotone", 0.0): 1.2, ("edge", 0.0): 1.8}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp", "edge", "misses"])
def test_a_search_with_few_seeds_keeps_the_best_and_a_true_bound(name):
    """The budget ends most of these searches at their second look, as it does the default suite's."""
    random = np.random.default_rng(12)
    ended = [search(name, random, budget=LANE_EPOCHS / 2, block_spread=0.04, draws=2000) for _ in range(400)]
    print(
        f"{name}: best tied {np.mean([one.holds_best for one in ended]):.4f}, bound holds "
        f"{np.mean([one.regret <= one.bound + 1e-9 for one in ended]):.4f}, octaves "
        f"{np.mean([one.octaves for one in ended]):.2f}, bound {np.median([np.expm1(one.bound) for one in ended]):.1%},"
        f" {dict(Counter(one.decision.stop for one in ended))}"
    )
    assert np.mean([one.holds_best for one in ended]) >= 0.95
    assert np.mean([one.regret <= one.bound + 1e-9 for one in ended]) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("name", "block_spread"), [*((name, 0.0) for name in TIMES), ("mlp", 0.04)])
def test_the_whole_search_reaches_its_figures(name, block_spread):
    random = np.random.default_rng(11)
    ended = [search(name, random, block_spread=block_spread, draws=2000) for _ in range(400)]
    held = np.mean([one.holds_best for one in ended])
    bounded = np.mean([one.regret <= one.bound + 1e-9 for one in ended])
    octaves, spent = np.mean([one.octaves for one in ended]), np.mean([one.spent for one in ended])
    bound, regret = np.median([np.expm1(one.bound) for one in ended]), np.mean([one.regret for one in ended])
    stops = dict(Counter(one.decision.stop for one in ended))
    print(
        f"{name}, blocks {block_spread}: best tied {held:.3f}, bound holds {bounded:.3f}, octaves {octaves:.2f}, "
        f"sizes {np.mean([len(one.tied) for one in ended]):.2f}, bound {bound:.1%}, regret {regret:.4f}, "
        f"cost {spent:.0f}, {stops}"
    )
    assert held >= 0.95
    assert bounded >= 0.95
    assert octaves <= MOST_OCTAVES.get((name, block_spread), np.inf)
    if name == "flat":
        assert regret <= 0.02
        assert bound <= 0.15
    if name == "sharp":
        assert spent <= 400

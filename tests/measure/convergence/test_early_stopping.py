"""Early stopping: rates that cannot win are stopped, and in simulated studies hardly ever one that would have won."""

import math
from bisect import bisect_right

import numpy as np
import pytest
from batchscale.config.goal import Goal
from batchscale.decisions.evaluations import first_at_target
from batchscale.measure.convergence.early_stopping import GRACE, Race, losers
from batchscale.records.row_types import Curve
from sample_rows import accuracy_of

EVALUATIONS = 40
STUDIES = 400
MOST_LOST = 0.02
"""The stated confidence: in at most 2% of studies is the rate that would have won stopped."""


def curve(accuracies, every=100):
    points = [every * (number + 1) for number in range(len(accuracies))]
    return Curve(examples=points, steps=points, accuracy=list(accuracies), loss=[None] * len(points))


def race(target=0.9, budget=1000, validation=1000):
    return Race(goal=accuracy_of(target), budget_examples=budget, validation_examples=validation)


def simulate(generator, rates=5, seeds=1, validation=1000):
    """Curves of one batch size: the error falls as a power law to a floor, and is read with binomial noise."""
    points = np.arange(1, EVALUATIONS + 1)
    curves = {}
    for rate in range(rates):
        floor, scale = generator.uniform(0.01, 0.2), generator.uniform(0.3, 0.9)
        power = generator.uniform(0.3, 1.5)
        group = []
        for _ in range(seeds):
            luck = generator.lognormal(0, 0.05)
            error = np.clip((floor + scale * points**-power) * luck, 0, 0.9)
            group.append(curve(1 - generator.binomial(validation, error) / validation))
        curves[0.1 * (rate + 1)] = group
    return curves


def cut(found, examples):
    return curve(found.scores["accuracy"][: bisect_right(found.examples, examples)])


def run(rule, curves):
    """Race the curves evaluation by evaluation as a wave does; the rates stopped."""
    stopped = {}
    for number in range(1, EVALUATIONS + 1):
        examples = 100 * number
        seen = {rate: stopped.get(rate) or [cut(one, examples) for one in group] for rate, group in curves.items()}
        for rate in losers(rule, seen, examples):
            stopped.setdefault(rate, seen[rate])
    return set(stopped)


def winners(rule, curves):
    """The rate first at the target by the median seed, and the one most accurate within the budget."""

    def time(group):
        found = [first_at_target(one, rule.goal) for one in group]
        return float(np.median([one.examples if one else math.inf for one in found]))

    def quality(group):
        return np.mean([max(one.scores["accuracy"][: rule.budget_examples // 100]) for one in group])

    times = {rate: time(group) for rate, group in curves.items()}
    fastest = min(times, key=lambda rate: times[rate])
    return {
        "target": fastest if math.isfinite(times[fastest]) else None,
        "accuracy": max(curves, key=lambda rate: quality(curves[rate])),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "target"), [(1, 0.8), (1, 0.95), (3, 0.8), (4, 0.95)])
def test_the_rate_that_would_have_won_is_stopped_in_fewer_than_one_study_in_fifty(seeds, target):
    generator = np.random.default_rng(round(100 * target) + seeds)
    rule = race(target, budget=3000)
    lost, stopped = {"target": 0, "accuracy": 0}, 0
    for _ in range(STUDIES):
        curves = simulate(generator, seeds=seeds)
        gone = run(rule, curves)
        stopped += len(gone)
        for claim, rate in winners(rule, curves).items():
            lost[claim] += rate in gone
    assert lost["target"] <= MOST_LOST * STUDIES
    assert lost["accuracy"] <= MOST_LOST * STUDIES
    assert stopped > STUDIES, "racing that stops nothing would pass"


def test_nothing_is_stopped_early_alone_or_at_the_target():
    good, bad = curve([0.5, 0.85] + [0.95] * 8), curve([0.1] * 10)
    rule = race()
    assert losers(rule, {0.1: [bad]}, 1000) == {}
    grace = math.ceil(GRACE * rule.budget_examples) - 1
    assert losers(rule, {0.1: [cut(bad, grace)], 0.2: [cut(good, grace)]}, grace) == {}
    assert losers(rule, {0.1: [good], 0.2: [curve([0.2, 0.9] + [0.91] * 8)]}, 1000) == {}


def test_a_rate_far_behind_is_stopped_with_the_reason():
    good, bad = curve([0.5, 0.6, 0.7, 0.8]), curve([0.1] * 4)
    found = losers(race(), {0.1: [bad], 0.2: [good]}, 400)
    assert found == {0.1: "error 0.9000 vs 0.2000 for the best rate after 400 examples"}


def test_a_rate_within_the_noise_of_evaluation_goes_on():
    ahead, behind = curve([0.9] * 4), curve([0.79] * 4)
    assert losers(race(0.95, validation=50), {0.1: [ahead], 0.2: [behind]}, 400) == {}
    assert list(losers(race(0.95, validation=5000), {0.1: [ahead], 0.2: [behind]}, 400)) == [0.2]


def test_past_the_budget_a_rate_short_of_a_target_that_another_passed_is_stopped():
    passed, short = curve([0.5] * 9 + [0.9, 0.9]), curve([0.5] * 9 + [0.89, 0.89])
    found = losers(race(), {0.1: [passed], 0.2: [short]}, 1100)
    assert found == {0.2: "another setting reached the target after 1000 examples"}
    assert losers(race(), {0.1: [cut(passed, 900)], 0.2: [cut(short, 900)]}, 900) == {}


def test_a_seed_at_the_target_keeps_its_point_while_the_mean_with_another_may_still_win():
    early, late = curve([0.5] * 5 + [0.9] * 14), curve([0.5] * 5 + [0.89] * 14)
    ahead = [curve([0.5] * 11 + [0.9] * 6)] * 2
    assert losers(race(), {0.1: ahead, 0.2: [early, late]}, 1700) == {}
    assert list(losers(race(), {0.1: ahead, 0.2: [early, late]}, 1900)) == [0.2]


def test_later_evaluations_of_a_finished_trial_stop_nothing_now():
    finished, going = curve([0.89] * 11 + [0.9] * 3), curve([0.89] * 11)
    assert losers(race(), {0.1: [finished, finished], 0.2: [going, going]}, 1100) == {}
    at_once = curve([0.5, 0.5] + [0.9] * 12)
    assert losers(race(), {0.1: [at_once, finished], 0.2: [going, going]}, 1100) == {}


def test_the_median_seed_decides():
    group = [curve([0.5] * 10 + [0.95]), curve([0.5] * 11), curve([0.5] * 10 + [0.95])]
    assert losers(race(), {0.1: group, 0.2: [curve([0.91] * 11)] * 3}, 1100) == {}


def falling(losses, deviation=0.1):
    """The curve of a loss, whose examples differ by `deviation`."""
    points = [100 * (number + 1) for number in range(len(losses))]
    return Curve(examples=points, steps=points, scores={"loss": losses}, deviations={"loss": [deviation] * len(losses)})


@pytest.mark.parametrize("metric", ["loss", "bits_per_byte"])
@pytest.mark.parametrize(("examples", "share"), [(400, 0.25), (800, 0.5)])
def test_a_loss_is_beaten_in_time(metric, examples, share):
    """The leader was better with a share of the examples, or only after it: a factor on the losses decides nothing."""
    rule = Race(goal=Goal(metric=metric, threshold=0.1), budget_examples=1000, validation_examples=1000)
    count, early = examples // 100, int(examples * share) // 100
    slow = falling([3.0] * count)
    ahead = falling([3.5] * (early - 1) + [2.9] * (count - early + 1))
    just_ahead = falling([3.5] * early + [2.9] * (count - early))
    assert list(losers(rule, {0.1: [slow], 0.2: [ahead]}, examples)) == [0.1]
    assert losers(rule, {0.1: [slow], 0.2: [just_ahead]}, examples) == {}


def test_a_reward_is_beaten_as_the_loss_that_it_negates_and_is_shown_with_its_own_sign():
    rule = Race(goal=Goal(metric="score", threshold=-0.1), budget_examples=1000, validation_examples=1000)

    def rising(values):
        points = [100 * (at + 1) for at in range(len(values))]
        nothing = {"score": [0.0] * len(values)}
        return Curve(examples=points, steps=points, scores={"score": values}, deviations=nothing)

    slow, ahead, just_ahead = rising([-3.0] * 4), rising([-2.9] * 4), rising([-3.5, -2.9, -2.9, -2.9])
    reason = "score -3.0000 after 400 examples vs more after 100 for the best rate"
    assert losers(rule, {0.1: [slow], 0.2: [ahead]}, 400) == {0.1: reason}
    assert losers(rule, {0.1: [slow], 0.2: [just_ahead]}, 400) == {}
    assert list(losers(rule, {0.1: [rising([])], 0.2: [ahead]}, 400)) == [0.1], "never evaluated is the worst"


def test_a_loss_within_the_noise_of_its_examples_goes_on():
    rule = Race(goal=Goal(metric="loss", threshold=0.1), budget_examples=1000, validation_examples=100)
    # The standard error of a difference is 0.1 sqrt(2 / 100) = 0.014, and 0.14 with ten times the deviation.
    for deviation, stopped in ((0.1, [0.1]), (1.0, [])):
        slow, ahead = falling([3.0] * 4, deviation), falling([2.9] * 4, deviation)
        assert list(losers(rule, {0.1: [slow], 0.2: [ahead]}, 400)) == stopped


def test_a_trial_that_was_never_evaluated_has_the_worst_score():
    rule = Race(goal=Goal(metric="loss", threshold=0.1), budget_examples=1000, validation_examples=100)
    assert list(losers(rule, {0.1: [falling([])], 0.2: [falling([2.9] * 4)]}, 400)) == [0.1]

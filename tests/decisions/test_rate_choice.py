"""Choosing a rate: crossings are bracketed, medians keep misses, and ties go where they cost nothing."""

import math

import msgspec
import pytest
from batchscale.config.goal import Goal
from batchscale.config.vocabulary import Point
from batchscale.decisions import crossings, evaluations, rate_choice
from batchscale.records.row_types import Curve, Trial
from hypothesis import given
from hypothesis import strategies as st
from sample_rows import ORIGIN, accuracy_of

GOAL = accuracy_of(0.8)


def trial(rate, accuracies, seed=1, every=100, **options):
    points = [every * (number + 1) for number in range(len(accuracies))]
    return Trial(
        **ORIGIN,
        phase="search",
        batch_size=10,
        learning_rate=rate,
        options=options,
        seed=seed,
        status="ok",
        train_examples=100,
        steps=len(points),
        curve=Curve(
            examples=points, steps=[point // 10 for point in points], accuracy=accuracies, loss=[None] * len(points)
        ),
        microbatch_size=10,
        lanes=1,
    )


accuracies = st.lists(st.floats(0, 1), max_size=12)


@given(accuracies, st.floats(0, 1))
def test_a_crossing_is_the_first_evaluation_at_the_target_and_brackets_the_truth(values, target):
    found = evaluations.first_at_target(trial(0.1, values).curve, accuracy_of(target))
    if found is None:
        assert all(value < target for value in values)
        return
    at = found.examples // 100 - 1
    assert values[at] >= target
    assert all(value < target for value in values[:at])
    assert found.previous_examples == found.examples - 100
    assert found.steps == found.examples // 10


@given(st.lists(accuracies, min_size=1, max_size=4), st.floats(0.05, 0.95), st.integers(1, 1200))
def test_a_choice_is_best_by_its_own_measure(curves, target, budget):
    trials = [trial(0.01 * (number + 1), values) for number, values in enumerate(curves)]
    choice = rate_choice.choose(trials, accuracy_of(target), budget)
    if choice is None:
        assert not any(curves)
        return
    times = {one.point: crossings.typical_examples([one], accuracy_of(target)) for one in trials}
    qualities = {one.point: evaluations.best_score(one.curve, GOAL, budget) or 0.0 for one in trials}
    assert times[choice.for_target] == min(times.values())
    assert qualities[choice.for_score] == max(qualities.values())
    assert choice.for_target not in choice.equally_fast
    assert all(times[point] == times[choice.for_target] < math.inf for point in choice.equally_fast)
    assert choice.points[0] == choice.for_target
    assert len(set(choice.points)) == len(choice.points)


def test_a_rate_whose_median_seed_misses_is_not_the_fastest():
    lucky = [trial(0.1, [0.9, 0.9], 1), trial(0.1, [0.1, 0.1], 2), trial(0.1, [0.1, 0.1], 3)]
    steady = [trial(0.2, [0.1, 0.9], seed) for seed in (1, 2, 3)]
    assert rate_choice.choose([*lucky, *steady], GOAL, 1000).for_target == Point(0.2)


def test_equal_accuracy_goes_to_the_faster_rate_and_so_never_to_an_edge_by_chance():
    trials = [trial(0.1, [0.1, 0.1, 0.9]), trial(0.2, [0.1, 0.9, 0.9]), trial(0.4, [0.1, 0.1, 0.9])]
    choice = rate_choice.choose(trials, GOAL, 1000)
    assert choice.for_score == choice.for_target == Point(0.2)
    assert choice.lower_edges == choice.upper_edges == []
    assert choice.is_inside


def test_edges_are_known_and_a_single_rate_has_none():
    low, high = trial(0.1, [0.1, 0.9]), trial(0.2, [0.9, 0.9])
    both, alone = rate_choice.choose([low, high], GOAL, 1000), rate_choice.choose([low], GOAL, 1000)
    assert (both.upper_edges, both.lower_edges, both.is_inside) == ([()], [], False)
    assert (alone.upper_edges, alone.lower_edges, alone.is_inside) == ([], [], False)
    assert rate_choice.choose([], GOAL, 1000) is None


def test_nothing_is_chosen_where_the_budget_gave_no_rate_a_step():
    assert rate_choice.choose([trial(0.1, []), trial(0.2, [])], GOAL, 1000) is None
    assert rate_choice.choose([trial(0.1, []), trial(0.2, [0.1])], GOAL, 1000).for_target == Point(0.2)


def test_what_nobody_reached_is_infinite_and_tied_with_nothing():
    choice = rate_choice.choose([trial(0.1, [0.1]), trial(0.2, [0.1])], GOAL, 1000)
    assert choice.equally_fast == []
    assert evaluations.first_at_target(trial(0.1, [0.1]).curve, GOAL) is None
    assert evaluations.best_score(trial(0.1, []).curve, GOAL, 1000) is None
    assert evaluations.best_score(trial(0.1, [0.9]).curve, GOAL, 99) is None


def test_options_are_chosen_with_the_rate_and_edges_and_ties_are_those_of_the_same_options():
    slow = [trial(rate, [0.1, 0.1, 0.9], momentum=0.0) for rate in (0.1, 0.2, 0.4)]
    fast = [trial(0.2, [0.1, 0.9, 0.9], momentum=0.9), trial(0.4, [0.1, 0.9, 0.9], momentum=0.9)]
    choice = rate_choice.choose([*slow, *fast], GOAL, 1000)
    momentum = (("momentum", 0.9),)
    assert choice.for_target == Point(0.2, momentum)
    assert choice.equally_fast == [Point(0.4, momentum)]
    assert (choice.lower_edges, choice.upper_edges) == ([momentum], []), "0.1 was tried, but with other options"
    assert not choice.is_inside


def test_the_two_best_points_may_lie_at_edges_of_different_options():
    fast = [trial(rate, [accuracy, 0.8], momentum=0.9) for rate, accuracy in ((0.1, 0.8), (0.2, 0.1))]
    good = [trial(rate, [0.1, accuracy], momentum=0.0) for rate, accuracy in ((0.1, 0.2), (0.2, 0.99))]
    choice = rate_choice.choose([*fast, *good], GOAL, 1000)
    assert choice.for_score == Point(0.2, (("momentum", 0.0),))
    assert (choice.lower_edges, choice.upper_edges) == ([(("momentum", 0.9),)], [(("momentum", 0.0),)])


SIZES = (16, 32, 64, 128, 256)
RATES = (0.025, 0.05, 0.1, 0.2, 0.4)


def searched(best_rates, missed=(), loss=False, **options):
    """Search trials whose error falls as n^-1/2, later by the square of the octaves to the best rate of their size."""
    found = {}
    for size, best in zip(SIZES, best_rates, strict=True):
        found[size] = []
        for rate in RATES:
            late = 0.3 * math.log2(rate / best) ** 2
            gaps = [0.9 * (number / 2) ** -0.5 * math.exp(late / 2) for number in range(4, 65)]
            gaps = [min(gap, 0.9) if size not in missed else 0.9 for gap in gaps]
            one = trial(rate, [] if loss else [1 - gap for gap in gaps], every=50, **options)
            curve = Curve(
                examples=[50 * number for number in range(4, 65)],
                steps=list(range(4, 65)),
                scores={"loss": gaps} if loss else {"accuracy": [1 - gap for gap in gaps]},
            )
            found[size].append(msgspec.structs.replace(one, batch_size=size, curve=curve))
    return found


LINE = [0.05 * 2 ** (number / 2) for number in range(5)]


@pytest.mark.parametrize("goal", [accuracy_of(0.8), Goal(metric="loss", threshold=0.2)])
def test_all_sizes_are_chosen_together_between_tried_rates_and_inside_them(goal):
    trials = searched(LINE, loss=goal.metric == "loss")
    made = rate_choice.choose_rates(trials, goal, 3200)
    for size, best in zip(SIZES, LINE, strict=True):
        chosen = made[size].for_target
        assert abs(math.log2(chosen.learning_rate / best)) <= 0.3
        assert RATES[0] <= chosen.learning_rate <= RATES[-1]
        assert made[size].for_score in made[size].tried == [Point(rate) for rate in RATES]
        assert made[size].regret is not None
        assert not made[size].neighbours
        low, middle, high = made[size].ridge
        assert low < middle < high
        assert abs(math.log2(middle / best)) <= 0.2
    between = [choice for choice in made.values() if choice.for_target not in choice.tried]
    assert between
    assert all(choice.is_inside and not choice.is_at_edge(choice.for_target) for choice in between)
    rates = [choice.for_target.learning_rate for choice in between]
    assert rates == [float(f"{rate:.6g}") for rate in rates], "a file holds the same rate"


def test_a_size_that_never_reached_the_target_takes_its_rate_from_its_neighbours():
    made = rate_choice.choose_rates(searched(LINE, missed={64}), accuracy_of(0.8), 3200)
    assert [size for size, choice in made.items() if choice.neighbours] == [64]
    assert abs(math.log2(made[64].for_target.learning_rate / LINE[2])) <= 0.5


@pytest.mark.parametrize("status", ["stopped", "diverged"])
def test_a_rate_that_fails_at_once_is_not_chosen_because_it_was_seen_for_a_short_time_only(status):
    trials = searched([0.025, 0.05, 0.1, 0.2, 0.1])
    for one in [one for one in trials[256] if one.learning_rate > 0.1]:
        curve = Curve(examples=[200, 250], steps=[4, 5], scores={"accuracy": [0.1, 0.1]})
        trials[256][trials[256].index(one)] = msgspec.structs.replace(one, status=status, curve=curve)
    made = rate_choice.choose_rates(trials, accuracy_of(0.8), 3200)
    assert 0.1 <= made[256].for_target.learning_rate <= 0.15
    assert made[256].is_inside


def test_few_batch_sizes_are_judged_each_alone_on_smoothed_curves():
    trials = {size: found for size, found in searched(LINE).items() if size <= 32}
    assert rate_choice.fit_surfaces(trials, accuracy_of(0.8)) == {}
    made = rate_choice.choose_rates(trials, accuracy_of(0.8), 3200)
    assert made == {size: rate_choice.choose(found, accuracy_of(0.8), 3200) for size, found in trials.items()}
    assert all(choice.regret is None for choice in made.values())


def test_every_combination_of_options_has_a_surface_and_the_cheapest_one_is_chosen():
    slow = searched([best / 2 for best in LINE], momentum=0.0)
    fast = searched(LINE, missed={256}, momentum=0.9)
    late = {size: [halved(one) for one in found] for size, found in slow.items()}
    goal = accuracy_of(0.7)
    both = {size: [*late[size], *fast[size]] for size in SIZES}
    made = rate_choice.choose_rates(both, goal, 3200)
    momenta = {size: dict(choice.for_target.options)["momentum"] for size, choice in made.items()}
    assert momenta == {16: 0.9, 32: 0.9, 64: 0.9, 128: 0.9, 256: 0.0}
    assert not made[256].neighbours, "a level that no trial reached does not beat one that was measured"


def halved(one):
    """The same trial at half the speed."""
    curve = msgspec.structs.replace(one.curve, examples=[2 * at for at in one.curve.examples])
    return msgspec.structs.replace(one, curve=curve)


def test_nothing_evaluated_is_no_choice():
    assert rate_choice.choose_rates({16: [trial(0.1, [])], 32: []}, GOAL, 1000) == {}


def test_each_search_trial_is_located_once(monkeypatch):
    asked = []
    locate = rate_choice.typical_examples
    monkeypatch.setattr(rate_choice, "typical_examples", lambda *of: asked.append(of) or locate(*of))
    trials = searched(LINE)
    rate_choice.choose_rates(trials, accuracy_of(0.8), 3200)
    assert len(asked) == sum(map(len, trials.values()))

"""Which trials the answers of a batch size rest on, and at which rate and options."""

from collections import Counter

from batchscale.analysis.metrics import observations
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.config.vocabulary import Point
from batchscale.records.row_types import Curve
from hypothesis import given
from hypothesis import strategies as st
from simulated_rows import ROWS, TARGET, change, made, trained


def test_rates_are_chosen_at_each_batch_size_from_searches_that_did_not_fail():
    good, best = trained([0.96], learning_rate=0.5), trained([0.99], learning_rate=1.0)
    failed = trained([1.0], learning_rate=2.0, status="failed", reason="lost")
    curve = Curve(examples=[64], steps=[1], accuracy=[0.96], loss=[1.0])
    other = change(trained([0.96], learning_rate=4.0), batch_size=64, curve=curve)
    found = observations.choices(made([good, best, failed, other]), TARGET)
    assert {size: choice.for_score for size, choice in found.items()} == {16: Point(1.0), 64: Point(4.0)}
    assert observations.choices(made([failed]), TARGET) == {}


def test_claims_rest_on_confirmation_then_on_search_then_on_the_fixed_rate():
    search = [trained([0.99], learning_rate=0.5, seed=1), trained([0.1], learning_rate=1.0, seed=1)]
    confirm = [trained([0.99], learning_rate=0.5, seed=seed, phase="confirm") for seed in (1000, 1001)]
    stray = trained([0.99], learning_rate=1.0, seed=1000, phase="confirm")
    fixed = [trained([0.99], learning_rate=8.0, seed=seed, phase="fixed") for seed in (1000, 1001, 1002)]
    for rows, phase, seeds in (
        ([*search, *confirm, stray, *fixed], "confirm", [1000, 1001]),
        ([*search, stray, *fixed], "confirm", [1000]),
        (fixed, "fixed", [1000, 1001, 1002]),
        ([*search, change(confirm[0], status="failed", reason="lost")], "search", [1]),
    ):
        claim = observations.claims(made(rows), TARGET)[16]
        assert claim.phase == phase
        assert (claim.choice.for_target if claim.choice else None) == (None if phase == "fixed" else Point(0.5))
        assert sorted(claim.for_target["seed"]) == sorted(claim.for_score["seed"]) == seeds
        assert len(set(claim.for_target["learning_rate"])) == 1


def test_the_trials_of_all_claims_are_those_of_each():
    found = made(ROWS)
    together = Sweep.of(found).claim_trials
    each = [claim.for_target for claim in observations.claims(found, TARGET).values()]
    assert together["trial"].tolist() == [number for runs in each for number in runs["trial"]]
    empty = Sweep.of(made([])).claim_trials
    assert list(empty.columns) == list(found.trials.columns)
    assert len(empty) == 0


def test_accuracy_has_a_rate_of_its_own_and_falls_back_on_that_of_the_target():
    quick = [0.96, 0.96, 0.96]
    slow = [0.1, 0.1, 0.99]
    search = [trained(quick, learning_rate=0.5, seed=1), trained(slow, learning_rate=1.0, seed=1)]
    at_target = trained(quick, learning_rate=0.5, seed=1000, phase="confirm")
    at_accuracy = trained(slow, learning_rate=1.0, seed=1000, phase="confirm")
    both = observations.claims(made([*search, at_target, at_accuracy]), TARGET)[16]
    assert (set(both.for_target["learning_rate"]), set(both.for_score["learning_rate"])) == ({0.5}, {1.0})
    one = observations.claims(made([*search, at_target]), TARGET)[16]
    assert set(one.for_score["learning_rate"]) == {0.5}


def test_trials_that_rest_on_no_phase_are_no_claim():
    unmatched = trained([0.99], learning_rate=3.0, phase="confirm")
    claim = observations.claims(made([unmatched]), TARGET)[16]
    assert claim.phase == "confirm"
    assert claim.choice is None
    empty = observations._claim(made([unmatched]).trials.iloc[:0], None, own=True)
    assert (empty.choice, empty.phase, len(empty.for_target), len(empty.for_score)) == (None, None, 0, 0)


def test_claims_rest_on_trials_with_the_options_that_were_chosen():
    search = [
        trained([0.99], learning_rate=0.5, options={"momentum": 0.9}),
        trained([0.1], learning_rate=0.5, options={"momentum": 0.0}),
    ]
    confirm = [
        trained([accuracy], learning_rate=0.5, options={"momentum": momentum}, seed=seed, phase="confirm")
        for momentum, accuracy in ((0.0, 0.1), (0.9, 0.99))
        for seed in (1000, 1001)
    ]
    frames = made([*search, *confirm])
    assert len(frames.trials) == 6, "trials that differ in an option alone are different trials"
    claim = observations.claims(frames, TARGET)[16]
    assert claim.choice.for_target == Point(0.5, (("momentum", 0.9),))
    assert set(claim.for_target["options"]) == set(claim.for_score["options"]) == {(("momentum", 0.9),)}
    alone = observations.claims(made(confirm[:3]), TARGET)[16]
    assert set(alone.for_target["options"]) == {(("momentum", 0.0),)}, "those that most trials have"


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=1, max_size=7))
def test_without_a_choice_the_rate_of_most_trials_is_taken(rates):
    rows = [trained([0.5], learning_rate=rate, seed=seed, phase="fixed") for seed, rate in enumerate(rates)]
    (rate,) = set(observations.claims(made(rows), TARGET)[16].for_target["learning_rate"])
    assert rates.count(rate) == max(Counter(rates).values())


def test_a_rate_is_the_same_to_nine_digits_and_no_fewer():
    search = [trained([0.99], learning_rate=1.0, seed=1)]
    near = trained([0.99], learning_rate=1.0 + 1e-12, seed=1000, phase="confirm")
    far = trained([0.99], learning_rate=1.0 + 1e-6, seed=1001, phase="confirm")
    assert observations.claims(made([*search, near, far]), TARGET)[16].for_target["seed"].tolist() == [1000]

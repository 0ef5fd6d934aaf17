"""Crossings of rows: the same curve gives the same crossing, whatever its score is called."""

import math

import numpy as np
import pytest
from batchscale.config.goal import Goal
from batchscale.decisions import crossings
from batchscale.records.row_types import Curve, Trial
from batchscale.statistics.crossing import Crossing
from sample_rows import ORIGIN, accuracy_of

EXAMPLES = [1000 * number for number in range(1, 25)]
GAPS = [0.5 * (at / 1000) ** -0.5 for at in EXAMPLES]


def trial(metric, values, seed=1, validation=5000):
    return Trial(
        **ORIGIN,
        phase="confirm",
        batch_size=10,
        learning_rate=0.1,
        seed=seed,
        status="ok",
        train_examples=4000,
        validation_examples=validation,
        steps=2400,
        curve=Curve(examples=EXAMPLES, steps=[at // 10 for at in EXAMPLES], scores={metric: values}),
        microbatch_size=10,
        lanes=1,
    )


def test_a_power_law_crosses_where_it_says_as_an_accuracy_and_as_a_loss():
    """0.5 (n / 1000)^-1/2 is 0.2 at n = 6250."""
    error = trial("accuracy", [1 - gap for gap in GAPS])
    loss = trial("loss", GAPS)
    assert math.exp(crossings.typical_examples([error], accuracy_of(0.8))) == pytest.approx(6250, rel=1e-3)
    assert math.exp(crossings.typical_examples([loss], Goal(metric="loss", threshold=0.2))) == pytest.approx(
        6250, rel=1e-3
    )


def flagged(*flags):
    return Crossing(1.0, np.array([1.0, 2.0]), np.zeros(2), -1.0, frozenset(flags))


def test_crossings_before_the_curve_give_way_to_first_evaluations():
    first, before = np.array([200.0, np.inf]), np.array([100.0, 900.0])
    for kept in ("flat", "end"):
        assert crossings.compared_by(flagged(kept), first, before).log_examples.tolist() == [1.0, 2.0]
    middle, unresolved, _ = crossings.compared_by(flagged("first"), first, before)
    assert np.exp(middle).tolist() == pytest.approx([150, np.inf])
    assert unresolved == pytest.approx(math.log(2) ** 2 / 12), "the variance of an even spread over the gap"


def test_bits_and_nats_are_one_curve():
    loss = trial("loss", GAPS)
    bits = Goal(metric="bits_per_byte", threshold=0.2 / math.log(2))
    assert crossings.typical_examples([loss], bits) == pytest.approx(
        crossings.typical_examples([loss], Goal(metric="loss", threshold=0.2))
    )


def test_a_slope_that_is_flat_for_an_error_is_steep_enough_for_a_loss():
    slow = [2.0 * (at / 1000) ** -0.05 for at in EXAMPLES]
    goal = Goal(metric="loss", threshold=1.8)
    assert "flat" not in crossings.locate([trial("loss", slow)], goal).flags
    barely = [2.0 * (at / 1000) ** -0.01 for at in EXAMPLES]
    assert "flat" in crossings.locate([trial("loss", barely)], goal.at(1.95)).flags
    errors = trial("accuracy", [1 - value / 4 for value in slow])
    assert "flat" in crossings.locate([errors], accuracy_of(0.55)).flags


@pytest.mark.parametrize("validation", [100, None])
def test_a_perfect_score_is_finite_and_reaches_any_target(validation):
    perfect = trial("accuracy", [0.5] * 10 + [1.0] * 14, validation=validation)
    found = crossings.locate([perfect], accuracy_of(1.0))
    assert EXAMPLES[7] < math.exp(found.typical) <= EXAMPLES[-1]
    assert found.first_seen.tolist() == [math.log(EXAMPLES[10])]
    assert crossings.scale_of([perfect], accuracy_of(1.0)).unit == (0.005 if validation else 0.25)


def test_a_run_that_was_never_evaluated_misses():
    """It counts in the median: of two runs where one misses, the typical run never gets there."""
    empty = Trial(
        **ORIGIN,
        phase="confirm",
        batch_size=10,
        learning_rate=0.1,
        seed=2,
        status="diverged",
        train_examples=4000,
        steps=0,
        curve=Curve(examples=[], steps=[], scores={"accuracy": []}),
        microbatch_size=10,
        lanes=1,
    )
    full = trial("accuracy", [1 - gap for gap in GAPS])
    found = crossings.locate([full, empty], accuracy_of(0.8))
    assert found.misses == 1
    assert np.isinf(found.typical)
    assert crossings.locate([empty], accuracy_of(0.8)).flags == {"never"}


NOISY_CURVES = {
    "a step in log examples": lambda log: 400 / (1 + np.exp(-1.5 * (log - np.log(6e4)))) - 200,
    "a power of the examples": lambda log: 35 - 30 * np.exp(-0.4 * (log - np.log(1e3))),
    "a line in log examples": lambda log: 3 * (log - np.log(1e3)),
}


def crossing_under_noise(curve, noise, *, ideal):
    """The mean log examples to 80% of the rise in 60 studies of 4 seeds, read with a made-up ideal score or without."""
    random, at = np.random.default_rng(3), np.geomspace(1e3, 1e6, 40)
    low, high = curve(np.log(at[[0, -1]]))
    target, found = low + 0.8 * (high - low), []
    for _ in range(60):
        shifts = random.normal(0, 0.15, 4)
        scores = [curve(np.log(at) + shift) + random.normal(0, noise * (high - low), len(at)) for shift in shifts]
        goal = Goal(metric="score", threshold=target)
        if ideal:
            best = max(one.max() for one in scores)
            best += 0.05 * (best - np.median([one[0] for one in scores]))
            scores, goal = [best - one for one in scores], Goal(metric="loss", threshold=best - target)
        scale = crossings.scale_of_scores(scores, goal, None)
        found.append(crossings.locate_runs([(at, one) for one in scores], scale).typical)
    return float(np.mean(found))


@pytest.mark.slow
def test_noise_moves_a_crossing_less_on_the_score_itself_than_on_the_gap_to_a_made_up_ideal():
    """Batch sizes of unlike noise would else not be comparable: 10% of the rise against 2%."""
    moved = {
        ideal: [
            abs(crossing_under_noise(curve, 0.1, ideal=ideal) - crossing_under_noise(curve, 0.02, ideal=ideal))
            for curve in NOISY_CURVES.values()
        ]
        for ideal in (False, True)
    }
    assert max(moved[False]) < 0.08
    assert np.mean(moved[False]) < 0.5 * np.mean(moved[True])

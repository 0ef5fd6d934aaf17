"""Verdicts on the claims of the reference experiment: each follows the truth that the rows are drawn from."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import simulated_folder
from batchscale.records.row_types import Curve, Round
from simulated_answers import TRUTH, answered, verdict


def test_verdicts_follow_the_truth():
    found = answered()
    assert [one.claim for one in found.verdicts] == list(range(1, 10))
    expected = dict.fromkeys((2, 3, 4, 6, 7, 8, 9), "supported")
    assert {claim: verdict(found, claim) for claim in expected} == expected
    assert verdict(answered(critical_batch_size=1e7, seed_noise=0.02), 3) != "supported"
    assert verdict(answered(fixed_seconds=1e-9), 2) != "supported"


def test_a_largest_batch_size_that_is_tied_with_the_fastest_contradicts_nothing():
    """Its speed is 10% below the most, and its rounds scatter by more, or by nothing."""

    def slowed(row, scatter):
        if not isinstance(row, Round) or row.batch_size != TRUTH.batch_sizes[-1]:
            return row
        return msgspec.structs.replace(row, seconds=row.seconds * 1.6 * (1 + scatter * (row.round % 3 - 1)))

    verdicts = {
        scatter: verdict(answered(rows=[slowed(row, scatter) for row in simulated_folder.rows(TRUTH)]), 2)
        for scatter in (0.0, 0.95)
    }
    assert verdicts == {0.0: "contradicted", 0.95: "undecided"}


def test_runs_that_missed_for_longer_than_their_share_of_workers_support_nothing():
    """At 32 times the batch size nothing reaches the target, in less or in more than 32 times the epochs."""
    missed = {"batch_sizes": (16, 32, 64, 2048), "ceilings": {2048: 0.5}}
    assert verdict(answered(**missed), 9) == "supported"
    assert verdict(answered(**missed, max_epochs=1000.0), 9) == "undecided"


@pytest.mark.parametrize(("sizes", "tied"), [((32, 64, 128, 256, 512), True), ((16, 128, 2048), False)])
def test_what_is_tied_with_the_best_is_the_others(sizes, tied):
    found = answered(batch_sizes=sizes)
    best = found.time_optimal
    others = [f"{size:,}" for size in best.tied if size != best.batch_size]
    assert bool(others) == tied
    said = f"; tied with it: {', '.join(others)}." if others else "; no other batch size is tied with it."
    assert found.verdicts[3].numbers.endswith(said)


@pytest.mark.parametrize("sizes", [(64,), (16, 2048)])
def test_a_sweep_that_has_ends_alone_says_nothing_of_what_lies_inside(sizes):
    found = answered(batch_sizes=sizes)
    assert [verdict(found, claim) for claim in (4, 5)] == ["undecided", "undecided"]


def fixed(rate, ceilings, **changes):
    """Runs at one fixed rate at every batch size, of which those with ceilings miss the target."""
    random, truth = np.random.default_rng(5), replace(TRUTH, ceilings=ceilings)
    return [
        msgspec.structs.replace(
            simulated_folder.trial(truth, simulated_folder.origin(TRUTH), "fixed", size, 0, seed, random),
            learning_rate=rate,
            **changes,
        )
        for size in TRUTH.batch_sizes
        for seed in (5, 6)
    ]


def test_a_tuned_rate_clears_small_batches_of_what_a_fixed_rate_does():
    rows = [*simulated_folder.rows(TRUTH), *fixed(0.1, {16: 0.5, 32: 0.5})]
    first = answered(fixed_rate=0.1, rows=rows).verdicts[0]
    assert first.verdict == "supported"
    assert "16, 32 missed" in first.numbers
    assert "the cause is the rate, not the size" in first.numbers


def test_a_target_that_no_batch_size_reaches_at_the_fixed_rate_says_nothing_of_small_ones():
    rows = [*simulated_folder.rows(TRUTH), *fixed(0.1, dict.fromkeys(TRUTH.batch_sizes, 0.5))]
    first = answered(fixed_rate=0.1, rows=rows).verdicts[0]
    assert first.verdict == "undecided"
    assert "no batch size reached the target" in first.numbers


def test_rates_of_runs_that_missed_the_target_say_nothing_of_how_the_best_rate_grows():
    found = answered(least_examples=1e8).verdicts[6]
    assert found.verdict == "undecided"
    assert found.numbers.startswith("Fewer than three batch sizes that reached the target have")


def test_neither_failed_runs_nor_those_at_a_rate_fixed_before_say_anything_of_the_fixed_rate():
    lost = fixed(0.1, {}, status="failed", curve=Curve(examples=[], steps=[], accuracy=[], loss=[]), steps=0)
    assert answered(fixed_rate=0.1, rows=[*simulated_folder.rows(TRUTH), *lost]).verdicts[0].verdict == "undecided"
    rows = [*simulated_folder.rows(TRUTH), *fixed(0.1, {}), *fixed(0.3, {16: 0.5, 32: 0.5}), *lost]
    assert answered(fixed_rate=0.1, rows=rows).verdicts[0].verdict == "contradicted"
    assert answered(fixed_rate=0.3, rows=rows).verdicts[0].verdict == "supported"
    assert answered(rows=rows).verdicts[0].verdict == "undecided"


@pytest.mark.parametrize("power", [-1.0, -0.5, -2.0])
def test_the_exponent_of_the_gradient_variance_is_the_truth(power):
    answer = answered(gradient_noise_scale=300.0, gradient_variance_exponent=power)
    assert f"to the power {power:.2f}" in answer.verdicts[5].numbers
    assert verdict(answer, 6) == ("supported" if power == -1 else "contradicted")


def test_without_parts_of_batches_the_law_of_the_variance_is_undecided():
    assert verdict(answered(gradient_noise_scale=None), 6) == "undecided"

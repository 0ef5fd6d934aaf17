"""Verdicts on the claims of the reference experiment: each follows the truth that the rows are drawn from."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import simulate
from answers import TRUTH, answered, verdict


def test_verdicts_follow_the_truth():
    found = answered()
    assert [one.claim for one in found.verdicts] == list(range(1, 10))
    expected = dict.fromkeys((2, 3, 4, 6, 7, 8, 9), "supported")
    assert {claim: verdict(found, claim) for claim in expected} == expected
    assert verdict(answered(critical_batch_size=1e7, seed_noise=0.02), 3) != "supported"
    assert verdict(answered(fixed_seconds=1e-9), 2) != "supported"


@pytest.mark.parametrize(("sizes", "tied"), [((32, 64, 128, 256, 512), True), ((16, 128, 2048), False)])
def test_what_is_tied_with_the_best_is_the_others(sizes, tied):
    found = answered(batch_sizes=sizes)
    best = found.time_optimal
    others = [f"{size:,}" for size in best.tied if size != best.batch_size]
    assert bool(others) == tied
    said = f"; tied with it: {', '.join(others)}." if others else "; nothing is tied with it."
    assert found.verdicts[3].numbers.endswith(said)


def test_a_tuned_rate_clears_small_batches_of_what_a_fixed_rate_does():
    rows = simulate.rows(TRUTH)
    common = simulate.origin(TRUTH)
    random = np.random.default_rng(5)
    fixed = [
        msgspec.structs.replace(
            simulate.trial(replace(TRUTH, ceilings={16: 0.5, 32: 0.5}), common, "fixed", size, 0, seed, random),
            learning_rate=0.1,
        )
        for size in TRUTH.batch_sizes
        for seed in (5, 6)
    ]
    first = answered(rows=[*rows, *fixed]).verdicts[0]
    assert first.verdict == "supported"
    assert "16, 32 missed" in first.numbers
    assert "the rate is to blame" in first.numbers


@pytest.mark.parametrize("power", [-1.0, -0.5, -2.0])
def test_the_exponent_of_the_gradient_variance_is_the_truth(power):
    answer = answered(gradient_noise_scale=300.0, gradient_variance_exponent=power)
    assert f"to the power {power:.2f}" in answer.verdicts[5].numbers
    assert verdict(answer, 6) == ("supported" if power == -1 else "contradicted")


def test_without_parts_of_batches_the_law_of_the_variance_is_undecided():
    assert verdict(answered(gradient_noise_scale=None), 6) == "undecided"

"""The best score within a budget: seeds are paired, validation examples are shared, and the budget limits the claim."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import simulated_folder
from batchscale.analysis.frames import frames
from batchscale.analysis.metrics import best_scores
from batchscale.analysis.metrics.observations import Claim
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.text import answer, captions, method
from batchscale.config.goal import METRICS, Goal
from batchscale.records.row_types import Trial
from batchscale.statistics.intervals import LEVEL
from batchscale.statistics.ties import tied_with_least
from simulated_rows import change

METRIC_NAMES = ("accuracy", "loss", "bits_per_byte")
CEILINGS = {16: 0.970, 64: 0.980, 256: 0.975, 1024: 0.960}
TRUTH = simulated_folder.Truth(batch_sizes=tuple(CEILINGS), ceilings=CEILINGS, ceiling_noise=0.0, confirm_seeds=4)
VALIDATION_EXAMPLES = 2000
DEVIATION = 0.5


def swept(truth, shared=0.0, own=0.02, **fields):
    """Return a sweep in which a seed changes the gaps of all its runs by one factor, and each run by another."""
    random = np.random.default_rng(8)
    rows, easier = [], dict(zip(range(1000, 1000 + truth.confirm_seeds), random.standard_normal(99), strict=False))
    for row in simulated_folder.rows(truth):
        if isinstance(row, Trial) and row.phase == "confirm":
            factor = math.exp(shared * easier[row.seed] + own * random.standard_normal())
            rows.append(change(row, curve=with_gaps(row.curve, truth, factor), **fields))
        else:
            rows.append(change(row, **fields) if isinstance(row, Trial) else row)
    experiment = simulated_folder.experiment(truth)
    return Sweep.of(frames.from_rows(experiment, simulated_folder.machine_file(), rows))


def with_gaps(curve, truth, factor):
    name = truth.metric_measured
    ideal, sign = METRICS[truth.metric].ideal, -1 if name == "accuracy" else 1
    scores = [ideal + sign * factor * abs(score - ideal) for score in curve.scores[name]]
    spread = {} if name == "accuracy" else {name: [DEVIATION] * len(scores)}
    return change(curve, scores={name: scores}, deviations=spread)


@pytest.mark.parametrize("metric", METRIC_NAMES)
def test_an_easy_seed_is_easy_everywhere_so_pairing_finds_the_best_that_medians_cannot(metric):
    sweep = swept(replace(TRUTH, metric=metric), shared=0.3)
    assert {16, 256} <= set(sweep.sizes[tied_with_least(sweep.score)])
    found = summarize(sweep).score_optimal
    assert (found.batch_size, found.tied) == (64, [64])
    assert "seeds paired" in found.test


@pytest.mark.parametrize("metric", METRIC_NAMES)
def test_few_validation_examples_widen_the_interval_of_a_score_and_no_comparison(metric):
    truth = replace(TRUTH, metric=metric)
    without, found = (
        summarize(swept(truth, **fields)) for fields in ({}, {"validation_examples": VALIDATION_EXAMPLES})
    )
    best = found.score_optimal
    per_example = np.sqrt(best.score * (1 - best.score)) if metric == "accuracy" else DEVIATION
    error = METRICS[metric].scale * per_example / np.sqrt(VALIDATION_EXAMPLES)
    assert without.score_optimal.examples_error is None
    assert best.examples_error == pytest.approx(error, rel=0.02)
    assert best.tied == without.score_optimal.tied == [64]
    low, high = best.interval
    assert high - low > 2 * 1.8 * error > without.score_optimal.interval[1] - without.score_optimal.interval[0]
    text = " ".join(method.paragraphs(swept(truth, validation_examples=VALIDATION_EXAMPLES), found))
    assert "All runs see the same 2,000 validation examples." in text
    assert "Prechelt (1998" in text


def made_up(random, centres, seeds=5):
    """Return claims on runs with a common error for each seed and one for each run, and their accuracies."""
    common, claims, scores = 0.2 * random.standard_normal(seeds), {}, {}
    for size, centre in centres.items():
        numbers = len(scores) + np.arange(seeds)
        errors = np.exp(centre + common + 0.1 * random.standard_normal(seeds))
        scores |= dict(zip(numbers.tolist(), (1 - errors).tolist(), strict=True))
        trials = pd.DataFrame({"trial": numbers, "seed": np.arange(seeds), "status": "ok"})
        claims[size] = Claim(None, "confirm", trials, trials)
    return claims, scores


def test_the_best_is_among_the_tied_as_often_as_promised_and_what_is_far_off_is_not():
    random, goal = np.random.default_rng(5), Goal(metric="accuracy", threshold=0.9)
    centres = dict(zip((8, 32, 128, 512), np.log([0.021, 0.0205, 0.02, 0.04]), strict=True))
    ties = []
    for _ in range(150):
        claims, scores = made_up(random, centres)
        ties.append(best_scores.tied(goal, claims, scores, None))
    assert np.mean([128 in one for one in ties]) > LEVEL - 0.03
    assert np.mean([512 in one for one in ties]) < 0.05


def test_what_was_never_repeated_is_not_compared_and_lost_runs_count():
    random, goal = np.random.default_rng(6), Goal(metric="accuracy", threshold=0.9)
    centres, examples = {8: np.log(0.02), 32: np.log(0.1)}, 5000
    assert best_scores.tied(goal, *made_up(random, centres, seeds=1), examples) is None
    claims, scores = made_up(random, centres)
    assert best_scores.tied(goal, claims, scores, examples) == {8}
    for trial in claims[8].for_score["trial"][:3]:
        del scores[trial]
    claims[8].for_score["status"] = "diverged"
    assert 32 in best_scores.tied(goal, claims, scores, examples)
    assert best_scores.tied(goal, claims, {}, examples) is None


@pytest.mark.parametrize("metric", METRIC_NAMES)
def test_a_budget_that_lets_every_curve_level_off_limits_no_claim(metric):
    sweep = swept(replace(TRUTH, metric=metric, batch_sizes=(16, 64), epochs=30.0))
    summary = summarize(sweep)
    best = summary.score_optimal
    assert (best.claim, best.still_improving) == ("levelled off", [])
    assert [cell.levelled_off for cell in summary.cells] == [True, True]
    assert f"Within 30 epochs, which let every curve level off, batch size {best.batch_size}" in said(summary)
    assert "Longer training" not in said(summary)


@pytest.mark.parametrize("metric", METRIC_NAMES)
def test_a_claim_is_within_this_budget_where_a_curve_still_falls(metric):
    sweep = swept(replace(TRUTH, metric=metric, batch_sizes=(16, 64, 2048)))
    summary = summarize(sweep)
    assert (summary.score_optimal.claim, summary.score_optimal.still_improving) == ("within this budget", [2048])
    assert {cell.batch_size: cell.levelled_off for cell in summary.cells} == {16: True, 64: True, 2048: False}
    for words in (said(summary), captions.best_score(sweep, summary)):
        assert "Within this budget of 20 epochs, batch size 64" in words
        assert "the curve at batch size 2048 was not seen to level off" in words
    assert any("within this budget of 20 epochs" in fact.more for fact in answer.facts(summary))


def test_a_rate_that_falls_to_0_with_the_budget_levels_every_curve_and_shows_nothing():
    sweep = swept(replace(TRUTH, batch_sizes=(16, 64)))
    experiment = sweep.frames.experiment
    decaying = change(experiment, learning_rate=change(experiment.learning_rate, schedule="linear_decay"))
    sweep = Sweep.of(replace(sweep.frames, experiment=decaying))
    summary = summarize(sweep)
    assert [cell.levelled_off for cell in summary.cells] == [None, None]
    assert summary.score_optimal.claim == "within this budget"
    assert "no curve was seen to level off" in said(summary)
    assert "a longer budget is another schedule" in " ".join(method.paragraphs(sweep, summary))


def said(summary):
    return " ".join(answer.answer(summary))

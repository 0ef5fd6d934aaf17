"""Build the entry of a summary for every batch size."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from batchscale.analysis.frames.amounts import Wanted
from batchscale.analysis.frames.schema import only, values
from batchscale.analysis.metrics import hardware, observations
from batchscale.analysis.metrics.hardware import Use
from batchscale.analysis.metrics.observations import Claim, Speed
from batchscale.analysis.metrics.scaling import regimes
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary_types import BatchSizeSummary, Estimate, Regime, Status
from batchscale.config.vocabulary import Point
from batchscale.statistics.crossing import Flag
from batchscale.statistics.intervals import Locations, estimate, exp, interval
from batchscale.statistics.ties import scores_of


def cells(sweep: Sweep) -> list[BatchSizeSummary]:
    """Return the entry of every batch size of the sweep, sorted."""
    each = zip(regimes(sweep), hardware.uses(sweep), strict=True)
    return [_cell(sweep, at, regime, use) for at, (regime, use) in enumerate(each)]


def _cell(sweep: Sweep, at: int, regime: Regime | None, use: Use) -> BatchSizeSummary:
    size = int(sweep.sizes[at])
    claim, speed = sweep.claims.get(size), sweep.speeds.get(size)
    compiled = observations.compiled(sweep.frames, size, speed)
    status, message = _status(sweep, at, claim)
    choice, tokens = claim.choice if claim else None, sweep.frames.tokens_per_example
    return BatchSizeSummary(
        batch_size=size,
        batch_size_tokens=tokens * size if tokens else None,
        status=status,
        message=message,
        **_speed(sweep, at, speed),
        best_learning_rate=_rate(sweep, claim),
        best_options=dict(claim.for_target["options"].iloc[0]) if claim and len(claim.for_target) else {},
        **_for_score(sweep, claim),
        at_grid_edge=choice.is_at_edge(choice.for_target) if choice else None,
        claims_on=claim.phase if claim else None,
        seeds=sweep.needs[at].count,
        seeds_reached=len(sweep.needs[at].high),
        epochs_to_target=_needed(sweep, at, "epochs"),
        tokens_to_target=_needed(sweep, at, "tokens") if tokens else None,
        **_first_evaluation(sweep, at),
        time_to_target=_estimate(sweep.time, at),
        joules_to_target=_estimate(sweep.energy, at) if _has(sweep.round_joules, at) else None,
        cost_to_target=_estimate(sweep.cost, at) if sweep.cost else None,
        **_best_scores(sweep, at),
        best_averaged_score=_score(sweep, sweep.averaged_score, at) if _has(sweep.averaged_score, at) else None,
        averaged_score_gain=_gain(sweep.averaged_score_gain, at) if _has(sweep.averaged_score, at) else None,
        test_score=_test_score(claim),
        regime=regime,
        compile_seconds=_number(compiled["compile_seconds"]),
        peak_bytes=_whole(compiled["peak_bytes"]),
        predicted_bytes=_whole(compiled["predicted_bytes"]),
        achieved_flops_per_second=use.flops_per_second,
        fraction_of_peak=use.fraction_of_peak,
        flops_per_byte=use.flops_per_byte,
        limited_by=use.limited_by,
        limit_share=use.limit_share,
    )


def _speed(sweep: Sweep, at: int, speed: Speed | None) -> dict[str, Any]:
    """Return the fields on speed: which loop was faster, and how fast it was."""
    per_second = sweep.step_seconds.shifted(-sweep.log_sizes)
    tokens = sweep.frames.tokens_per_example
    return {
        "loop": speed.loop if speed and not sweep.frames.imported else None,
        "accumulation": speed.accumulation if speed else None,
        "examples_per_second": _exp(-per_second.medians[at]),
        "examples_per_second_interval": interval(exp(-per_second.draws[:, at])),
        "tokens_per_second": _exp(np.log(tokens) - per_second.medians[at]) if tokens else None,
        "seconds_per_step": _number(observations.median_seconds(speed, "step")),
        "seconds_per_epoch": _number(observations.median_seconds(speed, "epoch")),
    }


def _missed(sweep: Sweep, claim: Claim) -> tuple[Status, str | None]:
    """Return the status of a batch size that did not reach the target in the median."""
    if set(claim.for_target["status"]) == {"diverged"}:
        return "diverged", None
    if sweep.frames.goal is None and sweep.frames.has_scores:
        return "not_measured", "one score of each run is known, not when it reached a target"
    return "not_reached", None


def _status(sweep: Sweep, at: int, claim: Claim | None) -> tuple[Status, str | None]:
    """Return the status of a batch size and more about it; that of training comes before that of timing."""
    size = int(sweep.sizes[at])
    trials = only(sweep.frames.trials, sweep.frames.trials["batch_size"] == size)
    compiled = observations.comparable(sweep.frames, sweep.frames.compilations)
    compiled = only(compiled, compiled["batch_size"] == size)
    failures = only(compiled, compiled["status"] == "failed")
    if sweep.out_of_memory[at]:
        return "out_of_memory", _first(only(compiled, compiled["status"] == "out_of_memory"), "message")
    if claim and np.isinf(sweep.training.medians[at]):
        return _missed(sweep, claim)
    if set(trials["status"]) == {"failed"}:
        return "failed", _first(trials, "reason")
    if size not in sweep.speeds and len(failures):
        return "failed", _first(failures, "message")
    if claim is None or size not in sweep.pace_of:
        return "not_measured", _why_untrained(trials) if claim is None else _why_untimed(sweep, size)
    return "ok", None


def _why_untimed(sweep: Sweep, size: int) -> str:
    return sweep.why_not_joined if size in sweep.speeds else "no timed rounds"


def _why_untrained(trials: pd.DataFrame) -> str:
    return "the training runs ended before their first step" if len(trials) else "no training runs"


def _first(rows: pd.DataFrame, column: str) -> str | None:
    return next((str(text) for text in rows[column] if isinstance(text, str)), None)


def _for_score(sweep: Sweep, claim: Claim | None) -> dict[str, Any]:
    """Return the fields on the rate and options of the best score; tables may hold no scores, or no rates."""
    if claim is None or claim.choice is None or not len(claim.for_score) or not sweep.frames.has_scores:
        return {}
    if sweep.frames.imported and not sweep.frames.imported.learning_rates:
        return {}
    best, choice = claim.for_score.iloc[0], claim.choice
    point = Point(best["learning_rate"], best["options"])
    return {
        "best_learning_rate_for_score": float(best["learning_rate"]),
        "best_options_for_score": dict(best["options"]),
        "at_grid_edge_for_score": choice.is_at_edge(point),
    }


def _rate(sweep: Sweep, claim: Claim | None) -> float | None:
    imported = sweep.frames.imported
    if imported and not imported.learning_rates:
        return None
    return float(values(claim.for_target, "learning_rate")[0]) if claim and len(claim.for_target) else None


def _test_score(claim: Claim | None) -> float | None:
    """Return the median over seeds of the score on the test split; nothing was chosen by it."""
    tested = values(claim.for_score, "test_score") if claim else np.array([])
    tested = tested[np.isfinite(tested)]
    return float(np.median(tested)) if len(tested) else None


def _has(locations: Locations, at: int) -> bool:
    return bool(np.isfinite(locations.medians[at]))


def _needed(sweep: Sweep, at: int, wanted: Wanted) -> Estimate:
    """Estimate the need for the target in a unit; it is null where that unit does not follow from what is counted."""
    one = sweep.amounts.per(wanted, int(sweep.sizes[at]))
    return estimate(sweep.typical_training[at] / one, exp(sweep.training.draws[:, at]) / one)


DOUBTS: dict[Flag, str] = {
    "first": "runs crossed the target near the first evaluation; evaluate more often in the first epoch",
    "end": "runs ended at the target or soon after it, where their smoothed curve is less certain",
    "flat": "the curve hardly falls at the target, so no number of seeds settles where it crosses;"
    " choose an easier target",
}


def _first_evaluation(sweep: Sweep, at: int) -> dict[str, Any]:
    """Return the steps of the typical run, the first evaluation at the target, and what the estimate rests on."""
    size = int(sweep.sizes[at])
    arm = sweep.arms[sweep.claim_arms[size]] if size in sweep.claim_arms else None
    found = arm.crossing.flags if arm and arm.crossing else frozenset()
    return {
        "steps_to_target": _needed(sweep, at, "steps"),
        "first_evaluation_epochs": _number(sweep.first_evaluations[at] / sweep.amounts.per("epochs")),
        "typical_run": arm is None or arm.is_smoothed,
        "doubt": next((words for flag, words in DOUBTS.items() if flag in found), None),
    }


def _estimate(locations: Locations, at: int) -> Estimate:
    return estimate(locations.medians[at], locations.draws[:, at], exp)


def _best_scores(sweep: Sweep, at: int) -> dict[str, Any]:
    """Return the fields on the best score in either budget, and whether that of epochs was long enough."""
    by_steps = sweep.score_by_steps
    return {
        "best_score": _score(sweep, sweep.score, at),
        "levelled_off": sweep.levelled_off.get(int(sweep.sizes[at])),
        "best_score_by_steps": _score(sweep, by_steps, at) if _has(by_steps, at) else None,
    }


def _score(sweep: Sweep, locations: Locations, at: int) -> Estimate:
    """Estimate a score from locations that are oriented so that the least is best."""
    median = locations.medians[at]
    return estimate(median, locations.draws[:, at], partial(scores_of, sweep.goal, estimate=median))


def _gain(locations: Locations, at: int) -> Estimate:
    """Estimate from negated gains; they are subtracted from 0, since -0.0 would show its sign."""
    return estimate(0.0 - locations.medians[at], 0.0 - locations.draws[:, at])


def _exp(value: float) -> float | None:
    return _number(float(np.exp(value)))


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _whole(value: float) -> int | None:
    return int(value) if np.isfinite(value) else None

"""The best score of each run within a budget: which batch sizes are tied in it, and whether the budget was long enough.

Runs are compared seed by seed, on the logarithm of the gap to the ideal score, or on the score itself where no ideal
one is known. All runs see the same validation examples. The examples on which two seeds of one batch size disagree
add to the spread over seeds. The noise of the examples on which they agree is common to all batch sizes, as far as
these err on the same examples: it moves every score, and no difference. So it is part of the interval of a score, and
not of a comparison.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Float

from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import only, values
from batchscale.analysis.metrics.arms import Curves, paired
from batchscale.analysis.metrics.observations import Claim
from batchscale.config.goal import Goal
from batchscale.decisions.crossings import Scale, scale_of_scores
from batchscale.statistics.comparison import compare
from batchscale.statistics.crossing import table_of
from batchscale.statistics.intervals import DRAWS as FEWER_DRAWS
from batchscale.statistics.intervals import LEVEL
from batchscale.statistics.levelling import has_levelled_off


def within_budget(frames: Frames) -> dict[int, float]:
    """Return the best score of each trial within the budget of epochs; NaN where it was not evaluated."""
    return dict(zip(frames.trials["trial"].tolist(), values(frames.trials, "best_score").tolist(), strict=True))


def within_steps(frames: Frames, steps: float) -> dict[int, float]:
    """Return the best score of each trial within a budget of steps; trials without an evaluation in it are left out."""
    best = _at_best(frames.experiment.goal, only(frames.curves, frames.curves["steps"] <= steps))
    return dict(zip(best["trial"].tolist(), values(best, "score").tolist(), strict=True))


def _at_best(goal: Goal, curves: pd.DataFrame) -> pd.DataFrame:
    """Return the evaluation of each trial with its best score."""
    ranked = curves.assign(rank=goal.rising(values(curves, "score"))).sort_values("rank", kind="stable")
    return only(ranked, ranked["rank"].notna()).drop_duplicates("trial", keep="last")


def tied(
    goal: Goal, claims: Mapping[int, Claim], scores: Mapping[int, float], validation_examples: int | None
) -> set[int] | None:
    """Return the batch sizes that can have the best score, runs paired by seed; None where nothing was repeated.

    Args:
        goal: the score that is compared.
        claims: the trials that the claims on each batch size rest on.
        scores: the best score of each trial, by trial.
        validation_examples: size of the validation split; None where it is not known.
    """
    scale = scale_of_scores([np.array([*scores.values()])], goal, validation_examples)
    runs = {size: _falling(claim.for_score, scale, scores) for size, claim in claims.items()}
    sizes = [size for size, found in runs.items() if np.isfinite(found).any()]
    if not sizes:
        return None
    resolution = np.array([_resolution(goal, runs[size], validation_examples) for size in sizes])
    effects = paired([claims[size].for_score for size in sizes], [runs[size] for size in sizes], resolution)
    if not np.isfinite(effects.spreads).any():
        return None
    found = compare(effects, np.ones(len(sizes), dtype=bool), 1 - LEVEL, draws=FEWER_DRAWS)
    return {size for size, can_be_best in zip(sizes, found.tied.tolist(), strict=True) if can_be_best}


def _falling(trials: pd.DataFrame, scale: Scale, scores: Mapping[int, float]) -> Float[np.ndarray, " runs"]:
    """Return one value for each run: infinite for one that diverged before it was evaluated."""
    best = np.array([scores.get(trial, np.nan) for trial in trials["trial"].tolist()], dtype=np.float64)
    lost = np.where(trials["status"] == "diverged", np.inf, np.nan)
    return np.where(np.isfinite(best), scale.falling(np.nan_to_num(best)), lost)


def _resolution(goal: Goal, log_gaps_of_runs: Float[np.ndarray, " runs"], validation_examples: int | None) -> float:
    """Return the variance of the mean over runs of a log gap where each is known to one validation example."""
    known = log_gaps_of_runs[np.isfinite(log_gaps_of_runs)]
    if validation_examples is None or not goal.kind.is_share:
        return 0.0
    return float(np.mean((np.exp(-known) / validation_examples) ** 2)) / len(known)


def errors_of_examples(
    frames: Frames, goal: Goal, claims: Mapping[int, Claim], steps: float = np.inf
) -> dict[int, float]:
    """Return the standard error that the score of each batch size has because validation examples are few.

    It is the deviation of the score over examples at the best evaluation over the root of their number, in the median
    over runs. Only evaluations within the budgets of epochs and of `steps` count. Batch sizes whose rows do not hold it
    are left out.
    """
    if frames.validation_examples is None:
        return {}
    within_steps = np.isinf(steps) | (frames.curves["steps"] <= steps)
    early = (frames.curves[frames.counted_in] <= frames.budget) & within_steps
    best = _at_best(goal, only(frames.curves, early))
    found: dict[int, float] = {}
    for size, claim in claims.items():
        variances = values(only(best, best["trial"].isin(claim.for_score["trial"])), "variance")
        known = variances[np.isfinite(variances)]
        if len(known):
            found[size] = float(np.sqrt(np.median(known) / frames.validation_examples))
    return found


def levelled_off(frames: Frames, goal: Goal, claims: Mapping[int, Claim]) -> dict[int, bool | None]:
    """Return for each batch size whether its curve had levelled off at the end of the budget: see `has_levelled_off`.

    None where this cannot be known: with too few evaluations, or where the rate falls to 0 with the budget.
    """
    if not frames.has_scores:
        return {}
    if frames.experiment.learning_rate.decays:
        return dict.fromkeys(claims)
    curves, found = Curves(frames, goal), {}
    for size, claim in claims.items():
        runs = [curves.scale.of_run(curves.run(int(number))) for number in claim.for_score["trial"]]
        found[size] = has_levelled_off(*table_of(runs), curves.scale.flat, frames.budget)
    return found

"""The final scores of runs that were made elsewhere: the surface over batch size and rate, and the named tolerance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import values
from batchscale.analysis.summary_parts import Ranged, ScoreSurface
from batchscale.config.goal import Goal
from batchscale.statistics import score_surface
from batchscale.statistics.curve_fit import Refusal
from batchscale.statistics.intervals import Array
from batchscale.statistics.score_surface import Finals, fit_score_surface
from batchscale.statistics.ties import scores_of


def surface(frames: Frames, goal: Goal) -> tuple[ScoreSurface | None, str | None]:
    """Fit the best score of every run within the budget; return the surface, or the reason why there is none."""
    imported = frames.imported
    if imported is None:
        return None, "search trials may stop early, so their last scores are not final"
    if not frames.has_scores or not imported.learning_rates:
        return None, "the tables hold no scores with their learning rates"
    trials = frames.trials
    scores = -goal.rising(values(trials, "best_score"))
    scores = np.where(trials["status"] == "diverged", np.nan, scores)
    rates, sizes = values(trials, "learning_rate"), values(trials, "batch_size")
    try:
        found = fit_score_surface(Finals(sizes.astype(np.float64), rates.astype(np.float64), scores))
    except Refusal as refusal:
        return None, str(refusal)
    return _as_part(found, goal), None


def _as_part(found: score_surface.ScoreSurface, goal: Goal) -> ScoreSurface:
    of_surface = np.array([found.score.value, *found.score.interval], dtype=np.float64)
    score, *ends = scores_of(goal, of_surface, found.score.value).tolist()
    return ScoreSurface(
        batch_size=Ranged(value=found.batch_size.value, interval=found.batch_size.interval),
        learning_rate=Ranged(value=found.rate.value, interval=found.rate.interval),
        score=Ranged(value=score, interval=(min(ends), max(ends))),
        exponent=Ranged(value=found.exponent.value, interval=found.exponent.interval),
        noise=found.noise,
        runs=found.runs,
        left_out=found.left_out,
    )


def within_tolerance(sizes: NDArray[np.int64], medians: Array, tolerance: float) -> list[int]:
    """Return the `sizes` whose median score differs from the best by at most the share `tolerance` of it."""
    return sizes[_near(medians, tolerance)].tolist()


def _near(medians: Array, tolerance: float) -> NDArray[np.bool_]:
    """Compare scores that are oriented so that the least is best: losses, or accuracies with the sign reversed."""
    finite = np.where(np.isfinite(medians), medians, np.inf)
    best = finite.min(initial=np.inf)
    # A sum of decimal numbers may differ from the limit by rounding.
    return np.isfinite(finite) & (finite - best <= tolerance * abs(best) * (1 + 1e-9))

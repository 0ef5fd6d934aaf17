"""Decide whether curves have levelled off at the end of a budget, so that longer training would hardly change them.

The slope over the last half of the budget is compared with that of a curve that hardly falls, which is the one that
`crossing` calls flat. Comparing the progress over the last stretch of training with a threshold follows Prechelt (1998,
Early Stopping - But When?); the stretch and the threshold are our own rule.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from batchscale.statistics.crossing import without_collapse
from batchscale.statistics.curve_fit import fit_slope

LAST_PART = 0.5
"""Part of the budget over whose end the slope is measured: a factor of two in examples."""
FEWEST_EVALUATIONS = 5
"""Evaluations in this part below which no slope is known."""


def has_levelled_off(
    examples: Float[np.ndarray, " evaluations"],
    scores: Float[np.ndarray, "runs evaluations"],
    flat: float,
    budget: float = np.inf,
) -> bool | None:
    """Return whether the typical run hardly falls any more at the end; None with too few evaluations to know.

    One line is fitted to the last part of all runs, each with a level for itself. It must be flatter than `flat` beyond
    the noise of the evaluations: its 95% interval must end above it.

    Args:
        examples: Examples trained at each evaluation, above 0 and rising.
        scores: Scores on a logarithmic scale on which they fall; NaN where a run was not evaluated.
        flat: Slope on log examples above which a curve hardly falls, below 0.
        budget: Examples that may be trained; the last evaluation ends a shorter curve.
    """
    within = examples <= budget
    if not within.any():
        return None
    end = examples[within].max()
    last = within & (examples >= LAST_PART * end)
    table = np.where(last, without_collapse(np.where(within, scores, np.nan)), np.nan)
    known = np.isfinite(table)
    runs, counts = known.any(axis=1), known.sum(axis=1, keepdims=True)
    freedom = int(known.sum() - runs.sum() - 1)
    if known.any(axis=0).sum() < FEWEST_EVALUATIONS or freedom < FEWEST_EVALUATIONS - 2:
        return None
    where = np.where(known, np.log(examples), 0.0)
    values = np.where(known, table, 0.0)
    off = where - where.sum(axis=1, keepdims=True) / np.maximum(counts, 1)
    gap = values - values.sum(axis=1, keepdims=True) / np.maximum(counts, 1)
    _, (low, _) = fit_slope(off[known], gap[known], freedom)
    return low is not None and low > flat

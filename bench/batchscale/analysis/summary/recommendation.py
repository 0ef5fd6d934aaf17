"""The batch size to take: the one with the least bound, what its bound rests on, and what more data would buy."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from batchscale.analysis import number_format
from batchscale.analysis.frames.schema import only, values
from batchscale.analysis.metrics.arms import Arm
from batchscale.analysis.metrics.observations import around
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.summary_parts import Recommended
from batchscale.statistics.comparison import Comparison
from batchscale.statistics.effects import Source

SOURCES: dict[Source, str] = {
    "seeds": "the spread of training runs over seeds",
    "rounds": "the spread of timed rounds",
    "blocks": "the machine, whose speed differs from one block of rounds to another",
    "misses": "the share of runs that miss the target",
}


def recommended(of: Sweep) -> Recommended | None:
    """Return the batch size with the least bound on its time to the target; None where nothing was repeated."""
    found = of.comparison
    arm = found.recommended if found else None
    if found is None or arm is None:
        return None
    bound = float(np.expm1(found.bounds[arm])) if np.isfinite(found.bounds[arm]) else None
    shares = found.shares(arm) if bound is not None else {}
    after = _after_doubling(found) if bound is not None and shares else {}
    setting = of.arms[arm]
    known = of.frames.imported is None or of.frames.imported.learning_rates
    return Recommended(
        batch_size=setting.batch_size,
        learning_rate=float(values(setting.trials, "learning_rate")[0]) if known else None,
        options=dict(setting.trials["options"].iloc[0]),
        bound=bound,
        reason=_reason(found, bound, shares),
        error_shares=shares,
        bound_after_doubling=after,
        seconds_of_doubling=_seconds_of_doubling(of, found, after),
    )


def _seconds_of_doubling(of: Sweep, found: Comparison, sources: Iterable[Source]) -> dict[Source, float]:
    """Return what it would take to double the data of each source, for the arms that are tied."""
    tied = [arm for arm, is_tied in zip(of.arms, found.tied.tolist(), strict=True) if is_tied]
    sizes = {arm.batch_size for arm in tied if arm.batch_size in of.speeds}
    timing = sum(float(values(of.speeds[size].rounds, "seconds").sum()) for size in sizes)
    training = _seconds_per_trained_example(of) * sum(_examples_of_a_repetition(of, arm) for arm in tied)
    needed: dict[Source, float] = {"seeds": training, "rounds": timing, "blocks": timing}
    return {source: needed[source] for source in sources if np.isfinite(needed[source])}


def _seconds_per_trained_example(of: Sweep) -> float:
    """Return the seconds of a lane-example in the training of this folder; NaN where it was trained elsewhere."""
    stages = only(of.frames.stages, of.frames.stages["stage"] == "convergence")
    trained = float(values(stages, "trained_examples").sum())
    known = trained > 0 and not of.frames.convergence_from
    return float(values(stages, "seconds").sum()) / trained if known else np.nan


def _examples_of_a_repetition(of: Sweep, arm: Arm) -> float:
    """Return the examples to train as many runs of an arm again: up to where a study with looks ends them."""
    ended = values(arm.trials, "steps") * arm.batch_size
    table = of.frames.experiment.confirm
    past = np.inf if table is None else table.past_target
    first, _ = around(of.crossed.loc[arm.trials["trial"]])
    return float(np.minimum(ended, past * first).sum())


def _after_doubling(found: Comparison) -> dict[Source, float]:
    # Seeds shrink what misses add as well. Further blocks hold further rounds.
    doubled: dict[Source, dict[Source, float]] = {
        "seeds": {"seeds": 2.0, "misses": 2.0},
        "rounds": {"rounds": 2.0},
        "blocks": {"blocks": 2.0, "rounds": 2.0},
    }
    after: dict[Source, float] = {}
    for source, factors in doubled.items():
        if source in found.variances:
            after[source] = float(np.expm1(found.bound_after(factors)))
    return after


def _reason(found: Comparison, bound: float | None, shares: dict[Source, float]) -> str:
    if bound is None:
        if (found.among & ~found.out & np.isnan(found.centres)).any():
            return "a batch size without an estimate could be faster than all others, so nothing bounds it"
        if not np.isfinite(found.critical):
            return "too little was repeated to bound it"
        return "so many of its runs missed the target that the typical run may never reach it"
    if not shares:
        return "every other batch size is slower"
    largest = max(shares, key=shares.__getitem__)
    return f"{number_format.percent(shares[largest])} of the doubt comes from {SOURCES[largest]}"

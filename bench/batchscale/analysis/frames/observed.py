"""Training runs whose curves are kept as arrays, each checked when it is read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from batchscale.analysis import number_format
from batchscale.analysis.frames.schema import Series, numbers
from batchscale.config.goal import Goal
from batchscale.errors import InputError
from batchscale.records.curves import Curve
from batchscale.records.row_types import NoiseEstimate, Trial, TrialKey


@dataclass(frozen=True)
class Observed:
    """A trial whose series are kept as arrays.

    Attributes:
        trial: the row; its curve holds only the evaluations that set a record or, for search trials, the goal's score.
        curve: all evaluations.
        noise: estimates of the gradient noise over training.
        norms: squared gradient norms by the examples that they are over.
    """

    trial: Trial
    curve: Series
    noise: Series | None
    norms: Series | None

    @property
    def names(self) -> Mapping[str, object]:
        """The columns that identify this trial, without its number and its options."""
        trial = self.trial
        return {
            "phase": trial.phase,
            "batch_size": trial.batch_size,
            "learning_rate": trial.point.learning_rate,
            "seed": trial.seed,
        }


def observe(trial: Trial, goal: Goal) -> Observed:
    """Check a trial and keep its series as arrays.

    Raises:
        InputError: when the training before evaluations does not grow, or the steps are not examples // batch size.
    """
    curve = trial.curve
    series = {
        **{axis: np.array(values) for axis, values in curve.axes.items()},
        "score": np.array(curve.values(goal.metric), np.float64),
        "variance": np.array(curve.variances(goal.metric), np.float64),
        "loss": np.array(curve.values("loss"), np.float64),
        "test_score": np.array(curve.values(goal.metric, "test_scores"), np.float64),
        "averaged_score": np.array(curve.values(goal.metric, "averaged_scores"), np.float64),
    }
    _check(trial, "curve", series[curve.counted_in], curve.counted_in)
    if curve.counted_in == "examples":
        _check_steps(trial, series)
    noise = _noise_series(trial.noise) if trial.noise else None
    if noise:
        _check(trial, "noise", noise["examples"], "examples")
    norms = _norm_series(trial) if trial.noise else None
    searched = trial.phase == "search"
    scores = _at(curve, goal, range(len(curve.trained))) if searched else _records(curve, goal, series["score"])
    kept = msgspec.structs.replace(trial, curve=scores, noise=None)
    return Observed(kept, series, noise, norms)


def _noise_series(noise: NoiseEstimate) -> Series:
    count = len(noise.examples)
    return {
        "examples": np.array(noise.examples, np.int64),
        "gradient_squared": numbers(noise.gradient_squared),
        "noise_trace": numbers(noise.noise_trace),
        "small_batch_size": np.full(count, noise.small_batch_size),
        "big_batch_size": np.full(count, noise.big_batch_size),
    }


def _norm_series(trial: Trial) -> Series | None:
    """Return squared gradient norms by the examples that they are over, the whole batch first."""
    noise = trial.noise
    if noise is None or noise.part_sizes is None or noise.squared_norms is None:
        return None
    sizes, norms = np.array(noise.part_sizes, np.int64), numbers(noise.squared_norms)
    if len(sizes) != len(norms) or np.any(np.diff(sizes) >= 0):
        raise InputError(
            f"{_where(trial)}: noise.part_sizes: {sizes.tolist()}, expected falling sizes, one for each norm"
        )
    return {"examples": sizes, "squared_norm": norms}


def _where(trial: Trial) -> str:
    point = number_format.point(trial.point.learning_rate, trial.options)
    return f"trial of batch size {trial.batch_size}, learning rate {point}, seed {trial.seed}"


def _check(trial: Trial, field: str, trained: np.ndarray, unit: str) -> None:
    if np.any(np.diff(trained) <= 0):
        raise InputError(f"{_where(trial)}: {field}.{unit}: not growing, expected evaluations in the order of training")


def _check_steps(trial: Trial, series: Series) -> None:
    made = series["examples"] // trial.batch_size
    if len(wrong := np.flatnonzero(series["steps"] != made)):
        at = wrong[0]
        raise InputError(
            f"{_where(trial)}: curve.steps: {series['steps'][at]} after {series['examples'][at]} examples,"
            f" expected {made[at]}"
        )


def _records(curve: Curve, goal: Goal, scores: np.ndarray) -> Curve:
    """Keep the evaluations that are better than all before them: only these decide a crossing or a best score."""
    rising = goal.rising(scores)
    before = np.fmax.accumulate(np.concatenate([[-np.inf], rising]))[:-1]
    return _at(curve, goal, np.flatnonzero(rising > before).tolist())


def _at(curve: Curve, goal: Goal, places: Iterable[int]) -> Curve:
    """Return the scores of the goal at some evaluations."""
    return curve.at(places, goal.kind.measured_as)


def up_to(trial: Trial, goal: Goal, horizon: float) -> Trial:
    """Return an observed trial with only the evaluations up to `horizon`, counted as its curve counts."""
    curve = trial.curve
    count = sum(at <= horizon for at in curve.trained)
    if count == len(curve.trained):
        return trial
    return msgspec.structs.replace(trial, curve=_at(curve, goal, range(count)))


def latest(trials: Iterable[Trial], goal: Goal) -> list[Observed]:
    """Keep the row of every trial that supersedes the others; rows are taken one at a time and made small."""
    kept: dict[TrialKey, Observed] = {}
    for trial in trials:
        key = trial.key
        if key not in kept or trial.supersedes(kept[key].trial):
            kept[key] = observe(trial, goal)
    return list(kept.values())

"""Rows of training runs and timings, checked and laid into frames."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import pandas as pd

from batchscale.analysis import number_format
from batchscale.analysis.frames.schema import CELL, Series, numbers, stacked, tidy
from batchscale.config.goal import Goal
from batchscale.errors import InputError
from batchscale.records.rate_choice import best_score, crossing
from batchscale.records.row_types import Compilation, Curve, NoiseEstimate, Round, Trial, TrialKey


@dataclass(frozen=True)
class Observed:
    """A trial whose curve is kept as arrays; the curve inside `trial` holds only the evaluations that set a record."""

    trial: Trial
    curve: Series
    noise: Series | None
    norms: Series | None

    @property
    def names(self) -> Mapping[str, object]:
        """The columns that tell this trial from another, without its number and its options."""
        trial = self.trial
        return {
            "phase": trial.phase,
            "batch_size": trial.batch_size,
            "learning_rate": trial.learning_rate,
            "seed": trial.seed,
        }


def observe(trial: Trial, goal: Goal) -> Observed:
    """Check a trial and keep its series as arrays.

    Raises:
        InputError: when the examples of a series do not grow, or steps are not those that they make.
    """
    curve = trial.curve
    series = {
        "examples": np.array(curve.examples, np.int64),
        "steps": np.array(curve.steps, np.int64),
        "accuracy": np.array(curve.accuracy, np.float64),
        "loss": numbers(curve.loss),
        "test_accuracy": numbers(curve.test_accuracy or [None] * len(curve.examples)),
        "ema_accuracy": numbers(curve.ema_accuracy or [None] * len(curve.examples)),
    }
    _check(trial, "curve", series)
    _check_steps(trial, series)
    noise = _noise_series(trial.noise) if trial.noise else None
    if noise:
        _check(trial, "noise", noise)
    norms = _norm_series(trial) if trial.noise else None
    kept = msgspec.structs.replace(trial, curve=_records(curve, goal.rising(series[goal.metric])), noise=None)
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
    """Squared gradient norms by the examples they are over, whole batch first."""
    noise = trial.noise
    if noise is None or noise.part_sizes is None or noise.squared_norms is None:
        return None
    sizes, norms = np.array(noise.part_sizes, np.int64), numbers(noise.squared_norms)
    if len(sizes) != len(norms) or np.any(np.diff(sizes) >= 0):
        raise InputError(f"{_where(trial)}: noise.part_sizes: {sizes.tolist()}; falling, one for each norm is right")
    return {"examples": sizes, "squared_norm": norms}


def _where(trial: Trial) -> str:
    point = number_format.point(trial.learning_rate, trial.options)
    return f"trial of batch size {trial.batch_size}, learning rate {point}, seed {trial.seed}"


def _check(trial: Trial, field: str, series: Series) -> None:
    if np.any(np.diff(series["examples"]) <= 0):
        raise InputError(
            f"{_where(trial)}: {field}.examples: not growing; evaluations in the order of training are right"
        )


def _check_steps(trial: Trial, series: Series) -> None:
    made = series["examples"] // trial.batch_size
    if len(wrong := np.flatnonzero(series["steps"] != made)):
        at = wrong[0]
        raise InputError(
            f"{_where(trial)}: curve.steps: {series['steps'][at]} after {series['examples'][at]} examples;"
            f" {made[at]} is right"
        )


def _records(curve: Curve, rising: np.ndarray) -> Curve:
    """Keep the evaluations that are better than all before them: only these decide a crossing or a best score."""
    before = np.maximum.accumulate(np.concatenate([[-np.inf], rising]))[:-1]
    kept = np.flatnonzero(rising > before).tolist()
    return Curve(
        examples=[curve.examples[at] for at in kept],
        steps=[curve.steps[at] for at in kept],
        accuracy=[curve.accuracy[at] for at in kept],
        loss=[curve.loss[at] for at in kept],
    )


def up_to(trial: Trial, examples: float) -> Trial:
    """An observed trial with the evaluations it had after so many examples."""
    curve = trial.curve
    count = sum(at <= examples for at in curve.examples)
    if count == len(curve.examples):
        return trial
    lists = {name: getattr(curve, name)[:count] for name in ("examples", "steps", "accuracy", "loss")}
    return msgspec.structs.replace(trial, curve=Curve(**lists))


def trial_frame(observed: Sequence[Observed], goal: Goal, budget_examples: float, epoch: float) -> pd.DataFrame:
    """The `trials` frame; `epoch` is the number of training examples (NaN when it is not known)."""
    records = []
    averaged = any(np.isfinite(one.curve["ema_accuracy"]).any() for one in observed)
    for number, one in enumerate(observed):
        trial = one.trial
        found = crossing(trial.curve, goal)
        examples = found.examples if found else np.inf
        records.append(
            {
                **one.names,
                "trial": number,
                "options": trial.point.options,
                "status": trial.status,
                "reason": trial.reason,
                "steps": trial.steps,
                "examples_to_target": examples,
                "steps_to_target": examples / trial.batch_size,
                "epochs_to_target": examples / epoch,
                "previous_examples": previous_evaluation(one.curve["examples"], examples),
                "best_accuracy": best_score(trial.curve, goal, budget_examples),
                "best_ema_accuracy": _best_average(goal, one.curve, budget_examples) if averaged else None,
                "test_accuracy": trial.test_accuracy,
            }
        )
    return tidy("trials", records)


def _best_average(goal: Goal, curve: Series, examples: float) -> float:
    """Return the best score of the averaged parameters within a budget; NaN if no average was kept or evaluated."""
    best = goal.best(curve["ema_accuracy"][curve["examples"] <= examples])
    return np.nan if best is None else float(best)


def previous_evaluation(examples: np.ndarray, crossed: float) -> float:
    """Where the evaluation before the crossing was (0 before the first; the last one when nothing crossed)."""
    before = examples[: np.searchsorted(examples, crossed)]
    return float(before[-1]) if len(before) else 0.0


def curve_frame(observed: Sequence[Observed], epoch: float) -> pd.DataFrame:
    """The `curves` frame: one row per evaluation."""
    names = [{**one.names, "trial": number} for number, one in enumerate(observed)]
    return stacked("curves", names, [{**one.curve, "epochs": one.curve["examples"] / epoch} for one in observed])


def noise_frame(observed: Sequence[Observed], epoch: float) -> pd.DataFrame:
    """The `noise` frame: one row per stretch of training whose gradient noise was estimated."""
    known = [(number, one, one.noise) for number, one in enumerate(observed) if one.noise is not None]
    names = [{**one.names, "trial": number} for number, one, _ in known]
    return stacked("noise", names, [{**noise, "epochs": noise["examples"] / epoch} for _, _, noise in known])


def gradient_norm_frame(observed: Sequence[Observed]) -> pd.DataFrame:
    """The `gradient_norms` frame: one row per trial and part of its batch."""
    known = [(number, one, one.norms) for number, one in enumerate(observed) if one.norms is not None]
    names = [{**one.names, "trial": number} for number, one, _ in known]
    return stacked("gradient_norms", names, [norms for _, _, norms in known])


def latest(trials: Iterable[Trial], goal: Goal) -> list[Observed]:
    """Of every trial the row that stands; one at a time, as `observe` makes them small."""
    kept: dict[TrialKey, Observed] = {}
    for trial in trials:
        key = trial.key
        if key not in kept or trial.supersedes(kept[key].trial):
            kept[key] = observe(trial, goal)
    return list(kept.values())


def round_frame(rounds: Iterable[Round]) -> pd.DataFrame:
    """The `rounds` frame; a round measured twice keeps the later."""
    records = []
    for row in rounds:
        seconds_per_step = row.seconds / row.steps
        derived = {
            "seconds_per_step": seconds_per_step,
            "examples_per_second": row.batch_size / seconds_per_step if seconds_per_step else np.inf,
        }
        records.append({**msgspec.structs.asdict(row), **derived})
    return tidy("rounds", records).drop_duplicates([*CELL, "round"], keep="last", ignore_index=True)


def compilation_frame(compilations: Iterable[Compilation]) -> pd.DataFrame:
    """The `compilations` frame; a cell compiled twice keeps the later."""
    frame = tidy("compilations", [msgspec.structs.asdict(row) for row in compilations])
    return frame.drop_duplicates(list(CELL), keep="last", ignore_index=True)

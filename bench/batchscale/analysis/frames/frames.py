"""Load a results folder as tidy frames: one row per observation, always the same columns, misses as infinity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pandas as pd
from msgspec import Meta

from batchscale.analysis import number_format
from batchscale.analysis.frames.schema import CELL, Series, numbers, stacked, tidy
from batchscale.config.experiment import Experiment
from batchscale.config.goal import Goal
from batchscale.decisions.evaluations import best_score, first_at_target
from batchscale.errors import InputError
from batchscale.records import results_folder
from batchscale.records.machine_file import MachineFile
from batchscale.records.results_folder import JoinedFrom, Price
from batchscale.records.row_types import (
    Accuracy,
    AnyRow,
    Calibration,
    Compilation,
    Curve,
    Data,
    Limit,
    Look,
    NoiseEstimate,
    Positive,
    Round,
    Row,
    Run,
    ScoreValue,
    Short,
    Stage,
    Text,
    Trial,
    TrialKey,
    Verification,
)


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """`imported.json`: the rows of this folder were made from tables that were measured elsewhere.

    Attributes:
        schema: version of this format.
        train_examples: examples in an epoch; null where it was not given.
        target: the score that the runs reached; null where it was not given.
        target_accuracy: the same in folders that were written before other metrics were read.
        scores: True if the files hold scores, not only when a target was reached.
        budget: training within which scores are compared, in words; empty where it is not known.
        budget_examples: the same in examples.
        learning_rates: True if the tables name learning rates.
        tolerance: share of the best score within which scores are called as good; null where it was not given.
        notes: sentences on how the files were read, for the page.
    """

    schema: Literal[1] = 1
    train_examples: Positive | None
    learning_rates: bool
    target: ScoreValue | None = None
    target_accuracy: Accuracy | None = None
    scores: bool = False
    budget: Short = ""
    budget_examples: Positive | None = None
    tolerance: Accuracy | None = None
    notes: Annotated[list[Text], Meta(max_length=16)] = []

    def __post_init__(self) -> None:
        if self.target_accuracy is not None:
            msgspec.structs.force_setattr(self, "target", self.target_accuracy)
            msgspec.structs.force_setattr(self, "target_accuracy", None)


@dataclass(frozen=True)
class Frames:
    """The contents of a results folder. The columns of each frame are in `schema.COLUMNS`.

    Attributes:
        experiment: the experiment that was measured.
        machine: the machine and the environments that rows name.
        rounds: one row per timed round.
        compilations: one row per compiled step.
        trials: one row per training run.
        curves: one row per evaluation of a training run.
        noise: one row per stretch of training whose gradient noise was estimated.
        gradient_norms: one row per trial and part of its batch.
        limits: one row per search for the largest batch size.
        calibrations: one row per calibrated quantity.
        stages: one row per end of a stage.
        verifications: one row per run that was repeated alone.
        looks: the looks of the study, in order; empty where every batch size got the same seeds.
        searched: the search trials. Their curves hold only the score of the goal, which is all that choosing a
            learning rate needs.
        train_examples: examples in an epoch.
        validation_examples: size of the smallest validation split of any trial; None if a trial does not record it.
        tokens_per_example: tokens of an example; None where the data is no text.
        data: what the rows were measured on; None in folders of earlier versions.
        convergence_from: the machine that the trials were joined from.
        speeds_from: the table or folder that speeds were joined from.
        imported: set where the rows were made from tables.
        price_per_hour: the price of the machine that its user gave.
    """

    experiment: Experiment
    machine: MachineFile
    rounds: pd.DataFrame
    compilations: pd.DataFrame
    trials: pd.DataFrame
    curves: pd.DataFrame
    noise: pd.DataFrame
    gradient_norms: pd.DataFrame
    limits: pd.DataFrame
    calibrations: pd.DataFrame
    stages: pd.DataFrame
    verifications: pd.DataFrame
    searched: tuple[Trial, ...]
    train_examples: int | None
    validation_examples: int | None = None
    tokens_per_example: int | None = None
    data: Data | None = None
    convergence_from: str | None = None
    speeds_from: str | None = None
    looks: tuple[Look, ...] = ()
    imported: Imported | None = None
    price_per_hour: float | None = None

    @property
    def epoch(self) -> float:
        """Examples in an epoch; NaN where imported tables do not record it."""
        return float(self.train_examples or np.nan)

    @property
    def budget_examples(self) -> float:
        """Examples within which scores are compared."""
        return _budget_examples(self.experiment, self.train_examples, self.imported)

    @property
    def goal(self) -> Goal | None:
        """The score whose first crossing is timed; None where imported tables do not record it."""
        unknown = self.imported is not None and self.imported.target is None
        return None if unknown else self.experiment.goal

    @property
    def has_scores(self) -> bool:
        """True if scores were recorded; tables may hold only when a target was reached."""
        return self.imported is None or self.imported.scores


def load(folder: Path) -> Frames:
    """Read a results folder.

    Raises:
        InputError: when a file is missing or not valid, or holds rows of another protocol than `experiment.toml`.
    """
    experiment = results_folder.read_experiment(folder)
    machine = results_folder.read_machine(folder)
    joined = results_folder.read_label(folder, results_folder.JOINED_FROM, JoinedFrom)
    imported = results_folder.read_label(folder, results_folder.IMPORTED, Imported)
    price = results_folder.read_label(folder, results_folder.PRICE, Price)
    files = (results_folder.rows(folder, name, experiment) for name in results_folder.ROW_FILES)
    measured = from_rows(experiment, machine, chain.from_iterable(files), joined.machine if joined else None, imported)
    return replace(measured, price_per_hour=price.per_hour if price else None)


def from_rows(
    experiment: Experiment,
    machine: MachineFile,
    rows: Iterable[AnyRow],
    convergence_from: str | None = None,
    imported: Imported | None = None,
) -> Frames:
    """Build the frames of rows that belong together.

    Raises:
        InputError: when a trial contradicts itself, or two trials had training sets of different sizes.
    """
    kept: dict[type[Row], list[Row]] = {}
    named: set[str] = set()
    observed = latest(_set_others_aside(_noting_environments(rows, named), kept), experiment.goal)
    train_examples = imported.train_examples if imported else _train_examples(one.trial for one in observed)
    epoch = float(train_examples or np.nan)
    trials = trial_frame(observed, experiment.goal, _budget_examples(experiment, train_examples, imported), epoch)
    if imported:
        _forget_unknown(trials, imported)
    return Frames(
        experiment,
        _described(machine, named),
        rounds=round_frame(row for row in kept.get(Round, []) if isinstance(row, Round)),
        compilations=compilation_frame(row for row in kept.get(Compilation, []) if isinstance(row, Compilation)),
        trials=trials,
        curves=curve_frame(observed, epoch),
        noise=noise_frame(observed, epoch),
        gradient_norms=gradient_norm_frame(observed),
        limits=tidy("limits", map(msgspec.structs.asdict, kept.get(Limit, []))),
        calibrations=tidy("calibrations", map(msgspec.structs.asdict, kept.get(Calibration, []))),
        stages=tidy("stages", map(msgspec.structs.asdict, kept.get(Stage, []))),
        verifications=tidy("verifications", map(_run, kept.get(Verification, []))),
        searched=tuple(one.trial for one in observed if one.trial.phase == "search"),
        train_examples=train_examples,
        **_of_data(kept.get(Data, []), observed),
        convergence_from=convergence_from,
        looks=tuple(row for row in kept.get(Look, []) if isinstance(row, Look)),
        imported=imported,
    )


def _forget_unknown(trials: pd.DataFrame, imported: Imported) -> None:
    """Remove from trials what follows from placeholders alone."""
    if not imported.scores:
        # The tables hold when the target was reached, not the scores after it.
        trials[["best_score", "best_averaged_score"]] = np.nan
    elif imported.target is None:
        trials[["examples_to_target", "steps_to_target", "epochs_to_target"]] = np.inf


def _noting_environments(rows: Iterable[AnyRow], named: set[str]) -> Iterator[AnyRow]:
    for row in rows:
        named.add(row.environment)
        yield row


def _described(machine: MachineFile, named: set[str]) -> MachineFile:
    """Return the machine with only the environments that rows name; all of them where rows name none."""
    known = {name: one for name, one in machine.environments.items() if name in named}
    return msgspec.structs.replace(machine, environments=known or machine.environments)


def _run(row: Row) -> dict[str, object]:
    options = {"options": row.point.options} if isinstance(row, Run) else {}
    return {**msgspec.structs.asdict(row), **options}


def _set_others_aside(rows: Iterable[AnyRow], others: dict[type[Row], list[Row]]) -> Iterator[Trial]:
    """Yield trials one at a time, and collect all other rows in `others` by type.

    The curves of all trials are then never in memory together as Python lists.
    """
    for row in rows:
        if isinstance(row, Trial):
            yield row
        else:
            others.setdefault(type(row), []).append(row)


def _train_examples(trials: Iterable[Trial]) -> int | None:
    sizes = sorted({trial.train_examples for trial in trials})
    if len(sizes) > 1:
        raise InputError(
            f"trials: train_examples: {sizes} in one folder, expected the same training set in every trial"
        )
    return sizes[0] if sizes else None


def _of_data(rows: Iterable[Row], observed: Sequence[Observed]) -> dict[str, Any]:
    """Return the fields of `Frames` on the data. Rows of earlier versions do not describe it; their trials may."""
    data, trials = next((row for row in rows if isinstance(row, Data)), None), [one.trial for one in observed]
    return {
        "validation_examples": min((trial.validation_examples or 0 for trial in trials), default=0) or None,
        "tokens_per_example": data.tokens_per_example if data else next((t.tokens_per_example for t in trials), None),
        "data": data,
    }


def _budget_examples(experiment: Experiment, train_examples: int | None, imported: Imported | None) -> float:
    if imported and imported.scores:
        return imported.budget_examples or np.inf
    return experiment.budget_examples(train_examples) if train_examples else np.inf


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
        InputError: when the examples of a series do not increase, or the steps are not examples // batch size.
    """
    curve = trial.curve
    series = {
        "examples": np.array(curve.examples, np.int64),
        "steps": np.array(curve.steps, np.int64),
        "score": np.array(curve.values(goal.metric), np.float64),
        "variance": np.array(curve.variances(goal.metric), np.float64),
        "loss": np.array(curve.values("loss"), np.float64),
        "test_score": np.array(curve.values(goal.metric, "test_scores"), np.float64),
        "averaged_score": np.array(curve.values(goal.metric, "averaged_scores"), np.float64),
    }
    _check(trial, "curve", series)
    _check_steps(trial, series)
    noise = _noise_series(trial.noise) if trial.noise else None
    if noise:
        _check(trial, "noise", noise)
    norms = _norm_series(trial) if trial.noise else None
    searched = trial.phase == "search"
    scores = _at(curve, goal, range(len(curve.examples))) if searched else _records(curve, goal, series["score"])
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


def _check(trial: Trial, field: str, series: Series) -> None:
    if np.any(np.diff(series["examples"]) <= 0):
        raise InputError(
            f"{_where(trial)}: {field}.examples: not growing, expected evaluations in the order of training"
        )


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


def _at(curve: Curve, goal: Goal, places: Sequence[int]) -> Curve:
    """Return the scores of the goal at some evaluations."""
    name = goal.kind.measured_as
    scores = curve.scores.get(name) or [None] * len(curve.examples)
    return Curve(
        examples=[curve.examples[at] for at in places],
        steps=[curve.steps[at] for at in places],
        scores={name: [scores[at] for at in places]},
    )


def up_to(trial: Trial, goal: Goal, examples: float) -> Trial:
    """Return an observed trial with only the evaluations up to `examples`."""
    curve = trial.curve
    count = sum(at <= examples for at in curve.examples)
    if count == len(curve.examples):
        return trial
    return msgspec.structs.replace(trial, curve=_at(curve, goal, range(count)))


def trial_frame(observed: Sequence[Observed], goal: Goal, budget_examples: float, epoch: float) -> pd.DataFrame:
    """Build the `trials` frame; `epoch` is the number of training examples (NaN if unknown)."""
    records = []
    averaged = any(np.isfinite(one.curve["averaged_score"]).any() for one in observed)
    for number, one in enumerate(observed):
        trial = one.trial
        found = first_at_target(trial.curve, goal)
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
                "whole_budget": trial.ended != "past_target" or one.curve["examples"][-1] >= budget_examples,
                "best_score": best_score(trial.curve, goal, budget_examples),
                "best_averaged_score": _best_average(goal, one.curve, budget_examples) if averaged else None,
                "test_score": trial.test_score(goal.metric),
            }
        )
    return tidy("trials", records)


def _best_average(goal: Goal, curve: Series, examples: float) -> float:
    """Return the best score of the averaged parameters within a budget; NaN if no average was kept or evaluated."""
    best = goal.best(curve["averaged_score"][curve["examples"] <= examples])
    return np.nan if best is None else float(best)


def previous_evaluation(examples: np.ndarray, crossed: float) -> float:
    """Return the examples at the evaluation before the crossing: 0 before the first, the last one without crossing."""
    before = examples[: np.searchsorted(examples, crossed)]
    return float(before[-1]) if len(before) else 0.0


def curve_frame(observed: Sequence[Observed], epoch: float) -> pd.DataFrame:
    """Build the `curves` frame: one row per evaluation."""
    names = [{**one.names, "trial": number} for number, one in enumerate(observed)]
    return stacked("curves", names, [{**one.curve, "epochs": one.curve["examples"] / epoch} for one in observed])


def noise_frame(observed: Sequence[Observed], epoch: float) -> pd.DataFrame:
    """Build the `noise` frame: one row per stretch of training whose gradient noise was estimated."""
    known = [(number, one, one.noise) for number, one in enumerate(observed) if one.noise is not None]
    names = [{**one.names, "trial": number} for number, one, _ in known]
    return stacked("noise", names, [{**noise, "epochs": noise["examples"] / epoch} for _, _, noise in known])


def gradient_norm_frame(observed: Sequence[Observed]) -> pd.DataFrame:
    """Build the `gradient_norms` frame: one row per trial and part of its batch."""
    known = [(number, one, one.norms) for number, one in enumerate(observed) if one.norms is not None]
    names = [{**one.names, "trial": number} for number, one, _ in known]
    return stacked("gradient_norms", names, [norms for _, _, norms in known])


def latest(trials: Iterable[Trial], goal: Goal) -> list[Observed]:
    """Keep the row of every trial that supersedes the others; rows are taken one at a time and made small."""
    kept: dict[TrialKey, Observed] = {}
    for trial in trials:
        key = trial.key
        if key not in kept or trial.supersedes(kept[key].trial):
            kept[key] = observe(trial, goal)
    return list(kept.values())


def round_frame(rounds: Iterable[Round]) -> pd.DataFrame:
    """Build the `rounds` frame; of a round measured twice, the later is kept."""
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
    """Build the `compilations` frame; of a cell compiled twice, the later is kept."""
    frame = tidy("compilations", [msgspec.structs.asdict(row) for row in compilations])
    return frame.drop_duplicates(list(CELL), keep="last", ignore_index=True)

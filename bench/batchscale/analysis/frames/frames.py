"""Load a results folder as tidy frames: one row per observation, always the same columns, misses as infinity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pandas as pd

from batchscale.analysis.frames.amounts import Amounts
from batchscale.analysis.frames.imported import Imported
from batchscale.analysis.frames.observed import Observed, latest
from batchscale.analysis.frames.schema import CELL, Series, stacked, tidy, values
from batchscale.config.experiment import Experiment
from batchscale.config.goal import Goal
from batchscale.decisions.evaluations import best_score, first_place
from batchscale.errors import InputError
from batchscale.records import results_folder
from batchscale.records.curves import UNITS, CountedIn
from batchscale.records.machine_file import MachineFile
from batchscale.records.results_folder import Price, joined_from
from batchscale.records.row_types import (
    AnyRow,
    Calibration,
    Compilation,
    Data,
    Limit,
    Look,
    Round,
    Row,
    Run,
    Stage,
    TimedEpoch,
    Trial,
    Verification,
)


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
        counted_in: what all curves count their training in.
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
    counted_in: CountedIn = "examples"
    validation_examples: int | None = None
    tokens_per_example: int | None = None
    data: Data | None = None
    convergence_from: str | None = None
    speeds_from: str | None = None
    looks: tuple[Look, ...] = ()
    imported: Imported | None = None
    price_per_hour: float | None = None

    @property
    def amounts(self) -> Amounts:
        """What training is counted in, and which amounts follow."""
        return Amounts(self.counted_in, self.train_examples, self.tokens_per_example)

    @property
    def budget(self) -> float:
        """Training within which scores are compared, in `counted_in`."""
        return _budget(self.experiment, self.train_examples, self.imported)

    @property
    def timed_in(self) -> Literal["steps", "epochs"]:
        """What the rounds timed: steps, or whole epochs of a table that does not show how many steps these have."""
        return "epochs" if np.isfinite(values(self.rounds, "epochs")).any() else "steps"

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
    joined = joined_from(folder)
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
        InputError: when a row contradicts itself, or two rows have unlike training sets or count in unlike units.
    """
    kept: dict[type[Row], list[Row]] = {}
    observed = latest(_set_others_aside(rows, kept), experiment.goal)
    every = chain(*kept.values(), (one.trial for one in observed))
    train_examples = imported.train_examples if imported else _train_examples(one.trial for one in observed)
    amounts = Amounts(_counted_in(observed), train_examples)
    budget = _budget(experiment, train_examples, imported)
    trials = _without_placeholders(trial_frame(observed, experiment.goal, budget, amounts), imported)
    return Frames(
        experiment,
        _described(machine, every, only_own=convergence_from is not None),
        rounds=_rounds(kept),
        compilations=compilation_frame(row for row in kept.get(Compilation, []) if isinstance(row, Compilation)),
        trials=trials,
        curves=curve_frame(observed, amounts),
        noise=noise_frame(observed, amounts),
        gradient_norms=gradient_norm_frame(observed),
        limits=tidy("limits", map(msgspec.structs.asdict, kept.get(Limit, []))),
        calibrations=tidy("calibrations", map(msgspec.structs.asdict, kept.get(Calibration, []))),
        stages=tidy("stages", map(msgspec.structs.asdict, kept.get(Stage, []))),
        verifications=tidy("verifications", map(_run, kept.get(Verification, []))),
        searched=tuple(one.trial for one in observed if one.trial.phase == "search"),
        train_examples=train_examples,
        counted_in=amounts.counted_in,
        **_of_data(kept.get(Data, []), observed),
        convergence_from=convergence_from,
        looks=tuple(row for row in kept.get(Look, []) if isinstance(row, Look)),
        imported=imported,
    )


def _without_placeholders(trials: pd.DataFrame, imported: Imported | None) -> pd.DataFrame:
    """Remove from trials what follows from placeholders alone, and return them."""
    if imported is None:
        return trials
    if not imported.scores:
        # The tables hold when the target was reached, not the scores after it.
        trials[["best_score", "best_averaged_score"]] = np.nan
    elif imported.target is None:
        known = trials[[f"{unit}_to_target" for unit in (*UNITS, "steps")]]
        trials[known.columns] = known.where(known.isna(), np.inf)
    return trials


def _described(machine: MachineFile, rows: Iterable[Row], *, only_own: bool) -> MachineFile:
    """Return the machine with only the environments that rows name, or its own rows; all where none is named."""
    own = machine.machine.name
    named = {row.environment for row in rows if not only_own or row.machine == own}
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
    sizes = sorted({trial.train_examples for trial in trials if trial.train_examples is not None})
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


def _counted_in(observed: Iterable[Observed]) -> CountedIn:
    """Return what every curve counts its training in."""
    seen: set[CountedIn] = {one.trial.curve.counted_in for one in observed}
    found: list[CountedIn] = [unit for unit in UNITS if unit in seen]
    if len(found) > 1:
        raise InputError(f"trials: curve: counted in {' and in '.join(found)} in one folder, expected one unit")
    return found[0] if found else UNITS[0]


def _rounds(kept: Mapping[type[Row], Sequence[Row]]) -> pd.DataFrame:
    steps, epochs = kept.get(Round, []), kept.get(TimedEpoch, [])
    if steps and epochs:
        raise InputError(f"rounds: {len(steps)} of steps and {len(epochs)} of epochs in one folder, expected one kind")
    return round_frame(row for row in [*steps, *epochs] if isinstance(row, Round | TimedEpoch))


def _budget(experiment: Experiment, train_examples: int | None, imported: Imported | None) -> float:
    if imported and imported.scores:
        return imported.budget_trained or np.inf
    return experiment.budget_examples(train_examples) if train_examples else np.inf


def trial_frame(observed: Sequence[Observed], goal: Goal, budget: float, amounts: Amounts) -> pd.DataFrame:
    """Build the `trials` frame; `budget` is in what `amounts` count training in."""
    records, unit = [], amounts.counted_in
    averaged = any(np.isfinite(one.curve["averaged_score"]).any() for one in observed)
    for number, one in enumerate(observed):
        trial = one.trial
        found = first_place(trial.curve, goal)
        trained = np.inf if found is None else float(trial.curve.trained[found])
        records.append(
            {
                **one.names,
                "trial": number,
                "options": trial.point.options,
                "status": trial.status,
                "reason": trial.reason,
                "steps": trial.steps,
                f"{unit}_to_target": trained,
                "steps_to_target": trained / amounts.per("steps", trial.batch_size),
                "epochs_to_target": trained / amounts.per("epochs"),
                f"previous_{unit}": previous_evaluation(one.curve[unit], trained),
                "whole_budget": trial.ended != "past_target" or one.curve[unit][-1] >= budget,
                "best_score": best_score(trial.curve, goal, budget),
                "best_averaged_score": _best_average(goal, one.curve, unit, budget) if averaged else None,
                "test_score": trial.test_score(goal.metric),
            }
        )
    return tidy("trials", records)


def _best_average(goal: Goal, curve: Series, unit: CountedIn, budget: float) -> float:
    """Return the best score of the averaged parameters within a budget; NaN if no average was kept or evaluated."""
    best = goal.best(curve["averaged_score"][curve[unit] <= budget])
    return np.nan if best is None else float(best)


def previous_evaluation(trained: np.ndarray, crossed: float) -> float:
    """Return the training at the evaluation before the crossing: 0 before the first, the last one without crossing."""
    before = trained[: np.searchsorted(trained, crossed)]
    return float(before[-1]) if len(before) else 0.0


def curve_frame(observed: Sequence[Observed], amounts: Amounts) -> pd.DataFrame:
    """Build the `curves` frame: one row per evaluation."""
    names = [{**one.names, "trial": number} for number, one in enumerate(observed)]
    series = [{**_in_epochs(one.curve, amounts), **one.curve} for one in observed]
    return stacked("curves", names, series)


def _in_epochs(series: Series, amounts: Amounts) -> Series:
    return {"epochs": series[amounts.counted_in] / amounts.per("epochs")}


def noise_frame(observed: Sequence[Observed], amounts: Amounts) -> pd.DataFrame:
    """Build the `noise` frame: one row per stretch of training whose gradient noise was estimated."""
    known = [(number, one, one.noise) for number, one in enumerate(observed) if one.noise is not None]
    names = [{**one.names, "trial": number} for number, one, _ in known]
    epoch = Amounts(train_examples=amounts.train_examples)
    return stacked("noise", names, [{**noise, **_in_epochs(noise, epoch)} for _, _, noise in known])


def gradient_norm_frame(observed: Sequence[Observed]) -> pd.DataFrame:
    """Build the `gradient_norms` frame: one row per trial and part of its batch."""
    known = [(number, one, one.norms) for number, one in enumerate(observed) if one.norms is not None]
    names = [{**one.names, "trial": number} for number, one, _ in known]
    return stacked("gradient_norms", names, [norms for _, _, norms in known])


def round_frame(rounds: Iterable[Round | TimedEpoch]) -> pd.DataFrame:
    """Build the `rounds` frame; of a round measured twice, the later is kept."""
    records = []
    for row in rounds:
        derived: dict[str, float] = {"block": 0, "epochs": 1.0, "seconds_per_epoch": row.seconds}
        if isinstance(row, Round):
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

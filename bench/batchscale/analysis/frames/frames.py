"""A results folder as tidy frames: one row per observation, every column always there, misses as infinity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import numpy as np
import pandas as pd

from batchscale.analysis.frames.row_frames import (
    compilation_frame,
    curve_frame,
    gradient_norm_frame,
    latest,
    noise_frame,
    round_frame,
    trial_frame,
)
from batchscale.analysis.frames.schema import tidy
from batchscale.config import experiment as experiments
from batchscale.config.experiment import Experiment
from batchscale.errors import InputError
from batchscale.records import row_files
from batchscale.records.results_folder import (
    CONVERGENCE,
    JOINED_FROM,
    PRICE,
    THROUGHPUT,
    VERIFICATION,
    JoinedFrom,
    Price,
    rows,
)
from batchscale.records.row_types import (
    Accuracy,
    AnyRow,
    Calibration,
    Compilation,
    Limit,
    MachineFile,
    Positive,
    Round,
    Row,
    Run,
    Stage,
    Trial,
    Verification,
)
from batchscale.safe_files import read_json

ROW_FILES = (THROUGHPUT, CONVERGENCE, VERIFICATION)
LARGEST_LABEL_BYTES = 1 << 16

Label = TypeVar("Label", bound=msgspec.Struct)


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """`imported.json`: the rows were made from tables measured elsewhere, which may not tell these three."""

    schema: Literal[1] = 1
    train_examples: Positive | None
    target_accuracy: Accuracy | None
    learning_rates: bool


@dataclass(frozen=True)
class Frames:
    """Everything a results folder holds; the columns of each frame and their types are in `columns.COLUMNS`.

    `searched` holds the search trials, their curves cut down to the evaluations that set a record, which is all that
    choosing a learning rate looks at. `convergence_from` names the machine the trials were joined from,
    `speeds_from` the table or folder where speeds to predict with were; `price_per_hour` is what its user
    says that the machine costs. `validation_examples` is the fewest of any trial, None where one does not say.
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
    convergence_from: str | None = None
    speeds_from: str | None = None
    imported: Imported | None = None
    price_per_hour: float | None = None

    @property
    def epoch(self) -> float:
        """Examples in an epoch; NaN where imported tables do not say."""
        return float(self.train_examples or np.nan)

    @property
    def budget_examples(self) -> float:
        """Examples within which accuracies are compared."""
        return _budget_examples(self.experiment, self.train_examples)

    @property
    def target_accuracy(self) -> float | None:
        """The accuracy whose first crossing is timed; None where imported tables do not say."""
        return self.imported.target_accuracy if self.imported else self.experiment.target.accuracy


def load(folder: Path) -> Frames:
    """Read a results folder.

    Raises:
        InputError: when a file is missing or not valid, or holds rows of another protocol than `experiment.toml`.
    """
    experiment = experiments.read(folder / "experiment.toml")
    machine = row_files.read_machine(folder)
    joined = _read_label(folder / JOINED_FROM, JoinedFrom)
    imported = _read_label(folder / "imported.json", Imported)
    price = _read_label(folder / PRICE, Price)
    files = (rows(folder, name, experiment) for name in ROW_FILES)
    measured = from_rows(experiment, machine, chain.from_iterable(files), joined.machine if joined else None, imported)
    return replace(measured, price_per_hour=price.per_hour if price else None)


def from_rows(
    experiment: Experiment,
    machine: MachineFile,
    rows: Iterable[AnyRow],
    convergence_from: str | None = None,
    imported: Imported | None = None,
) -> Frames:
    """Frames of rows that belong together.

    Raises:
        InputError: when a trial contradicts itself, or two trials had training sets of different sizes.
    """
    kept: dict[type[Row], list[Row]] = {}
    named: set[str] = set()
    observed = latest(_set_others_aside(_noting_environments(rows, named), kept), experiment.goal)
    train_examples = imported.train_examples if imported else _train_examples(one.trial for one in observed)
    epoch = float(train_examples or np.nan)
    trials = trial_frame(observed, experiment.goal, _budget_examples(experiment, train_examples), epoch)
    if imported:
        # The tables tell when the target was reached, not what came after.
        trials[["best_accuracy", "best_ema_accuracy"]] = np.nan
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
        validation_examples=min((one.trial.validation_examples or 0 for one in observed), default=0) or None,
        convergence_from=convergence_from,
        imported=imported,
    )


def _noting_environments(rows: Iterable[AnyRow], named: set[str]) -> Iterator[AnyRow]:
    for row in rows:
        named.add(row.environment)
        yield row


def _described(machine: MachineFile, named: set[str]) -> MachineFile:
    """The machine with the environments that rows name; one in which nothing was missing measured nothing."""
    known = {name: one for name, one in machine.environments.items() if name in named}
    return msgspec.structs.replace(machine, environments=known or machine.environments)


def _run(row: Row) -> dict[str, object]:
    options = {"options": row.point.options} if isinstance(row, Run) else {}
    return {**msgspec.structs.asdict(row), **options}


def _set_others_aside(rows: Iterable[AnyRow], others: dict[type[Row], list[Row]]) -> Iterator[Trial]:
    """Pass trials on one at a time, so that their curves are never all in memory as Python lists."""
    for row in rows:
        if isinstance(row, Trial):
            yield row
        else:
            others.setdefault(type(row), []).append(row)


def _train_examples(trials: Iterable[Trial]) -> int | None:
    sizes = sorted({trial.train_examples for trial in trials})
    if len(sizes) > 1:
        raise InputError(
            f"trials: train_examples: {sizes} in one folder; the same training set in every trial is right"
        )
    return sizes[0] if sizes else None


def _budget_examples(experiment: Experiment, train_examples: int | None) -> float:
    return experiment.budget_examples(train_examples) if train_examples else np.inf


def _read_label(path: Path, struct: type[Label]) -> Label | None:
    """An optional small JSON file beside the rows."""
    return read_json(path, struct, LARGEST_LABEL_BYTES) if path.exists() else None

"""Predict the best batch size of hardware on which nothing was trained, from training runs and other speeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec

from batchscale.analysis.compare.compatibility import (
    ABSENT,
    MAY_DIFFER,
    flattened,
    refuse_other_data,
    refuse_unnamed,
    sets_speed,
)
from batchscale.analysis.frames import frames
from batchscale.analysis.frames.frames import Frames, from_rows
from batchscale.analysis.frames.outside_tables import machines_of, round_rows, slug, unknown_machine
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.outside.tables import read_timings
from batchscale.analysis.summary.build import summarize
from batchscale.analysis.summary_types import Summary
from batchscale.errors import InputError
from batchscale.printable import bare, printable, visible


def predict(folder: Path, seconds_per_step: Path, within: float | None = None) -> dict[str, Summary]:
    """Return the summary of the training runs of `folder` joined with other speeds, by the name of each machine.

    Args:
        folder: a results folder with training runs.
        seconds_per_step: a throughput table, or another machine's results folder of the same workload.
        within: a time in seconds, for which the batch size with the best score is wanted too.

    Raises:
        InputError: when either is not valid, there are no training runs, or the workloads differ.
    """
    trained = frames.load(folder)
    if not len(trained.trials):
        raise InputError(f"{folder}: convergence.jsonl: holds no training runs to predict from")
    others = (
        _from_folder(trained, seconds_per_step) if seconds_per_step.is_dir() else _from_table(trained, seconds_per_step)
    )
    return {name: summarize(Sweep.of(joined), within) for name, joined in others.items()}


def _from_folder(trained: Frames, folder: Path) -> dict[str, Frames]:
    timed = frames.load(folder)
    refuse_unnamed([str(folder), "the training runs"], [timed, trained])
    here, there = flattened(timed.experiment.protocol), flattened(trained.experiment.protocol)
    for field in sorted({*here, *there}):
        found, expected = here.get(field, ABSENT), there.get(field, ABSENT)
        if found != expected and (sets_speed(field) or field in MAY_DIFFER):
            as_trained = f"expected {printable(expected)} as in the training runs"
            raise InputError(f"{folder}: {bare(field)}: {printable(found)}, {as_trained}")
    refuse_other_data(str(folder), timed, trained)
    if not len(timed.rounds):
        raise InputError(f"{folder}: throughput.jsonl: holds no timed rounds to predict with")
    if trained.amounts.timed_in != timed.timed_in:
        counted = f"the training runs count {trained.counted_in}"
        raise InputError(f"{folder}: throughput.jsonl: times {timed.timed_in}, which do not join: {counted}")
    return {timed.machine.machine.name: _joined(trained, timed, folder)}


def _from_table(trained: Frames, table: Path) -> dict[str, Frames]:
    experiment = trained.experiment
    found = {}
    for name, timings in machines_of(read_timings(table), table).items():
        rows = round_rows(timings, experiment, slug(name), trained.amounts, table)
        found[name] = _joined(trained, from_rows(experiment, unknown_machine(name), rows), table)
    return found


def _joined(trained: Frames, timed: Frames, speeds: Path) -> Frames:
    """Return the trials of one with the speeds of the other, and record both origins."""
    return replace(
        trained,
        machine=msgspec.structs.replace(timed.machine, trained_on=trained.machine.trained_on),
        rounds=timed.rounds,
        compilations=timed.compilations,
        calibrations=timed.calibrations,
        stages=timed.stages,
        verifications=timed.verifications,
        price_per_hour=timed.price_per_hour,
        convergence_from=trained.convergence_from or trained.machine.machine.name,
        speeds_from=visible(str(speeds)),
    )

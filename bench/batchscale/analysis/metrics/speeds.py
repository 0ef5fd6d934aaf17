"""How fast each batch size trains: the timed rounds that the answer is made from, and the faster loop of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import pandas as pd

from batchscale.analysis.frames.frames import Frames
from batchscale.analysis.frames.schema import CELL, only, values
from batchscale.analysis.statistics.intervals import Array, Repetitions
from batchscale.config.vocabulary import Loop

NOTHING = Repetitions.exact([])

OF_PROGRAM = (
    "compile_seconds",
    "peak_bytes",
    "predicted_bytes",
    "flops_per_example",
    "compiler_bytes_per_example",
)


@dataclass(frozen=True)
class Speed:
    """The faster loop at one batch size.

    Attributes:
        loop: how its steps were run.
        accumulation: microbatches of a step.
        rounds: its rows of the `rounds` frame.
    """

    loop: Loop
    accumulation: int
    rounds: pd.DataFrame


def comparable(frames: Frames, cells: pd.DataFrame, devices: int = 1) -> pd.DataFrame:
    """Return the rounds or compilations of steps that the trials took: same precision, examples on the device."""
    plain = (cells["input"] == "device") & (cells["devices"] == devices)
    return only(cells, plain & (cells["precision"] == frames.experiment.workload.precision))


def fastest_loops(frames: Frames, devices: int = 1) -> dict[int, Speed]:
    """Return the faster loop at each batch size; microbatches count only where no whole batch could be timed."""
    found: dict[int, Speed] = {}
    full = only(frames.compilations, frames.compilations["status"] == "out_of_memory")
    ways = [pd.MultiIndex.from_frame(rows.loc[:, list(CELL)]) for rows in (frames.rounds, full)]
    fitting = only(frames.rounds, ~ways[0].isin(ways[1]))
    rounds = comparable(frames, fitting, devices).sort_values("accumulation", kind="stable")
    for key, group in rounds.groupby(["batch_size", "accumulation", "loop"], sort=False):
        batch_size, accumulation, loop = cast(tuple[int, int, Loop], key)
        known = found.get(batch_size)
        if known is None or (known.accumulation == accumulation and _median(group) < _median(known.rounds)):
            found[batch_size] = Speed(loop, int(accumulation), group)
    return found


def _median(rounds: pd.DataFrame) -> float:
    return float(np.median(values(rounds, "seconds_per_step")))


def compiled(frames: Frames, batch_size: int, speed: Speed | None) -> dict[str, float]:
    """Return the numbers `OF_PROGRAM` of the timed program, or of any loop's where none was timed; NaN if unknown."""
    rows = comparable(frames, frames.compilations)
    rows = only(rows, rows["batch_size"] == batch_size)
    if speed:
        rows = only(rows, (rows["loop"] == speed.loop) & (rows["accumulation"] == speed.accumulation))
    return {name: float(values(rows, name)[0]) if len(rows) else np.nan for name in OF_PROGRAM}


def seconds_per_step(speed: Speed | None) -> float:
    """Return the median of the rounds; NaN where none took any time."""
    measured = values(speed.rounds, "seconds_per_step") if speed else np.array([])
    return float(np.median(positive)) if len(positive := measured[measured > 0]) else np.nan


def log_seconds_per_step(speed: Speed | None) -> Repetitions:
    """Return logarithms of the seconds per step of the rounds."""
    return _logarithms(values(speed.rounds, "seconds_per_step")) if speed else NOTHING


def log_joules_per_step(speed: Speed | None) -> Repetitions:
    """Return logarithms of the joules per step of the rounds, where energy was measured."""
    if speed is None:
        return NOTHING
    return _logarithms(values(speed.rounds, "joules") / values(speed.rounds, "steps"))


def _logarithms(measured: Array) -> Repetitions:
    """Return logarithms of the positive values; other values were not measured."""
    return Repetitions.exact(np.log(measured[measured > 0]), logarithmic=True)

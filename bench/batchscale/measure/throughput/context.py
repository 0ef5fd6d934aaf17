"""What the throughput stage measures with: data, clock, memory, and where rows go."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from batchscale.config.experiment import Experiment
from batchscale.config.vocabulary import CellKey, Precision
from batchscale.measure.control.failures import Failure, Streak
from batchscale.measure.control.progress import Progress
from batchscale.measure.device.sensors import NONE, Sensors
from batchscale.measure.device.timing import WALL, Clock
from batchscale.measure.throughput.child_process import Child
from batchscale.measure.throughput.history import Attempts
from batchscale.measure.throughput.timed_loops import Built
from batchscale.measure.training.learner import Examples, Learner
from batchscale.records.row_types import AnyRow, Compilation, Origin, Round

Open = Callable[[CellKey, str | None, int], Child]
"""Of a cell, its lowering and the first round that it lacks."""
SAFE_SHARE_OF_MEMORY = 0.5
"""A program predicted to need more of the memory may not fit."""


@dataclass
class Laboratory:
    """`memory_bytes` is what a program may use, None where only running it tells.

    `isolated` opens a process of its own for a cell; None where this process is one, or has the device to itself.
    `confine` is called between compiling a cell and running it.
    `tried` holds cells that were compiled to choose their lowering.
    """

    experiment: Experiment
    learner: Callable[[Precision, str | None], Learner]
    split: Examples
    origin: Callable[[], Origin]
    append: Callable[[AnyRow], None]
    progress: Progress
    check: Callable[[], None]
    clock: Clock = WALL
    sensors: Callable[[int], Sensors] = lambda devices: NONE
    compilations: int = 0
    memory_bytes: int | None = None
    isolated: Open | None = None
    confine: Callable[[], None] = lambda: None
    attempts: Attempts = field(default_factory=Attempts)
    streak: Streak = field(default_factory=Streak)
    tried: dict[tuple[CellKey, str | None], Built] = field(default_factory=dict)

    @property
    def rounds(self) -> int:
        """Rounds that every cell is to have."""
        return self.experiment.throughput.rounds

    def round_seconds(self, key: CellKey) -> float:
        """As long as the experiment asks for, or as the energy counter of the cell's devices needs."""
        return max(self.experiment.throughput.round_seconds, self.sensors(key.devices).round_seconds)

    def book(self, cells: float, seconds: float, doing: str) -> None:
        """Report progress: half of a cell is compiling it, half its rounds."""
        self.progress.advance("timing", cells, seconds, doing)

    def origin_of(self, key: CellKey) -> dict[str, Any]:
        """The fields that every row of a cell shares."""
        return {**msgspec.structs.asdict(self.origin()), **msgspec.structs.asdict(key)}

    def record(self, row: Compilation | Round) -> None:
        """Write a row of a cell.

        Raises:
            DeviceError: at the third failure in a row.
        """
        self.append(row)
        self.attempts.see(row)
        if isinstance(row, Round) or row.status == "ok":
            self.streak.broken()
        else:
            self.streak.grown(str(CellKey.of(row)), Failure(row.status, row.message or ""))

    def record_failure(self, key: CellKey, lowering: str | None, failure: Failure) -> None:
        """Write the row of a cell that failed.

        Raises:
            DeviceError: at the third failure in a row.
        """
        shared = self.origin_of(key)
        self.record(Compilation(**shared, status=failure.status, message=failure.message, lowering=lowering))

    def isolation(self, key: CellKey, predicted_bytes: int | None = None) -> Open | None:
        """How to open a process of its own for a cell that may not fit, or failed in an earlier run; else None."""
        wish = self.experiment.throughput.isolate
        doubtful = key in self.attempts.retried or self.may_not_fit(predicted_bytes)
        return self.isolated if wish == "always" or (wish == "auto" and doubtful) else None

    def may_not_fit(self, predicted_bytes: int | None) -> bool:
        """Whether a program that needs so many bytes could end the process that runs it."""
        return (predicted_bytes or 0) > SAFE_SHARE_OF_MEMORY * (self.memory_bytes or math.inf)

    def refusal(self, predicted_bytes: int | None) -> Failure | None:
        """Why a program that needs so many bytes is not run: the compiler tells at least what it needs."""
        if self.memory_bytes is None or (predicted_bytes or 0) <= self.memory_bytes:
            return None
        words = f"the program needs {predicted_bytes} bytes, and {self.memory_bytes} are to be had"
        return Failure("out_of_memory", f"out of memory before it was run: {words}")

"""Time pieces of work against each other in one run: slices in shuffled order, medians, processor and wall time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple, Self

import numpy as np
from batchscale.measure.device.compiled_programs import Work, steps_to_fill


@dataclass(frozen=True)
class Contestant:
    """Work in slices of `steps`, each step on `examples_per_step` examples that count."""

    work: Work
    steps: int
    examples_per_step: int

    @classmethod
    def slices(cls, work: Work, examples_per_step: int, seconds: float) -> Self:
        """Slices of about `seconds`."""
        return cls(work, steps_to_fill(seconds, work), examples_per_step)


class Speed(NamedTuple):
    """Examples per second of wall time, and per second of this process's time on all cores."""

    wall: float
    processor: float


def race(contestants: Mapping[str, Contestant], rounds: int) -> dict[str, Speed]:
    """The median speed of each; drift and other users of the machine meet all alike."""
    slices: dict[str, list[Speed]] = {name: [] for name in contestants}
    random = np.random.default_rng(0)
    for _ in range(rounds):
        for name in random.permutation(list(contestants)):
            slices[name].append(_slice(contestants[name]))
    return {name: Speed(*map(median, zip(*speeds, strict=True))) for name, speeds in slices.items()}


def _slice(contestant: Contestant) -> Speed:
    wall, processor = time.perf_counter(), time.process_time()
    contestant.work(contestant.steps)
    examples = contestant.steps * contestant.examples_per_step
    return Speed(examples / (time.perf_counter() - wall), examples / (time.process_time() - processor))

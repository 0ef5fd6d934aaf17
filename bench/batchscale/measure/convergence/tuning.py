"""Choices that change speed and nothing else, made by a short measured trial and kept beside the rows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import msgspec
import numpy as np
from msgspec import Meta

from batchscale.config import plan
from batchscale.errors import InputError
from batchscale.measure.control.failures import FAILURES
from batchscale.measure.convergence.lanes import Programs
from batchscale.measure.convergence.wave import Layout, Setting, Shard, first_lanes
from batchscale.measure.device.timing import calibrate, timed
from batchscale.records import row_files
from batchscale.safe_files import read_json

TRIAL_SECONDS = 0.4
EVALUATION_TRIALS = 3
LARGEST_FILE_BYTES = 1 << 20


class Tuned(msgspec.Struct, frozen=True):
    """The fastest way to run a tier, the lane-examples per second it trains, and what evaluating one lane takes."""

    lowering: str | None
    examples_per_second: Annotated[float, Meta(ge=1e-6, le=1e30)]
    seconds_per_evaluation: Annotated[float, Meta(ge=0, le=1e6)] = 0.0


class TuningFile:
    """`tuning.json` in a results folder: resumed runs repeat the same choices, so their numbers stay the same.

    A file that cannot be read, or a choice that is none of `lowerings`, is as if it were not there: that is measured
    again.
    """

    def __init__(self, folder: Path, lowerings: Collection[str | None]) -> None:
        self._path = folder / "tuning.json"
        self._known: dict[str, Tuned] = {}
        with suppress(InputError):
            kept = read_json(self._path, dict[str, Tuned], LARGEST_FILE_BYTES)
            self._known = {key: one for key, one in kept.items() if one.lowering in lowerings}

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def get(self, key: str, measure: Callable[[], Tuned]) -> Tuned:
        """The choice made for `key`, measured and kept at the first asking."""
        if key not in self._known:
            self._known[key] = measure()
            row_files.write_json(self._path, self._known)
        return self._known[key]


def fastest(lowerings: Sequence[str | None], speed: Callable[[str | None], float]) -> Tuned:
    """Try every lowering on the tier's own program; ties go to the first, failures lose.

    Raises:
        JaxRuntimeError: the first one, when every lowering fails.
    """
    tried, failures = [], []
    for lowering in lowerings:
        try:
            tried.append(Tuned(lowering, speed(lowering)))
        except FAILURES as error:
            failures.append(error)
    if not tried:
        raise failures[0]
    return max(tried, key=lambda one: one.examples_per_second)


@dataclass
class SpeedTrial:
    """As many shards of fresh lanes as `workers`, to be advanced side by side."""

    programs: Programs
    seeds: Sequence[int]
    settings: Sequence[Setting]
    workers: int = 1

    def __post_init__(self) -> None:
        layout = Layout(list(self.seeds), list(self.settings), [])
        self.shards = [Shard(layout, first_lanes(self.programs, layout)) for _ in range(self.workers)]
        self.lanes = self.workers * layout.size

    def examples_per_second(self) -> float:
        """Lane-examples per second of training, compile time apart."""
        ticks = calibrate(lambda count: self._train(self.shards[0], count), TRIAL_SECONDS)
        seconds = min(self._together(self._train, ticks) for _ in range(2))
        return self.lanes * self.programs.microbatch_size * ticks / seconds

    def seconds_per_evaluation(self) -> float:
        """Seconds that evaluating a lane takes, with the call of a single microbatch that precedes it.

        It plans time and decides nothing: a few evaluations are enough.
        """
        self._evaluate(self.shards[0], 1)
        return min(self._together(self._evaluate, 1) for _ in range(EVALUATION_TRIALS)) / self.lanes

    def _together(self, work: Callable[[Shard, int], None], steps: int) -> float:
        with ThreadPoolExecutor(self.workers) as pool:
            return timed(lambda count: list(pool.map(lambda shard: work(shard, count), self.shards)), steps)

    def _train(self, shard: Shard, ticks: int) -> None:
        programs, width = self.programs, self.programs.microbatch_size
        for first in range(0, ticks, programs.longest_segment):
            count = min(ticks - first, programs.longest_segment)
            order = np.arange(len(self.seeds) * count * width, dtype=np.int32) % len(programs.train_split.labels)
            shard.lanes = programs.train(shard.lanes, shard.values, order.reshape(-1, count, width), first)
        jax.block_until_ready(shard.lanes)

    def _evaluate(self, shard: Shard, times: int) -> None:
        for _ in range(times):
            self._train(shard, 1)
            self.programs.evaluate(shard.lanes.state.params, self.programs.validation_split)


def trial_seconds(duration: plan.Duration, tuned: Tuned) -> float:
    """One trial's share of the time until its tier has reached the epoch budget, evaluations included."""
    evaluations = bisect_right(duration.evaluations, duration.budget_examples)
    return duration.budget_examples / tuned.examples_per_second + evaluations * tuned.seconds_per_evaluation

"""Choices that change speed and nothing else, made by a short measured trial and kept beside the rows."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import jax
import numpy as np

from batchscale.config import plan
from batchscale.measure.convergence.lanes import Programs
from batchscale.measure.convergence.wave import Layout, Setting, Shard, first_lanes
from batchscale.measure.device.timing import steps_to_fill, timed
from batchscale.measure.device.tuning_file import Tuned

TRIAL_SECONDS = 0.4
EVALUATION_TRIALS = 3


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
        ticks = steps_to_fill(TRIAL_SECONDS, lambda count: self._train(self.shards[0], count))
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

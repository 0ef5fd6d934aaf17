"""The programs that train the lanes of an experiment: how batch sizes share them and which are fastest."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import msgspec

from batchscale.config import plan
from batchscale.measure.control.progress import confirm_trials, search_trials
from batchscale.measure.convergence.lanes import EVALUATION_BATCH_SIZE, Programs
from batchscale.measure.convergence.memory_fit import fitting_shape, steady_bytes
from batchscale.measure.convergence.tuning import SpeedTrial
from batchscale.measure.convergence.wave import search_grid
from batchscale.measure.device import tuning_file
from batchscale.measure.device.tuning_file import Tuned
from batchscale.measure.session import Session
from batchscale.measure.training import gradient_noise

WIDEST_CONVOLUTION_ON_CPU = 16
"""Windows then stay in a core's cache: LeNet's lanes train 1.2 to 1.5 times as fast as in microbatches of 64."""
MOST_SPLITTING_ON_CPU = 2
"""In microbatches of 4 they take 1.12 to 1.17 times as long as in 16: worth another program in a study of minutes."""
EVALUATED_CONVOLUTION_ON_CPU = 20
"""Of 10 to 500 examples at once, where two or five lanes of LeNet are evaluated fastest: twice as fast as with 500."""
EVALUATED_AT_ONCE = 1 << 14
"""Examples of all lanes of a tier together, about, on an accelerator: 500 of each take LeNet gigabytes as patches."""
LONGEST_SEGMENT_TICKS = 4096
"""Ticks in a call of a program at most, so that a signal is heard soon."""

SHARD_EXAMPLES_ON_CPU = 32
"""Where a core trains LeNet fastest: five settings at microbatches of 1 and 4, four at 8, two at 16.

A rule and not a trial, since rounding depends on it. A perceptron trains with one setting: two take three times as
long at single examples, and 1.17 times at microbatches of 64.
"""


@dataclass
class LanePrograms:
    """The tiers of an experiment and their programs, each made once."""

    session: Session
    programs: dict[tuple[int, str | None], Programs] = field(default_factory=dict)

    @property
    def on_cpu(self) -> bool:
        """True on a CPU."""
        return self.session.host.machine.platform == "cpu"

    @cached_property
    def memory_bytes(self) -> int:
        """What the lanes of its trials and their programs may take together."""
        return steady_bytes(self.session.host.free_memory_bytes())

    @property
    def tiers(self) -> list[plan.Tier]:
        """The batch sizes, grouped into programs."""
        if self.session.convolves and self.on_cpu:
            return plan.tiers(self.session.batch_sizes, WIDEST_CONVOLUTION_ON_CPU, MOST_SPLITTING_ON_CPU)
        return plan.tiers(self.session.batch_sizes)

    def shard_width(self, tier: plan.Tier) -> int | None:
        """At most how many settings share a program call; None where one holds all lanes, as an accelerator's does."""
        if not self.on_cpu:
            return None
        if not self.session.convolves:
            return 1
        grid_size = self.session.experiment.learning_rate.grid_size
        return max(1, min(SHARD_EXAMPLES_ON_CPU // tier.microbatch_size, grid_size))

    def of(self, tier: plan.Tier, lowering: str | None) -> Programs:
        """The programs of a tier under a lowering, made once."""
        key, session = (tier.batch_sizes[0], lowering), self.session
        if key not in self.programs:
            gap = max(after - before for before, after in pairwise([0, *session.duration.evaluations]))
            epochs = session.experiment.evaluation.averaging_epochs
            self.programs[key] = Programs(
                session.learner(session.experiment.workload.precision, lowering),
                *session.splits,
                microbatch_size=tier.microbatch_size,
                schedule=session.schedule,
                accumulates=any(size != tier.microbatch_size for size in tier.batch_sizes),
                longest_segment=min(LONGEST_SEGMENT_TICKS, gap // tier.microbatch_size + 1),
                noise_parts=self._noise_parts(tier),
                averaging_examples=epochs and epochs * session.train_examples,
                evaluation_batch_size=self._evaluation_batch_size(tier),
            )
        return self.programs[key]

    def tuned(self, tier: plan.Tier) -> Tuned:
        """The fastest lowering of a tier and its speed, tried once for a results folder."""
        session, workers = self.session, self.session.host.workers
        seeds, grid = plan.search_seeds(session.experiment), search_grid(session.experiment, tier)

        def trial(lowering: str | None) -> SpeedTrial:
            session.stopper.check()
            of, width = self.of(tier, lowering), self.shard_width(tier)
            rows, columns = fitting_shape(of, (seeds, grid), self.memory_bytes, workers, width)
            return SpeedTrial(of, seeds[:rows], grid[:columns], workers)

        def measure() -> Tuned:
            doing = f"trying how fast B={tier.batch_sizes[0]}..{tier.batch_sizes[-1]} trains"
            session.progress.show(doing, planned=False)
            found = tuning_file.fastest(session.lowerings, lambda lowering: trial(lowering).examples_per_second())
            evaluation = trial(found.lowering).seconds_per_evaluation()
            return msgspec.structs.replace(found, seconds_per_evaluation=evaluation)

        return session.tuning.get(f"convergence {tier.microbatch_size} {tier.batch_sizes}", measure)

    def _evaluation_batch_size(self, tier: plan.Tier) -> int:
        """The same for every wave of a tier, since the rounding of losses depends on it."""
        experiment = self.session.experiment
        if self.on_cpu:
            return EVALUATED_CONVOLUTION_ON_CPU if self.session.convolves else EVALUATION_BATCH_SIZE
        lanes = max(trials(experiment, tier) for trials in (search_trials, confirm_trials))
        return max(1, min(EVALUATION_BATCH_SIZE, int(EVALUATED_AT_ONCE / lanes)))

    def _noise_parts(self, tier: plan.Tier) -> int:
        """Into how many sizes the largest batch is halved to estimate the gradient noise; 0 where nobody asks."""
        if not self.session.experiment.evaluation.noise:
            return 0
        return len(gradient_noise.part_sizes(tier.microbatch_size, tier.batch_sizes[-1]))

"""The programs that train the lanes of an experiment: how batch sizes share them and which are fastest."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import msgspec

from batchscale.config import plan
from batchscale.measure.control.progress import confirm_trials, search_trials
from batchscale.measure.convergence.lanes import Programs
from batchscale.measure.convergence.memory_fit import fitting_shape, steady_bytes
from batchscale.measure.convergence.tuning import SpeedTrial
from batchscale.measure.convergence.wave import search_grid
from batchscale.measure.device import tuning_file
from batchscale.measure.device.tuning_file import Tuned
from batchscale.measure.session import Session
from batchscale.measure.training import gradient_noise

LONGEST_SEGMENT_TICKS = 4096
"""Ticks in a call of a program at most, so that a signal is heard soon."""


@dataclass
class LanePrograms:
    """The tiers of an experiment and their programs, each made once."""

    session: Session
    programs: dict[tuple[int, str | None], Programs] = field(default_factory=dict)

    @cached_property
    def memory_bytes(self) -> int:
        """What the lanes of its trials and their programs may take together."""
        return steady_bytes(self.session.host.free_memory_bytes())

    @property
    def tiers(self) -> list[plan.Tier]:
        """The batch sizes, grouped into programs."""
        policy = self.session.lane_policy
        return plan.tiers(self.session.batch_sizes, policy.widest_microbatch, policy.most_splitting)

    def shard_width(self, tier: plan.Tier) -> int | None:
        """At most how many settings share a program call; None where one holds all lanes, as an accelerator's does."""
        examples = self.session.lane_policy.shard_examples
        if examples is None:
            return None
        grid_size = self.session.experiment.learning_rate.grid_size
        return max(1, min(examples // tier.microbatch_size, grid_size))

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
        experiment, policy = self.session.experiment, self.session.lane_policy
        if policy.evaluated_at_once is None:
            return policy.evaluation_batch_size
        lanes = max(trials(experiment, tier) for trials in (search_trials, confirm_trials))
        return max(1, min(policy.evaluation_batch_size, int(policy.evaluated_at_once / lanes)))

    def _noise_parts(self, tier: plan.Tier) -> int:
        """Into how many sizes the largest batch is halved to estimate the gradient noise; 0 where nobody asks."""
        if not self.session.experiment.evaluation.noise:
            return 0
        return len(gradient_noise.part_sizes(tier.microbatch_size, tier.batch_sizes[-1]))

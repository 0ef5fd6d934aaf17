"""One experiment on one machine with one results folder: what every stage needs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from batchscale.config import plan
from batchscale.config.experiment import Experiment
from batchscale.config.vocabulary import Precision
from batchscale.measure.control import costs
from batchscale.measure.control.progress import Progress
from batchscale.measure.control.signals import Stopper
from batchscale.measure.convergence.lanes import EVALUATION_BATCH_SIZE, Programs
from batchscale.measure.convergence.memory_fit import steady_bytes
from batchscale.measure.convergence.tuning import TuningFile
from batchscale.measure.data.datasets import Dataset
from batchscale.measure.device.host import Host
from batchscale.measure.training import gradient_noise
from batchscale.measure.training.learner import Examples, Learner, has_lowering, make_learner, on_device
from batchscale.measure.training.optimizers import Schedule
from batchscale.records import results_folder
from batchscale.records.row_types import AnyRow, Origin, Stage, Trial, TrialKey

LOWERINGS = {"cpu": ("patches", "banded"), "gpu": ("xla", "patches", "banded"), "tpu": ("xla", "patches", "banded")}
"""Worth a trial; XLA's convolution misses its fast path inside a loop on a CPU (jax issue 12868)."""
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
class Session:
    """An experiment with its data, the host, and the folder its rows go to."""

    experiment: Experiment
    dataset: Dataset
    host: Host
    folder: Path
    progress: Progress = field(default_factory=Progress)
    stopper: Stopper = field(default_factory=Stopper)
    retries_failed: bool = False
    learners: dict[tuple[str, str | None], Learner] = field(default_factory=dict)
    programs: dict[tuple[int, str | None], Programs] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.batch_sizes = plan.batch_sizes(self.experiment, self.train_examples)
        self.duration = plan.duration(self.experiment, self.train_examples)
        self.tuning = TuningFile(self.folder, self.lowerings)

    def prepare_folder(self) -> None:
        """Label the folder with experiment, machine and environment.

        Raises:
            InputError: when it holds rows of another protocol or machine.
        """
        environments = {self.host.environment_hash: self.host.environment}
        results_folder.prepare(self.folder, self.experiment, self.host.machine, environments)

    @property
    def train_examples(self) -> int:
        """Size of the train split."""
        return len(self.dataset.train_labels)

    @property
    def schedule(self) -> Schedule:
        """How the learning rate of every trial moves; a decay ends with the budget of epochs."""
        table = self.experiment.learning_rate
        warmup_examples = table.warmup_epochs * self.train_examples
        return Schedule(table.schedule, warmup_examples, float(self.duration.budget_examples))

    @cached_property
    def splits(self) -> tuple[Examples, Examples, Examples]:
        """Train, validation and test on the device."""
        data = self.dataset
        return (
            on_device(data.train_inputs, data.train_labels),
            on_device(data.validation_inputs, data.validation_labels),
            on_device(data.test_inputs, data.test_labels),
        )

    @property
    def lowerings(self) -> Sequence[str | None]:
        """Lowerings worth a trial."""
        return LOWERINGS[self.host.machine.platform] if self.convolves else (None,)

    @property
    def convolves(self) -> bool:
        """Whether the model's convolutions can be lowered in several ways."""
        return has_lowering(self.experiment.workload.model)

    @property
    def convolves_on_cpu(self) -> bool:
        """Whether windows should stay in a core's cache."""
        return self.convolves and self.host.machine.platform == "cpu"

    @cached_property
    def lanes_memory_bytes(self) -> int:
        """What the lanes of its trials and their programs may take together."""
        return steady_bytes(self.host.free_memory_bytes())

    @property
    def tiers(self) -> list[plan.Tier]:
        """The batch sizes, grouped into programs."""
        if self.convolves_on_cpu:
            return plan.tiers(self.batch_sizes, WIDEST_CONVOLUTION_ON_CPU, MOST_SPLITTING_ON_CPU)
        return plan.tiers(self.batch_sizes)

    def shard_width(self, tier: plan.Tier) -> int | None:
        """At most how many settings share a program call; None where one holds all lanes, as an accelerator's does."""
        if self.host.machine.platform != "cpu":
            return None
        if not self.convolves:
            return 1
        return max(1, min(SHARD_EXAMPLES_ON_CPU // tier.microbatch_size, self.experiment.learning_rate.grid_size))

    def learner(self, precision: Precision, lowering: str | None) -> Learner:
        """The workload's learner, made once."""
        key = (precision, lowering)
        if key not in self.learners:
            workload = msgspec.structs.replace(self.experiment.workload, precision=precision)
            shape, classes = self.dataset.input_shape, self.dataset.classes
            self.learners[key] = make_learner(workload, shape, classes, lowering, self.experiment.searched)
        return self.learners[key]

    def tier_programs(self, tier: plan.Tier, lowering: str | None) -> Programs:
        """The programs of a tier under a lowering, made once."""
        key = (tier.batch_sizes[0], lowering)
        if key not in self.programs:
            gap = max(after - before for before, after in pairwise([0, *self.duration.evaluations]))
            epochs = self.experiment.evaluation.averaging_epochs
            self.programs[key] = Programs(
                self.learner(self.experiment.workload.precision, lowering),
                *self.splits,
                microbatch_size=tier.microbatch_size,
                schedule=self.schedule,
                accumulates=any(size != tier.microbatch_size for size in tier.batch_sizes),
                longest_segment=min(LONGEST_SEGMENT_TICKS, gap // tier.microbatch_size + 1),
                noise_parts=self._noise_parts(tier),
                averaging_examples=epochs and epochs * self.train_examples,
                evaluation_batch_size=self._evaluation_batch_size(tier),
            )
        return self.programs[key]

    def _evaluation_batch_size(self, tier: plan.Tier) -> int:
        """The same for every wave of a tier, since the rounding of losses depends on it."""
        if self.host.machine.platform == "cpu":
            return EVALUATED_CONVOLUTION_ON_CPU if self.convolves else EVALUATION_BATCH_SIZE
        lanes = max(trials(self.experiment, tier) for trials in (costs.search_trials, costs.confirm_trials))
        return max(1, min(EVALUATION_BATCH_SIZE, int(EVALUATED_AT_ONCE / lanes)))

    def _noise_parts(self, tier: plan.Tier) -> int:
        """Into how many sizes the largest batch is halved to estimate the gradient noise; 0 where nobody asks."""
        if not self.experiment.evaluation.noise:
            return 0
        return len(gradient_noise.part_sizes(tier.microbatch_size, tier.batch_sizes[-1]))

    def origin(self) -> Origin:
        """Where a row written now comes from."""
        return Origin(
            experiment=self.experiment.name,
            fingerprint=self.experiment.fingerprint,
            machine=self.host.machine.name,
            environment=self.host.environment_hash,
            code=self.host.code,
            dirty=self.host.dirty,
            recorded=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def rows(self, name: str) -> list[AnyRow]:
        """The rows there are in one file."""
        return list(results_folder.rows(self.folder, name, self.experiment))

    def trials(self) -> dict[TrialKey, Trial]:
        """The trials there are, each as the row of it that stands."""
        kept: dict[TrialKey, Trial] = {}
        for row in self.rows(results_folder.CONVERGENCE):
            if isinstance(row, Trial) and (row.key not in kept or row.supersedes(kept[row.key])):
                kept[row.key] = row
        return kept

    def stage_row(self, start: float, **cost: Any) -> Stage:
        """What a stage that began at `start` (monotonic seconds) cost."""
        return Stage(**msgspec.structs.asdict(self.origin()), seconds=time.monotonic() - start, **cost)

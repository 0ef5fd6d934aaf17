"""Trials of one tier as plain data, and their training: this process or any other turns a job into rows."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence, Set
from functools import cached_property
from itertools import product
from typing import Literal

import msgspec

from batchscale.config.plan import Tier
from batchscale.measure.control.failures import FAILURES, Failure, failure_of
from batchscale.measure.convergence import wave, wave_loop
from batchscale.measure.convergence.lanes import Programs
from batchscale.measure.convergence.training import Training
from batchscale.measure.convergence.wave import (
    Grid,
    LaneRecord,
    Setting,
    Shape,
    Wave,
    fitting_shape,
    waves,
    whole_search,
)
from batchscale.measure.convergence.wave_loop import Checkpoint, Reporter
from batchscale.measure.device.compiled_programs import Tuned
from batchscale.records.row_types import Trial, TrialKey

ShardsOf = Literal["search", "small", "own"]
"""Whose shards trials begin in: those of the whole search of their tier, the small ones into which the last lanes of a
search are compacted, or shards that fit the trials."""


class TrialJob(msgspec.Struct, frozen=True, kw_only=True, tag="trials", forbid_unknown_fields=True):
    """Trials to train in the programs of one tier.

    The memory of the process that trains them decides how many form a wave.

    Attributes:
        phase: What the progress line calls them.
        tier: Microbatch size and batch sizes of the programs.
        tuned: The lowering of the programs, and how many settings a program call holds.
        seeds: The seeds.
        settings: The settings.
        missing: Every seed at every setting, without the trials that have a verdict.
        shards: Whose shards the trials begin in.
    """

    phase: str
    tier: Tier
    tuned: Tuned
    seeds: list[int]
    settings: list[Setting]
    missing: list[TrialKey]
    shards: ShardsOf

    @property
    def grid(self) -> Grid:
        """Every seed at every setting."""
        return Grid(self.seeds, self.settings)

    @property
    def item(self) -> str:
        """The name of the trials in the progress line."""
        return f"{self.phase} {self.tier.label}"

    def parts(self, most: int) -> list[TrialJob]:
        """Cut the job into at most so many jobs, each with whole batch sizes, as these race among themselves."""
        sizes = sorted({key.batch_size for key in self.missing})
        if min(most, len(sizes)) < 2:
            return [self]
        return [self._of({*sizes[first::most]}) for first in range(min(most, len(sizes)))]

    def _of(self, sizes: Set[int]) -> TrialJob:
        return msgspec.structs.replace(
            self,
            settings=[one for one in self.settings if one.batch_size in sizes],
            missing=[key for key in self.missing if key.batch_size in sizes],
            shards="small" if self.shards == "small" else "own",
        )


class TierTraining:
    """The programs of one tier, which train jobs on the devices of this process.

    Attributes:
        training: Knows all trials and takes the rows.
        tier: Microbatch size and batch sizes.
        tuned: The fastest lowering and its speed.
    """

    def __init__(self, training: Training, tier: Tier, tuned: Tuned) -> None:
        self.training, self.tier, self.tuned = training, tier, tuned

    @cached_property
    def programs(self) -> Programs:
        """The tier's programs under its lowering."""
        return self.training.programs.of(self.tier, self.tuned.lowering, graph=self.tuned.graph)

    @cached_property
    def full(self) -> Shape:
        """The shape of a shard of the search."""
        return self.shape(whole_search(self.training.session.experiment, self.tier))

    @property
    def small(self) -> Shape:
        """The shape into which the last lanes are compacted, and in which extensions run."""
        return self.programs.devices.even((self.full[0], math.ceil(self.full[1] / 4)))

    def shape(self, grid: Grid) -> Shape:
        """Return the shape of a shard of these trials."""
        every, workers = self.training.programs, self.training.session.host.workers
        return fitting_shape(self.programs, grid, every.memory_bytes, workers, every.shard_width(self.tier, self.tuned))

    def programs_of_search(self) -> dict[str, Callable[[], object]]:
        """Return the work that compiles each program of the search, by name.

        The compacted shape is compiled later where every core trains: lanes may never be moved into it.
        """
        of, label = self.programs, self.tier.label
        shapes = {"": lambda: self.full}
        if not self.training.session.host.policy.program_per_core:
            shapes["compacted "] = lambda: self.small
        works: dict[str, Callable[[], object]] = {}
        for name, shape in shapes.items():
            works[f"{label} {name}training"] = lambda shape=shape: of.program(shape())
            works[f"{label} {name}evaluation"] = lambda shape=shape: of.evaluation(shape(), of.validation_split)
        return works

    def train(self, job: TrialJob) -> None:
        """Train the missing trials of a job; those that a failing device leaves undone become failed rows.

        Raises:
            DeviceError: When the third wave in a row fails.
        """
        try:
            shapes = self._compiled(job)
        except FAILURES as error:
            self.fail(job.item, job.grid, failure_of(error))
        else:
            self._train_waves(job.item, job.grid, shapes)

    def _compiled(self, job: TrialJob) -> list[Shape]:
        """Return the shapes of the shards of a job, whose programs are then compiled."""
        start = time.monotonic()
        shapes = {
            "search": lambda: [self.full, self.small],
            "small": lambda: [self.small],
            "own": lambda: [self.shape(job.grid), self.small],
        }[job.shards]()
        self.compiled(time.monotonic() - start)
        return shapes

    def compiled(self, seconds: float) -> None:
        """Count the seconds that compiling took."""
        session, item = self.training.session, f"compile {self.tier.label}"
        session.progress.plan(item, session.compiling.of_a_tier, 1.0)
        session.progress.advance(item, seconds, seconds)

    def _train_waves(self, item: str, grid: Grid, shapes: Sequence[Shape]) -> None:
        """Train a grid one wave after another; the trials of a wave that fails become failed rows."""
        for part in waves(self.programs, grid, self.training.programs.memory_bytes):
            if not self.training.missing(part):
                continue
            try:
                self._train_wave(item, part, shapes)
                self.training.streak.broken()
            except FAILURES as error:
                self.fail(item, part, failure_of(error))

    def fail(self, item: str, grid: Grid, failure: Failure) -> None:
        """Write the missing trials of a grid as failed.

        Raises:
            DeviceError: At the third failure in a row.
        """
        for setting, seed in product(grid.settings, grid.seeds):
            self._write(LaneRecord(setting=setting, seed=seed, status="failed", reason=failure.message), lanes=1)
        self.training.streak.grown(item, failure)

    def _train_wave(self, item: str, grid: Grid, shapes: Sequence[Shape]) -> None:
        """Train the missing trials of a wave, from its checkpoint or from the start."""
        training, session = self.training, self.training.session
        checkpoint = Checkpoint(session.folder / "checkpoint", self._identity(grid))
        lanes = self._started(checkpoint, grid, shapes)
        clock = time.monotonic()

        def advanced(lane_examples: int) -> None:
            nonlocal clock
            now = time.monotonic()
            training.trained_examples += lane_examples
            doing = f"{(left := lanes.alive())} lane{'s' * (left != 1)}"
            session.progress.advance(item, lane_examples, now - clock, doing, lanes.most_beyond_budget())
            clock = now

        reporter = Reporter(
            finished=lambda record: self._write(record, math.prod(shapes[0])),
            advanced=advanced,
            check=session.stopper.check,
            checkpoint=checkpoint,
            workers=session.host.workers,
        )
        wave_loop.run(lanes, reporter)

    def _started(self, checkpoint: Checkpoint, grid: Grid, shapes: Sequence[Shape]) -> Wave:
        """Return a wave as its checkpoint holds it, or a fresh one of the smallest grid with all missing trials."""
        training = self.training
        missing, given = training.missing(grid), (self.programs, training.session.duration, training.race)
        lanes = wave.start(*given, grid, shapes)
        if not checkpoint.restore(lanes, missing) and len(missing) < len(lanes.records):
            seeds, settings = {one.seed for one in missing}, {(one.phase, one.batch_size, one.point) for one in missing}
            rest = Grid(
                [seed for seed in grid.seeds if seed in seeds],
                [one for one in grid.settings if (one.phase, one.batch_size, one.point) in settings],
            )
            del lanes  # Memory may not hold both waves.
            lanes = wave.start(*given, rest, shapes)
        lanes.tests_always = training.session.experiment.evaluation.test == "always"
        lanes.rivals = training.rivals(set(lanes.trials))
        return lanes

    def _identity(self, grid: Grid) -> str:
        """Return a hash of everything that must be the same when a checkpoint is continued."""
        origin = self.training.session.origin()
        measured = [origin.fingerprint, origin.environment, self.programs.noise_parts]
        parts = [*measured, self.tier, self.tuned.lowering, grid.seeds, grid.settings]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    def _write(self, record: LaneRecord, lanes: int) -> None:
        """Write the row of a finished lane, unless its trial has a verdict.

        A lane may be trained twice, if it shares a row or column of the grid with a trial that is missing.
        """
        setting, training = record.setting, self.training
        if record.trial in training.trials:
            return
        training.append(
            Trial(
                **msgspec.structs.asdict(training.session.origin()),
                phase=setting.phase,
                batch_size=setting.batch_size,
                learning_rate=setting.point.learning_rate,
                options=dict(setting.point.options),
                seed=record.seed,
                status=record.status or "ok",
                reason=record.reason,
                ended=record.ended,
                train_examples=training.session.train_examples,
                validation_examples=len(training.session.dataset.validation.labels),
                steps=record.steps,
                curve=record.curve,
                test_scores=record.test_scores,
                tokens_per_example=training.session.dataset.tokens_per_example,
                microbatch_size=self.tier.microbatch_size,
                lanes=lanes,
                devices=training.programs.devices.count,
                lowering=self.tuned.lowering,
                graph=self.tuned.graph,
                noise=record.noise if record.noise and record.noise.examples else None,
            )
        )

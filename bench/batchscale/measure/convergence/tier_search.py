"""Search, extend, confirm: which trials of a tier are run, in which waves, and what each becomes as a row."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product

import msgspec

from batchscale.config import plan
from batchscale.config.vocabulary import Point
from batchscale.measure.control.failures import FAILURES, failure_of
from batchscale.measure.control.progress import SECONDS_PER_TIER, confirm_trials, search_trials
from batchscale.measure.convergence import train_wave, tuning, wave
from batchscale.measure.convergence.checkpoint import Checkpoint, trials_of
from batchscale.measure.convergence.known_trials import Study, key_of
from batchscale.measure.convergence.lanes import Programs
from batchscale.measure.convergence.memory_fit import fitting_shape, portions
from batchscale.measure.convergence.wave import LaneRecord, Setting, search_grid
from batchscale.measure.device.tuning_file import Tuned
from batchscale.measure.training.optimizers import usual_options
from batchscale.records import rate_choice
from batchscale.records.row_types import Trial


@dataclass
class TierStudy:
    """One tier of a study, with its programs."""

    study: Study
    tier: plan.Tier
    programs: Programs
    tuned: Tuned
    width: int | None

    def announce(self) -> None:
        """Tell the progress line what is to come: the trials that are missing, as far as that is known."""
        experiment, sizes = self.study.experiment, self.tier.batch_sizes
        searched = sum(len(self.study.of("search", size)) for size in sizes)
        self.plan("search", max(0.0, search_trials(experiment, self.tier) - searched))
        left = [size for size in sizes if not self.study.of("confirm", size)]
        self.plan("confirm", confirm_trials(experiment, self.tier) * len(left) / len(sizes))
        if left:
            self.study.progress.plan(self.item("compile"), SECONDS_PER_TIER, 1.0)

    def plan(self, name: str, trials: float) -> None:
        """Tell the progress line of a phase of so many trials to the epoch budget."""
        examples = self.study.duration.budget_examples
        rate = examples / tuning.trial_seconds(self.study.duration, self.tuned)
        self.study.progress.plan(self.item(name), trials * examples, rate)

    def item(self, name: str) -> str:
        """How the progress line names a phase of this tier."""
        return f"{name} B={self.tier.batch_sizes[0]}..{self.tier.batch_sizes[-1]}"

    def run(self) -> None:
        """All phases of the tier, in at most three training programs: all rates, a quarter, the confirmation.

        Lowerings that were tried and lost have compiled one each beside them, and so has a shape that was halved for
        memory.
        """
        seeds, searched = plan.search_seeds(self.study.experiment), search_grid(self.study.experiment, self.tier)
        self.run_grid("search", seeds, searched, lambda: [self.full, self.small])
        for number in range(self.study.experiment.learning_rate.extend):
            beyond = list(self.extensions(searched))
            if not beyond:
                break
            self.run_grid(f"extension {number + 1}", seeds, beyond, lambda: [self.small])
            searched = [*searched, *beyond]
        fresh, settings = plan.confirmation_seeds(self.study.experiment), self.confirmations()
        self.run_grid("confirm", fresh, settings, lambda: [self.shape(fresh, settings), self.small])
        self.study.progress.close(self.item("compile"))

    @cached_property
    def full(self) -> wave.Shape:
        """The shape of a search shard."""
        experiment = self.study.experiment
        return self.shape(plan.search_seeds(experiment), search_grid(experiment, self.tier))

    def shape(self, seeds: Sequence[int], settings: Sequence[Setting]) -> wave.Shape:
        """The shape of a shard of these trials."""
        return fitting_shape(self.programs, (seeds, settings), self.study.memory_bytes, self.study.workers, self.width)

    @property
    def small(self) -> wave.Shape:
        """The shape that the last lanes are compacted into, and that extensions run in."""
        return self.full[0], math.ceil(self.full[1] / 4)

    def extensions(self, searched: Sequence[Setting]) -> Iterator[Setting]:
        """Rates beyond an edge at which a best rate lies, as far as `searched` tells.

        Trials of a wave that was interrupted are not looked at, so a resumed run extends as an uninterrupted one.
        """
        table = self.study.experiment.learning_rate
        for size in self.tier.batch_sizes:
            tried = {setting.point for setting in searched if setting.batch_size == size}
            choice = self.study.choice(size, tried)
            if choice is None:
                continue
            edges = [*product(choice.upper_edges, [True]), *product(choice.lower_edges, [False])]
            for options, upwards in edges:
                beyond = plan.extension(table, size, rate_choice.with_options(tried, options), upwards=upwards)
                if beyond is not None:
                    yield Setting("search", size, beyond)

    def confirmations(self) -> list[Setting]:
        """The chosen points, and the fixed rate with the usual options where the experiment names one."""
        experiment = self.study.experiment
        fixed, usual = experiment.learning_rate.fixed, usual_options(experiment.workload.optimizer, experiment.searched)
        settings = []
        for size in self.tier.batch_sizes:
            choice = self.study.choice(size)
            settings += [Setting("confirm", size, point) for point in (choice.points if choice else [])]
            settings += [Setting("fixed", size, Point(fixed, usual))] if fixed else []
        return settings

    def run_grid(
        self, name: str, seeds: Sequence[int], settings: Sequence[Setting], shapes_of: Callable[[], list[wave.Shape]]
    ) -> None:
        """Run a grid of trials unless all its rows exist; what a failing device leaves undone becomes rows that say so.

        Raises:
            DeviceError: at the third wave in a row that fails.
        """
        study = self.study
        item = self.item(name)
        missing = study.missing(settings, seeds)
        self.plan(name, len(missing))
        if missing:
            try:
                shapes = self.compiled(shapes_of)
            except FAILURES as error:
                self.fail(item, seeds, settings, error)
            else:
                self.train_waves(item, seeds, settings, shapes)
        study.progress.close(item)

    def train_waves(
        self, item: str, seeds: Sequence[int], settings: Sequence[Setting], shapes: Sequence[wave.Shape]
    ) -> None:
        """Train a grid one wave after another; the trials of one that fails say so, and the next is tried."""
        study = self.study
        for some_seeds, some in portions(self.programs, (seeds, settings), study.memory_bytes):
            if not study.missing(some, some_seeds):
                continue
            try:
                self.train(item, some_seeds, some, shapes)
                study.streak.broken()
            except FAILURES as error:
                self.fail(item, some_seeds, some, error)

    def compiled(self, shapes_of: Callable[[], list[wave.Shape]]) -> list[wave.Shape]:
        """The shapes for a grid, whose programs are compiled to see whether they fit."""
        start = time.monotonic()
        shapes = shapes_of()
        seconds, item = time.monotonic() - start, self.item("compile")
        self.study.progress.plan(item, SECONDS_PER_TIER, 1.0)
        self.study.progress.advance(item, seconds, seconds)
        return shapes

    def fail(self, item: str, seeds: Sequence[int], settings: Sequence[Setting], error: Exception) -> None:
        """Write the trials of a grid that have no verdict as failed."""
        failure = failure_of(error)
        for setting, seed in product(settings, seeds):
            self.finished(LaneRecord(setting=setting, seed=seed, status="failed", reason=failure.message), lanes=1)
        self.study.streak.grown(item, failure)

    def train(self, item: str, seeds: Sequence[int], settings: Sequence[Setting], shapes: Sequence[wave.Shape]) -> None:
        """Train what is missing of a grid of trials, from its checkpoint or from the start."""
        study = self.study
        checkpoint = Checkpoint(study.folder / "checkpoint", self.identity(seeds, settings, shapes))
        lanes = self.started(checkpoint, seeds, settings, shapes[0])
        clock = time.monotonic()

        def advanced(lane_examples: int) -> None:
            nonlocal clock
            now = time.monotonic()
            study.trained_examples += lane_examples
            study.progress.advance(item, lane_examples, now - clock, f"{lanes.alive()} lanes")
            clock = now

        reporter = train_wave.Reporter(
            finished=lambda record: self.finished(record, math.prod(shapes[0])),
            advanced=advanced,
            check=study.check,
            checkpoint=checkpoint,
            shapes=shapes,
            workers=study.workers,
            tests_always=study.experiment.evaluation.test == "always",
            rivals=study.rivals(set(trials_of(lanes.records))),
        )
        train_wave.run(lanes, reporter)

    def started(
        self, checkpoint: Checkpoint, seeds: Sequence[int], settings: Sequence[Setting], shape: wave.Shape
    ) -> wave.Wave:
        """A wave where its checkpoint left it, or a fresh one of the smallest grid that has all missing trials."""
        start = partial(wave.start, self.programs, self.study.duration, self.study.race)
        missing, lanes = self.study.missing(settings, seeds), start(seeds, settings, shape)
        if checkpoint.restore(lanes, missing) or len(missing) == len(lanes.records):
            return lanes
        rows, columns = {seed for _, seed in missing}, {setting for setting, _ in missing}
        del lanes
        return start([one for one in seeds if one in rows], [one for one in settings if one in columns], shape)

    def identity(self, seeds: Sequence[int], settings: Sequence[Setting], shapes: Sequence[tuple[int, int]]) -> str:
        """A hash of all that a checkpoint must agree with."""
        origin = self.study.origin()
        measured = [origin.fingerprint, origin.environment, self.programs.noise_parts]
        parts = [*measured, self.tier, self.tuned.lowering, seeds, settings, shapes]
        return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()

    def finished(self, record: LaneRecord, lanes: int) -> None:
        """Write the row of a finished lane, once."""
        setting = record.setting
        key = key_of(setting, record.seed)
        if key in self.study.trials:
            return
        trial = Trial(
            **msgspec.structs.asdict(self.study.origin()),
            phase=setting.phase,
            batch_size=setting.batch_size,
            learning_rate=setting.point.learning_rate,
            options=dict(setting.point.options),
            seed=record.seed,
            status=record.status or "ok",
            reason=record.reason,
            train_examples=len(self.programs.train_split.labels),
            validation_examples=len(self.programs.validation_split.labels),
            steps=record.steps,
            curve=record.curve,
            test_accuracy=record.test_accuracy,
            microbatch_size=self.tier.microbatch_size,
            lanes=lanes,
            lowering=self.tuned.lowering,
            noise=record.noise if record.noise and record.noise.examples else None,
        )
        self.study.append(trial)

"""One experiment on this machine: its stages in order, only what is missing, everything as rows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import msgspec

from bench import folders, plan
from bench.experiment import Experiment
from bench.measure import throughput, tuning
from bench.measure.datasets import Dataset
from bench.measure.host import Host
from bench.measure.lanes import Examples, Programs, on_device
from bench.measure.learner import Learner, has_lowering, make_learner
from bench.measure.progress import Progress
from bench.measure.racing import Race
from bench.measure.schedules import Schedule
from bench.measure.search import Study, TierStudy, search_grid, shard_shape
from bench.rows import AnyRow, Loop, Origin, Precision, Round, Stage, Trial
from bench.store import Writer

LONGEST_SEGMENT_TICKS = 4096
LOWERINGS = ("patches", "banded", "xla")


@dataclass
class Run:
    """An experiment, its data and the folder its rows go to."""

    experiment: Experiment
    dataset: Dataset
    host: Host
    folder: Path
    progress: Progress = field(default_factory=Progress)
    compilations: int = 0

    def __post_init__(self) -> None:
        self.batch_sizes = plan.batch_sizes(self.experiment, len(self.dataset.train_labels))
        folders.prepare(
            self.folder, self.experiment, self.host.machine, {self.host.environment_hash: self.host.environment}
        )
        self.tuning = tuning.TuningFile(self.folder)
        self.learner = lru_cache(self._learner)

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

    def _learner(self, precision: Precision, lowering: str | None) -> Learner:
        workload = msgspec.structs.replace(self.experiment.workload, precision=precision)
        return make_learner(workload, self.dataset.input_shape, self.dataset.classes, lowering)

    @property
    def lowerings(self) -> Sequence[str | None]:
        """Lowerings worth a trial."""
        return LOWERINGS if has_lowering(self.experiment.workload.model) else (None,)


def run(run_: Run, stages: Sequence[str]) -> None:
    """Measure what is missing of each stage."""
    for stage, measure in (("throughput", measure_throughput), ("convergence", measure_convergence)):
        if stage in stages:
            measure(run_)


def _rows(run_: Run, name: str) -> list[AnyRow]:
    return list(folders.rows(run_.folder, name, run_.experiment.fingerprint))


def measure_throughput(run_: Run) -> None:
    """Time every cell that lacks rounds."""
    with Writer(run_.folder / folders.THROUGHPUT) as writer:
        done = Counter(_cell_key(row) for row in _rows(run_, folders.THROUGHPUT) if isinstance(row, Round))
        keys = throughput.cell_keys(run_.experiment, run_.batch_sizes)
        if all(done[key] >= run_.experiment.throughput.rounds for key in keys):
            return
        start = time.monotonic()
        laboratory = throughput.Laboratory(
            experiment=run_.experiment,
            learner=run_.learner,
            split=on_device(run_.dataset.train_inputs, run_.dataset.train_labels),
            origin=run_.origin,
            append=writer.append,
            progress=run_.progress,
        )
        lowerings = {loop: _loop_lowering(run_, laboratory, loop) for loop in run_.experiment.throughput.loops}
        throughput.measure(laboratory, keys, done, lowerings)
        writer.append(_stage_row(run_, "throughput", start, laboratory.compilations))


def _cell_key(row: Round) -> throughput.CellKey:
    return throughput.CellKey(row.batch_size, row.loop, row.input, row.precision)


def _loop_lowering(run_: Run, laboratory: throughput.Laboratory, loop: Loop) -> str | None:
    """The lowering that is fastest in this loop at a middle batch size."""
    middle = run_.batch_sizes[len(run_.batch_sizes) // 2]
    key = throughput.CellKey(middle, loop, "device", run_.experiment.workload.precision)

    def measure() -> tuning.Tuned:
        tried = [tuning.Tuned(name, throughput.examples_per_second(laboratory, key, name)) for name in run_.lowerings]
        return max(tried, key=lambda one: one.examples_per_second)

    return run_.tuning.get(f"throughput {loop}", measure).lowering if len(run_.lowerings) > 1 else None


def measure_convergence(run_: Run) -> None:
    """Train every trial that is missing."""
    with Writer(run_.folder / folders.CONVERGENCE) as writer:
        start = time.monotonic()
        study = make_study(run_, writer.append)
        before = len(study.trials)
        programs = [program for tier in _tiers(run_) for program in run_tier(run_, study, tier)]
        if len(study.trials) > before:
            compilations = sum(one.compilations for one in programs)
            row = _stage_row(run_, "convergence", start, compilations, study.trained_examples)
            writer.append(row)


def make_study(run_: Run, append: Callable[[Trial], None]) -> Study:
    """The convergence stage with the trials that exist."""
    duration = plan.duration(run_.experiment, len(run_.dataset.train_labels))
    rows = [row for row in _rows(run_, folders.CONVERGENCE) if isinstance(row, Trial)]
    known = {plan.TrialKey(row.phase, row.batch_size, row.learning_rate, row.seed): row for row in rows}
    return Study(
        experiment=run_.experiment,
        folder=run_.folder,
        origin=run_.origin,
        append=append,
        progress=run_.progress,
        duration=duration,
        race=Race(
            target=run_.experiment.target.accuracy,
            budget_examples=duration.budget_examples,
            validation_examples=len(run_.dataset.validation_labels),
        ),
        memory_bytes=run_.host.free_memory_bytes(),
        workers=run_.host.workers,
        trials=known,
    )


def _tiers(run_: Run) -> list[plan.Tier]:
    return plan.tiers(run_.batch_sizes)


def run_tier(run_: Run, study: Study, tier: plan.Tier) -> list[Programs]:
    """Tune a tier, then run its study; every program set that was compiled for it."""
    made: dict[str | None, Programs] = {}

    def programs(lowering: str | None) -> Programs:
        if lowering not in made:
            made[lowering] = make_programs(run_, study, tier, lowering)
        return made[lowering]

    seeds, grid = plan.search_seeds(run_.experiment), search_grid(run_.experiment, tier)
    shape = shard_shape(len(seeds), len(grid), study.workers)
    tuned = run_.tuning.get(
        f"convergence {tier.microbatch_size} {tier.batch_sizes}",
        lambda: tuning.fastest(run_.lowerings, programs, seeds[: shape[0]], grid[: shape[1]], study.workers),
    )
    TierStudy(study, tier, programs(tuned.lowering), tuned.lowering, tuned.examples_per_second).run()
    return list(made.values())


def make_programs(run_: Run, study: Study, tier: plan.Tier, lowering: str | None) -> Programs:
    """The programs of a tier under one lowering."""
    table = run_.experiment.learning_rate
    train_examples = len(run_.dataset.train_labels)
    points = [0, *study.duration.evaluations]
    gap = max(after - before for before, after in pairwise(points))
    schedule = Schedule(table.schedule, table.warmup_epochs * train_examples, study.duration.budget_examples)
    splits = device_splits(run_.dataset)
    return Programs(
        learner=run_.learner(run_.experiment.workload.precision, lowering),
        train_split=splits[0],
        validation_split=splits[1],
        test_split=splits[2],
        microbatch_size=tier.microbatch_size,
        schedule=schedule,
        accumulates=any(size != tier.microbatch_size for size in tier.batch_sizes),
        longest_segment=min(LONGEST_SEGMENT_TICKS, gap // tier.microbatch_size + 1),
    )


@lru_cache(maxsize=1)
def device_splits(dataset: Dataset) -> tuple[Examples, Examples, Examples]:
    """Train, validation and test on the device, once."""
    return (
        on_device(dataset.train_inputs, dataset.train_labels),
        on_device(dataset.validation_inputs, dataset.validation_labels),
        on_device(dataset.test_inputs, dataset.test_labels),
    )


def _stage_row(run_: Run, stage: str, start: float, compilations: int, trained: int = 0) -> Stage:
    return Stage(
        **msgspec.structs.asdict(run_.origin()),
        stage="throughput" if stage == "throughput" else "convergence",
        seconds=time.monotonic() - start,
        compilations=compilations,
        trained_examples=trained,
    )

"""The stages of an experiment in order: only what is missing is measured, and all of it becomes rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise

import msgspec

from bench import folders, plan
from bench.experiment import Experiment
from bench.measure import calibration, estimate, jobs, noise, sensors, throughput, tuning
from bench.measure.attempts import Attempts
from bench.measure.calibration import Part
from bench.measure.failures import FAILURES
from bench.measure.laboratory import Laboratory
from bench.measure.lanes import Programs
from bench.measure.loops import CellKey, cell_keys, parallel_keys
from bench.measure.racing import Race
from bench.measure.schedules import Schedule
from bench.measure.search import LARGEST_SHARE_OF_MEMORY, TierStudy, search_grid, shard_shape
from bench.measure.session import Session
from bench.measure.study import Study
from bench.rows import AnyRow, Calibration, Precision, Trial
from bench.store import Writer

LONGEST_SEGMENT_TICKS = 4096
NOMINAL_EXAMPLES_PER_SECOND = 10_000.0
"""Only plans, where a device that fails shows no speed."""


def run(session: Session, stages: Sequence[str]) -> None:
    """Measure what is missing of each stage.

    Raises:
        InputError: when the folder is not this experiment's, or cannot be written.
        Stopped: when a signal asked to stop.
        DeviceError: when the device keeps failing.
    """
    session.prepare_folder()
    for stage, measure in (("throughput", measure_throughput), ("convergence", measure_convergence)):
        if stage in stages:
            measure(session)


def measure_throughput(session: Session) -> None:
    """Time every cell that lacks rounds, and find the largest batch size.

    Raises:
        DeviceError: at the third failure in a row.
    """
    with Writer(session.folder / folders.THROUGHPUT) as writer:
        _tell_of_torn_line(session, writer)
        missing = _missing(session)
        if not missing and not jobs.lacks_max_batch_size(session):
            return
        start = time.monotonic()
        laboratory = _laboratory(session, writer.append)
        calibration.measure(laboratory, _uncalibrated(session), session.host.free_memory_bytes())
        lowering_of = _lowering_of(session, laboratory)
        throughput.measure(laboratory, missing, lowering_of)
        session.progress.close("timing")
        if jobs.lacks_max_batch_size(session):
            jobs.find_max_batch_size(session, laboratory, lowering_of)
        writer.append(session.stage_row(start, stage="throughput", compilations=laboratory.compilations))


def _laboratory(session: Session, append: Callable[[AnyRow], None]) -> Laboratory:
    memory_bytes = session.experiment.throughput.memory_limit_bytes or session.host.program_memory_bytes()
    return Laboratory(
        experiment=session.experiment,
        learner=session.learner,
        split=session.splits[0],
        origin=session.origin,
        append=append,
        progress=session.progress,
        check=session.stopper.check,
        sensors=cache(partial(sensors.find, session.host.machine.platform)),
        memory_bytes=memory_bytes,
        isolated=jobs.isolated(session, memory_bytes),
        attempts=_attempts(session),
    )


def _tell_of_torn_line(session: Session, writer: Writer) -> None:
    if writer.torn_bytes:
        aside = writer.path.with_suffix(".torn").name
        session.progress.say(f"{writer.path}: its last line was torn and is now in {aside}; that row is measured again")


def _keys(session: Session) -> list[CellKey]:
    experiment, sizes = session.experiment, session.batch_sizes
    devices = plan.device_counts(experiment, session.host.machine.device_count)
    return cell_keys(experiment, sizes) + parallel_keys(experiment, sizes, devices, session.train_examples)


def _attempts(session: Session) -> Attempts:
    """What was tried of each cell."""
    return Attempts.of(session.rows(folders.THROUGHPUT), retries_failed=session.retries_failed)


def _missing(session: Session) -> list[CellKey]:
    """The cells that are still to be timed, in whichever form."""
    attempts, rounds = _attempts(session), session.experiment.throughput.rounds
    return [key for key in _keys(session) if attempts.next(key, rounds)]


def _uncalibrated(session: Session) -> list[Part]:
    """What was not calibrated in this environment yet."""
    rows = [row for row in session.rows(folders.THROUGHPUT) if isinstance(row, Calibration)]
    here = session.host.environment_hash
    return calibration.missing({(row.quantity, row.precision) for row in rows if row.environment == here})


def _lowering_of(session: Session, laboratory: Laboratory) -> Callable[[CellKey], str | None]:
    """The fastest lowering of a precision at a device's part of the batch, tried at sizes a factor of 4 apart."""
    tried = plan.spaced(session.batch_sizes, 4)
    loops = session.experiment.throughput.loops
    loop = "scan" if "scan" in loops else loops[0]

    @cache
    def fastest(batch_size: int, precision: Precision) -> str | None:
        if len(session.lowerings) == 1:
            return session.lowerings[0]
        speed = partial(throughput.examples_per_second, laboratory, CellKey(batch_size, loop, "device", precision))
        other = "" if precision == session.experiment.workload.precision else f" {precision}"
        measure = partial(tuning.fastest, session.lowerings, speed)
        return tuned(session, f"throughput {batch_size}{other}", measure).lowering

    def lowering_of(key: CellKey) -> str | None:
        reached = [size for size in tried if size <= key.examples_at_once]
        return fastest(max(reached, default=tried[0]), key.precision)

    return lowering_of


def announce(session: Session, stages: Sequence[str]) -> None:
    """Choose lowerings where that is still to do, and plan the progress line for all that is missing."""
    session.progress.begin(session.experiment.name)
    if "throughput" in stages:
        missing = len(_missing(session))
        session.progress.plan("timing", missing, 1 / estimate.timing_seconds(session.experiment, 1))
        jobs.announce_max_batch_size(session)
        calibrating = len(_uncalibrated(session)) * estimate.SECONDS_PER_CALIBRATION
        session.progress.plan("calibration", calibrating if missing else 0, 1.0)
    if "convergence" in stages:
        for tier_study in tier_studies(session, make_study(session, _refuse)):
            tier_study.announce()


def _refuse(_: Trial) -> None:
    raise RuntimeError("a study that is only announced writes no rows")


def measure_convergence(session: Session) -> None:
    """Train every trial that is missing."""
    with Writer(session.folder / folders.CONVERGENCE) as writer:
        _tell_of_torn_line(session, writer)
        start = time.monotonic()
        study = make_study(session, writer.append)
        before, tiers = len(study.trials), tier_studies(session, study)
        for tier_study in tiers:
            tier_study.run()
        if len(study.trials) > before:
            cost = {
                "compilations": sum(one.programs.compilations for one in tiers),
                "trained_examples": study.trained_examples,
            }
            writer.append(session.stage_row(start, stage="convergence", **cost))


def tier_studies(session: Session, study: Study) -> list[TierStudy]:
    """Every tier with its programs under the lowering that is fastest for it."""
    return [_tier_study(session, study, tier) for tier in session.tiers]


def _tier_study(session: Session, study: Study, tier: plan.Tier) -> TierStudy:
    tuned = tune(session, tier)
    return TierStudy(study, tier, programs(session, tier, tuned.lowering), tuned, session.shard_width(tier))


def make_study(session: Session, append: Callable[[Trial], None]) -> Study:
    """The convergence stage with the trials that exist, less those that failed where they are to be tried again."""
    rows = [
        row
        for row in session.rows(folders.CONVERGENCE)
        if isinstance(row, Trial) and not (session.retries_failed and row.status == "failed")
    ]
    return Study(
        experiment=session.experiment,
        folder=session.folder,
        origin=session.origin,
        append=append,
        progress=session.progress,
        check=session.stopper.check,
        duration=session.duration,
        race=Race(
            target=session.experiment.target.accuracy,
            budget_examples=session.duration.budget_examples,
            validation_examples=len(session.dataset.validation_labels),
        ),
        memory_bytes=session.host.free_memory_bytes(),
        workers=session.host.workers,
        trials={plan.TrialKey(row.phase, row.batch_size, row.point, row.seed): row for row in rows},
    )


def tune(session: Session, tier: plan.Tier) -> tuning.Tuned:
    """The fastest lowering of a tier, measured once for a results folder."""
    workers = session.host.workers
    seeds, grid = plan.search_seeds(session.experiment), search_grid(session.experiment, tier)
    shape = shard_shape(len(seeds), len(grid), workers, session.shard_width(tier))

    def trial(lowering: str | None) -> tuning.SpeedTrial:
        of = programs(session, tier, lowering)
        rows, columns = of.fit(shape, int(session.host.free_memory_bytes() * LARGEST_SHARE_OF_MEMORY / workers))
        return tuning.SpeedTrial(of, seeds[:rows], grid[:columns], workers)

    def measure() -> tuning.Tuned:
        found = tuning.fastest(session.lowerings, lambda lowering: trial(lowering).examples_per_second())
        evaluation = trial(found.lowering).seconds_per_evaluation()
        return msgspec.structs.replace(found, seconds_per_evaluation=evaluation)

    return tuned(session, f"convergence {tier.microbatch_size} {tier.batch_sizes}", measure)


def tuned(session: Session, key: str, measure: Callable[[], tuning.Tuned]) -> tuning.Tuned:
    """The fastest lowering, measured once for a results folder.

    Where none runs now the first is taken and nothing is kept: whatever fails with it becomes rows.
    """
    try:
        return session.tuning.get(key, measure)
    except FAILURES:
        return tuning.Tuned(session.lowerings[0], NOMINAL_EXAMPLES_PER_SECOND)


def noise_parts(experiment: Experiment, tier: plan.Tier) -> int:
    """Into how many sizes the largest batch is halved to estimate the gradient noise; 0 where that is not asked for."""
    if not experiment.evaluation.noise:
        return 0
    return len(noise.part_sizes(tier.microbatch_size, tier.batch_sizes[-1]))


def programs(session: Session, tier: plan.Tier, lowering: str | None) -> Programs:
    """The programs of a tier under a lowering, made once."""
    key = (tier.batch_sizes[0], lowering)
    if key not in session.programs:
        table, duration = session.experiment.learning_rate, session.duration
        gap = max(after - before for before, after in pairwise([0, *duration.evaluations]))
        warmup, epochs = table.warmup_epochs * session.train_examples, session.experiment.evaluation.averaging_epochs
        session.programs[key] = Programs(
            session.learner(session.experiment.workload.precision, lowering),
            *session.splits,
            microbatch_size=tier.microbatch_size,
            schedule=Schedule(table.schedule, warmup, float(duration.budget_examples)),
            accumulates=any(size != tier.microbatch_size for size in tier.batch_sizes),
            longest_segment=min(LONGEST_SEGMENT_TICKS, gap // tier.microbatch_size + 1),
            noise_parts=noise_parts(session.experiment, tier),
            averaging_examples=epochs and epochs * session.train_examples,
        )
    return session.programs[key]

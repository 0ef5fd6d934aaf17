"""Turn what was measured elsewhere into rows.

What a row needs and no file holds is filled with the marked placeholders below.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from statistics import median

import msgspec

from batchscale.analysis.frames.amounts import Amounts, amounts_of
from batchscale.analysis.outside.runs import Unit
from batchscale.analysis.outside.tables import Need, Timing
from batchscale.config import experiment as experiments
from batchscale.config.experiment import Experiment, LearningRate
from batchscale.config.goal import Goal
from batchscale.errors import InputError
from batchscale.printable import bare, printable
from batchscale.records.curves import Curve
from batchscale.records.machine_file import Environment, Machine, MachineFile
from batchscale.records.row_types import UNKNOWN_RATE, Compilation, Round, TimedEpoch, Trial

NOT_RECORDED = "not recorded"
ENVIRONMENT = "0000"
UNKNOWN_TARGET = 0.5
"""Placeholder for a target that was not given; it is never shown, since `imported.json` records none."""
ANY_EPOCHS = 1e5
"""Placeholder for the budget of epochs."""
UNNAMED = "imported"
"""Name of the experiment, and of a workload that has no name."""
MOST_BATCH_SIZES = 64
FEWEST_TO_DIVIDE = 3
"""The fewest different needs of a batch size from which the distance of its evaluations is read."""


def machines_of(timings: Iterable[Timing], path: Path) -> dict[str, list[Timing]]:
    """Group timings by the name of their machine.

    Raises:
        InputError: when two names would give the same name of a folder.
    """
    found: dict[str, list[Timing]] = defaultdict(list)
    for timing in timings:
        found[timing.machine or "imported"].append(timing)
    folders = Counter(slug(name) for name in found)
    for name in found:
        if folders[slug(name)] > 1:
            raise InputError(f"{path}: machine: {printable(name)} and another name differ too little; rename one")
    return dict(found)


def slug(name: str) -> str:
    """Return the name as part of a path; it has no dot, so that it equals no file name of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "machine"


def origin(experiment: Experiment, machine: str) -> dict[str, str | bool]:
    """Return the fields of a row that say where it comes from."""
    return {
        "experiment": experiment.name,
        "fingerprint": experiment.fingerprint,
        "machine": machine,
        "environment": ENVIRONMENT,
        "code": "imported",
        "dirty": False,
        "recorded": NOT_RECORDED,
    }


UNIT_OF: dict[str, Unit] = {
    "epochs_to_target": "epochs",
    "steps_to_target": "steps",
    "examples_to_target": "examples",
}
"""What the column of a table of needs counts training in."""


def amounts_of_needs(needs: Sequence[Need], train_examples: int | None, path: Path) -> Amounts:
    """Decide what the runs of a table of needs are counted in."""
    return amounts_of([(UNIT_OF[needs[0].unit], str(path))], train_examples)


def trial_rows(
    needs: Sequence[Need],
    experiment: Experiment,
    machine: str,
    amounts: Amounts,
    path: Path,
    evaluated_every: float | None = None,
) -> Iterator[Trial]:
    """Yield trials whose curve is the one crossing that is known.

    Runs at several rates become search trials: they choose the rate, and claims rest on them.

    Evaluations are `evaluated_every` apart, in the unit of the table; by default this is read from its numbers.
    """
    resolution = _resolution(needs, needs[0].unit)
    searched = several_rates((need.batch_size, need.learning_rate) for need in needs)
    for need in needs:
        every = evaluated_every or resolution.get(need.batch_size, 0.0)
        curve = _curve(need, every, amounts, path, experiment.goal.threshold)
        yield msgspec.convert(
            {
                **origin(experiment, machine),
                "kind": "trial",
                "phase": "search" if searched else "confirm",
                "batch_size": need.batch_size,
                "learning_rate": need.learning_rate,
                "seed": need.seed,
                "status": "ok",
                "train_examples": amounts.train_examples,
                "steps": curve.steps[-1] if curve.steps else None,
                "curve": curve,
                "microbatch_size": need.batch_size,
                "lanes": 1,
            },
            Trial,
        )


def several_rates(settings: Iterable[tuple[int, float | None]]) -> bool:
    """Return True if some batch size was trained at several learning rates."""
    different = set(settings)
    return len(different) > len({size for size, _ in different})


def evaluation_interval(needs: Sequence[Need]) -> str | None:
    """Return in words the distance of two evaluations that a table in epochs shows; None for other units."""
    found = set(_resolution(needs, "epochs_to_target").values())
    return f"{found.pop():g} epoch" if len(found) == 1 and needs[0].unit == "epochs_to_target" else None


def _resolution(needs: Sequence[Need], unit: str) -> dict[int, float]:
    """Return, by batch size, the distance of the evaluations between which a need was observed.

    Epochs with at most two decimals were observed to the last decimal that the column uses: whole epochs to one epoch.
    Steps and examples were observed to the greatest common divisor of the needs of a batch size, if three differ.
    """
    by_size: dict[int, list[float]] = defaultdict(list)
    for need in needs:
        if need.unit == unit and need.amount is not None:
            by_size[need.batch_size].append(need.amount)
    if unit == "epochs_to_target":
        decimals = max((_decimals(one) for amounts in by_size.values() for one in amounts), default=0)
        return dict.fromkeys(by_size, 10.0**-decimals)
    least = dict.fromkeys(by_size, 1.0 if unit == "steps_to_target" else 0.0)
    return least | {size: found for size, amounts in by_size.items() if (found := _common_step(amounts)) > least[size]}


def _decimals(amount: float) -> int:
    exponent = Decimal(repr(amount)).normalize().as_tuple().exponent
    return max(0, -exponent) if isinstance(exponent, int) else 0


def _common_step(amounts: Sequence[float]) -> float:
    """Return the greatest common divisor of three or more different whole numbers, else 0."""
    whole = {int(one) for one in amounts if one.is_integer()}
    return float(math.gcd(*whole)) if len(whole) >= FEWEST_TO_DIVIDE and len(whole) == len(set(amounts)) else 0.0


def _curve(need: Need, every: float, amounts: Amounts, path: Path, target: float) -> Curve:
    """Return a curve of the evaluation before the crossing and the one at it; empty where nothing crossed."""
    seen: list[float] = []
    if need.amount is not None:
        where = f"{path}: {need.unit}: {need.amount:g} at batch size {need.batch_size}, seed {need.seed}"
        before, crossed = (
            amounts.trained(amount, UNIT_OF[need.unit], need.batch_size, where)
            for amount in (max(need.amount - every, 0.0), need.amount)
        )
        if amounts.counted_in == "examples":
            # Of whole examples, a need takes one at least, and the evaluation before it came one earlier at least.
            crossed = max(crossed, 1)
            before = min(before, crossed - 1)
        else:
            before = min(before, math.nextafter(crossed, 0))
        seen = [at for at in (before, crossed) if at > 0]
    scores: list[float | None] = [target if at == seen[-1] else 0.0 for at in seen]
    return amounts.curve(seen, need.batch_size, "accuracy", scores)


def round_rows(
    timings: Sequence[Timing], experiment: Experiment, machine: str, amounts: Amounts, path: Path
) -> Iterator[Round | TimedEpoch | Compilation]:
    """Yield timings as rounds of one step or one epoch, and batch sizes that did not fit as failed compilations.

    Raises:
        InputError: where a speed does not join with what `amounts` count training in.
    """
    seen: Counter[int] = Counter()
    for timing in timings:
        kind, seconds = _timed(timing, amounts, path)
        cell = {
            **origin(experiment, machine),
            "batch_size": timing.batch_size,
            "loop": "dispatch",
            "precision": experiment.workload.precision,
        }
        if seconds is None:
            message = "did not fit into memory, by the table"
            yield msgspec.convert(
                {**cell, "kind": "compilation", "status": "out_of_memory", "message": message}, Compilation
            )
            continue
        seen[timing.batch_size] += 1
        times = {"round": seen[timing.batch_size] - 1, "seconds": seconds}
        joules = timing.watts * seconds if timing.watts else None
        if kind is Round:
            yield msgspec.convert({**cell, "kind": "round", **times, "steps": 1, "joules": joules}, Round)
        else:
            yield msgspec.convert({**cell, "kind": "timed_epoch", **times, "joules": joules}, TimedEpoch)


def _timed(timing: Timing, amounts: Amounts, path: Path) -> tuple[type[Round | TimedEpoch], float | None]:
    """Return whether a speed is one of steps or of epochs, and the seconds of one; None where it did not fit."""
    if amounts.counted_in == "seconds":
        clocks = "the runs hold only the seconds of their own clocks"
        raise InputError(f"{path}: row 1: {timing.unit}: {clocks}, expected runs that count steps or epochs to join")
    if amounts.counted_in == "epochs" and timing.unit != "seconds_per_epoch":
        hint = "expected seconds_per_epoch, or analyze --train-examples N"
        raise InputError(f"{path}: row 1: {timing.unit}: the runs count epochs of unknown size, {hint}")
    of_epochs = amounts.counted_in == "epochs"
    seconds = timing.amount if of_epochs or timing.amount is None else _seconds_per_step(timing, amounts, path)
    if seconds is not None and not 0 < seconds <= 1e9:
        raise InputError(f"{path}: {timing.unit}: {timing.amount:g} at batch size {timing.batch_size} is no step time")
    return (TimedEpoch if of_epochs else Round), seconds


def _seconds_per_step(timing: Timing, amounts: Amounts, path: Path) -> float:
    amount, size = timing.amount or math.nan, timing.batch_size
    match timing.unit:
        case "examples_per_second":
            return size / amount
        case "tokens_per_second":
            if amounts.tokens_per_example is None:
                expected = "expected analyze --tokens-per-example N, or 1 where batch sizes count tokens"
                raise InputError(f"{path}: row 1: tokens_per_second: {expected}")
            return size * amounts.tokens_per_example / amount
        case "seconds_per_epoch":
            if amounts.train_examples is None:
                expected = "expected analyze --train-examples N, the examples in an epoch"
                raise InputError(f"{path}: row 1: seconds_per_epoch: {expected}")
            return amount * size / amounts.train_examples
        case _:
            return amount


def experiment_of(
    needs: Sequence[Need],
    timings: Sequence[Timing],
    target: float | None,
    files: tuple[Path, Path | None],
    workload: str | None = None,
) -> Experiment:
    """Build an experiment with the batch sizes and rates of the tables.

    Raises:
        InputError: as `experiment_from`.
    """
    trained, timed = {need.batch_size for need in needs}, {timing.batch_size for timing in timings}
    rates = [need.learning_rate for need in needs]
    return experiment_from(
        trained, timed, rates, Goal(metric="accuracy", threshold=target or UNKNOWN_TARGET), files, workload
    )


def experiment_from(
    trained: set[int],
    timed: set[int],
    rates: Iterable[float | None],
    goal: Goal,
    files: tuple[Path, Path | None],
    workload: str | None,
) -> Experiment:
    """Build an experiment.

    Args:
        trained: the batch sizes of the training runs.
        timed: the batch sizes of the speeds.
        rates: the learning rates that were tried.
        goal: the score and its target.
        files: of the training runs and of the speeds, for refusals.
        workload: the name of what was trained.

    Raises:
        InputError: when the batch sizes are more, or larger, than an experiment can have, when rates are too far apart,
            or when only some runs have one.
    """
    convergence, throughput = files
    _refuse_many(trained, timed, convergence, throughput or convergence)
    rates = list(rates)
    if 0 < (missing := rates.count(None)) < len(rates):
        counted = f"missing for {missing} of {len(rates)} runs"
        raise InputError(f"{convergence}: learning_rate: {counted}, expected one for each run, or for none")
    table = {
        "title": f"Measurements from {bare(convergence.name)}",
        "workload": {"dataset": workload or UNNAMED, "model": UNNAMED, "optimizer": UNNAMED},
        "target": {goal.metric: goal.threshold} | ({"name": goal.name} if goal.name else {}),
        "batch_sizes": {"values": sorted(trained | timed)},
        "learning_rate": {"anchor": UNKNOWN_RATE, "factor": _rate_factor(rates)},
        "budget": {"epochs": ANY_EPOCHS},
    }
    return experiments.parse(table, UNNAMED, str(convergence))


def _refuse_many(trained: set[int], timed: set[int], convergence: Path, throughput: Path) -> None:
    for path, sizes in ((convergence, trained), (throughput, timed), (throughput, trained | timed)):
        if len(sizes) > MOST_BATCH_SIZES:
            raise InputError(f"{path}: batch_size: {len(sizes)} different sizes, expected at most {MOST_BATCH_SIZES}")


def _rate_factor(rates: Iterable[float | None]) -> float:
    """Return the ratio of neighbouring rates in the median: a best rate is known up to it."""
    known = sorted({rate for rate in rates if rate is not None})
    if len(known) < 2:
        return LearningRate(anchor=UNKNOWN_RATE).factor
    return median(high / low for low, high in pairwise(known))


def unknown_machine(name: str) -> MachineFile:
    """Return a machine with only its name known."""
    machine = Machine(
        name=slug(name),
        platform="cpu",
        device_kind=name,
        device_count=1,
        cpu=NOT_RECORDED,
        cpu_cores=1,
        host_memory_bytes=0,
    )
    software = Environment(python=NOT_RECORDED, os=NOT_RECORDED, packages={})
    return MachineFile(machine=machine, environments={ENVIRONMENT: software})

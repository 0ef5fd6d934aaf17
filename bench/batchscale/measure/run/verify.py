"""Verify the join of steps and speeds: time single, unmapped runs to the target and compare with the predicted time.

The loops are not those of `throughput.timed_loops`: a timed loop cycles through batches at one learning rate until its
round is full, and a run to the target has a batch and a rate for every step.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from jaxtyping import Array, Float, Int32

from batchscale.config.goal import Goal
from batchscale.config.vocabulary import Loop
from batchscale.decisions import evaluations
from batchscale.errors import InputError
from batchscale.measure.convergence.lanes import evaluate_lanes
from batchscale.measure.convergence.stage import Convergence
from batchscale.measure.data import datasets, example_order
from batchscale.measure.data.datasets import Examples
from batchscale.measure.device import compiled_programs
from batchscale.measure.device.machine import Host
from batchscale.measure.session import Session
from batchscale.measure.training.learner import Chosen, Learner, TrainState, take
from batchscale.measure.training.optimizers import Scalar, Schedule
from batchscale.records import results_folder
from batchscale.records.row_files import Writer
from batchscale.records.row_types import Round, Trial, Verification


@dataclass(frozen=True)
class Case:
    """A confirmed trial that reached the target, and how its batch size is timed.

    Attributes:
        trial: The trial.
        steps: Its steps to the target.
        loop: The loop that is faster at its batch size.
        lowering: The lowering that the loop was timed with.
        seconds_per_step: Measured by the throughput stage.
    """

    trial: Trial
    steps: int
    loop: Loop
    lowering: str | None
    seconds_per_step: float


class Reported(NamedTuple):
    """What the report shows for a batch size.

    Attributes:
        learning_rate: Of its confirmed trials.
        options: Optimizer options of its confirmed trials.
        loop: The fastest loop.
        seconds_per_step: Of that loop.
    """

    learning_rate: float
    options: Mapping[str, float]
    loop: Loop
    seconds_per_step: float


@dataclass(frozen=True)
class Alone:
    """What one unmapped run took.

    Attributes:
        status: "ok", or "not_reached" within the longest budget.
        steps: Steps until the evaluation that reached the target.
        seconds: Time on the clock.
    """

    status: str
    steps: int
    seconds: float


def verify(
    folder: Path, recommended: int, reported: Mapping[int, Reported], sources: Path = Path()
) -> list[Verification]:
    """Train at the recommended, the smallest and the largest batch size that reached the target, and append the rows.

    Args:
        folder: The results folder.
        recommended: The time-optimal batch size.
        reported: What the report shows for each batch size that was confirmed and timed in whole batches.
        sources: The folder that paths of the experiment are relative to.

    Raises:
        InputError: When the folder has no confirmed runs that reach the target, or is from another machine.
    """
    experiment = results_folder.read_experiment(folder)
    workload = experiment.workload
    dataset = datasets.load(workload.dataset, workload.dataset_options, sources)
    session = Session(experiment, dataset, Host.describe(), folder, sources=sources)
    session.prepare_folder()
    trials, lowerings = Convergence(session).training.trials.values(), _timed_lowerings(session)
    found = {size: find_case(session, trials, size, one, lowerings) for size, one in reported.items()}
    cases = {size: case for size, case in found.items() if case is not None}
    if recommended not in cases:
        raise InputError(f"{folder}: no confirmed run at batch size {recommended} reached the target; run it first")
    others = [size for size in cases if size != recommended]
    chosen = sorted({recommended, *others[:1], *others[-1:]})
    rows = []
    with Writer(folder / results_folder.VERIFICATION) as writer:
        for size in chosen:
            rows.append(_row(session, cases[size]))
            writer.append(rows[-1])
    return rows


def find_case(
    session: Session,
    trials: Iterable[Trial],
    batch_size: int,
    reported: Reported,
    lowerings: Mapping[tuple[int, Loop], str | None],
) -> Case | None:
    """Return the confirmed trial at the reported point with the median steps to the target; None if none reached it."""
    goal, point = session.experiment.goal, (reported.learning_rate, reported.options)
    reached = [
        (found.steps, one)
        for one in trials
        if (one.phase, one.batch_size) == ("confirm", batch_size)
        and one.status != "failed"
        and (one.point.learning_rate, one.options) == point
        and (found := evaluations.first_at_target(one.curve, goal))
    ]
    if not reached:
        return None
    steps, trial = sorted(reached, key=lambda one: one[0])[(len(reached) - 1) // 2]
    lowering = lowerings.get((batch_size, reported.loop))
    return Case(trial, steps, reported.loop, lowering, reported.seconds_per_step)


def _timed_lowerings(session: Session) -> dict[tuple[int, Loop], str | None]:
    """Return the lowering that each batch size and loop was last timed with."""
    rows = session.rows(results_folder.THROUGHPUT)
    return {(row.batch_size, row.loop): row.lowering for row in rows if isinstance(row, Round)}


def _row(session: Session, case: Case) -> Verification:
    trial = case.trial
    alone = train_alone(session, case)
    return Verification(
        **msgspec.structs.asdict(session.origin()),
        batch_size=trial.batch_size,
        learning_rate=trial.learning_rate,
        options=trial.options,
        seed=trial.seed,
        status="ok" if alone.status == "ok" else "not_reached",
        message=f"{case.loop} loop",
        steps=alone.steps,
        seconds=alone.seconds,
        predicted_steps=case.steps,
        predicted_seconds=case.steps * case.seconds_per_step,
    )


def train_alone(session: Session, case: Case) -> Alone:
    """Train one run alone; compiling, warming up, ordering examples and evaluating are off the clock."""
    trial = case.trial
    learner = session.learner(session.experiment.workload.precision, case.lowering)
    points = [point // trial.batch_size for point in session.duration.evaluations]
    longest = max(after - before for before, after in pairwise([0, *points]))
    prepare = _segments(learner, session.splits[0], session.schedule, trial, case.loop, max(longest, 1))
    score = _scorer(learner, session.splits[1], session.experiment.goal)
    prepare(0, max(points[0], 1))(_start(learner, trial))
    state, done, seconds = _start(learner, trial), 0, 0.0
    for point in points:
        if point > done:
            advance = prepare(done, point - done)
            start = time.perf_counter()
            state = advance(state)
            seconds += time.perf_counter() - start
            done = point
        if session.experiment.goal.reached(score(state)):
            return Alone("ok", done, seconds)
    return Alone("not_reached", done, seconds)


def _start(learner: Learner, trial: Trial) -> TrainState:
    return learner.first_state(jax.device_put(learner.params(trial.seed)), trial.point.learning_rate, trial.options)


def _scorer(learner: Learner, split: Examples, goal: Goal) -> Callable[[TrainState], float]:
    """Return a function that computes the goal's score of a single run on a whole split."""
    evaluate = jax.jit(partial(evaluate_lanes, learner))

    def score(state: TrainState) -> float:
        total, _ = evaluate(jax.tree.map(lambda leaf: leaf[None, None], state.params), split)[goal.kind.measured_as]
        return goal.kind.scale * float(total[0, 0]) / len(split.labels)

    return score


def _segments(
    learner: Learner, split: Examples, schedule: Schedule, trial: Trial, loop: Loop, longest: int
) -> Callable[[int, int], Callable[[TrainState], TrainState]]:
    """Return a function that prepares `steps` steps from step `first`, and returns a function that runs them.

    Batches and rates are on the device before the clock starts. The step is compiled with the options of timed rounds.
    """
    size = trial.batch_size
    compiled = partial(jax.jit, donate_argnums=0, compiler_options=compiled_programs.options(graph=loop == "graph"))

    def step(state: TrainState, chosen: Chosen, rate: Scalar) -> TrainState:
        keys = learner.keys(trial.seed, chosen.numbers)
        return learner.train_step(state, take(split, chosen.indices), rate, trial.options, keys)[0]

    @compiled
    def many(state: TrainState, order: Chosen, rates: Float[Array, " step"], steps: Int32[Array, ""]) -> TrainState:
        def next_step(i: Int32[Array, ""], carried: TrainState) -> TrainState:
            return step(carried, jax.tree.map(lambda leaf: leaf[i], order), rates[i])

        return jax.lax.fori_loop(0, steps, next_step, state)

    one = compiled(step)

    def dispatched(state: TrainState, batches: Sequence[tuple[Chosen, Scalar]]) -> TrainState:
        for chosen, rate in batches:
            state = one(state, chosen, rate)
        return jax.block_until_ready(state)

    def prepare(first: int, steps: int) -> Callable[[TrainState], TrainState]:
        # All are as long as the longest, so that one program takes any number of steps.
        order = example_order.indices(trial.seed, first * size, longest * size, len(split.labels))
        chosen = jax.tree.map(lambda leaf: leaf.reshape(longest, size), learner.chosen(order, first * size))
        rates = _rates(schedule, trial, first, longest)
        if loop != "dispatch":
            whole = jax.block_until_ready(jax.device_put((chosen, rates, np.int32(steps))))
            return lambda state: jax.block_until_ready(many(state, *whole))
        each = [(jax.tree.map(lambda leaf, at=i: leaf[at], chosen), rates[i]) for i in range(steps)]
        return partial(dispatched, batches=jax.block_until_ready(jax.device_put(each)))

    return prepare


def _rates(schedule: Schedule, trial: Trial, first: int, steps: int) -> Float[np.ndarray, " step"]:
    """Return the learning rate of each step from step `first`: as in lanes, by the examples seen before its batch."""
    seen = jnp.asarray(np.arange(first, first + steps) * trial.batch_size, jnp.float32)
    return np.asarray(jnp.float32(trial.point.learning_rate) * schedule.factor(seen))

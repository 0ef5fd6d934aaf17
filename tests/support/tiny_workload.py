"""Small workloads on real digits: a learner, its lanes, and the same trial trained alone in whole batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
from batchscale.config import experiment as experiments
from batchscale.config.experiment import Experiment, Workload
from batchscale.config.goal import Goal
from batchscale.config.plan import Duration
from batchscale.config.vocabulary import Phase, Point
from batchscale.measure.control.progress import Progress
from batchscale.measure.control.signals import Stopped
from batchscale.measure.convergence import wave, wave_loop
from batchscale.measure.convergence.early_stopping import Race
from batchscale.measure.convergence.lanes import Lanes, Programs, Settings
from batchscale.measure.convergence.tiers import MICROBATCH, LanePrograms
from batchscale.measure.convergence.wave import Grid, LaneRecord, Setting, Wave
from batchscale.measure.convergence.wave_loop import Checkpoint
from batchscale.measure.data import datasets, example_order
from batchscale.measure.data.datasets import Dataset, Examples
from batchscale.measure.device.compiled_programs import Tuned
from batchscale.measure.device.machine import Host
from batchscale.measure.session import Session
from batchscale.measure.training.learner import Learner, TrainState, make_learner, on_device, take
from batchscale.measure.training.optimizers import Schedule
from batchscale.measure.training.tasks import classification
from batchscale.records import results_folder, row_files
from batchscale.records.machine_file import Environment, Machine
from batchscale.records.row_types import Trial, TrialKey
from flax import nnx
from sample_rows import stage, trial

TRAIN_EXAMPLES = 100
"""The size of the training set, so small that a batch may be all of it."""
MODEL_OPTIONS: dict[str, dict[str, Any]] = {
    "linear": {},
    "mlp": {"hidden": [8], "activation": "tanh"},
    "lenet": {"filters": [2, 3], "hidden": 8, "kernel": 3, "padding": 1},
    "resnet": {"width": 4},
    "vit": {"patch": 4, "width": 8, "depth": 1, "heads": 2},
    "decoder": {"width": 8, "depth": 1, "heads": 2},
    "tiny_workload:Dropping": {},
}
CONSTANT = Schedule("constant", 0.0, 1.0)


class Dropping(nnx.Module):
    """A model of the user, named "tiny_workload:Dropping": two layers of Dropout, or none without a rate."""

    def __init__(self, input_shape, classes, *, rngs, dtype=jnp.float32, width: int = 8, rate: float | None = 0.5):
        self.first = nnx.Linear(math.prod(input_shape), width, dtype=dtype, rngs=rngs)
        self.last = nnx.Linear(width, classes, dtype=dtype, rngs=rngs)
        self.of_inputs = nnx.Dropout(rate / 2, rngs=rngs) if rate is not None else None
        self.of_features = nnx.Dropout(rate, rngs=rngs) if rate is not None else None

    def __call__(self, inputs: jax.Array) -> jax.Array:
        flat = inputs.reshape(len(inputs), -1)
        features = jnp.tanh(self.first(flat if self.of_inputs is None else self.of_inputs(flat)))
        return self.last(features if self.of_features is None else self.of_features(features))


@cache
def digits() -> Dataset:
    return datasets.load("digits")


@cache
def text() -> Dataset:
    return datasets.load("markov", {"window": 16, "symbols": 4, "train_examples": 200, "held_out_examples": 100})


def first(split: Examples, count: int) -> Examples:
    """Return the first examples of a split."""
    return Examples(split.inputs[:count], split.labels[:count])


def shaped(input_shape: tuple[int, ...], classes: int) -> Dataset:
    """Return one example of zeros in each split: a dataset of which only the shape matters."""
    one = Examples(np.zeros((1, *input_shape), np.float32), np.zeros(1, np.int32))
    return Dataset(
        name="zeros", task="classification", classes=classes, source="", sha256="", train=one, validation=one, test=one
    )


@cache
def train_split(count: int = TRAIN_EXAMPLES, dataset: Callable[[], Dataset] = digits) -> Examples:
    return on_device(first(dataset().train, count))


@cache
def held_out_split(count: int = 60, dataset: Callable[[], Dataset] = digits) -> Examples:
    return on_device(first(dataset().validation, count))


def data_of(learner: Learner) -> Callable[[], Dataset]:
    """Return the function that gives the data of a learner's task."""
    return digits if isinstance(learner.task, classification.Task) else text


@cache
def learner(
    model: str = "linear",
    optimizer: str = "sgd",
    precision: str = "float32",
    lowering: str | None = None,
    optimizer_options: tuple[tuple[str, float], ...] = (),
    searched: tuple[str, ...] = (),
    model_options: tuple[tuple[str, Any], ...] = (),
) -> Learner:
    """Return a tiny learner: the same object for the same arguments, so that its programs are compiled once."""
    workload = Workload(
        dataset="markov" if model == "decoder" else "digits",
        model=model,
        model_options=MODEL_OPTIONS[model] | dict(model_options),
        optimizer=optimizer,
        optimizer_options=dict(optimizer_options),
        precision=precision,
    )
    return make_learner(workload, text() if model == "decoder" else digits(), lowering, searched)


@cache
def programs(
    learner: Learner,
    microbatch_size: int,
    schedule: Schedule = CONSTANT,
    ticks_per_call: int = 50,
    *,
    accumulates: bool = True,
    **measured: Any,
) -> Programs:
    dataset = data_of(learner)
    split, held_out = train_split(dataset=dataset), held_out_split(dataset=dataset)
    return Programs(
        learner, split, held_out, held_out, microbatch_size, schedule, accumulates, ticks_per_call, **measured
    )


def settings(batch_sizes: Sequence[int], learning_rates: Sequence[float], **options: Sequence[float]) -> Settings:
    given = {name: jnp.asarray(values, jnp.float32) for name, values in options.items()}
    return Settings(jnp.asarray(batch_sizes, jnp.int32), jnp.asarray(learning_rates, jnp.float32), given)


def train(of: Programs, seeds: Sequence[int], values: Settings, examples: int) -> Lanes:
    """Train fresh lanes on the first `examples` of the stream of each seed."""
    lanes = of.initialise(np.asarray(seeds, np.int32), values)
    width, ticks = of.microbatch_size, examples // of.microbatch_size
    for first in range(0, ticks, of.ticks_per_call):
        count = min(of.ticks_per_call, ticks - first)
        rows = [example_order.indices(seed, first * width, count * width, len(of.train_split.labels)) for seed in seeds]
        lanes = of.advance(lanes, values, np.stack(rows).reshape(len(seeds), count, width), first)
    return lanes


@cache
def _compiled(learner: Learner) -> tuple[Any, Any]:
    return jax.jit(learner.first_state), jax.jit(learner.train_step)


@cache
def train_alone(
    learner: Learner,
    seed: int,
    batch_size: int,
    learning_rate: float,
    examples: int,
    schedule: Schedule = CONSTANT,
) -> TrainState:
    """Train the trial in a plain loop over whole batches of the same stream, without the code of the lanes.

    Train it once for the same arguments, because several tests compare with the same run.
    """
    split = train_split(dataset=data_of(learner))
    first_state, train_step = _compiled(learner)
    state = first_state(learner.params(seed), jnp.float32(learning_rate))
    for step in range(examples // batch_size):
        indices = example_order.indices(seed, step * batch_size, batch_size, len(split.labels))
        keys = learner.keys(seed, learner.chosen(indices, step * batch_size).numbers)
        rate = learning_rate * schedule.factor(jnp.float32(step * batch_size))
        state, _ = train_step(state, take(split, indices), rate, keys=keys)
    return state


def lane(tree: Any, row: int, column: int) -> Any:
    """Return the leaves of one lane."""
    return jax.tree.map(lambda leaf: leaf[row, column], tree)


def assert_same(found: Any, expected: Any, tolerance: float = 0.0) -> None:
    """Check every leaf: equal bit for bit, or within `tolerance` of the largest magnitude of the leaf."""
    for one, other in zip(_arrays(found), _arrays(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * max(1.0, np.abs(other).max(initial=0.0)))


def _arrays(tree: Any) -> list[np.ndarray]:
    return [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]


DURATION = Duration(800, 1200, list(range(100, 1300, 100)))
RACE = Race(goal=Goal(metric="accuracy", threshold=0.75), budget_examples=800, validation_examples=60)
SEEDS = [1, 2]


def grid_of(phase: Phase = "search", rates: Sequence[float] = (0.0005, 0.01, 0.05)) -> list[Setting]:
    return [Setting(phase, batch_size, Point(rate)) for batch_size in (10, 50) for rate in rates]


@dataclass
class Bench:
    """One wave of tiny lanes, and everything that was reported about it. `stop_after` asks for a stop at that check.

    A wave checks after each evaluation, and every `check_seconds` in between.
    """

    folder: Path
    settings: list[Setting] = field(default_factory=grid_of)
    shapes: Sequence[tuple[int, int]] = ((2, 6),)
    workers: int = 1
    tests_always: bool = False
    race: Race = RACE
    ticks_per_call: int = 160
    model: str = "linear"
    averaging_examples: float | None = None
    searched: tuple[str, ...] = ()
    check_seconds: float = 1e9
    reported: list[LaneRecord] = field(default_factory=list)
    checks: int = 0

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.folder / "checkpoint", "tiny")

    def fresh(self) -> Wave:
        of = programs(
            learner(self.model, "momentum", searched=self.searched),
            5,
            ticks_per_call=self.ticks_per_call,
            noise_parts=6,
            averaging_examples=self.averaging_examples,
        )
        made = wave.start(of, DURATION, self.race, Grid(SEEDS, self.settings), self.shapes)
        made.tests_always = self.tests_always
        return made

    def run(self, stop_after: int | None = None) -> Wave:
        """Continue from the checkpoint if there is one. Raise Stopped when a stop was asked for."""
        lanes = self.fresh()
        self.checkpoint.restore(lanes, set(lanes.trials) - {record.trial for record in self.reported})
        self.checks = 0

        def check() -> None:
            self.checks += 1
            if self.checks == stop_after:
                raise Stopped

        wave_loop.run(lanes, self.reporter(check))
        return lanes

    def reporter(self, check: Callable[[], None]) -> wave_loop.Reporter:
        return wave_loop.Reporter(
            finished=self.reported.append,
            advanced=lambda _: None,
            check=check,
            checkpoint=self.checkpoint,
            workers=self.workers,
            check_seconds=self.check_seconds,
        )


TINY: dict[str, Any] = {
    "title": "tiny",
    "workload": {"dataset": "digits", "model": "linear", "optimizer": "momentum"},
    "target": {"accuracy": 0.75},
    "batch_sizes": {"values": [10, 50]},
    "learning_rate": {"anchor": 0.01, "anchor_batch_size": 10, "factor": 4.0, "span": 1, "extend": 2},
    "seeds": {"search": 2, "confirm": 2},
    "budget": {"epochs": 4, "max_epochs": 6},
    "evaluation": {"first_epoch": 2, "per_epoch": 1},
    "throughput": {"rounds": 5, "round_seconds": 0.001, "max_batch_size": "skip"},
}


def experiment(**tables: Any) -> Experiment:
    """Return the tiny experiment with some keys of its tables replaced."""
    merged = {
        name: {**TINY[name], **tables[name]} if isinstance(TINY.get(name), dict) else tables[name] for name in tables
    }
    return experiments.parse({**TINY, **merged}, "tiny", "tiny.toml")


def host(workers: int = 1) -> Host:
    machine = Machine(
        name="tiny-cpu",
        platform="cpu",
        device_kind="cpu",
        device_count=1,
        cpu="tiny",
        cpu_cores=workers,
        host_memory_bytes=1 << 33,
    )
    environment = Environment(python="3", os="none", packages={})
    return Host(machine, environment, "0123456789abcdef", "1.0", dirty=False)


@cache
def tiny_dataset() -> Dataset:
    """Return a small part of the digits, so that a study takes seconds."""
    whole = digits()
    kept = {"train": TRAIN_EXAMPLES, "validation": 60, "test": 60}
    return replace(whole, **{split: first(getattr(whole, split), count) for split, count in kept.items()})


@cache
def _learners(workload: bytes, searched: tuple[str, ...]) -> dict[Any, Learner]:
    """Return the learners of a workload, which begin as none."""
    return {}


def untuned_session(folder: Path, workers: int = 1, **tables: Any) -> Session:
    """Return a session of the tiny experiment in a results folder. Those of one workload share their learners."""
    made = Session(experiment(**tables), tiny_dataset(), host(workers), folder, Progress(quiet=True))
    workload = made.experiment.workload
    if workload.model in MODEL_OPTIONS:
        made._learners = _learners(msgspec.json.encode(workload), tuple(made.experiment.searched))
    return made


def session(folder: Path, workers: int = 1, **tables: Any) -> Session:
    """Return a session of the tiny experiment in a results folder, with its tuning done."""
    made = untuned_session(folder, workers, **tables)
    if made.tries_shapes:
        made.tuning.get(MICROBATCH, lambda: Tuned(None, 1e6))
    for tier in LanePrograms(made).tiers:
        made.tuning.get(f"convergence {tier.microbatch_size} {tier.batch_sizes}", lambda: Tuned(None, 1e6))
    return made


def trials(folder: Path) -> dict[TrialKey, dict[str, Any]]:
    """Return every trial of a results folder as plain data, without its time and its commit."""
    rows = [row for row in row_files.read(folder / results_folder.CONVERGENCE) if isinstance(row, Trial)]
    found = {row.key: msgspec.to_builtins(row) for row in rows}
    assert len(found) == len(rows), "a trial was written twice"
    for one in found.values():
        del one["recorded"], one["code"], one["dirty"]
    return found


ENVIRONMENTS = {"0123456789abcdef": host().environment}


def own(row, one):
    """Return a row as an experiment writes it."""
    return msgspec.structs.replace(row, fingerprint=one.fingerprint)


def filled(folder, one, name=results_folder.CONVERGENCE):
    """Return a results folder of an experiment with a few rows in it."""
    results_folder.prepare(folder, one, host().machine, ENVIRONMENTS)
    with row_files.Writer(folder / name) as writer:
        writer.append(own(trial(), one), own(stage(), one))
    return folder

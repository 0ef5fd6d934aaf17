"""The standard study: LeNet on MNIST's shape, 7 batch sizes x 5 rates x 3 seeds, as lanes and as single runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from batchscale.config import experiment
from batchscale.config.vocabulary import CellKey, Loop
from batchscale.measure.control.progress import Progress
from batchscale.measure.convergence import wave
from batchscale.measure.convergence.stage import Convergence, TierSearch
from batchscale.measure.convergence.wave import Grid, Wave, whole_search
from batchscale.measure.convergence.wave_loop import Workers
from batchscale.measure.data import datasets
from batchscale.measure.data.datasets import Dataset, Examples
from batchscale.measure.device.compiled_programs import Work
from batchscale.measure.device.machine import Host
from batchscale.measure.session import Session
from batchscale.measure.throughput.timed_loops import build
from batchscale.measure.training.learner import Learner
from msgspec import structs
from races import Contestant

BATCH_SIZES = [1, 4, 16, 64, 256, 1024, 4096]
SLICE_SECONDS = 0.5
TABLE = {
    "title": "The standard study",
    "workload": {"dataset": "mnist", "model": "lenet", "optimizer": "momentum"},
    "target": {"accuracy": 0.97},
    "batch_sizes": {"values": BATCH_SIZES},
    "learning_rate": {"anchor": 1e-4, "span": 2},
    "seeds": {"search": 3},
    "budget": {"epochs": 1, "max_epochs": 1},
}

DECODER = {
    "dataset": "markov",
    "dataset_options": {"window": 64},
    "model": "decoder",
    "model_options": {"width": 64, "depth": 2, "heads": 4},
    "optimizer": "adamw",
}
"""Workload of the decoder's study."""


def open_session(folder: Path, table: Mapping[str, Any] = TABLE) -> Session:
    """The study on random images, which train as fast as real ones."""
    study = experiment.parse(dict(table), "standard_study", "standard_study.toml")
    return Session(study, _random_mnist(), Host.describe(), folder, Progress(quiet=True))


def session_of(folder: Path, **tables: Any) -> Session:
    """A study of another workload, on its data."""
    study = experiment.parse({**TABLE, **tables}, "study", "study.toml")
    dataset = datasets.load(study.workload.dataset, study.workload.dataset_options)
    return Session(study, dataset, Host.describe(), folder, Progress(quiet=True))


def _random_mnist() -> Dataset:
    random = np.random.default_rng(0)

    def split(count: int) -> Examples:
        return Examples(random.random((count, 28, 28, 1), np.float32), random.integers(0, 10, count, np.int32))

    train, validation, test = map(split, (55_000, 5_000, 10_000))
    return Dataset(
        name="mnist",
        source="random",
        sha256=hashlib.sha256(train.labels.tobytes()).hexdigest(),
        task="classification",
        classes=10,
        train=train,
        validation=validation,
        test=test,
    )


def tiers(session: Session) -> list[TierSearch]:
    """The tiers of the study as the engine groups and tunes them."""
    return Convergence(session).tiers


def as_lanes(session: Session, tier: TierSearch) -> Contestant:
    """All trials of a tier in the engine's programs and shards; lanes that only fill a shard up do not count."""
    return _as_lanes(session, tier, _grid(session, tier))


def part_of_one_device(session: Session, tier: TierSearch, alone: TierSearch) -> Contestant:
    """The settings of a tier that one of its devices trains, on that device alone."""
    grid = _grid(session, tier)
    part = Grid(grid.seeds, grid.settings[: max(1, len(grid.settings) // session.host.lane_devices)])
    return _as_lanes(alone.stage.session, alone, part)


def on_one_device(session: Session) -> Session:
    """The study as a machine with a single device would train it."""
    return replace(session, host=replace(session.host, machine=structs.replace(session.host.machine, device_count=1)))


def _grid(session: Session, tier: TierSearch) -> Grid:
    return whole_search(session.experiment, tier.tier)


def _as_lanes(session: Session, tier: TierSearch, grid: Grid) -> Contestant:
    of, race = tier.tier_training, tier.stage.training.race
    lanes = wave.start(of.programs, session.duration, race, grid, [of.shape(grid)])
    microbatch_size = tier.tier.microbatch_size
    return Contestant.slices(
        _advance(lanes, session.host.workers), microbatch_size * len(lanes.records), 2 * SLICE_SECONDS
    )


def _advance(lanes: Wave, workers: int) -> Work:
    # Never left: a contestant works until the process ends. The context is kept, because its end stops the workers.
    kept = ExitStack()
    started = kept.enter_context(Workers.started(workers))

    def work(ticks: int, _kept: ExitStack = kept) -> None:
        started.train(lanes, lanes.shards, lanes.tick + ticks)
        lanes.tick += ticks

    return work


def alone(session: Session, learner: Learner, batch_size: int, loop: Loop = "dispatch") -> Contestant:
    """One trial at its true batch size, as the throughput stage times it."""
    work, _, _ = build(learner, session.splits[0], CellKey(batch_size, loop))
    return Contestant.slices(work, batch_size, SLICE_SECONDS)


def every_way_alone(session: Session, batch_sizes: Iterable[int]) -> dict[str, Contestant]:
    """Single runs under every lowering and loop that is worth a trial here."""
    loops: tuple[Loop, ...] = ("dispatch", "scan")
    return {
        f"alone {size} {loop} {lowering}": alone(session, session.learner("float32", lowering), size, loop)
        for size in batch_sizes
        for loop in loops
        for lowering in session.lowerings
    }

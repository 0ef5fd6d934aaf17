"""Studies with looks on made-up curves and made-up rounds, whose fastest batch size is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from batchscale.config.vocabulary import CellKey
from batchscale.measure.control.signals import Stopped
from batchscale.measure.run.study import Study
from batchscale.measure.session import Session
from batchscale.measure.throughput import calibration, rounds
from batchscale.measure.throughput.timing import Timing
from batchscale.records import results_folder, row_files
from batchscale.records.row_types import AnyRow, Curve, Look, Round
from fake_training import without_training
from tiny_workload import session

BEST_RATE = 0.01
TABLES = {
    "batch_sizes": {"values": [4, 8, 16, 32, 64]},
    "learning_rate": {"anchor": BEST_RATE, "rule": "none", "factor": 2.0, "span": 1, "extend": 0},
    "seeds": {"search": 1, "confirm": 8},
    "confirm": {"looks": [3, 6, 12]},
    "budget": {"epochs": 20, "max_epochs": 60},
    "evaluation": {"first_epoch": 2, "per_epoch": 2},
}


class Pretence:
    """Made-up training and timing.

    Attributes:
        log_times: The true log time to the target of each batch size, in any unit.
        seed_spread: Standard deviation of log examples to the target over seeds.
        stop_after: Raise Stopped after so many rows of trials and rounds; None for never.
        slower: Multiplies the seconds per step of some batch sizes, as another machine does; training is the same.
    """

    def __init__(self, monkeypatch, log_times: Mapping[int, float], seed_spread=0.02, stop_after=None, slower=None):
        self.log_times, self.seed_spread, self.stop_after, self.written = log_times, seed_spread, stop_after, 0
        self.slower = slower or {}
        without_training(monkeypatch, self.train)
        monkeypatch.setattr(rounds, "measure", self.time)
        monkeypatch.setattr(calibration, "measure", lambda _, again: None)

    def count(self):
        self.written += 1
        if self.stop_after is not None and self.written > self.stop_after:
            raise Stopped

    def seconds_per_step(self, batch_size):
        return 1e-3 + 1e-5 * batch_size

    def crossing(self, batch_size, rate, seed):
        """Return the examples after which a run crosses the target."""
        steps = math.exp(self.time_of(batch_size)) / self.seconds_per_step(batch_size)
        off = abs(math.log2(rate / BEST_RATE))
        noise = np.random.default_rng([batch_size, seed]).normal(0, self.seed_spread)
        return steps * batch_size * math.exp(0.3 * off**2 + noise)

    def time_of(self, batch_size):
        sizes = sorted(self.log_times)
        return float(np.interp(math.log(batch_size), np.log(sizes), [self.log_times[size] for size in sizes]))

    def train(self, wave, reporter):
        goal = wave.race.goal
        for record in wave.records:
            setting = record.setting
            at = self.crossing(setting.batch_size, setting.point.learning_rate, record.seed)
            examples, scores = [], []
            for point in wave.duration.evaluations:
                examples.append(point)
                scores.append(1 - (1 - goal.threshold) * (point / at) ** -0.3)
                crossed = next((n for n, score in zip(examples, scores, strict=True) if goal.reached(score)), None)
                if ended := wave.duration.ended(setting.phase, record.seed, point, crossed):
                    record.finish("ok", ended=ended)
                    break
            steps = [point // setting.batch_size for point in examples]
            record.curve = Curve(examples=examples, steps=steps, scores={"accuracy": [max(0.0, s) for s in scores]})
            reporter.finished(record)
            reporter.advanced(examples[-1])
            self.count()

    def time(self, timing: Timing, keys):
        for key in keys:
            for number in range(timing.known.rounds[key], timing.rounds):
                noise = np.random.default_rng([key.batch_size, timing.known.block, number]).normal(0, 0.02)
                self.time_round(timing, key, number, noise)

    def time_round(self, timing: Timing, key: CellKey, number, noise):
        slower = (1.5 if key.loop == "dispatch" else 1.0) * self.slower.get(key.batch_size, 1.0)
        seconds = 10 * self.seconds_per_step(key.batch_size) * slower * math.exp(noise)
        timing.record(
            Round(
                **timing.origin_of(key),
                round=timing.known.other_rounds(key) + number,
                block=timing.known.block,
                steps=10,
                seconds=seconds,
            )
        )
        self.count()


def looked(folder: Path, *, times: bool = True, **tables) -> Session:
    """Run a study with looks to its end, and return its session."""
    made = session(folder, **{**TABLES, **tables})
    made.prepare_folder()
    study = Study(made, times=times)
    study.plan()
    study.run()
    return made


def rows_of(folder: Path, kind: type[AnyRow], name: str = results_folder.CONVERGENCE) -> list:
    return [row for row in row_files.read(folder / name) if isinstance(row, kind)]


def looks_of(folder: Path) -> list[Look]:
    return rows_of(folder, Look)

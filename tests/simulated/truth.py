"""The truth behind simulated results: a hyperbola of examples to the target, an affine time per step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from batchscale.config import experiment as experiments
from batchscale.config.experiment import Experiment
from batchscale.config.goal import METRICS, MetricName

RATE_FACTOR = 2.0
LOSS_SCALE = 2.3


@dataclass(frozen=True)
class Truth:
    """The true values that a folder is drawn from. Noises are standard deviations of logarithms.

    Examples to target: `least_examples` (1 + B / `critical_batch_size`) at the best rate, which is `best_rate`
    (B / 128)^`rate_exponent`; a rate off by a factor of two costs a factor exp(`rate_penalty`). Each of the `momenta`
    searched with the rate multiplies the examples by its factor.
    A step on several `devices` takes the time of one device with one part of the batch, plus `sharing_seconds`.
    Averaged parameters are more accurate by `averaging_gain`; without it no average is kept.
    The goal is an accuracy, or the loss or bits per byte that an accuracy stands for: `LOSS_SCALE` (1 - accuracy) nats.
    Seconds per step: `fixed_seconds` + `seconds_per_example` B in the scan loop. The dispatch loop adds
    `dispatch_seconds`.
    """

    batch_sizes: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024, 2048)
    critical_batch_size: float = 200.0
    least_examples: float = 20_000.0
    fixed_seconds: float = 1e-3
    fixed_rate: float | None = None
    seconds_per_example: float = 2e-5
    dispatch_seconds: float = 5e-4
    seed_noise: float = 0.1
    round_noise: float = 0.02
    train_examples: int = 10_000
    target: float = 0.95
    also: tuple[float, ...] = ()
    ceiling: float = 0.99
    ceilings: dict[int, float] = field(default_factory=dict)
    ceiling_noise: float = 0.001
    best_rate: float = 0.1
    rate_exponent: float = 0.5
    rate_penalty: float = 0.4
    diverges_above: float = 6.0
    momenta: dict[float, float] = field(default_factory=dict)
    search_seeds: int = 1
    confirm_seeds: int = 4
    epochs: float = 20.0
    max_epochs: float = 60.0
    per_epoch: int = 4
    rounds: int = 7
    watts: float | None = None
    flops_per_example: float = 1e6
    bytes_per_example: float = 1e5
    matmul_flops_per_second: float = 1e11
    copy_bytes_per_second: float = 8e9
    devices: tuple[int, ...] = ()
    sharing_seconds: float = 2e-4
    out_of_memory: tuple[int, ...] = ()
    microbatches: int = 1
    largest_that_fits: int | None = None
    gradient_noise_scale: float | None = None
    gradient_variance_exponent: float = -1.0
    outliers: dict[int, float] = field(default_factory=dict)
    averaging_gain: float | None = None
    metric: MetricName = "accuracy"
    tokens_per_example: int | None = None
    facts: dict[str, float] = field(default_factory=dict)

    def score(self, accuracy: float) -> float:
        """Return the goal's score that an accuracy stands for."""
        kind = METRICS[self.metric]
        return accuracy if self.metric == "accuracy" else kind.scale * LOSS_SCALE * (1 - accuracy)

    @property
    def metric_measured(self) -> str:
        """The score in a curve that the goal is measured as."""
        return METRICS[self.metric].measured_as

    def examples_to_target(self, batch_size: int) -> float:
        """Return the median over seeds at the best rate."""
        hyperbola = self.least_examples * (1 + batch_size / self.critical_batch_size)
        return hyperbola * self.outliers.get(batch_size, 1.0)

    def seconds_per_step(self, batch_size: int) -> float:
        """Return the seconds per step of the faster loop."""
        return self.fixed_seconds + self.seconds_per_example * batch_size

    def shared_seconds_per_step(self, batch_size: int, devices: int) -> float:
        """Return the seconds per step on several devices: one part of the batch, and the sum of the gradients."""
        return self.seconds_per_step(batch_size // devices) + self.sharing_seconds

    def time_to_target(self, batch_size: int) -> float:
        """Return the seconds to the target."""
        return self.examples_to_target(batch_size) / batch_size * self.seconds_per_step(batch_size)

    @property
    def best_options(self) -> dict[str, float]:
        """The momentum that needs the fewest examples; empty without a search over momenta."""
        return {"momentum": min(self.momenta, key=self.momenta.__getitem__)} if self.momenta else {}

    @property
    def time_optimal_batch_size(self) -> int:
        """The batch size of the sweep with the least time to the target."""
        runnable = [size for size in self.batch_sizes if size not in self.out_of_memory]
        return min(runnable, key=self.time_to_target)

    def rate(self, batch_size: int) -> float:
        """Return the best learning rate."""
        return self.best_rate * (batch_size / 128) ** self.rate_exponent


RICH = Truth(
    also=(0.9, 0.97),
    batch_sizes=(4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096),
    gradient_noise_scale=300.0,
    watts=30.0,
    devices=(2, 4),
    out_of_memory=(4096,),
    largest_that_fits=3000,
    momenta={0.5: 1.6, 0.9: 1.0},
    averaging_gain=0.002,
)
"""The truth of a folder in which everything is measured."""


def experiment_table(truth: Truth) -> dict[str, Any]:
    """Return the TOML table of an experiment that would measure this truth."""
    return {
        "title": "A simulated sweep",
        "workload": {"dataset": "simulated", "model": "hyperbola", "optimizer": "momentum"},
        "target": {truth.metric: truth.score(truth.target), "also": [truth.score(one) for one in truth.also]},
        "batch_sizes": {"values": list(truth.batch_sizes)},
        "learning_rate": {
            **{"anchor": truth.best_rate, "rule": "sqrt", "factor": RATE_FACTOR, "span": 2},
            **({} if truth.fixed_rate is None else {"fixed": truth.fixed_rate}),
        },
        "search": {"momentum": list(truth.momenta)} if truth.momenta else {},
        "seeds": {"search": truth.search_seeds, "confirm": truth.confirm_seeds},
        "budget": {"epochs": truth.epochs, "max_epochs": truth.max_epochs},
        "evaluation": {
            **{"first_epoch": truth.per_epoch, "per_epoch": truth.per_epoch},
            **({} if truth.averaging_gain is None else {"averaging_epochs": 1}),
        },
    }


def experiment(truth: Truth, name: str = "simulated") -> Experiment:
    return experiments.parse(experiment_table(truth), name, f"{name}.toml")


def origin(truth: Truth, machine: str = "simulated-cpu") -> dict[str, Any]:
    """Return the fields that every row has."""
    return {
        "experiment": "simulated",
        "fingerprint": experiment(truth).fingerprint,
        "machine": machine,
        "environment": "abcd",
        "code": "simulated",
        "dirty": False,
        "recorded": "2026-01-01T00:00:00Z",
    }

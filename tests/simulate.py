"""Results folders whose truth is known: a hyperbola of examples to target joined with an affine step time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import tomli_w

from bench import experiment as experiments
from bench.experiment import Experiment
from bench.rows import (
    AnyRow,
    Calibration,
    Compilation,
    Curve,
    Environment,
    Limit,
    Machine,
    MachineFile,
    NoiseEstimate,
    Round,
    Stage,
    Trial,
)

RATE_FACTOR = 2.0


@dataclass(frozen=True)
class Truth:
    """The world a folder is drawn from. Noises are standard deviations of logarithms.

    Examples to target: `least_examples` (1 + B / `critical_batch_size`) at the best rate, which is `best_rate`
    (B / 128)^`rate_exponent`; a rate off by a factor of two costs a factor exp(`rate_penalty`).
    On several `devices` a step lasts as on one with its part of the batch, and `sharing_seconds` more.
    Seconds per step: `fixed_seconds` + `seconds_per_example` B in the scan loop; dispatch pays `dispatch_seconds` more.
    """

    batch_sizes: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 1024, 2048)
    critical_batch_size: float = 200.0
    least_examples: float = 20_000.0
    fixed_seconds: float = 1e-3
    seconds_per_example: float = 2e-5
    dispatch_seconds: float = 5e-4
    seed_noise: float = 0.1
    round_noise: float = 0.02
    train_examples: int = 10_000
    target: float = 0.95
    also: tuple[float, ...] = (0.9, 0.97)
    ceiling: float = 0.99
    ceilings: dict[int, float] = field(default_factory=dict)
    ceiling_noise: float = 0.001
    best_rate: float = 0.1
    rate_exponent: float = 0.5
    rate_penalty: float = 0.4
    diverges_above: float = 6.0
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

    def examples_to_target(self, batch_size: int) -> float:
        """The median over seeds at the best rate."""
        hyperbola = self.least_examples * (1 + batch_size / self.critical_batch_size)
        return hyperbola * self.outliers.get(batch_size, 1.0)

    def seconds_per_step(self, batch_size: int) -> float:
        """The faster loop's time."""
        return self.fixed_seconds + self.seconds_per_example * batch_size

    def shared_seconds_per_step(self, batch_size: int, devices: int) -> float:
        """A device's part of the batch, and the sum of the gradients."""
        return self.seconds_per_step(batch_size // devices) + self.sharing_seconds

    def time_to_target(self, batch_size: int) -> float:
        """Seconds."""
        return self.examples_to_target(batch_size) / batch_size * self.seconds_per_step(batch_size)

    @property
    def time_optimal_batch_size(self) -> int:
        """The best of the sweep."""
        runnable = [size for size in self.batch_sizes if size not in self.out_of_memory]
        return min(runnable, key=self.time_to_target)

    def rate(self, batch_size: int) -> float:
        """The best learning rate."""
        return self.best_rate * (batch_size / 128) ** self.rate_exponent


def experiment_table(truth: Truth) -> dict[str, Any]:
    """The TOML of an experiment that would measure this truth."""
    return {
        "title": "A simulated sweep",
        "workload": {"dataset": "simulated", "model": "hyperbola", "optimizer": "momentum"},
        "target": {"accuracy": truth.target, "also": list(truth.also)},
        "batch_sizes": {"values": list(truth.batch_sizes)},
        "learning_rate": {"anchor": truth.best_rate, "rule": "sqrt", "factor": RATE_FACTOR, "span": 2},
        "seeds": {"search": truth.search_seeds, "confirm": truth.confirm_seeds},
        "budget": {"epochs": truth.epochs, "max_epochs": truth.max_epochs},
        "evaluation": {"first_epoch": truth.per_epoch, "per_epoch": truth.per_epoch},
    }


def experiment(truth: Truth, name: str = "simulated") -> Experiment:
    return experiments.parse(experiment_table(truth), name, f"{name}.toml")


def machine_file(name: str = "simulated-cpu") -> MachineFile:
    machine = Machine(
        name=name,
        platform="cpu",
        device_kind="cpu",
        device_count=1,
        cpu="Simulated processor",
        cpu_cores=2,
        host_memory_bytes=8 << 30,
    )
    software = Environment(python="3.11", os="Linux", packages={"jax": "0.10.0"})
    return MachineFile(machine=machine, environments={"abcd": software})


def origin(truth: Truth, machine: str = "simulated-cpu") -> dict[str, Any]:
    """The fields every row carries."""
    return {
        "experiment": "simulated",
        "fingerprint": experiment(truth).fingerprint,
        "machine": machine,
        "environment": "abcd",
        "code": "simulated",
        "dirty": False,
        "recorded": "2026-01-01T00:00:00Z",
    }


def throughput_rows(truth: Truth, random: np.random.Generator, machine: str = "simulated-cpu") -> Iterator[AnyRow]:
    """Compilations and rounds of both loops; a size that is out of memory has none, or those of `microbatches`."""
    common = origin(truth, machine)
    for batch_size in truth.batch_sizes:
        for loop, extra in (("scan", 0.0), ("dispatch", truth.dispatch_seconds)):
            fits = batch_size not in truth.out_of_memory
            yield Compilation(
                **common,
                batch_size=batch_size,
                loop=loop,
                status="ok" if fits else "out_of_memory",
                message=None if fits else "RESOURCE_EXHAUSTED: out of memory",
                compile_seconds=1.5 if fits else None,
                predicted_bytes=1_000_000 + 4_000 * batch_size,
                peak_bytes=1_000_000 + 4_000 * batch_size if fits else None,
                flops_per_example=truth.flops_per_example,
                compiler_flops_per_example=1.1 * truth.flops_per_example,
                compiler_bytes_per_example=truth.bytes_per_example,
            )
            if fits or truth.microbatches > 1:
                seconds_per_step = truth.seconds_per_step(batch_size) + extra
                yield from _rounds(truth, common, batch_size, loop, seconds_per_step, random)
    yield from _shared_rounds(truth, common)
    for share in (0.9, 1.0, 0.95):
        matmul = {"quantity": "matmul_flops_per_second", "value": share * truth.matmul_flops_per_second}
        copy = {"quantity": "copy_bytes_per_second", "value": share * truth.copy_bytes_per_second}
        yield Calibration(**common, **matmul, precision="float32")
        yield Calibration(**common, **matmul | {"value": 1e15}, precision="bfloat16")
        yield Calibration(**common, **copy)
    if size := truth.largest_that_fits:
        needed = 1_000_000 + 4_000 * size
        found = {"batch_size": size, "bound": "memory", "confirmed": True, "predicted_bytes": needed}
        yield Limit(**common, memory_bytes=needed + 4_000, **found)
    yield Stage(**common, stage="throughput", seconds=12.0, compilations=2 * len(truth.batch_sizes))


def _shared_rounds(truth, common) -> Iterator[Round]:
    """Batches on several devices; their noise is their own, so that they change nothing else."""
    random = np.random.default_rng(len(truth.devices))
    for devices in truth.devices:
        for batch_size in truth.batch_sizes:
            if batch_size % devices == 0 and batch_size not in truth.out_of_memory:
                shared, seconds = {**common, "devices": devices}, truth.shared_seconds_per_step(batch_size, devices)
                yield from _rounds(truth, shared, batch_size, "scan", seconds, random)


def _rounds(truth, common, batch_size, loop, seconds_per_step, random) -> Iterator[Round]:
    accumulation = truth.microbatches if batch_size in truth.out_of_memory else 1
    for number in range(truth.rounds):
        steps = max(1, math.ceil(0.1 / seconds_per_step))
        seconds = steps * seconds_per_step * math.exp(truth.round_noise * random.standard_normal())
        joules = truth.watts * seconds if truth.watts else None
        yield Round(
            **common,
            batch_size=batch_size,
            loop=loop,
            accumulation=accumulation,
            round=number,
            steps=steps,
            seconds=seconds,
            joules=joules,
        )


def convergence_rows(truth: Truth, random: np.random.Generator, machine: str = "simulated-cpu") -> Iterator[AnyRow]:
    """A search over five rates at each batch size, then fresh seeds at the true best one."""
    common = origin(truth, machine)
    for batch_size in truth.batch_sizes:
        for step in range(-2, 3):
            for seed in range(truth.search_seeds):
                yield trial(truth, common, "search", batch_size, step, seed, random)
    for batch_size in truth.batch_sizes:
        for seed in range(1000, 1000 + truth.confirm_seeds):
            for step in (-1, 0, 1):
                yield trial(truth, common, "confirm", batch_size, step, seed, random)
    yield Stage(**common, stage="convergence", seconds=60.0, compilations=3, trained_examples=10**7)


def trial(truth, common, phase, batch_size, rate_step, seed, random) -> Trial:
    """One run at the best rate moved by `rate_step` factors of two; its curve saturates at the ceiling."""
    rate = truth.rate(batch_size) * RATE_FACTOR**rate_step
    diverged = RATE_FACTOR**rate_step > truth.diverges_above
    wanted = truth.examples_to_target(batch_size) * math.exp(
        truth.rate_penalty * abs(rate_step) + truth.seed_noise * random.standard_normal()
    )
    ceiling = truth.ceilings.get(batch_size, truth.ceiling) + truth.ceiling_noise * random.standard_normal()
    curve = saturating_curve(truth, batch_size, wanted, min(ceiling, 1.0))
    if diverged:
        curve = Curve(examples=[curve.examples[0]], steps=[curve.steps[0]], accuracy=[0.1], loss=[None])
    return Trial(
        **common,
        phase=phase,
        batch_size=batch_size,
        learning_rate=rate,
        seed=seed,
        status="diverged" if diverged else "ok",
        train_examples=truth.train_examples,
        steps=curve.steps[-1],
        curve=curve,
        test_accuracy=None if diverged else curve.accuracy[-1],
        microbatch_size=16,
        lanes=8,
        noise=None if diverged else gradient_noise(truth, curve, random),
    )


def saturating_curve(truth: Truth, batch_size: int, wanted: float, ceiling: float) -> Curve:
    """accuracy(n) = ceiling (1 - exp(-n / scale)), which crosses the target after `wanted` examples if it ever does."""
    scale = wanted / -math.log(1 - min(truth.target / ceiling, 1 - 1e-3))
    quantum = truth.train_examples / truth.per_epoch
    seen = np.arange(1, int(truth.epochs * truth.per_epoch) + 1) * quantum
    if ceiling * (1 - math.exp(-seen[-1] / scale)) < truth.target:
        seen = np.arange(1, int(truth.max_epochs * truth.per_epoch) + 1) * quantum
        crossed = np.searchsorted(ceiling * (1 - np.exp(-seen / scale)), truth.target)
        seen = seen[: max(crossed + 1, int(truth.epochs * truth.per_epoch))]
    steps = np.unique(np.ceil(seen / batch_size).astype(int))
    accuracy = ceiling * (1 - np.exp(-steps * batch_size / scale))
    return Curve(
        examples=(steps * batch_size).tolist(),
        steps=steps.tolist(),
        accuracy=accuracy.tolist(),
        loss=(2.3 * (1 - accuracy)).tolist(),
        test_accuracy=(accuracy * 0.995).tolist(),
    )


def gradient_noise(truth: Truth, curve: Curve, random: np.random.Generator) -> NoiseEstimate | None:
    """|G|^2 falls over training while tr(Sigma) stays `gradient_noise_scale` times its mean, noisily."""
    if truth.gradient_noise_scale is None:
        return None
    stretches = [curve.examples[-1] * part // 4 for part in range(1, 5)]
    squared = np.array([1.6, 1.2, 0.8, 0.4])
    trace = truth.gradient_noise_scale * (1 + 0.1 * random.standard_normal(4))
    size = curve.examples[-1] // curve.steps[-1]
    sizes = [size >> halvings for halvings in range(min(6, size.bit_length()))]
    norms = [float(squared.mean() + trace.mean() * float(part) ** truth.gradient_variance_exponent) for part in sizes]
    return NoiseEstimate(
        examples=stretches,
        gradient_squared=squared.tolist(),
        noise_trace=trace.tolist(),
        small_batch_size=sizes[1],
        big_batch_size=size,
        part_sizes=sizes,
        squared_norms=norms,
    )


def rows(truth: Truth, seed: int = 0, machine: str = "simulated-cpu") -> list[AnyRow]:
    """Every row of a folder, throughput first."""
    random = np.random.default_rng(seed)
    return [*throughput_rows(truth, random, machine), *convergence_rows(truth, random, machine)]


def write(folder: Path, truth: Truth | None = None, seed: int = 0, machine: str = "simulated-cpu", **changes) -> Truth:
    """Write a complete results folder drawn from `truth` with `changes` made to it; returns that truth."""
    truth = replace(truth or Truth(), **changes)
    folder.mkdir(parents=True, exist_ok=True)
    table = {"name": "simulated", **experiment_table(truth)}
    (folder / "experiment.toml").write_text(tomli_w.dumps(table), encoding="utf-8")
    (folder / "machine.json").write_bytes(msgspec.json.encode(machine_file(machine)))
    random = np.random.default_rng(seed)
    for name, make in _FILES.items():
        lines = b"".join(msgspec.json.encode(row) + b"\n" for row in make(truth, random, machine))
        (folder / name).write_bytes(lines)
    return truth


_FILES: dict[str, Callable[..., Iterator[AnyRow]]] = {
    "throughput.jsonl": throughput_rows,
    "convergence.jsonl": convergence_rows,
}

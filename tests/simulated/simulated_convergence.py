"""Draw training runs from a truth: saturating curves, rates other than the best, gradient noise."""

from __future__ import annotations

import math
from collections.abc import Iterator

import msgspec
import numpy as np
from batchscale.records.row_types import AnyRow, Curve, Data, NoiseEstimate, Stage, Trial
from truth import LOSS_SCALE, RATE_FACTOR, Truth, origin


def convergence_rows(truth: Truth, random: np.random.Generator, machine: str = "simulated-cpu") -> Iterator[AnyRow]:
    """Yield a search over five rates for each batch size and momentum, then fresh seeds at and near the best rate."""
    common = origin(truth, machine)
    if truth.facts or truth.tokens_per_example:
        yield data(truth, machine)
    for batch_size in truth.batch_sizes:
        for options in [{"momentum": momentum} for momentum in truth.momenta] or [{}]:
            for step in range(-2, 3):
                for seed in range(truth.search_seeds):
                    yield trial(truth, {**common, "options": options}, "search", batch_size, step, seed, random)
    best = {**common, "options": truth.best_options}
    for batch_size in truth.batch_sizes:
        for seed in range(1000, 1000 + truth.confirm_seeds):
            for step in (-1, 0, 1):
                yield trial(truth, best, "confirm", batch_size, step, seed, random)
    yield Stage(**common, stage="convergence", seconds=60.0, compilations=3, trained_examples=10**7)


def data(truth: Truth, machine: str = "simulated-cpu") -> Data:
    """Return the row that describes a text."""
    return Data(
        **origin(truth, machine),
        dataset="simulated",
        task="classification" if truth.tokens_per_example is None else "language_model",
        source="simulated",
        sha256="ab" * 32,
        train_examples=truth.train_examples,
        validation_examples=1000,
        test_examples=1000,
        classes=256,
        tokens_per_example=truth.tokens_per_example,
        facts=truth.facts,
    )


def trial(truth, common, phase, batch_size, rate_step, seed, random) -> Trial:
    """Return one run at the best rate times 2^`rate_step`. Its curve saturates at the ceiling."""
    momentum = common.get("options", {}).get("momentum", 0.0)
    rate = truth.rate(batch_size) * RATE_FACTOR**rate_step * (1 - momentum)
    diverged = RATE_FACTOR**rate_step > truth.diverges_above
    wanted = truth.examples_to_target(batch_size) * truth.momenta.get(momentum, 1.0)
    wanted *= math.exp(truth.rate_penalty * abs(rate_step) + truth.seed_noise * random.standard_normal())
    ceiling = truth.ceilings.get(batch_size, truth.ceiling) + truth.ceiling_noise * random.standard_normal()
    curve = saturating_curve(truth, batch_size, wanted, min(ceiling, 1.0))
    if diverged:
        curve = Curve(examples=[curve.examples[0]], steps=[curve.steps[0]], accuracy=[0.1], loss=[None])
    if truth.averaging_gain is not None:
        curve = with_average(curve, truth.averaging_gain)
    if truth.metric != "accuracy":
        curve = without_accuracy(curve)
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
        test_scores={} if diverged else {truth.metric_measured: curve.scores[truth.metric_measured][-1]},
        tokens_per_example=truth.tokens_per_example,
        microbatch_size=16,
        lanes=8,
        noise=None if diverged else gradient_noise(truth, curve, random),
    )


def saturating_curve(truth: Truth, batch_size: int, wanted: float, ceiling: float) -> Curve:
    """Return accuracy(n) = ceiling (1 - exp(-n / scale)). It crosses the target after `wanted` examples, or never."""
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
        loss=(LOSS_SCALE * (1 - accuracy)).tolist(),
        test_accuracy=(accuracy * 0.995).tolist(),
    )


def without_accuracy(curve: Curve) -> Curve:
    """Return a curve of losses alone, as text has."""
    losses = {
        name: {"loss": [LOSS_SCALE * (1 - accuracy) for accuracy in of["accuracy"]]}
        for name in ("test_scores", "averaged_scores")
        if "accuracy" in (of := getattr(curve, name))
    }
    return Curve(examples=curve.examples, steps=curve.steps, scores={"loss": curve.scores["loss"]}, **losses)


def with_average(curve: Curve, gain: float) -> Curve:
    averaged = [min(max(accuracy + gain, 0.0), 1.0) for accuracy in curve.scores["accuracy"]]
    return msgspec.structs.replace(curve, ema_accuracy=averaged)


def gradient_noise(truth: Truth, curve: Curve, random: np.random.Generator) -> NoiseEstimate | None:
    """Return estimates whose |G|^2 falls over training; tr(Sigma) is noisy around `gradient_noise_scale`."""
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

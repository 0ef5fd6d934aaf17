"""Optimizers by name: each takes a learning rate and a batch size that may be traced and gives an optax transform."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Set
from functools import partial
from typing import Any

import numpy as np
import optax
from jaxtyping import Array, Float, Int32

from bench.decoding import printable
from bench.errors import InputError
from bench.experiment import Workload
from bench.rows import Options

LearningRate = float | Float[Array, ""]
BatchSize = int | Int32[Array, ""]
Swept = Mapping[str, LearningRate]
UNSWEPT: Swept = {}
Optimizer = Callable[[LearningRate, BatchSize, Swept], optax.GradientTransformation]


def _sgd(
    learning_rate: LearningRate,
    momentum: LearningRate | None = None,
    nesterov: bool = False,
    weight_decay: LearningRate = 0.0,
) -> optax.GradientTransformation:
    """optax's; `weight_decay` times the parameters is added to the gradient, so momentum smooths both."""
    steps = optax.sgd(learning_rate, momentum, nesterov)
    if isinstance(weight_decay, float | int) and weight_decay == 0:
        return steps
    return optax.chain(optax.add_decayed_weights(weight_decay), steps)


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": _sgd,
    "momentum": partial(_sgd, momentum=0.9),
    "nesterov": partial(_sgd, momentum=0.9, nesterov=True),
    "adam": optax.adam,
    "adamw": optax.adamw,
    "rmsprop": optax.rmsprop,
    "rprop": optax.rprop,
    "lars": optax.lars,
    "lamb": optax.lamb,
}


SQUARED_GRADIENT_DECAYS = ("b2", "decay")
LARGEST_REFERENCE = 10**9
REFERENCE = "_batch_size"
"""`b2_batch_size = 128` says that `b2` holds at batch size 128 and is `b2 ** (batch_size / 128)` elsewhere: squared
gradients are then averaged over equally many examples at every batch size (Marek et al., 2025)."""


def optimizer_named(name: str, options: Mapping[str, float | bool], sweep: Collection[str] = ()) -> Optimizer:
    """The optimizer of a workload, ready for a learning rate, a batch size and values of the options in `sweep`.

    Where it is given none of them it still has them, so that a step that is only timed is the one that is trained.

    Raises:
        InputError: on an unknown name, an option the optimizer does not have, a reference that is no batch size, or an
            option in `sweep` that is no number.
    """
    make = _make(name)
    defaults = _defaults(make)
    references = {decay + REFERENCE: decay for decay in SQUARED_GRADIENT_DECAYS if decay in defaults}
    _check(name, options, {*defaults, *references}, references)
    _check_sweep(name, sweep)
    usual = {option: np.float32(defaults[option] or 0) for option in sweep}
    fixed = usual | {option: value for option, value in options.items() if option not in references}
    moved = {references[option]: reference for option, reference in options.items() if option in references}

    def optimizer(learning_rate: LearningRate, batch_size: BatchSize, swept: Swept) -> optax.GradientTransformation:
        given = {**fixed, **swept}
        decays = {decay: {**defaults, **given}[decay] ** (batch_size / moved[decay]) for decay in moved}
        return make(learning_rate, **{**given, **decays})

    return optimizer


def sweepable(name: str) -> set[str]:
    """The options of an optimizer that are numbers, and so may differ between lanes."""
    known = _defaults(_make(name))
    numbers = {key for key, value in known.items() if isinstance(value, float | int) and not isinstance(value, bool)}
    return numbers | (known.keys() & {"momentum"})


def usual_options(workload: Workload, names: Iterable[str]) -> Options:
    """What the options `names` are where they are not swept; 0 where the optimizer leaves one out."""
    known = _defaults(_make(workload.optimizer))
    return tuple((name, float(known[name] or 0.0)) for name in sorted(names))


def _make(name: str) -> Callable[..., optax.GradientTransformation]:
    if name not in OPTIMIZERS:
        raise InputError(f"workload.optimizer: {name!r} is not one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name]


def _defaults(make: Callable[..., optax.GradientTransformation]) -> dict[str, Any]:
    return {key: one.default for key, one in inspect.signature(make).parameters.items() if key != "learning_rate"}


def _check(name: str, options: Mapping[str, float | bool], known: Set[str], references: Container[str]) -> None:
    for option, value in options.items():
        if option not in known:
            shown = printable(option)[1:-1]
            raise InputError(f"workload.optimizer_options.{shown}: {name} has only {', '.join(sorted(known))}")
        if option in references and not 1 <= value <= LARGEST_REFERENCE:
            raise InputError(
                f"workload.optimizer_options.{option}: {value} is no batch size; 1 to {LARGEST_REFERENCE} is right"
            )


def _check_sweep(name: str, sweep: Iterable[str]) -> None:
    for option in sweep:
        if option not in sweepable(name):
            shown, there = printable(option)[1:-1], ", ".join(sorted(sweepable(name)))
            raise InputError(f"sweep.{shown}: {name} has only the numbers {there}")

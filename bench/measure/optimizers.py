"""Optimizers by name: each takes a learning rate and a batch size that may be traced and gives an optax transform."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Container, Mapping, Set
from functools import partial

import optax
from jaxtyping import Array, Float, Int32

from bench.decoding import printable
from bench.errors import InputError

LearningRate = float | Float[Array, ""]
BatchSize = int | Int32[Array, ""]
Optimizer = Callable[[LearningRate, BatchSize], optax.GradientTransformation]

OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "sgd": optax.sgd,
    "momentum": partial(optax.sgd, momentum=0.9),
    "nesterov": partial(optax.sgd, momentum=0.9, nesterov=True),
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


def optimizer_named(name: str, options: Mapping[str, float | bool]) -> Optimizer:
    """The optimizer of a workload, ready for a learning rate and a batch size.

    Raises:
        InputError: on an unknown name, an option the optimizer does not have, or a reference that is no batch size.
    """
    if name not in OPTIMIZERS:
        raise InputError(f"workload.optimizer: {name!r} is not one of {', '.join(OPTIMIZERS)}")
    make = OPTIMIZERS[name]
    defaults = {key: one.default for key, one in inspect.signature(make).parameters.items() if key != "learning_rate"}
    references = {decay + REFERENCE: decay for decay in SQUARED_GRADIENT_DECAYS if decay in defaults}
    _check(name, options, {*defaults, *references}, references)
    fixed = {option: value for option, value in options.items() if option not in references}
    moved = {references[option]: reference for option, reference in options.items() if option in references}

    def optimizer(learning_rate: LearningRate, batch_size: BatchSize) -> optax.GradientTransformation:
        decays = {decay: {**defaults, **fixed}[decay] ** (batch_size / moved[decay]) for decay in moved}
        return make(learning_rate, **{**fixed, **decays})

    return optimizer


def _check(name: str, options: Mapping[str, float | bool], known: Set[str], references: Container[str]) -> None:
    for option, value in options.items():
        if option not in known:
            shown = printable(option)[1:-1]
            raise InputError(f"workload.optimizer_options.{shown}: {name} has only {', '.join(sorted(known))}")
        if option in references and not 1 <= value <= LARGEST_REFERENCE:
            raise InputError(
                f"workload.optimizer_options.{option}: {value} is no batch size; 1 to {LARGEST_REFERENCE} is right"
            )

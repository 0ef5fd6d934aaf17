"""Optimizers by name: each takes a learning rate that may be traced and gives an optax transform."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial

import optax
from jaxtyping import Array, Float

from bench.decoding import printable
from bench.errors import InputError

LearningRate = float | Float[Array, ""]
Optimizer = Callable[[LearningRate], optax.GradientTransformation]

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


def optimizer_named(name: str, options: Mapping[str, float | bool]) -> Optimizer:
    """The optimizer of a workload, ready for a learning rate.

    Raises:
        InputError: on an unknown name or an option the optimizer does not have.
    """
    if name not in OPTIMIZERS:
        raise InputError(f"workload.optimizer: {name!r} is not one of {', '.join(OPTIMIZERS)}")
    make = OPTIMIZERS[name]
    known = set(inspect.signature(make).parameters) - {"learning_rate"}
    for option in options:
        if option not in known:
            shown = printable(option)[1:-1]
            raise InputError(f"workload.optimizer_options.{shown}: {name} has only {', '.join(sorted(known))}")
    return partial(make, **options)

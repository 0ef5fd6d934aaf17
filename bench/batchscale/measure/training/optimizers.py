"""Optimizers by name: each takes a learning rate, a batch size and options that may be traced, and is optax's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import optax
from jaxtyping import Array, Float, Int32

from batchscale.config.experiment import Experiment
from batchscale.config.vocabulary import Options
from batchscale.errors import InputError
from batchscale.printable import bare

Scalar = float | Float[Array, ""]
BatchSize = int | Int32[Array, ""]
Given = Mapping[str, Scalar]
NONE_GIVEN: Given = {}
Optimizer = Callable[[Scalar, BatchSize, Given], optax.GradientTransformation]


def _sgd(
    learning_rate: Scalar,
    momentum: Scalar | None = None,
    nesterov: bool = False,
    weight_decay: Scalar | None = None,
) -> optax.GradientTransformation:
    """optax's; `weight_decay` times the parameters is added to the gradient, so momentum smooths both."""
    steps = optax.sgd(learning_rate, momentum, nesterov)
    return steps if weight_decay is None else optax.chain(optax.add_decayed_weights(weight_decay), steps)


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
STARTED_BY_RATE = ("rprop",)
"""Each parameter then has a step size of its own, which grows and shrinks with the signs of its gradient."""
LARGEST_REFERENCE = 10**9
REFERENCE = "_batch_size"
"""`b2_batch_size = 128` says that `b2` holds at batch size 128 and is `b2 ** (batch_size / 128)` elsewhere: squared
gradients are then averaged over equally many examples at every batch size (Marek et al., 2025)."""


def optimizer_named(name: str, options: Mapping[str, float | int | bool], searched: Collection[str] = ()) -> Optimizer:
    """The optimizer of a workload, ready for a learning rate, a batch size and values of the options in `searched`.

    Where it is given none of them it still has them, so that a step that is only timed is the one that is trained.

    Raises:
        InputError: on an unknown name, an option the optimizer does not have, a reference that is no batch size, or a
            `searched` option that is no number.
    """
    make = _make(name)
    defaults = _defaults(make)
    references = {decay + REFERENCE: decay for decay in SQUARED_GRADIENT_DECAYS if decay in defaults}
    _check(name, options, defaults, references)
    _check_searched(name, searched)
    fixed = dict(usual_options(name, searched))
    fixed |= {option: value for option, value in options.items() if option not in references}
    moved = {references[option]: reference for option, reference in options.items() if option in references}

    def optimizer(learning_rate: Scalar, batch_size: BatchSize, given: Given) -> optax.GradientTransformation:
        values = {**fixed, **given}
        decays = {decay: {**defaults, **values}[decay] ** (batch_size / moved[decay]) for decay in moved}
        return make(learning_rate, **{**values, **decays})

    return optimizer


def searchable(name: str) -> set[str]:
    """The options of an optimizer that are numbers, and so may differ between lanes."""
    return _numbers(_defaults(_make(name)))


def usual_options(name: str, options: Iterable[str]) -> Options:
    """What an optimizer takes for these options by itself; 0 for one that it leaves out."""
    known = _defaults(_make(name))
    return tuple((option, float(known[option] or 0.0)) for option in sorted(options))


def refuse_contradictions(experiment: Experiment, smallest_batch_size: int) -> None:
    """Check what an experiment asks of its optimizer, every searched value with every other.

    Raises:
        InputError: on a schedule that the optimizer does not hear, a least step above the largest, or a decay that
            moves with the batch size to 1 in float32, so that nothing would ever be forgotten.
    """
    name, options = experiment.workload.optimizer, experiment.workload.optimizer_options
    schedule = experiment.learning_rate.schedule
    if name in STARTED_BY_RATE and schedule != "constant":
        raise InputError(
            f"learning_rate.schedule: {schedule!r} moves nothing, as {name} takes only its first step sizes from the"
            " rate; 'constant' is right"
        )
    _refuse_crossed_bounds(name, options, experiment.search)
    _refuse_rounded_decays(name, options, experiment.search, smallest_batch_size)


def _refuse_crossed_bounds(
    name: str, options: Mapping[str, float | int | bool], searched: Mapping[str, Collection[float]]
) -> None:
    known = {**_defaults(_make(name)), **options}
    smallest = max(searched.get("min_step_size", [known.get("min_step_size", 0.0)]))
    largest = min(searched.get("max_step_size", [known.get("max_step_size", 0.0)]))
    if smallest > largest:
        table = "search" if "min_step_size" in searched else "workload.optimizer_options"
        raise InputError(f"{table}.min_step_size: {smallest} is above max_step_size = {largest}")


def _refuse_rounded_decays(
    name: str, options: Mapping[str, float | int | bool], searched: Mapping[str, Collection[float]], batch_size: int
) -> None:
    for decay in SQUARED_GRADIENT_DECAYS:
        if reference := options.get(decay + REFERENCE):
            usual = options.get(decay, _defaults(_make(name))[decay])
            for value in searched.get(decay, [usual]):
                if np.float32(value) ** np.float32(batch_size / reference) == 1:
                    raise InputError(
                        f"workload.optimizer_options.{decay}{REFERENCE}: {reference:g} brings {decay} = {value:g} to 1"
                        f" at batch size {batch_size}; a smaller one is right"
                    )


def _make(name: str) -> Callable[..., optax.GradientTransformation]:
    if name not in OPTIMIZERS:
        raise InputError(f"workload.optimizer: {name!r} is not one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name]


def _defaults(make: Callable[..., optax.GradientTransformation]) -> dict[str, Any]:
    return {key: one.default for key, one in inspect.signature(make).parameters.items() if key != "learning_rate"}


def _numbers(defaults: Mapping[str, Any]) -> set[str]:
    numbers = {key for key, value in defaults.items() if isinstance(value, float | int) and not isinstance(value, bool)}
    return numbers | (defaults.keys() & {"momentum", "weight_decay"})


def _check(
    name: str, options: Mapping[str, float | int | bool], defaults: Mapping[str, Any], references: Collection[str]
) -> None:
    """Options are numbers, batch sizes or switches; what optax takes beside, as a mask, no file can say."""
    numbers = _numbers(defaults) | {*references}
    switches = {key for key, value in defaults.items() if isinstance(value, bool)}
    for option, value in options.items():
        if option not in numbers | switches:
            shown, known = bare(option), ", ".join(sorted(numbers | switches))
            raise InputError(f"workload.optimizer_options.{shown}: {name} has only {known}")
        if isinstance(value, bool) != (option in switches):
            right = "true or false" if option in switches else "a number"
            raise InputError(f"workload.optimizer_options.{option}: {value} is not {right}")
        if option in references and not (1 <= value <= LARGEST_REFERENCE and value == int(value)):
            raise InputError(
                f"workload.optimizer_options.{option}: {value} is no batch size; 1 to {LARGEST_REFERENCE} is right"
            )


def _check_searched(name: str, searched: Iterable[str]) -> None:
    for option in searched:
        if option not in searchable(name):
            raise InputError(f"search.{option}: {name} has only the numbers {', '.join(sorted(searchable(name)))}")

"""Optimizers by name, learning-rate schedules, and averages of the parameters.

Optimizers are optax's. Learning rate, batch size and searched options may be traced values, so that one compiled
program trains lanes with different ones.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int32, PyTree

from batchscale.config.experiment import Experiment
from batchscale.config.vocabulary import Options
from batchscale.errors import InputError
from batchscale.printable import bare

Scalar = float | Float[Array, ""]
BatchSize = int | Int32[Array, ""]
Given = Mapping[str, Scalar]
"""Values of the searched options by name."""
NONE_GIVEN: Given = {}
Optimizer = Callable[[Scalar, BatchSize, Given], optax.GradientTransformation]
"""Makes the optax transformation for a learning rate, a batch size and values of the searched options."""
FixedOptions = Mapping[str, float | int | bool]
"""`workload.optimizer_options`."""


def _sgd(
    learning_rate: Scalar,
    momentum: Scalar | None = None,
    nesterov: bool = False,
    weight_decay: Scalar | None = None,
) -> optax.GradientTransformation:
    """`optax.sgd`; `weight_decay` times the parameters is added to the gradient, so momentum smooths both."""
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
"""The optimizers that an experiment may name. An entry is all that a new one needs."""

SQUARED_GRADIENT_DECAYS = ("b2", "decay")
"""Options that are the decay of an average of squared gradients."""
STARTED_BY_RATE = ("rprop",)
"""Optimizers that use the learning rate only as the first step size of each parameter.

The step sizes then grow and shrink with the signs of the gradient, so a schedule would change nothing.
"""
REFERENCE_SUFFIX = "_batch_size"
"""`b2_batch_size = 128`: `b2` is given for batch size 128, and elsewhere is `b2 ** (batch_size / 128)`.

Squared gradients are then averaged over equally many examples at every batch size (Marek et al., 2025).
"""
LARGEST_REFERENCE = 10**9


def optimizer_named(name: str, options: FixedOptions, searched: Collection[str] = ()) -> Optimizer:
    """Return the optimizer of a workload as a function of learning rate, batch size and searched options.

    Searched options that are not passed take their defaults, so the timed step runs the same code as the trained one.

    Raises:
        InputError: on an unknown name, an option that the optimizer does not have, a reference that is not a batch
            size, or a `searched` option that is not a number.
    """
    make = _maker(name)
    defaults = _defaults(make)
    references = {decay + REFERENCE_SUFFIX: decay for decay in SQUARED_GRADIENT_DECAYS if decay in defaults}
    _check(name, options, defaults, references)
    _check_searched(name, searched)
    fixed = dict(usual_options(name, searched))
    fixed |= {option: value for option, value in options.items() if option not in references}
    batch_size_of_decay = {references[option]: value for option, value in options.items() if option in references}

    def optimizer(learning_rate: Scalar, batch_size: BatchSize, given: Given) -> optax.GradientTransformation:
        values = {**fixed, **given}
        decays = {
            decay: {**defaults, **values}[decay] ** (batch_size / reference)
            for decay, reference in batch_size_of_decay.items()
        }
        return make(learning_rate, **{**values, **decays})

    return optimizer


def searchable(name: str) -> set[str]:
    """Return the options of an optimizer that are numbers, and so may differ between lanes."""
    return _numbers(_defaults(_maker(name)))


def usual_options(name: str, options: Iterable[str]) -> Options:
    """Return the default values of these options of an optimizer, 0 for an option that is off by default."""
    known = _defaults(_maker(name))
    return tuple((option, float(known[option] or 0.0)) for option in sorted(options))


def refuse_contradictions(experiment: Experiment, smallest_batch_size: int) -> None:
    """Check that the optimizer's options agree with each other, with the schedule and with the batch sizes.

    Raises:
        InputError: on a schedule that the optimizer ignores, a least step size above the largest, or a decay that its
            reference batch size brings to 1 in float32, so that nothing would ever be forgotten.
    """
    name, options = experiment.workload.optimizer, experiment.workload.optimizer_options
    schedule = experiment.learning_rate.schedule
    if name in STARTED_BY_RATE and schedule != "constant":
        raise InputError(
            f"learning_rate.schedule: {schedule!r} has no effect on {name}, which takes only its first step sizes from"
            " the learning rate; expected 'constant'"
        )
    _refuse_crossed_bounds(name, options, experiment.search)
    _refuse_rounded_decays(name, options, experiment.search, smallest_batch_size)


def _refuse_crossed_bounds(name: str, options: FixedOptions, searched: Mapping[str, Collection[float]]) -> None:
    known = {**_defaults(_maker(name)), **options}
    smallest = max(searched.get("min_step_size", [known.get("min_step_size", 0.0)]))
    largest = min(searched.get("max_step_size", [known.get("max_step_size", 0.0)]))
    if smallest > largest:
        table = "search" if "min_step_size" in searched else "workload.optimizer_options"
        raise InputError(f"{table}.min_step_size: {smallest}, expected at most max_step_size = {largest}")


def _refuse_rounded_decays(
    name: str, options: FixedOptions, searched: Mapping[str, Collection[float]], batch_size: int
) -> None:
    for decay in SQUARED_GRADIENT_DECAYS:
        if reference := options.get(decay + REFERENCE_SUFFIX):
            usual = options.get(decay, _defaults(_maker(name))[decay])
            for value in searched.get(decay, [usual]):
                if np.float32(value) ** np.float32(batch_size / reference) == 1:
                    raise InputError(
                        f"workload.optimizer_options.{decay}{REFERENCE_SUFFIX}: {reference:g} rounds {decay} ="
                        f" {value:g} to 1 at batch size {batch_size}; expected a smaller one"
                    )


def _maker(name: str) -> Callable[..., optax.GradientTransformation]:
    if name not in OPTIMIZERS:
        raise InputError(f"workload.optimizer: {name!r}, expected one of {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[name]


def _defaults(make: Callable[..., optax.GradientTransformation]) -> dict[str, Any]:
    return {key: one.default for key, one in inspect.signature(make).parameters.items() if key != "learning_rate"}


def _numbers(defaults: Mapping[str, Any]) -> set[str]:
    numbers = {key for key, value in defaults.items() if isinstance(value, float | int) and not isinstance(value, bool)}
    return numbers | (defaults.keys() & {"momentum", "weight_decay"})


def _check(name: str, options: FixedOptions, defaults: Mapping[str, Any], references: Collection[str]) -> None:
    """Accept numbers, switches and reference batch sizes.

    optax arguments that TOML cannot express (for example masks) are rejected.
    """
    numbers = _numbers(defaults) | {*references}
    switches = {key for key, value in defaults.items() if isinstance(value, bool)}
    for option, value in options.items():
        field = f"workload.optimizer_options.{bare(option)}"
        if option not in numbers | switches:
            raise InputError(f"{field}: not an option of {name}, expected one of {_listed(numbers | switches)}")
        if isinstance(value, bool) != (option in switches):
            raise InputError(f"{field}: {value}, expected {'true or false' if option in switches else 'a number'}")
        if option in references and not (1 <= value <= LARGEST_REFERENCE and value == int(value)):
            raise InputError(f"{field}: {value}, expected a batch size from 1 to {LARGEST_REFERENCE}")


def _check_searched(name: str, searched: Iterable[str]) -> None:
    for option in searched:
        if option not in searchable(name):
            numbers = _listed(searchable(name))
            raise InputError(f"search.{option}: not a number among the options of {name}, expected one of {numbers}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


Factor = Callable[[Float[Array, "*when"]], Float[Array, "*when"]]


@dataclass(frozen=True)
class Schedule:
    """A learning-rate schedule: a factor on the learning rate that depends on the number of examples seen.

    Counting examples instead of steps makes a schedule mean the same at every batch size.

    Attributes:
        name: "constant", "warmup", "warmup_cosine" or "linear_decay".
        warmup_examples: Examples over which the factor rises linearly, in schedules with a warm-up.
        total_examples: Examples after which a decaying factor is 0.
    """

    name: str
    warmup_examples: float
    total_examples: float

    def factor(self, examples: Float[Array, "*when"]) -> Float[Array, "*when"]:
        """Return the factor, at most 1, of a step that begins when `examples` have been seen."""
        remaining = (self.total_examples - examples) / max(1.0, self.total_examples - self.warmup_examples)
        decay: dict[str, Factor] = {
            "constant": jnp.ones_like,
            "warmup": jnp.ones_like,
            "warmup_cosine": lambda _: 0.5 * (1 - jnp.cos(jnp.pi * jnp.clip(remaining, 0, 1))),
            "linear_decay": lambda _: jnp.clip(remaining, 0, 1),
        }
        decayed = decay[self.name](examples)
        if not self.warms_up:
            return decayed
        # One is added so that the very first step has a rate above zero and does something.
        return jnp.where(examples < self.warmup_examples, (examples + 1) / (self.warmup_examples + 1), decayed)

    @property
    def warms_up(self) -> bool:
        """True if the learning rate starts small and rises."""
        return self.name.startswith("warmup") and self.warmup_examples > 0


MOST_AVERAGED_SAMPLES = 4096
"""Samples of the parameters per averaging horizon, at most.

More samples are no better, and the weight of each would be lost in float32 rounding.
"""


def averaged_parameters(
    average: PyTree, params: PyTree, batch_sizes: Int32[Array, " setting"], examples: Int32[Array, ""], horizon: float
) -> PyTree:
    """Return the exponential moving averages (EMA) of the parameters of all lanes after `examples` examples.

    An average forgets over examples, not over steps, so that it means the same at every batch size: parameters sampled
    after n examples have a weight proportional to exp((n - examples) / horizon), and all weights sum to one.

    Args:
        average: The averages so far, leaves [seed, setting, ...].
        params: The parameters now, leaves [seed, setting, ...].
        batch_sizes: A lane is sampled only after whole batches.
        examples: Examples that every lane has seen.
        horizon: Examples after which a sample's weight has fallen by a factor of e.
    """
    stride = batch_sizes * jnp.maximum(1, int(horizon / MOST_AVERAGED_SAMPLES) // batch_sizes)
    sampled = examples % stride == 0
    # The share of the newest of n = examples / stride geometric weights: (1 - q) / (1 - q^n), q = exp(-stride/horizon).
    weights = jnp.expm1(-stride / horizon) / jnp.expm1(-examples / horizon)
    # In most ticks no lane is sampled: `cond` then skips the pass over all parameters.
    move = partial(_move, sampled, weights)
    return jax.lax.cond(sampled.any(), move, lambda same, _: same, average, params)


def _move(
    sampled: Bool[Array, " setting"], weights: Float[Array, " setting"], average: PyTree, params: PyTree
) -> PyTree:
    share = jnp.where(sampled, weights, 0)

    def toward(old: Array, new: Array) -> Array:
        of_lane = share.reshape(1, -1, *[1] * (old.ndim - 2))
        # The `where` keeps a diverged lane's NaN out of averages that are not sampled now: 0 * NaN is NaN.
        return jnp.where(of_lane > 0, old + of_lane * (new - old), old)

    return jax.tree.map(toward, average, params)

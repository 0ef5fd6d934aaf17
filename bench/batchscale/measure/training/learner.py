"""The parts of a training step: both stages use `gradient` and `apply`, and `train_step` joins them for a run alone.

Everything here is a pure function, so the step can be compiled alone or mapped over lanes.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Int32, PyTree, UInt32

from batchscale import models
from batchscale.config.experiment import Workload
from batchscale.config.vocabulary import Precision
from batchscale.errors import InputError
from batchscale.measure.device.compiled_programs import compute_dtype, matmul_precision
from batchscale.measure.training.optimizers import NONE_GIVEN, BatchSize, Given, Optimizer, Scalar, optimizer_named
from batchscale.printable import bare, reason
from batchscale.untrusted_input import misfit

_RESERVED = {"self", "input_shape", "classes", "rngs", "dtype", "lowering"}
"""Parameters of a model's constructor that the harness passes; the others are the model's options."""


class Examples(NamedTuple):
    """A split on the device."""

    inputs: Float[Array, "example height width channel"]
    labels: Int32[Array, " example"]


def on_device(inputs: np.ndarray, labels: np.ndarray) -> Examples:
    """Put a split on the default device."""
    return Examples(jnp.asarray(inputs), jnp.asarray(labels, jnp.int32))


class TrainState(NamedTuple):
    """Parameters and the state of the optimizer."""

    params: PyTree
    opt_state: PyTree


@dataclass(frozen=True)
class Learner:
    """A model, its loss and its optimizer as pure functions of `params`.

    Attributes:
        graph: The static part of the Flax NNX model (`nnx.GraphDef`).
        make_model: Builds a fresh model from `rngs`.
        optimizer: See `optimizers.optimizer_named`.
        precision: Of matrix products; parameters are float32 in any case.
        searched: Names of the optimizer options that may differ between lanes. Functions take their values as
            `options`.
        initial: The compiled initialiser, once it was needed.
    """

    graph: Any
    make_model: Any
    optimizer: Optimizer
    precision: Precision
    searched: tuple[str, ...] = ()
    initial: list[jax.stages.Compiled] = field(default_factory=list, compare=False)

    def params(self, seed: int) -> PyTree:
        """Return fresh parameters in host memory: a function of the seed and the model alone."""
        if not self.initial:
            self.initial.append(_compile_quickly(self._fresh_params))
        return jax.tree.map(np.asarray, self.initial[0](np.uint32(seed)))

    def abstract_params(self) -> PyTree:
        """Return shapes and types of the parameters without computing any."""
        return jax.eval_shape(self._fresh_params, jax.ShapeDtypeStruct((), np.uint32))

    def _fresh_params(self, seed: UInt32[Array, ""]) -> PyTree:
        return nnx.state(self.make_model(rngs=nnx.Rngs(params=jax.random.key(seed))), nnx.Param)

    def first_state(self, params: PyTree, learning_rate: Scalar, options: Given = NONE_GIVEN) -> TrainState:
        """Return the state before the first step."""
        return TrainState(params, self.optimizer(learning_rate, 1, options).init(params))

    def logits(self, params: PyTree, inputs: Float[Array, "batch ..."]) -> Float[Array, "batch class"]:
        """Return float32 logits, computed at the workload's precision."""
        with jax.default_matmul_precision(matmul_precision(self.precision)):
            return nnx.merge(self.graph, params)(inputs).astype(jnp.float32)

    def losses(
        self, params: PyTree, inputs: Float[Array, "batch ..."], labels: Int[Array, " batch"]
    ) -> Float[Array, " batch"]:
        """Return the softmax cross-entropy of each example, in nats."""
        return optax.softmax_cross_entropy_with_integer_labels(self.logits(params, inputs), labels)

    def gradient(
        self, params: PyTree, inputs: Float[Array, "batch ..."], labels: Int[Array, " batch"]
    ) -> tuple[Float[Array, ""], PyTree]:
        """Return the mean loss of a batch and its gradient."""
        # `logits` sets the precision too, but the custom gradients of the lowerings are traced after its context has
        # ended.
        with jax.default_matmul_precision(matmul_precision(self.precision)):
            return jax.value_and_grad(lambda p: self.losses(p, inputs, labels).mean())(params)

    def apply(
        self,
        state: TrainState,
        gradient: PyTree,
        learning_rate: Scalar,
        batch_size: BatchSize,
        options: Given = NONE_GIVEN,
    ) -> TrainState:
        """Apply one optimizer update."""
        optimizer = self.optimizer(learning_rate, batch_size, options)
        updates, opt_state = optimizer.update(gradient, state.opt_state, state.params)
        return TrainState(optax.apply_updates(state.params, updates), opt_state)

    def train_step(
        self,
        state: TrainState,
        inputs: Float[Array, "batch ..."],
        labels: Int[Array, " batch"],
        learning_rate: Scalar,
        options: Given = NONE_GIVEN,
    ) -> tuple[TrainState, Float[Array, ""]]:
        """Take one step on one batch; return the new state and the loss before the step."""
        loss, gradient = self.gradient(state.params, inputs, labels)
        return self.apply(state, gradient, learning_rate, len(labels), options), loss

    def accumulated_step(
        self,
        state: TrainState,
        microbatches: PyTree,
        examples_of: Callable[[PyTree], tuple[Float[Array, "microbatch ..."], Int[Array, " microbatch"]]],
        learning_rate: Scalar,
        batch_size: int,
    ) -> tuple[TrainState, Float[Array, ""]]:
        """Take the step of `train_step` on a batch that arrives in microbatches, whose mean gradient is applied once.

        Args:
            state: The state before the step.
            microbatches: Leaves whose first axis is [microbatch], all of equal size.
            examples_of: Returns the inputs and labels of one microbatch.
            learning_rate: The learning rate.
            batch_size: Examples of all microbatches together.
        """
        zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, state.params))

        def add(total: PyTree, microbatch: PyTree) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, total, self.gradient(state.params, *examples_of(microbatch))), None

        total, _ = jax.lax.scan(add, zero, microbatches)
        count = len(jax.tree.leaves(microbatches)[0])
        loss, gradient = jax.tree.map(lambda leaf: leaf / count, total)
        return self.apply(state, gradient, learning_rate, batch_size), loss

    def evaluate(
        self, params: PyTree, inputs: Float[Array, "batch ..."], labels: Int[Array, " batch"]
    ) -> tuple[Int[Array, ""], Float[Array, ""]]:
        """Return how many examples are classified correctly, and the sum of their losses."""
        logits = self.logits(params, inputs)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        # argmax of NaNs is class 0, which would count as correct for every example of that class.
        finite = jnp.isfinite(logits).all(axis=-1)
        return ((logits.argmax(-1) == labels) & finite).sum(), losses.sum()


def _compile_quickly(function: Callable[[Array], PyTree]) -> jax.stages.Compiled:
    """Compile without optimisation: optimising random initialisers takes XLA seconds, and they run a few times only."""
    return jax.jit(function).lower(np.uint32(0)).compile(compiler_options={"xla_backend_optimization_level": "0"})


def model_names() -> list[str]:
    """Return the names of all models: the public files of `models/`."""
    return sorted(entry.name for entry in pkgutil.iter_modules(models.__path__) if not entry.name.startswith("_"))


def model_named(name: str, options: dict[str, Any]) -> Callable[..., nnx.Module]:
    """Return the model class of a file in `models/`.

    Raises:
        InputError: on an unknown model, or an option that its constructor does not have.
    """
    if name not in model_names():
        raise InputError(f"workload.model: {name!r}, expected one of {', '.join(model_names())}")
    model = importlib.import_module(f"{models.__name__}.{name}").Model
    known = _options(model) - _RESERVED
    for option in options:
        if option not in known:
            expected = f"one of {', '.join(sorted(known))}" if known else "none"
            raise InputError(f"workload.model_options.{bare(option)}: not an option of {name}, expected {expected}")
    return model


def _check_types(model: Callable[..., nnx.Module], options: Mapping[str, Any]) -> None:
    """Check options against the annotations of the model's constructor."""
    hints = get_type_hints(model.__init__)
    for option, value in options.items():
        if message := misfit(value, hints[option], f"workload.model_options.{option}"):
            raise InputError(message)


def has_lowering(name: str) -> bool:
    """True if a model's convolutions can be lowered in several ways."""
    return "lowering" in _options(model_named(name, {}))


def _options(model: Any) -> set[str]:  # noqa: ANN401 - a class whose metaclass hides its signature
    return set(inspect.signature(model.__init__).parameters)


def make_learner(
    workload: Workload,
    input_shape: tuple[int, ...],
    classes: int,
    lowering: str | None = None,
    searched: Collection[str] = (),
) -> Learner:
    """Build the pure functions of a workload.

    Args:
        workload: Names the model, the optimizer and their options.
        input_shape: Of one example.
        classes: Number of classes.
        lowering: How convolutions are computed, in models that have a choice; `models/_layers.py`.
        searched: Optimizer options that the learner's functions take as values.

    Raises:
        InputError: when the model cannot be built with its options.
    """
    model = model_named(workload.model, workload.model_options)
    _check_types(model, workload.model_options)
    options: dict[str, Any] = dict(workload.model_options)
    if has_lowering(workload.model):
        options["lowering"] = lowering or "xla"
    options["dtype"] = compute_dtype(workload.precision)

    def make_model(rngs: nnx.Rngs) -> nnx.Module:
        return model(input_shape, classes, rngs=rngs, **options)

    try:
        abstract = nnx.eval_shape(lambda: make_model(nnx.Rngs(params=0)))
        if any(leaf.size == 0 for leaf in jax.tree.leaves(nnx.state(abstract))):
            raise ValueError("a layer would have no width")
    except (TypeError, ValueError, ArithmeticError) as error:
        why = "a layer would have no width" if isinstance(error, ArithmeticError) else reason(error)
        raise InputError(f"workload.model_options: {workload.model} cannot be built with them: {why}") from None
    optimizer = optimizer_named(workload.optimizer, workload.optimizer_options, searched)
    return Learner(nnx.graphdef(abstract), make_model, optimizer, workload.precision, tuple(searched))

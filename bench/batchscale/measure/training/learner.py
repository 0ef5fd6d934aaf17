"""THE training step: the same one is timed by the throughput stage and trained by the convergence stage."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, get_type_hints

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree, UInt32

from batchscale import models
from batchscale.config.schema import Workload
from batchscale.config.validation import explain
from batchscale.config.vocabulary import Precision
from batchscale.errors import InputError
from batchscale.measure.training.optimizers import NONE_GIVEN, BatchSize, Given, Optimizer, Scalar, optimizer_named
from batchscale.printable import bare, reason

_RESERVED = {"self", "input_shape", "classes", "rngs", "dtype", "lowering"}


class TrainState(NamedTuple):
    """Parameters and the optimizer's own state."""

    params: PyTree
    opt_state: PyTree


@dataclass(frozen=True)
class Learner:
    """A model, its loss and its optimizer as pure functions of `params`.

    `searched` names the optimizer's options that may differ between lanes; a function takes them by name as `options`.
    """

    graph: Any
    make_model: Any
    optimizer: Optimizer
    precision: Precision
    searched: tuple[str, ...] = ()
    initial: list[jax.stages.Compiled] = field(default_factory=list, compare=False)

    def params(self, seed: int) -> PyTree:
        """Fresh parameters in host memory: a function of the seed and the model alone."""
        if not self.initial:
            self.initial.append(_compile_quickly(self._fresh_params))
        return jax.tree.map(np.asarray, self.initial[0](np.uint32(seed)))

    def abstract_params(self) -> PyTree:
        """Shapes and types of the parameters, nothing computed."""
        return jax.eval_shape(self._fresh_params, jax.ShapeDtypeStruct((), np.uint32))

    def _fresh_params(self, seed: UInt32[Array, ""]) -> PyTree:
        return nnx.state(self.make_model(rngs=nnx.Rngs(params=jax.random.key(seed))), nnx.Param)

    def first_state(self, params: PyTree, learning_rate: Scalar, options: Given = NONE_GIVEN) -> TrainState:
        """The state before the first step."""
        return TrainState(params, self.optimizer(learning_rate, 1, options).init(params))

    def logits(self, params: PyTree, inputs: Float[Array, "batch ..."]) -> Float[Array, "batch class"]:
        """Float32 logits at the workload's precision."""
        with jax.default_matmul_precision(matmul_precision(self.precision)):
            return nnx.merge(self.graph, params)(inputs).astype(jnp.float32)

    def losses(
        self, params: PyTree, inputs: Float[Array, "batch ..."], labels: Int[Array, " batch"]
    ) -> Float[Array, " batch"]:
        """Softmax cross-entropy of each example, in nats."""
        return optax.softmax_cross_entropy_with_integer_labels(self.logits(params, inputs), labels)

    def gradient(
        self, params: PyTree, inputs: Float[Array, "batch ..."], labels: Int[Array, " batch"]
    ) -> tuple[Float[Array, ""], PyTree]:
        """Mean loss of a batch and its gradient."""
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
        """One optimizer update."""
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
        """One step on one batch: the new state and the loss before it."""
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
        """`train_step` on a batch that comes in equal pieces: their mean gradient is applied once.

        Leaves of `microbatches` have the axis [piece] first; `examples_of` gives the inputs and labels of one piece.
        """
        zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, state.params))

        def add(total: PyTree, piece: PyTree) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, total, self.gradient(state.params, *examples_of(piece))), None

        total, _ = jax.lax.scan(add, zero, microbatches)
        pieces = len(jax.tree.leaves(microbatches)[0])
        loss, gradient = jax.tree.map(lambda leaf: leaf / pieces, total)
        return self.apply(state, gradient, learning_rate, batch_size), loss

    def evaluate(
        self, params: PyTree, inputs: Float[Array, "batch ..."], labels: Int[Array, " batch"]
    ) -> tuple[Int[Array, ""], Float[Array, ""]]:
        """How many examples are classified correctly, and the sum of their losses."""
        logits = self.logits(params, inputs)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        finite = jnp.isfinite(logits).all(axis=-1)
        return ((logits.argmax(-1) == labels) & finite).sum(), losses.sum()


def compute_dtype(precision: Precision) -> jnp.dtype:
    """The type that a model computes in; its parameters stay float32."""
    return jnp.dtype(jnp.bfloat16 if precision == "bfloat16" else jnp.float32)


def matmul_precision(precision: Precision) -> str | None:
    """What float32 means in products of matrices: all of its bits, or what the platform takes for it (None)."""
    return "highest" if precision == "float32" else None


def _compile_quickly(function: Callable[[Array], PyTree]) -> jax.stages.Compiled:
    """Compile what runs a few times only: random initialisers take seconds to optimise, and no time to run."""
    return jax.jit(function).lower(np.uint32(0)).compile(compiler_options={"xla_backend_optimization_level": "0"})


def model_names() -> list[str]:
    """The models there are: the public files of the package."""
    return sorted(entry.name for entry in pkgutil.iter_modules(models.__path__) if not entry.name.startswith("_"))


def model_named(name: str, options: dict[str, Any]) -> Callable[..., nnx.Module]:
    """The model class of a file in `models/`.

    Raises:
        InputError: on an unknown model, or an option its constructor does not have.
    """
    if name not in model_names():
        raise InputError(f"workload.model: {name!r} is not one of {', '.join(model_names())}")
    model = importlib.import_module(f"{models.__name__}.{name}").Model
    known = _options(model) - _RESERVED
    for option in options:
        if option not in known:
            shown, there = bare(option), ", ".join(sorted(known)) or "none"
            raise InputError(f"workload.model_options.{shown}: {name} has only {there}")
    return model


def _check_types(model: Callable[..., nnx.Module], options: Mapping[str, Any]) -> None:
    """Hold options against the annotations of the model's constructor."""
    hints = get_type_hints(model.__init__)
    for option, value in options.items():
        try:
            msgspec.convert(value, hints[option])
        except msgspec.ValidationError as error:
            raise InputError(explain(str(error), value, hints[option], f"workload.model_options.{option}")) from None


def has_lowering(name: str) -> bool:
    """Whether a model's convolutions can be lowered in several ways."""
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
    """Build the pure functions of a workload whose optimizer is given the options named in `searched`.

    Raises:
        InputError: when the model refuses its options.
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
        raise InputError(f"workload.model_options: {workload.model} refuses them ({why})") from None
    optimizer = optimizer_named(workload.optimizer, workload.optimizer_options, searched)
    return Learner(nnx.graphdef(abstract), make_model, optimizer, workload.precision, tuple(searched))

"""The parts of a training step: both stages use `gradient` and `apply`, and `train_step` joins them for a run alone.

Everything here is a pure function, so the step can be compiled alone or mapped over lanes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float, Int, Int32, Key, PyTree, Shaped, UInt32

from batchscale import models
from batchscale.config.experiment import Workload
from batchscale.config.goal import METRICS
from batchscale.config.vocabulary import NAME_PATTERN, NAME_RULE, Precision
from batchscale.errors import InputError
from batchscale.measure.data.datasets import Dataset, Examples
from batchscale.measure.device.compiled_programs import compute_dtype, matmul_precision
from batchscale.measure.training import random_streams, tasks
from batchscale.measure.training.named_code import (
    check_types,
    class_named,
    constructor_options,
    is_users,
    names_in,
    run_users,
)
from batchscale.measure.training.optimizers import NONE_GIVEN, BatchSize, Given, Optimizer, Scalar, optimizer_named
from batchscale.measure.training.random_streams import Keys, Numbers
from batchscale.printable import bare, printable, reason

_RESERVED = {"input_shape", "classes", "rngs", "dtype", "lowering"}
"""Parameters of a model's constructor that the harness passes; the others are the model's options."""

TRACED_EXAMPLES = 3
"""Examples in the batch that a model is traced on to learn the shape of its outputs."""


def on_device(split: Examples) -> Examples:
    """Put a split on the default device."""
    return jax.tree.map(jnp.asarray, split)


def take(split: Examples, chosen: Int[Array | np.ndarray, "*chosen"]) -> Examples:
    """Return the examples of a split at the indices `chosen`."""
    return Examples(split.inputs[chosen], split.labels[chosen])


class Chosen(NamedTuple):
    """The examples of a step, or of several steps along first axes.

    Attributes:
        indices: In the train split.
        numbers: In the run's order of training; None if the model draws no random numbers.
    """

    indices: Int32[Array | np.ndarray, "*example"]
    numbers: Numbers = None


@runtime_checkable
class Task(Protocol):
    """What training means for one kind of data: a class that can be built without arguments.

    `outputs` are the float32 outputs of the model for `batch.inputs`. Training minimises the mean of the losses over
    examples. The score "loss" is always measured. Rows hold mean and deviation of every score over a split.
    """

    @property
    def metrics(self) -> tuple[str, ...]:
        """Scores that a target may name."""
        ...

    def losses(self, outputs: Float[Array, "batch ..."], batch: Examples) -> Float[Array, " batch"]:
        """Return the training loss of each example."""
        ...

    def scores(self, outputs: Float[Array, "batch ..."], batch: Examples) -> dict[str, Float[Array, " batch"]]:
        """Return further scores of each example, by name."""
        ...

    def check(self, dataset: Dataset) -> None:
        """Raise InputError where the dataset does not suit the task."""
        ...


class TrainState(NamedTuple):
    """Parameters and the state of the optimizer."""

    params: PyTree
    opt_state: PyTree


@dataclass(frozen=True)
class Learner:
    """A model, its loss and its optimizer as pure functions of `params`.

    Attributes:
        task: Losses and scores of the model's outputs.
        graph: The static part of the Flax NNX model (`nnx.GraphDef`) as it is evaluated: `model.eval()`.
        train_graph: The same as it is trained: `model.train()`.
        streams: Shapes and types of the random streams that the model keeps; no leaves if it draws nothing.
        make_model: Builds a fresh model from `rngs`.
        optimizer: See `optimizers.optimizer_named`.
        precision: Of matrix products; parameters are float32 in any case.
        searched: Names of the optimizer options that may differ between lanes. Functions take their values as
            `options`.
        initial: The compiled initialiser, once it was needed.
        abstract: What `abstract_params` returns, once it was needed.
    """

    task: Task
    graph: Any
    train_graph: Any
    streams: PyTree = field(compare=False)
    make_model: Any
    optimizer: Optimizer
    precision: Precision
    searched: tuple[str, ...] = ()
    initial: list[jax.stages.Compiled] = field(default_factory=list, compare=False)
    abstract: list[PyTree] = field(default_factory=list, compare=False)

    def params(self, seed: int) -> PyTree:
        """Return fresh parameters in host memory: a function of the seed and the model alone."""
        if not self.initial:
            self.initial.append(_compile_quickly(self._fresh_params))
        return jax.tree.map(np.asarray, self.initial[0](np.uint32(seed)))

    def abstract_params(self) -> PyTree:
        """Return shapes and types of the parameters without computing any."""
        if not self.abstract:
            self.abstract.append(jax.eval_shape(self._fresh_params, jax.ShapeDtypeStruct((), np.uint32)))
        return jax.tree.map(lambda leaf: leaf, self.abstract[0])

    def _fresh_params(self, seed: UInt32[Array, ""]) -> PyTree:
        return nnx.state(self.make_model(rngs=random_streams.given(seed)), nnx.Param)

    @property
    def draws(self) -> bool:
        """True if the model draws random numbers while it trains."""
        return bool(jax.tree.leaves(self.streams))

    def chosen(self, indices: Int32[np.ndarray, " example"], first: int) -> Chosen:
        """Return examples by their indices; `first` is the number of the first one in the run's order of training."""
        numbers = np.arange(first, first + len(indices)) % 2**32
        return Chosen(indices, numbers.astype(np.uint32) if self.draws else None)

    def keys(self, seed: Int32[Array, ""] | int, numbers: Numbers) -> Keys:
        """Return the key of each example of a batch, by the run's seed and the examples' numbers."""
        return None if numbers is None else random_streams.example_keys(seed, numbers)

    def first_state(self, params: PyTree, learning_rate: Scalar, options: Given = NONE_GIVEN) -> TrainState:
        """Return the state before the first step."""
        return TrainState(params, self.optimizer(learning_rate, 1, options).init(params))

    def outputs(self, params: PyTree, inputs: Shaped[Array | np.ndarray, "batch ..."]) -> Float[Array, "batch ..."]:
        """Return the outputs of the evaluated model in float32, computed at the workload's precision."""
        # An evaluation draws nothing: the streams only complete the model.
        streams = [random_streams.at_example(self.streams, jax.random.key(0))] if self.draws else []
        with jax.default_matmul_precision(matmul_precision(self.precision)):
            return nnx.merge(self.graph, params, *streams)(inputs).astype(jnp.float32)

    def training_outputs(
        self, params: PyTree, inputs: Shaped[Array | np.ndarray, "batch ..."], keys: Keys
    ) -> Float[Array, "batch ..."]:
        """Return the outputs of the model as it is trained, otherwise as `outputs`."""

        def of_one(example: Shaped[Array | np.ndarray, ...], key: Key[Array, ""]) -> Float[Array, ...]:
            streams = random_streams.at_example(self.streams, key)
            return nnx.merge(self.train_graph, params, streams)(example[None])[0]

        with jax.default_matmul_precision(matmul_precision(self.precision)):
            # A model that draws is applied to one example at a time, since a draw for a batch depends on its size.
            outputs = nnx.merge(self.train_graph, params)(inputs) if keys is None else jax.vmap(of_one)(inputs, keys)
            return outputs.astype(jnp.float32)

    def losses(self, params: PyTree, batch: Examples, keys: Keys = None) -> Float[Array, " batch"]:
        """Return the training loss of each example."""
        return self.task.losses(self.training_outputs(params, batch.inputs, keys), batch)

    def gradient(self, params: PyTree, batch: Examples, keys: Keys = None) -> tuple[Float[Array, ""], PyTree]:
        """Return the mean loss of a batch and its gradient."""
        # `outputs` sets the precision too, but the custom gradients of the lowerings are traced after its context has
        # ended.
        with jax.default_matmul_precision(matmul_precision(self.precision)):
            return jax.value_and_grad(lambda p: self.losses(p, batch, keys).mean())(params)

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
        batch: Examples,
        learning_rate: Scalar,
        options: Given = NONE_GIVEN,
        keys: Keys = None,
    ) -> tuple[TrainState, Float[Array, ""]]:
        """Take one step on one batch; return the new state and the loss before the step."""
        loss, gradient = self.gradient(state.params, batch, keys)
        return self.apply(state, gradient, learning_rate, len(batch.labels), options), loss

    def accumulated_gradient(
        self, params: PyTree, microbatches: PyTree, examples_of: Callable[[PyTree], tuple[Examples, Keys]]
    ) -> tuple[Float[Array, ""], PyTree]:
        """Return what `gradient` returns for a batch that arrives in microbatches.

        Args:
            params: The parameters.
            microbatches: Leaves whose first axis is [microbatch], all of equal size.
            examples_of: Returns the examples of one microbatch and their keys.
        """
        zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params))

        def add(total: PyTree, microbatch: PyTree) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, total, self.gradient(params, *examples_of(microbatch))), None

        total, _ = jax.lax.scan(add, zero, microbatches)
        count = len(jax.tree.leaves(microbatches)[0])
        return jax.tree.map(lambda leaf: leaf / count, total)

    def scores(self, params: PyTree, batch: Examples) -> dict[str, Float[Array, " batch"]]:
        """Return every score of each example, by name: the loss, and what the task adds."""
        outputs = self.outputs(params, batch.inputs)
        return {"loss": self.task.losses(outputs, batch), **self.task.scores(outputs, batch)}


def _compile_quickly(function: Callable[[Array], PyTree]) -> jax.stages.Compiled:
    """Compile without optimisation: optimising random initialisers takes XLA seconds, and they run a few times only."""
    return jax.jit(function).lower(np.uint32(0)).compile(compiler_options={"xla_backend_optimization_level": "0"})


def model_names() -> list[str]:
    """Return the names of all models: the public files of `models/`."""
    return names_in(models)


def task_names() -> list[str]:
    """Return the names of all tasks: the public files of `tasks/`."""
    return names_in(tasks)


def model_named(name: str, options: Mapping[str, Any], folder: Path = Path()) -> type[Any]:
    """Return the model class that an experiment names.

    Raises:
        InputError: On an unknown model, or an option that its constructor does not have.
    """
    model = class_named("workload.model", name, models, "Model", folder)
    known = constructor_options(model) - _RESERVED
    for option in options:
        if option not in known:
            expected = f"one of {', '.join(sorted(known))}" if known else "none"
            raise InputError(f"workload.model_options.{bare(option)}: not an option of {name}, expected {expected}")
    return model


def has_lowering(model: type[Any]) -> bool:
    """Return True if a model's convolutions can be lowered in several ways."""
    return "lowering" in constructor_options(model)


def task_named(name: str, folder: Path = Path()) -> Task:
    """Return the task that an experiment or a dataset names.

    Raises:
        InputError: On an unknown task, or a class that is no task.
    """
    task = class_named("workload.task", name, tasks, "Task", folder)
    missing = [method for method in ("metrics", "losses", "scores", "check") if not hasattr(task, method)]
    if missing:
        raise InputError(
            f"workload.task: {printable(name)} has no {missing[0]}, expected metrics, losses, scores, check"
        )
    return run_users("workload.task: it cannot be built without arguments", task)


def make_learner(
    workload: Workload,
    dataset: Dataset,
    lowering: str | None = None,
    searched: Collection[str] = (),
    folder: Path = Path(),
) -> Learner:
    """Build the pure functions of a workload.

    Args:
        workload: Names the model, the task, the optimizer and their options.
        dataset: Gives the shape of an example's input, the width of the model's output, and the usual task.
        lowering: How convolutions are computed, in models that have a choice; `models/_layers.py`.
        searched: Optimizer options that the learner's functions take as values.
        folder: The folder that paths of the workload are relative to.

    Raises:
        InputError: When the model cannot be built with its options, or the task does not suit the dataset.
    """
    task = task_named(workload.task or dataset.task, folder)
    run_users("workload.task: its check fails", lambda: task.check(dataset))
    model = model_named(workload.model, workload.model_options, folder)
    check_types("workload.model_options", model, workload.model_options)
    options: dict[str, Any] = dict(workload.model_options)
    if has_lowering(model):
        options["lowering"] = lowering or "xla"
    options["dtype"] = compute_dtype(workload.precision)
    make_model = partial(model, dataset.input_shape, dataset.classes, **options)
    abstract = _abstract(workload.model, make_model)
    streams = random_streams.streams_of(workload.model, abstract)
    optimizer = optimizer_named(workload.optimizer, workload.optimizer_options, searched)
    learner = Learner(
        task, *_graphs(workload.model, abstract), streams, make_model, optimizer, workload.precision, tuple(searched)
    )
    refuse_misfits(learner, workload, dataset)
    return learner


def refuse_misfits(learner: Learner, workload: Workload, dataset: Dataset) -> None:
    """Trace model and task on a few examples without computing anything, so that a misfit never trains in silence.

    Raises:
        InputError: When the model fails, its outputs have the wrong shape, or a score is not one number an example.
    """
    model, task = workload.model, workload.task or dataset.task
    spec = [jax.ShapeDtypeStruct((TRACED_EXAMPLES, *part.shape[1:]), part.dtype) for part in dataset.train]
    batch, params = Examples(*spec), learner.abstract_params()
    fails = f"workload.model: {model} fails on inputs {_shown(batch.inputs)} of type {batch.inputs.dtype}"
    outputs = run_users(fails, lambda: jax.eval_shape(learner.outputs, params, batch.inputs))
    shipped = not is_users(task)
    if outputs.shape[:1] != (TRACED_EXAMPLES,) or (shipped and outputs.shape[-1:] != (dataset.classes,)):
        width = f"[batch, ..., {dataset.classes}]" if shipped else "[batch, ...]"
        raise InputError(f"workload.model: {model} gives outputs {_shown(outputs)}, expected {width} for {task}")
    _refuse_unlike_in_training(learner, model, params, batch.inputs, outputs)
    scores = run_users(
        f"workload.task: {task} fails on outputs {_shown(outputs)} and labels {_shown(batch.labels)}",
        lambda: jax.eval_shape(lambda *given: _judged(learner.task, *given), outputs, batch),
    )
    for name, score in scores.items():
        if not re.match(NAME_PATTERN, name):
            raise InputError(f"workload.task: {task}: score {printable(name)}, expected {NAME_RULE}")
        if score.shape != (TRACED_EXAMPLES,):
            raise InputError(f"workload.task: {task}: {name} has shape {_shown(score)}, expected [batch]")
    for metric, kind in METRICS.items():
        if metric in learner.task.metrics and kind.measured_as not in scores:
            found = f"{task} promises {metric}, but scores only {', '.join(scores)}"
            raise InputError(f"workload.task: {found}, expected a score {kind.measured_as}")


def _refuse_unlike_in_training(
    learner: Learner, model: str, params: PyTree, inputs: jax.ShapeDtypeStruct, evaluated: jax.ShapeDtypeStruct
) -> None:
    if learner.graph == learner.train_graph and not learner.draws:
        return
    numbers = learner.chosen(np.zeros(TRACED_EXAMPLES, np.int32), 0).numbers
    keys = jax.eval_shape(partial(learner.keys, 0), numbers)
    outputs = run_users(
        f"workload.model: {model} fails while it trains, on one example {_shown(inputs)}",
        lambda: jax.eval_shape(learner.training_outputs, params, inputs, keys),
    )
    if outputs.shape != evaluated.shape:
        raise InputError(
            f"workload.model: {model} gives outputs {_shown(outputs)} while it trains, expected {_shown(evaluated)}"
        )


def _judged(task: Task, outputs: Float[Array, "batch ..."], batch: Examples) -> dict[str, Float[Array, " ..."]]:
    return {"loss": task.losses(outputs, batch), **task.scores(outputs, batch)}


def _shown(array: jax.ShapeDtypeStruct) -> str:
    first, *others = array.shape or ("",)
    return f"[{', '.join(map(str, ['batch' if first == TRACED_EXAMPLES else first, *others]))}]"


def _graphs(name: str, model: nnx.Module) -> tuple[Any, Any]:
    """Return the static part of a model as it is evaluated, and as it is trained."""

    def both() -> tuple[Any, Any]:
        model.eval()
        evaluated = nnx.graphdef(model)
        model.train()
        return evaluated, nnx.graphdef(model)

    return run_users(f"workload.model: {name} has no mode of evaluation or training", both)


def _abstract(name: str, make_model: Callable[..., nnx.Module]) -> nnx.Module:
    """Return a model of shapes and types, without computing any parameter."""
    try:
        abstract = nnx.eval_shape(lambda: make_model(rngs=random_streams.given(0)))
        if any(leaf.size == 0 for leaf in jax.tree.leaves(nnx.state(abstract))):
            raise ValueError("a layer would have no width")
    except (TypeError, ValueError, ArithmeticError) as error:
        why = "a layer would have no width" if isinstance(error, ArithmeticError) else reason(error)
        raise InputError(f"workload.model_options: {name} cannot be built with them: {why}") from None
    except Exception as error:
        if "RngStream" in str(error):
            why = f"{name} asks for a random stream that it is not given: {reason(error)}"
            raise InputError(f"workload.model: {why}, {random_streams.EXPECTED}") from None
        raise InputError(f"workload.model: {name} cannot be built: {type(error).__name__}: {reason(error)}") from None
    if jax.tree.leaves(nnx.state(abstract, nnx.BatchStat)):
        raise InputError(
            f"workload.model: {name} has batch statistics, which couple examples, expected a layer or"
            " group norm instead of BatchNorm"
        )
    if jax.tree.leaves(nnx.state(abstract, nnx.Not(nnx.Any(nnx.Param, nnx.RngState)))):
        raise InputError(f"workload.model: {name} has state that is not trained, expected nnx.Param alone")
    return abstract

"""How much arithmetic a training step needs, counted from its jaxpr, and as the compiler reports it.

Matrix products and convolutions are counted, with two operations for each multiply-add. Shares of peak are commonly
stated in these (Chowdhery et al., 2022, appendix B). Elementwise work, look-ups, recomputation and the optimizer are
left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from batchscale.measure.data.datasets import Examples
from batchscale.measure.training.learner import Learner

OPAQUE = ("pallas_call", "ffi_call", "ragged_dot_general")
"""Primitives whose arithmetic cannot be read from shapes."""


class UncountableError(Exception):
    """A program holds arithmetic whose amount its jaxpr does not show."""


def flops_per_example(model: Learner, batch_size: int, split: Examples) -> float | None:
    """Return the FLOPs of the gradient of a batch, divided by its examples; None if they cannot be counted.

    Activations that a model computes again in the backward pass count once, so that shares of peak compare models and
    not their use of memory. This holds for modules that do so because their attribute `remat` is true.

    Args:
        model: A learner whose lowering adds no arithmetic ("xla").
        batch_size: Examples in the batch.
        split: Examples of the shape and type that the model trains on.
    """
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((batch_size, *leaf.shape[1:]), leaf.dtype), split)
    model = _computing_once(model)
    keys = jax.eval_shape(partial(model.keys, 0), model.chosen(np.zeros(batch_size, np.int32), 0).numbers)
    try:
        return count(jax.make_jaxpr(model.gradient)(model.abstract_params(), batch, keys).jaxpr) / batch_size
    except UncountableError:
        return None


def _computing_once(model: Learner) -> Learner:
    """Return the same learner without recomputation of activations."""
    module = nnx.merge(model.train_graph, model.abstract_params(), *([model.streams] if model.draws else []))
    module.set_attributes(remat=False, raise_if_not_found=False)
    return replace(model, train_graph=nnx.graphdef(module))


def count(jaxpr: Jaxpr) -> int:
    """Count the FLOPs of a program and of everything it calls; of several branches the largest counts.

    Raises:
        UncountableError: on a custom kernel, or on arithmetic in a loop of unknown length.
    """
    return sum(_flops(equation) for equation in jaxpr.eqns)


def compiler_count(compiled: jax.stages.Compiled, examples: int) -> float | None:
    """Return the compiler's count of floating-point operations per example; None if it has none.

    A loop of unknown length counts as one turn, and library calls may not be counted at all (jax issues 16008, 18672).
    So this number serves as a cross-check of `flops_per_example` and is not reported as the arithmetic of a model.
    """
    costs = compiled.cost_analysis()
    counted = costs.get("flops", 0.0) if isinstance(costs, dict) else 0.0
    return counted / examples if math.isfinite(counted) and counted > 0 else None


def _flops(equation: JaxprEqn) -> int:
    name = equation.primitive.name
    if name in MULTIPLY_ADDS:
        return 2 * MULTIPLY_ADDS[name](equation)
    if name in OPAQUE:
        raise UncountableError(name)
    inner = [count(jaxpr) for value in equation.params.values() for jaxpr in _jaxprs(value)]
    if name == "while" and any(inner):
        raise UncountableError(name)
    if name == "cond":
        return max(inner, default=0)
    return sum(inner) * (equation.params["length"] if name == "scan" else 1)


def _jaxprs(value: object) -> Iterator[Jaxpr]:
    """Yield the programs inside a parameter of a primitive."""
    if isinstance(value, ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, Jaxpr):
        yield value
    elif isinstance(value, tuple | list):
        for one in value:
            yield from _jaxprs(one)


def _product(equation: JaxprEqn) -> int:
    """Count the multiply-adds of a matrix product: every output sums over all contracted positions."""
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = _shape(equation.invars[0])
    return math.prod(_shape(equation.outvars[0])) * math.prod(left[axis] for axis in contracted)


def _convolution(equation: JaxprEqn) -> int:
    """Count the multiply-adds of a convolution that use an input, and not padding or the holes of a dilation.

    The gradient with respect to the inputs, a convolution of a padded cotangent, then counts as much as the forward
    pass.
    """
    options = equation.params
    numbers = options["dimension_numbers"]
    left, right = (_shape(operand) for operand in equation.invars)
    out = _shape(equation.outvars[0])
    taps = [
        _taps(left[at], right[of_kernel], out[to], *window)
        for at, of_kernel, to, *window in zip(
            numbers.lhs_spec[2:],
            numbers.rhs_spec[2:],
            numbers.out_spec[2:],
            options["window_strides"],
            [before for before, _ in options["padding"]],
            options["lhs_dilation"],
            options["rhs_dilation"],
            strict=True,
        )
    ]
    batch, filters, *_ = (out[axis] for axis in numbers.out_spec)
    return batch * filters * right[numbers.rhs_spec[1]] * math.prod(taps)


def _taps(length: int, kernel: int, outputs: int, stride: int, before: int, spread: int, dilation: int) -> int:
    """Count, along one axis, the pairs of kernel position and input; inputs are `spread` apart after dilation."""
    met = np.arange(outputs)[:, None] * stride + np.arange(kernel) * dilation - before
    return int(((met >= 0) & (met <= (length - 1) * spread) & (met % spread == 0)).sum())


def _shape(operand: Any) -> tuple[int, ...]:  # noqa: ANN401 - a variable or a literal, whose types JAX keeps to itself
    return operand.aval.shape


MULTIPLY_ADDS: dict[str, Callable[[JaxprEqn], int]] = {
    "dot_general": _product,
    "conv_general_dilated": _convolution,
}

"""Model FLOPs: equal to closed forms, in nested programs as well, and without the arithmetic that a lowering adds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batchscale.config.vocabulary import CellKey
from batchscale.measure.throughput import rounds
from batchscale.measure.throughput.timed_loops import build
from batchscale.measure.training import flop_count
from batchscale.records.row_types import Compilation
from fake_throughput import KEYS, Pretended
from tiny_workload import MODEL_OPTIONS, learner, train_split

EXAMPLE = train_split()
PIXELS, CLASSES = 64, 10


def dense(inputs, outputs, passes=3):
    """Forward, gradient of the weights and (not in a first layer) of the inputs: one multiply-add per weight each."""
    return 2 * passes * inputs * outputs


def lenet():
    """3x3 kernels over images padded to 10x10, then over 4x4 maps padded to 6x6; pooling halves both sides."""
    first, second = MODEL_OPTIONS["lenet"]["filters"]
    hidden = MODEL_OPTIONS["lenet"]["hidden"]
    convolutions = 2 * 2 * (8 * 8 * 9 * first) + 2 * 3 * (4 * 4 * 9 * first * second)
    return convolutions + dense(2 * 2 * second, hidden) + dense(hidden, CLASSES)


BY_HAND = {
    "linear": dense(PIXELS, CLASSES, passes=2),
    "mlp": dense(PIXELS, 8, passes=2) + dense(8, CLASSES),
    "lenet": lenet(),
}


@pytest.mark.parametrize("model", BY_HAND)
@pytest.mark.parametrize("batch_size", [1, 20])
def test_a_training_step_counts_as_by_hand(model, batch_size):
    assert flop_count.flops_per_example(learner(model), batch_size, EXAMPLE) == BY_HAND[model]


def test_precision_and_optimizer_change_nothing():
    for precision in ("float32", "default", "bfloat16"):
        assert flop_count.flops_per_example(learner("mlp", "adam", precision), 4, EXAMPLE) == BY_HAND["mlp"]


def test_a_banded_lowering_would_flatter():
    banded = flop_count.flops_per_example(learner("lenet", lowering="banded"), 4, EXAMPLE)
    assert banded > 1.1 * BY_HAND["lenet"]


def test_rows_hold_the_models_count_under_every_lowering(monkeypatch):
    made = Pretended(monkeypatch)
    made.stage.session.learner = lambda precision, lowering: learner("lenet", precision=precision, lowering=lowering)
    made.timing.lowering = lambda key: {"dispatch": "banded", "scan": "patches"}[key.loop]
    rounds.measure(made.timing, KEYS)
    rows = [row for row in made.rows if isinstance(row, Compilation)]
    assert {row.lowering for row in rows} == {"banded", "patches"}
    assert {row.flops_per_example for row in rows} == {BY_HAND["lenet"]}


@pytest.mark.parametrize(("loop", "accumulation"), [("dispatch", 1), ("scan", 4)])
@pytest.mark.parametrize("model", BY_HAND)
def test_the_compiler_counts_about_as_much(model, accumulation, loop):
    """Its count includes elementwise work and the optimizer, but not the data it gathers from."""
    key = CellKey(80, loop, accumulation=accumulation)
    _, compiled, _ = build(learner(model), train_split(), key)
    counted = flop_count.compiler_count(compiled, key.examples_at_once)
    assert 0.95 * BY_HAND[model] <= counted < 2.5 * BY_HAND[model]


def counted(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, np.float32) for shape in shapes]
    return flop_count.count(jax.make_jaxpr(function)(*arguments).jaxpr)


def square(matrix):
    return matrix @ matrix


@jax.custom_vjp
def with_own_gradient(matrix):
    return square(matrix)


with_own_gradient.defvjp(lambda matrix: (square(matrix), matrix), lambda matrix, gradient: (gradient @ matrix,))

ONCE = 2 * 3**3
NESTED = {
    "jit": (jax.jit(square), ONCE),
    "jit in jit": (jax.jit(lambda matrix: jax.jit(square)(matrix) + 1), ONCE),
    "scan": (lambda matrix: jax.lax.scan(lambda held, _: (square(held), None), matrix, length=7)[0], 7 * ONCE),
    "loop of known length": (lambda matrix: jax.lax.map(square, jnp.stack([matrix] * 5)), 5 * ONCE),
    "branches": (
        lambda matrix: jax.lax.cond(matrix[0, 0] > 0, lambda m: square(square(m)), square, matrix),
        2 * ONCE,
    ),
    "own gradient": (with_own_gradient, ONCE),
    "gradient of own gradient": (jax.grad(lambda matrix: with_own_gradient(matrix).sum()), 2 * ONCE),
    "no product": (lambda matrix: jnp.tanh(matrix) * 2, 0),
}


@pytest.mark.parametrize("name", NESTED)
def test_nested_programs_are_looked_into(name):
    function, expected = NESTED[name]
    assert counted(function, (3, 3)) == expected


def test_batched_products_count_each():
    assert counted(jax.vmap(square), (6, 3, 3)) == 6 * ONCE


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", ["VALID", "SAME", ((2, 0), (1, 3))], ids=str)
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_count_the_taps_that_meet_an_input(stride, padding, dilation, groups):
    """By a convolution of ones with ones: each output is then the number of its multiply-adds."""

    def convolve(inputs, kernel):
        return jax.lax.conv_general_dilated(
            inputs,
            kernel,
            (stride, 1),
            padding,
            rhs_dilation=(1, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )

    shapes = (2, 7, 8, 4), (3, 2, 4 // groups, 6)
    assert counted(convolve, *shapes) == 2 * convolve(*map(jnp.ones, shapes)).sum()


@pytest.mark.parametrize("wanted", [0, 1], ids=["inputs", "kernel"])
def test_the_gradient_of_a_convolution_counts_as_much_as_the_convolution(wanted):
    def convolve(inputs, kernel):
        return jax.lax.conv_general_dilated(inputs, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    shapes = (2, 8, 8, 3), (3, 3, 3, 5)
    forward = counted(convolve, *shapes)
    both = counted(jax.value_and_grad(lambda *operands: convolve(*operands).sum(), wanted), *shapes)
    assert both == 2 * forward


def test_a_loop_of_unknown_length_cannot_be_counted():
    def until_large(matrix):
        return jax.lax.while_loop(lambda held: held.sum() < 9, square, matrix)

    with pytest.raises(flop_count.UncountableError, match="while"):
        counted(until_large, (3, 3))


def test_flops_that_cannot_be_counted_are_null(monkeypatch):
    monkeypatch.setattr(flop_count, "OPAQUE", ("log",))
    assert flop_count.flops_per_example(learner("linear"), 4, EXAMPLE) is None


@pytest.mark.parametrize("costs", [None, {}, {"flops": -1.0}, {"flops": float("nan")}, {"flops": 0.0}, []])
def test_a_compiler_that_does_not_count_gives_null(costs):
    class Compiled:
        def cost_analysis(self):
            return costs

    assert flop_count.compiler_count(Compiled(), 1) is None

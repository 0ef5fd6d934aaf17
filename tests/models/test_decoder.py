"""The decoder: causal, independent across examples, and with the parameters and FLOPs of its closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from batchscale.config.experiment import Workload
from batchscale.errors import InputError
from batchscale.measure.device.compiled_programs import compiled, predicted_bytes
from batchscale.measure.training import flop_count
from batchscale.measure.training.learner import make_learner
from batchscale.models._transformer import Blocks, _rotated
from batchscale.models.decoder import Model
from flax import nnx
from long_proofs import long_unless
from tiny_workload import assert_same, shaped

TOKENS, CLASSES, WIDTH, HIDDEN = 8, 16, 12, 24
TINY = {"width": WIDTH, "depth": 1, "heads": 2, "ratio": 2.0}
VARIANTS = {
    "default": {},
    "other": {"mlp": "swiglu", "norm": "layer", "positions": "learned", "tied": False},
    "remat": {"remat": True},
}
PER_BLOCK = 4 * WIDTH**2 + 2 * WIDTH * HIDDEN
"""Weights of a block: queries, keys, values and what leaves attention; the two matrices of the MLP."""


def decoder(tokens=TOKENS, classes=CLASSES, dtype="float32", **options):
    return Model((tokens,), classes, rngs=nnx.Rngs(params=1), dtype=jnp.dtype(dtype), **options)


@functools.cache
def made(variant="default", dtype="float32"):
    """The graph and the parameters of a tiny decoder."""
    return nnx.split(decoder(dtype=dtype, **TINY | VARIANTS[variant]))


@functools.cache
def forward(variant="default", dtype="float32"):
    """The compiled logits of a tiny decoder with float32 parameters."""
    graph, params = made(variant, dtype)
    return jax.jit(nnx.merge(graph, params))


@functools.cache
def windows(batch=3, seed=0):
    drawn = np.random.default_rng(seed).integers(0, CLASSES, (batch, TOKENS + 1))
    return jnp.asarray(drawn[:, :-1], jnp.uint8), jnp.asarray(drawn[:, 1:], jnp.int32)


def loss(graph, params, inputs, labels):
    logits = nnx.merge(graph, params)(inputs).astype(jnp.float32)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def gradient(variant, params, inputs, labels):
    return jax.grad(functools.partial(loss, made(variant)[0]))(params, inputs, labels)


@pytest.mark.parametrize("variant", long_unless(["other"], VARIANTS))
def test_a_token_reaches_the_features_of_itself_and_of_later_tokens_of_its_example(variant):
    """By gradients, as nanodo tests it: the influence of each token that enters the blocks on each that leaves."""
    blocks = nnx.merge(*made(variant)).blocks
    entering = jax.random.normal(jax.random.key(0), (WIDTH, 2, TOKENS))
    weights = jax.random.normal(jax.random.key(1), (WIDTH,))
    jacobian = jax.jit(jax.jacrev(lambda features: jnp.einsum("f,fbt->bt", weights, blocks(features))))(entering)
    influence = np.asarray(jnp.abs(jacobian).sum(axis=2))
    example, to, other, of = np.indices(influence.shape)
    np.testing.assert_array_equal(influence > 0, (example == other) & (of <= to))


@pytest.mark.parametrize("variant", long_unless(["default"], VARIANTS))
def test_a_changed_byte_changes_no_earlier_logits_and_no_other_example(variant):
    logits, (inputs, _) = forward(variant), windows()
    changed = inputs.at[1, 5].set((inputs[1, 5] + 1) % CLASSES)
    differs = np.asarray(logits(inputs) != logits(changed)).any(axis=2)
    example, at = np.indices(differs.shape)
    np.testing.assert_array_equal(differs, (example == 1) & (at >= 5))


@pytest.mark.parametrize("variant", long_unless(["other"], VARIANTS))
def test_the_order_of_earlier_bytes_matters(variant):
    """One block of attention without positions would give the last byte the same logits in every order."""
    logits, (inputs, _) = forward(variant), windows()
    swapped = inputs[:, np.array([1, 0, *range(2, TOKENS)])]
    assert float(jnp.abs(logits(inputs) - logits(swapped))[:, -1].max()) > 1e-4


def test_rotary_scores_depend_on_the_distance_alone():
    queries = jnp.ones((1, 8, 1, 1)) * jax.random.normal(jax.random.key(0), (1, 8, 1, 1))
    rotated = _rotated(jnp.broadcast_to(queries, (1, 8, 1, TOKENS)))[0, :, 0]
    scores = np.asarray(rotated.T @ rotated)
    for distance in range(TOKENS):
        np.testing.assert_allclose(np.diag(scores, distance), scores[0, distance], rtol=1e-5)
    assert len({round(float(score), 3) for score in scores[0]}) == TOKENS


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("variant", ["default", "other"])
def test_parameters_and_flops_are_as_many_as_in_the_closed_forms(variant, depth):
    """Each weight meets each token three times: forward, and for both gradients. Attention does so with all tokens."""
    other = variant == "other"
    per_block = PER_BLOCK + (WIDTH * HIDDEN if other else 0)
    embeddings = 2 * CLASSES * WIDTH + WIDTH * TOKENS if other else CLASSES * WIDTH
    graph, params = nnx.split(decoder(**TINY | VARIANTS[variant] | {"depth": depth}))
    found = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert found == embeddings + depth * (per_block + 2 * WIDTH) + WIDTH
    inputs, labels = windows()
    per_token = depth * (per_block + 2 * TOKENS * WIDTH) + CLASSES * WIDTH
    program = jax.make_jaxpr(jax.grad(functools.partial(loss, graph)))(params, inputs, labels)
    assert flop_count.count(program.jaxpr) == 2 * 3 * per_token * inputs.size


@pytest.mark.parametrize("variant", long_unless(["default"], VARIANTS))
def test_the_mapped_gradient_is_the_gradient(variant):
    inputs, labels = windows()
    of_seeds = [made(variant)[1], jax.tree.map(lambda leaf: leaf * 1.1 + 0.01, made(variant)[1])]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *of_seeds)
    one = functools.partial(gradient, variant)
    mapped = jax.jit(jax.vmap(one, in_axes=(0, None, None)))(stacked, inputs, labels)
    for lane, params in enumerate(of_seeds):
        assert_same(
            jax.tree.map(lambda leaf, lane=lane: leaf[lane], mapped), jax.jit(one)(params, inputs, labels), 1e-5
        )


@pytest.mark.slow
def test_recomputation_changes_no_gradient_and_saves_memory():
    """Activations are then held for one block at a time; the compile options are those of all our programs."""
    big = {"width": 32, "depth": 8, "heads": 2}
    inputs, labels = jnp.zeros((16, 32), jnp.uint8), jnp.zeros((16, 32), jnp.int32)
    found = {}
    for remat in (False, True):
        graph, params = nnx.split(decoder(32, remat=remat, **big))
        program = compiled(jax.jit(jax.grad(functools.partial(loss, graph))).lower(params, inputs, labels))
        found[remat] = program(params, inputs, labels), predicted_bytes(program)
    assert_same(found[True][0], found[False][0], 1e-5)
    assert found[True][1] < 0.5 * found[False][1]


@pytest.mark.parametrize("variant", long_unless(["other"], VARIANTS))
def test_bfloat16_decides_the_products_and_never_the_parameters(variant):
    graph, params = made(variant, "bfloat16")
    inputs, _ = windows()
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    program = jax.make_jaxpr(lambda params: nnx.merge(graph, params)(inputs))(params)
    assert program.out_avals[0].dtype == jnp.bfloat16
    lines = [line for line in str(program).splitlines() if " = dot_general[" in line]
    assert len(lines) == 7
    assert all(":bf16[" in line.split(" = ")[0] for line in lines)


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16_is_near(variant):
    inputs, _ = windows()
    exact, rough = forward(variant)(inputs), forward(variant, "bfloat16")(inputs)
    assert 1e-4 < float(jnp.abs(exact - rough).max()) < 0.05 * float(jnp.abs(exact).max())


def test_the_gradient_of_a_byte_is_a_sum_in_float32_however_often_the_byte_occurs():
    """In bfloat16, a sum of 2,048 terms stands still once a term is less than 1/256 of it."""
    inputs, found = jnp.full((64, 32), 3, jnp.uint8), {}
    for dtype in ("float32", "bfloat16"):
        graph, params = nnx.split(
            Model((32,), 8, rngs=nnx.Rngs(0), dtype=jnp.dtype(dtype), tied=False, depth=1, width=8)
        )

        def total(params, graph=graph):
            return nnx.merge(graph, params)(inputs).astype(jnp.float32).sum()

        found[dtype] = np.asarray(jax.grad(total)(params)["embedding"][...][3])
    difference = np.linalg.norm(found["bfloat16"] - found["float32"]) / np.linalg.norm(found["float32"])
    assert difference < 0.03


@pytest.mark.slow
def test_a_fresh_decoder_keeps_variances(monkeypatch):
    """Tokens enter the blocks with variance 1, and so do the logits leave. Depth scales what ends in the sum."""
    model, depth = decoder(64, 256, width=64, depth=4), 4
    for block in model.blocks.blocks:
        for part in (block.attention, block.mlp):
            assert _gain(part.enter) == pytest.approx(1, rel=0.05)
            assert _gain(part.leave) == pytest.approx(1 / np.sqrt(2 * depth), rel=0.05)
    entered = []
    monkeypatch.setattr(Blocks, "__call__", lambda self, features: entered.append(features) or features)
    logits = model(jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 64)), jnp.uint8))
    assert float(entered[0].std()) == pytest.approx(1, rel=0.05)
    assert float(logits.std()) == pytest.approx(1, rel=0.2)


def _gain(product):
    """Standard deviation of the outputs where that of the inputs is 1."""
    kernel = product.kernel[...]
    return float(kernel.std()) * np.sqrt(kernel.shape[1])


def test_a_byte_that_is_no_class_is_not_taken_for_another():
    logits = forward()
    assert jnp.isnan(logits(windows()[0].at[0, 0].set(CLASSES))[0]).all()


def test_bytes_and_integers_are_the_same_input():
    logits, (inputs, _) = forward(), windows()
    np.testing.assert_array_equal(logits(inputs), logits(inputs.astype(jnp.int32)))


REFUSED = {
    "width = 12 is not divisible by heads = 5": {"heads": 5},
    "width / heads = 3 is odd, expected an even number": {"heads": 4},
    "heads = 0, expected 1 or more": {"heads": 0},
    "depth = -1, expected 1 or more": {"depth": -1},
    "ratio = 0 leaves the MLP no hidden unit": {"ratio": 0.0},
    "ratio = nan leaves the MLP no hidden unit": {"ratio": float("nan")},
    "model_options.mlp: expected one of 'gelu', 'swiglu', found 'relu'": {"mlp": "relu"},
    "model_options.norm: expected one of 'layer', 'rms', found 'batch'": {"norm": "batch"},
    "model_options.positions: expected one of 'learned', 'rotary', found 'none'": {"positions": "none"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_options_are_refused_in_one_line(message):
    with pytest.raises(InputError, match=message) as refused:
        make_learner(workload(**TINY | REFUSED[message]), shaped((TOKENS,), CLASSES))
    assert "\n" not in str(refused.value)


def test_images_are_refused():
    with pytest.raises(InputError, match=r"input_shape = \(8, 8, 1\), expected the length of a window"):
        make_learner(workload(), shaped((8, 8, 1), CLASSES))


def workload(**options):
    return Workload(dataset="digits", model="decoder", model_options=options, optimizer="adamw")

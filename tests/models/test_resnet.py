"""Residual networks: parameters and FLOPs of closed forms, equal lowerings, GroupNorm, and a start without branches."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batchscale.config.experiment import Workload
from batchscale.errors import InputError
from batchscale.measure.data.datasets import Examples
from batchscale.measure.device.compiled_programs import compiled, predicted_bytes
from batchscale.measure.training import flop_count
from batchscale.measure.training.learner import make_learner
from batchscale.models._layers import LOWERINGS
from batchscale.models.resnet import _GroupNorm
from flax import nnx
from long_proofs import QUICKLY, long_unless
from tiny_workload import assert_same, learner, shaped, train_split

CIFAR = (32, 32, 3)
VARIANTS = {
    "norm-free": {"width": 4},
    "group": {"width": 4, "norm": "group", "groups": 2, "depth": 18},
    "bottleneck, large": {"width": 4, "norm": "group", "groups": 2, "depth": 50, "stem": "large"},
}


def made(shape=CIFAR, classes=10, lowering=None, **options):
    workload = Workload(dataset="digits", model="resnet", model_options=options, optimizer="momentum")
    return make_learner(workload, shaped(shape, classes), lowering)


def parameters(*shape, **options):
    return sum(leaf.size for leaf in jax.tree.leaves(made(*shape, **options).abstract_params()))


def test_resnet8_has_the_parameters_of_its_closed_form():
    """Stages of 16, 32 and 64 channels, two 3x3 convolutions each, one stem and one dense layer; no projections."""
    weights = 9 * (3 * 16 + 2 * 16 * 16 + 16 * 32 + 32 * 32 + 32 * 64 + 64 * 64) + 64 * 10
    biases = 3 * 16 + 2 * 32 + 2 * 64 + 10
    assert parameters() == weights + biases == 75_050


@pytest.mark.parametrize(("depth", "published"), long_unless([(18, 11_689_512)], [(18, 11_689_512), (50, 25_557_032)]))
def test_deeper_networks_have_the_published_parameters_but_for_their_norms(depth, published):
    """torchvision's resnet18 and resnet50. Pre-activation normalises what enters a convolution, not what leaves it."""
    channels = {18: 64 * 5 + 128 * 5 + 256 * 5 + 512 * 5, 50: 64 + 3 * 384 + 4 * 768 + 6 * 1536 + 3 * 3072 + 3840}
    entering = {
        18: 64 * 4 + (64 + 128 * 3) + (128 + 256 * 3) + (256 + 512 * 3) + 512,
        50: (64 + 64 * 2)
        + 2 * (256 + 64 * 2)
        + (256 + 128 * 2)
        + 3 * (512 + 128 * 2)
        + (512 + 256 * 2)
        + 5 * (1024 + 256 * 2)
        + (1024 + 512 * 2)
        + 2 * (2048 + 512 * 2)
        + 2048,
    }
    found = parameters((224, 224, 3), 1000, depth=depth, norm="group", groups=32, stem="large")
    assert found == published - 2 * channels[depth] + 2 * entering[depth]


def taps(side, stride=1):
    """Pairs of kernel position and pixel of a 3x3 convolution, along one axis of an even side: edges miss one."""
    return 3 * side - 2 if stride == 1 else 3 * side // 2 - 1


def test_resnet8_has_the_flops_of_its_closed_form():
    """The stem needs no gradient of its inputs; zeros around the images are no inputs."""
    stem = taps(32) ** 2 * 3 * 16
    others = (
        2 * taps(32) ** 2 * 16 * 16
        + taps(32, 2) ** 2 * 16 * 32
        + taps(16) ** 2 * 32 * 32
        + taps(16, 2) ** 2 * 32 * 64
        + taps(8) ** 2 * 64 * 64
        + 64 * 10
    )
    example = shaped(CIFAR, 10).train
    assert flop_count.flops_per_example(made(), 4, example) == 2 * 2 * stem + 2 * 3 * others


@pytest.mark.parametrize(("depth", "published"), long_unless([(18, 1.81e9)], [(18, 1.81e9), (50, 4.09e9)]))
def test_deeper_networks_need_the_published_multiply_adds(depth, published):
    """torchvision's numbers count the zeros around images as inputs, and so are larger by 3 to 8 %."""
    options = {"depth": depth, "norm": "group", "groups": 32, "stem": "large"}
    one = made((224, 224, 3), 1000, **options)
    inputs = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    forward = flop_count.count(jax.make_jaxpr(one.outputs)(one.abstract_params(), inputs).jaxpr)
    assert 0.92 * published < forward / 2 < published


def nudged(params, seed=5):
    """Parameters off their start, where the last convolution of a branch is zero and hides the gradient before it."""
    leaves, tree = jax.tree.flatten(params)
    drawn = np.random.default_rng(seed)
    return jax.tree.unflatten(tree, [leaf + 0.1 * drawn.standard_normal(leaf.shape, np.float32) for leaf in leaves])


@cache
def params_of(variant):
    return nudged(made(**VARIANTS[variant]).params(3))


@cache
def gradient_of(variant, lowering):
    """The gradient of a variant at three images of an odd shape."""
    one = made((17, 20, 3), lowering=lowering, **VARIANTS[variant])
    split = Examples(jax.random.normal(jax.random.key(0), (3, 17, 20, 3)), jnp.arange(3))
    return jax.jit(one.gradient, compiler_options=QUICKLY)(params_of(variant), split)


@pytest.mark.slow
@pytest.mark.parametrize("lowering", [name for name in LOWERINGS if name != "xla"])
def test_lowerings_agree_in_values_and_gradients(lowering):
    reference, lowered = learner("resnet", lowering="xla"), learner("resnet", lowering=lowering)
    params, split = nudged(reference.params(3)), train_split(6)
    found, expected = (jax.jit(one.gradient)(params, split) for one in (lowered, reference))
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(expected))
    assert_same(found, expected, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("lowering", [name for name in LOWERINGS if name != "xla"])
def test_lowerings_agree_at_every_depth(lowering, variant):
    assert_same(gradient_of(variant, lowering), gradient_of(variant, "xla"), 1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("unoptimized")
@pytest.mark.parametrize("lowering", ["xla", "patches"])
def test_recomputation_changes_no_gradient_and_saves_memory(lowering):
    """Many narrow blocks, so that their activations and not their parameters decide the memory."""
    split, found = Examples(jnp.ones((64, 32, 32, 3)), jnp.zeros(64, jnp.int32)), {}
    for remat in (False, True):
        one = made(lowering=lowering, depth=18, width=2, norm="group", groups=2, remat=remat)
        params = nudged(one.params(3))
        program = compiled(jax.jit(one.gradient).lower(params, split))
        found[remat] = program(params, split), predicted_bytes(program)
    assert_same(found[True][0], found[False][0], 1e-4)
    assert found[True][1] < 0.7 * found[False][1]


@pytest.mark.slow
@pytest.mark.parametrize("lowering", ["xla", "patches"])
def test_the_mapped_gradient_is_the_gradient(lowering):
    one, split = learner("resnet", lowering=lowering), train_split(6)
    of_seeds = [nudged(one.params(1), seed) for seed in (1, 2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *of_seeds)
    mapped = jax.jit(jax.vmap(one.gradient, in_axes=(0, None)))(stacked, split)
    alone = jax.jit(one.gradient)
    for lane, params in enumerate(of_seeds):
        found = jax.tree.map(lambda leaf, lane=lane: leaf[lane], mapped)
        assert_same(found, alone(params, split), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_no_example_changes_the_logits_of_another(variant):
    one = made((16, 16, 3), **VARIANTS[variant])
    inputs = jax.random.normal(jax.random.key(0), (3, 16, 16, 3))
    logits, params = jax.jit(one.outputs, compiler_options=QUICKLY), params_of(variant)
    differs = np.asarray(logits(params, inputs) != logits(params, inputs.at[1].add(1.0))).any(axis=1)
    np.testing.assert_array_equal(differs, [False, True, False])


@pytest.mark.slow
def test_a_fresh_network_is_its_stem_and_its_shortcuts():
    """The last convolution of every branch is zero. In ResNet-8 the others are scaled as Fixup asks for 3 branches."""
    one = made()
    fresh = jax.tree.map(jnp.asarray, one.params(1))
    params = nnx.to_pure_dict(fresh)
    for block in params["blocks"].values():
        first, last = (block["convolutions"][at]["kernel"] for at in (0, 1))
        assert not last.any()
        assert first.std() == pytest.approx((2 / first.shape[1] / 3) ** 0.5, rel=0.05)
    images = jax.random.normal(jax.random.key(0), (2, *CIFAR))
    stem, out = params["enter"], params["out"]
    weights = stem["kernel"].reshape(16, 3, 3, 3).transpose(2, 1, 3, 0)
    entered = jax.lax.conv_general_dilated(images, weights, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    means = jax.nn.relu(entered[:, ::4, ::4]).mean((1, 2))
    assert_same(jax.jit(one.outputs)(fresh, images), means @ out["kernel"][:16] + out["bias"], 1e-5)


@pytest.mark.parametrize("channel_axis", long_unless([3], [0, 3]))
def test_group_norm_equals_flax(channel_axis):
    features = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 5, 4, 12))
    plain = nnx.GroupNorm(12, num_groups=3, epsilon=1e-5, use_fast_variance=False, rngs=nnx.Rngs(0))
    own = _GroupNorm(12, 3, jnp.dtype("float32"))
    plain.scale[...] = own.scale[...] = jnp.linspace(1, 2, 12)
    plain.bias[...] = own.bias[...] = jnp.linspace(-1, 1, 12)
    moved = jnp.swapaxes(features, 0, 3) if channel_axis == 0 else features
    found = own(moved, channel_axis)
    assert_same(jnp.swapaxes(found, 0, 3) if channel_axis == 0 else found, plain(features), 1e-5)


REFUSED = {
    "width = 12 is not divisible by groups = 8": {"norm": "group", "width": 12},
    "width = 0 is not divisible by groups = 8": {"width": 0},
    "width = 16 is not divisible by groups = 0": {"groups": 0},
    "model_options.depth: expected one of 8, 18, 50, found 34": {"depth": 34},
    "model_options.norm: expected one of 'group', 'none', found 'batch'": {"norm": "batch"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_options_are_refused_in_one_line(message):
    with pytest.raises(InputError, match=message) as refused:
        made(**REFUSED[message])
    assert "\n" not in str(refused.value)


def test_flat_inputs_are_refused():
    with pytest.raises(InputError, match=r"inputs of shape \(64,\) are not images"):
        made(shape=(64,))

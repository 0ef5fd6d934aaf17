"""LeNet and the decoder from Flax's own layers, as a user would write them, to hold against our own models."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from batchscale.measure.training.learner import Learner, task_named
from batchscale.measure.training.optimizers import optimizer_named
from flax import nnx
from jaxtyping import Array, Float, Integer

WIDTH, DEPTH, HEADS, BYTES = 64, 2, 4, 256
LONGEST_PERIOD = 10_000.0


class PlainLeNet(nnx.Module):
    """The network of `models/lenet.py` at its defaults, on 28x28 images."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(1, 6, (5, 5), padding="VALID", rngs=rngs)
        self.second = nnx.Conv(6, 16, (5, 5), padding="VALID", rngs=rngs)
        self.hidden = nnx.Linear(256, 84, rngs=rngs)
        self.out = nnx.Linear(84, 10, rngs=rngs)

    def __call__(self, inputs: Float[Array, "batch 28 28 1"]) -> Float[Array, "batch 10"]:
        features = inputs
        for convolution in (self.first, self.second):
            features = nnx.max_pool(jax.nn.relu(convolution(features)), (2, 2), strides=(2, 2))
        features = features.reshape(len(features), -1)
        return self.out(jax.nn.relu(self.hidden(features)))


class PlainDecoder(nnx.Module):
    """The network of `models/decoder.py` at its defaults."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        normal = nnx.initializers.normal(1 / math.sqrt(WIDTH))
        self.embedding = nnx.Embed(BYTES, WIDTH, embedding_init=normal, rngs=rngs)
        self.blocks = nnx.List([_PlainBlock(rngs) for _ in range(DEPTH)])
        self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)

    def __call__(self, inputs: Integer[Array, "batch token"]) -> Float[Array, "batch token byte"]:
        features = self.embedding(inputs.astype(jnp.int32)) * math.sqrt(WIDTH)
        for block in self.blocks:
            features = block(features)
        return self.embedding.attend(self.norm(features))


class _PlainBlock(nnx.Module):
    """Causal attention with rotary positions, then an MLP; both add to what they read."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        def linear(inputs: int, outputs: int, scale: float = 1.0) -> nnx.Linear:
            fresh = nnx.initializers.variance_scaling(scale, "fan_in", "truncated_normal")
            return nnx.Linear(inputs, outputs, use_bias=False, kernel_init=fresh, rngs=rngs)

        self.norms = nnx.List([nnx.RMSNorm(WIDTH, rngs=rngs) for _ in range(2)])
        self.enter, self.leave = linear(WIDTH, 3 * WIDTH), linear(WIDTH, WIDTH, 1 / (2 * DEPTH))
        self.up, self.down = linear(WIDTH, 4 * WIDTH), linear(4 * WIDTH, WIDTH, 1 / (2 * DEPTH))

    def __call__(self, features: Float[Array, "batch token width"]) -> Float[Array, "batch token width"]:
        features += self.attend(self.norms[0](features))
        return features + self.down(jax.nn.gelu(self.up(self.norms[1](features))))

    def attend(self, features: Float[Array, "batch token width"]) -> Float[Array, "batch token width"]:
        heads = self.enter(features).reshape(*features.shape[:2], 3, HEADS, WIDTH // HEADS)
        queries, keys, values = heads[:, :, 0], heads[:, :, 1], heads[:, :, 2]
        mixed = jax.nn.dot_product_attention(_rotated(queries), _rotated(keys), values, is_causal=True)
        return self.leave(mixed.reshape(features.shape))


def _rotated(features: Float[Array, "batch token head size"]) -> Float[Array, "batch token head size"]:
    tokens, half = features.shape[1], features.shape[3] // 2
    angles = jnp.arange(tokens)[:, None, None] * LONGEST_PERIOD ** (-jnp.arange(half) / half)
    a, b = features[..., :half], features[..., half:]
    return jnp.concatenate(
        [a * jnp.cos(angles) - b * jnp.sin(angles), a * jnp.sin(angles) + b * jnp.cos(angles)], axis=-1
    )


def plain_learner(network: type[PlainLeNet | PlainDecoder] = PlainLeNet) -> Learner:
    """Return the same task, optimizer and step around a plain network."""
    task, optimizer = ("classification", "momentum") if network is PlainLeNet else ("language_model", "adamw")
    graph = nnx.graphdef(nnx.eval_shape(lambda: network(nnx.Rngs(params=0))))
    return Learner(task_named(task), graph, graph, (), network, optimizer_named(optimizer, {}), "float32")

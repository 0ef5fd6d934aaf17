"""LeNet from Flax's own layers, as a user would write it, to hold the engine against more than our own model."""

from __future__ import annotations

import jax
from batchscale.measure.training.learner import Learner
from batchscale.measure.training.optimizers import optimizer_named
from flax import nnx
from jaxtyping import Array, Float


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


def plain_learner() -> Learner:
    """The same loss, optimizer and step around the plain network."""
    graph = nnx.graphdef(nnx.eval_shape(lambda: PlainLeNet(nnx.Rngs(params=0))))
    return Learner(graph, PlainLeNet, optimizer_named("momentum", {}), "float32")
